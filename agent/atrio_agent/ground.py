"""What all sessions of one workspace stand on.

Made once by the workspace and handed to its coordinator; nothing in it changes
while the workspace is open. The store and the stream belong to the workspace's
outer level and outlive every session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atrio_agent.briefing import Briefer
from atrio_agent.gates import Gates
from atrio_agent.lifetime import Errands
from atrio_agent.measures import UNMEASURED, Measures
from atrio_agent.models.choose import Models
from atrio_agent.permissions import Broker
from atrio_agent.store.base import Store
from atrio_agent.streams import Rings, Stream
from atrio_agent.tools.registry import Tools
from atrio_agent.trouble import Trouble

__all__ = ["Ground"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The workspace as its sessions see it.

    ``stream`` is the workspace's. ``errands`` runs what outlives a request or a
    turn. ``on_activity`` is called, synchronously, whenever the number of runs
    that are not completed may have changed. ``viewers`` tells how many clients
    look at a session. ``briefer`` says what models are told of the workspace. ``troubles`` are what is wrong with the
    workspace at the moment. ``record_requests``: keep what the models were asked, for test hooks. ``measures`` is told
    what has been done, for figures.
    """

    workspace_id: str
    root: Path
    store: Store
    stream: Stream
    rings: Rings
    models: Models
    tools: Tools
    child_tools: Tools
    broker: Broker
    allowed: tuple[Path, ...]
    closed: tuple[Path, ...]
    briefer: Briefer
    gates: Gates
    errands: Errands
    on_activity: Callable[[], None]
    viewers: Callable[[str], int]
    troubles: Callable[[], tuple[Trouble, ...]] = tuple
    record_requests: bool = False
    measures: Measures = UNMEASURED
