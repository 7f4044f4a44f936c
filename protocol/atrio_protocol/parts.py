"""Parts: what a message is made of.

A user message holds content blocks; an assistant message text, reasoning and
tool calls; a tool message the results. Parts grow while a run goes on: how a
delta changes one is in `atrio_protocol.merge`.
"""

from typing import Any, Literal

from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceLink, TextBlock, without_large_image
from atrio_protocol.struct import UNSET, UnsetType, WireStruct
from atrio_protocol.who import Author

__all__ = [
    "AssistantPart",
    "Diff",
    "Location",
    "Part",
    "PermissionMark",
    "ReasoningPart",
    "ToolCallPart",
    "ToolKind",
    "ToolResultPart",
    "ToolStatus",
    "lean_part",
]

ToolKind = Literal["read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"]
ToolStatus = Literal["pending", "in_progress", "completed", "failed", "cancelled"]


class ReasoningPart(WireStruct, kw_only=True, tag="reasoning", tag_field="type"):
    text: str
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET


class Location(WireStruct, kw_only=True):
    """A place a tool looks at: absolute path, 1-based line."""

    path: str
    line: int | UnsetType = UNSET


class PermissionMark(WireStruct, kw_only=True):
    """How a tool call's permission was decided."""

    kind: str
    by: Author | UnsetType = UNSET


class ToolCallPart(WireStruct, kw_only=True, tag="tool_call", tag_field="type"):
    """One call of a tool. ``input`` is null until it is complete."""

    tool_call_id: str
    name: str
    title: str
    kind: ToolKind
    input: dict[str, Any] | None
    input_text: str | UnsetType = UNSET
    status: ToolStatus
    locations: tuple[Location, ...] | UnsetType = UNSET
    output: str | UnsetType = UNSET
    output_from: int | UnsetType = UNSET
    permission: PermissionMark | UnsetType = UNSET
    child_session_id: str | UnsetType = UNSET
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET


class Diff(WireStruct, kw_only=True):
    """A change to a file. The two texts are left out when they are large."""

    path: str
    old_text: str | None | UnsetType = UNSET
    new_text: str | None | UnsetType = UNSET
    unified: str


class ToolResultPart(WireStruct, kw_only=True, tag="tool_result", tag_field="type"):
    tool_call_id: str
    name: str
    content: tuple[ContentBlock, ...]
    is_error: bool
    diffs: tuple[Diff, ...] | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET


AssistantPart = TextBlock | ReasoningPart | ToolCallPart
Part = TextBlock | ImageBlock | ResourceBlock | ResourceLink | ReasoningPart | ToolCallPart | ToolResultPart


def lean_part(part: Part) -> Part:
    """The part as lists, snapshots and events show it: large image data left out."""
    match part:
        case TextBlock() | ReasoningPart() | ToolCallPart():
            return part
        case ToolResultPart():
            content = tuple(without_large_image(block) for block in part.content)
            if content == part.content:
                return part
            return ToolResultPart(
                tool_call_id=part.tool_call_id,
                name=part.name,
                content=content,
                is_error=part.is_error,
                diffs=part.diffs,
                exit_code=part.exit_code,
                truncated=part.truncated,
            )
        case _:
            return without_large_image(part)
