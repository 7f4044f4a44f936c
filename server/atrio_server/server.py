"""What the handlers work on: the parts of the running server, in one place.

It owns nothing by itself: `service` opens each part and closes it again. A
handler may read all of it and signal its owners; it never starts a task.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from atrio_agent.gates import Gates
from atrio_agent.models.choose import Models
from atrio_agent.streams import Rings
from atrio_server.calls import Caller
from atrio_server.figures import Figures
from atrio_server.loop_watch import LoopWatch
from atrio_server.reach import Reach
from atrio_server.socket import Connection
from atrio_server.workspaces import Workspaces

__all__ = ["Server"]


@dataclass(slots=True, kw_only=True)
class Server:
    """The running server."""

    workspaces: Workspaces
    """All of them, for the service. A handler asks `reach`."""
    models: Models
    gates: Gates
    test_hooks: bool
    stop_soon: Callable[[], None]
    """Begins the shutdown, as a signal would. Safe to call twice."""
    rings: Rings = field(default_factory=Rings)
    """Those of all streams."""
    figures: Figures = field(default_factory=Figures)
    loop: LoopWatch = field(default_factory=LoopWatch)
    lines_lost: Callable[[], Mapping[str, int]] = dict[str, int]
    """Tells how many log lines were not written, by why."""
    connections: dict[str, Connection] = field(default_factory=dict[str, Connection])
    started_at: float = field(default_factory=time.monotonic)
    closing: bool = False
    http_requests: int = 0
    """Requests over HTTP that are being served."""
    http_until: float = -math.inf
    """When the last of them was answered, in Trio's time."""

    def reach(self, caller: Caller) -> Reach:
        """The workspaces as this caller may see them."""
        return Reach(self.workspaces, caller)
