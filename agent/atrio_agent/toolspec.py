"""A tool as a model is told of it: what `tools` gives and `models` passes on.

It stands between the two because neither of them knows the other.
"""

from typing import Any

import msgspec

__all__ = ["ToolSpec"]


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Name, description and parameters. ``schema`` is a JSON Schema object."""

    name: str
    description: str
    schema: dict[str, Any]
