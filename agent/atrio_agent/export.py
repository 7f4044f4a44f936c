"""A whole session as one text: JSON for programs, Markdown for people.

Pure functions of what was read. The JSON has the wire's own shapes; what the
Markdown leaves out (ids, long tool results) is only there for programs.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from atrio_protocol.content import ImageBlock, ResourceBlock, ResourceLink, TextBlock
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Session

__all__ = ["export_json", "export_markdown"]

_RESULT_CHARS = 4_000
_BACKTICKS: Final = re.compile("`+")


def export_json(session: Session, messages: Sequence[Message]) -> str:
    """The session and its messages as on the wire, indented."""
    return msgspec.json.format(msgspec.json.encode({"session": session, "messages": messages}), indent=2).decode()


def export_markdown(session: Session, messages: Sequence[Message]) -> str:
    """The conversation as a document: who said what, which tools were called, what came back."""
    lines = [f"# {session.title}", "", f"Session `{session.session_id}`, begun {session.created_at}.", ""]
    for message in messages:
        lines += [f"## {_heading(message)}", ""]
        for part in message.parts:
            lines += [_part(part), ""]
        if message.finish is not UNSET and message.finish.reason not in {"end_turn", "tool_use"}:
            detail = "" if message.finish.detail is UNSET else f": {message.finish.detail}"
            lines += [f"*Ended: {message.finish.reason}{detail}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def _heading(message: Message) -> str:
    if message.role == "user":
        return "User" if message.author is UNSET else f"User ({message.author.name})"
    if message.role == "tool":
        return "Tool results"
    return "Assistant" if message.model is UNSET else f"Assistant ({message.model})"


def _part(part: Part) -> str:
    match part:
        case TextBlock():
            return part.text
        case ReasoningPart():
            return "\n".join(f"> {line}" for line in part.text.splitlines())
        case ToolCallPart():
            given = msgspec.json.encode(part.input or {}).decode()
            return f"**{part.name}** ({part.status}): {_fenced(given, 'json')}"
        case ToolResultPart():
            text = "\n".join(_part(block) for block in part.content)
            cut = text if len(text) <= _RESULT_CHARS else text[:_RESULT_CHARS] + "\n…"
            changes = "".join(_fenced(diff.unified.rstrip("\n"), "diff") for diff in part.diffs or ())
            return f"**{part.name}**{' failed' if part.is_error else ''}: {_fenced(cut, '')}{changes}"
        case ImageBlock():
            return f"*(image, {part.mime_type})*"
        case ResourceBlock():
            return f"*(resource {part.resource.uri})*"
        case ResourceLink():
            return f"[{part.name}]({part.uri})"


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    return f"\n\n{fence}{language}\n{text}\n{fence}"
