"""What somebody must allow before a tool may do what it was called for.

Made by a tool, put into words for people, and decided on by the workspace's
broker; neither knows the other. It holds no decision and nothing to run.
"""

from dataclasses import dataclass
from typing import Literal

from atrio_protocol.parts import Diff

__all__ = ["Action", "Ask"]

Action = Literal["read", "write", "execute", "fetch", "mcp"]
"""What a permission is about. Grants hold for one session, tool, action and directory (or host, or server)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What somebody must allow before a call is done.

    ``where`` is what a lasting grant covers beside the tool and the action: an
    absolute directory, a host, a server. ``diffs`` show a change before it is made.
    """

    action: Action
    title: str
    where: str
    detail: str | None = None
    path: str | None = None
    diffs: tuple[Diff, ...] = ()
