"""What tests of tools say to each other: the secret that must not get out, and how a tool is called."""

from collections.abc import Awaitable, Callable

from atrio_agent.tools.base import ToolOutcome

SECRET = "the secret that lies outside"

Call = Callable[..., Awaitable[ToolOutcome]]
"""Tool, or its name, and the members of its input: what came out."""

Text = Callable[..., Awaitable[str]]
"""The same, but the text alone."""
