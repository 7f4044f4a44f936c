"""Pages of messages and lists, cut by the same rule wherever they come from.

Pure functions: both stores use them, and so does whoever lays messages that
are still in memory over stored ones. Nothing here reads a store.

Invariant: a page of messages is an unbroken run up to the newest asked for, is
never empty unless there is nothing, and never begins with a tool message.
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from atrio_agent.store.base import AppendText, MessagePage
from atrio_protocol.content import TextBlock
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import Message, Run, lean_message

__all__ = [
    "LARGEST_INTEGER",
    "Place",
    "bounded_limit",
    "cut_page",
    "grown_message",
    "message_bytes",
    "read_cursor",
    "stands_for_history",
    "take_page",
    "was_started",
    "write_cursor",
]

LARGEST_INTEGER = 2**63 - 1
"""What a database can hold; a client may ask for more."""


def bounded_limit(limit: int) -> int:
    """How many to give where ``limit`` were asked for: at least one, and not without end."""
    return max(1, min(limit, 10_000))


def message_bytes(message: Message) -> int:
    """How many bytes a message takes on the wire."""
    return len(msgspec.json.encode(message))


def take_page(newest_first: Iterator[Message], *, limit: int, max_bytes: int) -> MessagePage:
    """Cut a page from messages that come newest first, reading no further than needed.

    Args:
        newest_first: All messages below the page's end. Large images are left out of what is returned.
        limit: How many messages at most, but for what the rule below adds.
        max_bytes: How many encoded bytes at most, but for the same, and for a first message larger than that.

    Returns:
        The page. If it would begin with a tool message, it reaches back to the
        message that made the call, whatever the limits say.
    """
    taken: list[Message] = []
    size = 0
    for found in newest_first:
        message = lean_message(found)
        if taken and taken[-1].role != "tool":
            if len(taken) >= limit:
                return MessagePage(messages=tuple(reversed(taken)), more=True)
            next_size = message_bytes(message)
            if size + next_size > max_bytes:
                return MessagePage(messages=tuple(reversed(taken)), more=True)
            size += next_size
        else:
            size += message_bytes(message)
        taken.append(message)
    return MessagePage(messages=tuple(reversed(taken)), more=False)


def cut_page(messages: Sequence[Message], *, limit: int, max_bytes: int, more: bool) -> MessagePage:
    """Cut the newest page from messages in their order; ``more``: there are older ones than these."""
    page = take_page(iter(reversed(messages)), limit=limit, max_bytes=max_bytes)
    return MessagePage(messages=page.messages, more=page.more or more)


def stands_for_history(message: Message) -> bool:
    """Whether a model need not know what is older: a summary that was not cut short."""
    return (
        message.summary
        and message.finish is not UNSET
        and message.finish.reason not in {"cancelled", "error", "interrupted"}
    )


def was_started(run: Run) -> bool:
    """Whether a model has seen its prompt: in its own turn, or in the one it was folded into."""
    return run.started_at is not UNSET or run.folded_into is not UNSET


def grown_message(message: Message, appended: Iterable[AppendText]) -> Message:
    """The message with what was appended to it since it was put, in the order of appending.

    Text for a part that is not there, or that cannot grow in that way, is left out.
    """
    pieces: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for piece in appended:
        pieces[piece.part, piece.field].append(piece.text)
    if not pieces:
        return message
    parts = list(message.parts)
    for (index, field), texts in pieces.items():
        if 0 <= index < len(parts):
            parts[index] = _grown_part(parts[index], field, "".join(texts))
    return msgspec.structs.replace(message, parts=tuple(parts))


def _grown_part(part: Part, field: str, text: str) -> Part:
    match part, field:
        case ((TextBlock() | ReasoningPart()), "text"):
            return msgspec.structs.replace(part, text=part.text + text)
        case ToolCallPart(), "inputText":
            return msgspec.structs.replace(part, input_text=given(part.input_text, "") + text)
        case ToolCallPart(), "output":
            whole = given(part.output, "") + text
            start = given(part.output_from, 0) + max(0, len(whole) - TOOL_OUTPUT_CHARS)
            return msgspec.structs.replace(
                part, output=whole[-TOOL_OUTPUT_CHARS:], output_from=start or part.output_from
            )
        case _:
            return part


class Place(NamedTuple):
    """Where a session stands in a list: by its last update, then by the order of updating."""

    updated_at: str
    touched: int


def write_cursor(place: Place) -> str:
    """A cursor for what comes after this place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(cursor: str) -> Place:
    """The place that a cursor was made for.

    Raises:
        ValueError: It is not one of ours.
    """
    try:
        data = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(data, type=Place)
    except (binascii.Error, UnicodeEncodeError, msgspec.DecodeError) as error:
        raise ValueError("not a cursor of this list") from error
    if not 0 <= place.touched <= LARGEST_INTEGER:
        raise ValueError("not a cursor of this list")
    return place
