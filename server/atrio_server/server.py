"""What the handlers work on: the parts of the running server, in one place.

It owns nothing by itself: `service` opens each part and closes it again. A
handler may read all of it and signal its owners; it never starts a task.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from atrio_agent.gates import Gates
from atrio_agent.models.choose import Models
from atrio_server.workspaces import Workspaces

__all__ = ["OpenConnection", "Server"]


class OpenConnection(Protocol):
    """A socket, as the service keeps it."""

    def close_soon(self, code: int) -> None:
        """Have the connection closed with this code. Does not wait."""
        ...


@dataclass(slots=True, kw_only=True)
class Server:
    """The running server."""

    workspaces: Workspaces
    models: Models
    gates: Gates
    state_dir: Path
    test_hooks: bool
    stop_soon: "StopSoon"
    connections: dict[str, OpenConnection] = field(default_factory=dict[str, OpenConnection])
    started_at: float = field(default_factory=time.monotonic)
    closing: bool = False


class StopSoon(Protocol):
    """Begins the shutdown of the server, as a signal would. Safe to call twice."""

    def __call__(self) -> None: ...
