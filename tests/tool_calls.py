"""What tests of tools say to each other: the secret that must not get out, and how a tool is called."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from atrio_agent.tools.base import Place, ToolOutcome

SECRET = "the secret that lies outside"

Call = Callable[..., Awaitable[ToolOutcome]]
"""Tool, or its name, and the members of its input: what came out."""

Text = Callable[..., Awaitable[str]]
"""The same, but the text alone."""


def place_in(root: Path, **changes: Any) -> Place:
    """A place for one call in this workspace."""
    return Place(**({"root": root, "session_id": "s", "run_id": "r", "tool_call_id": "t"} | changes))
