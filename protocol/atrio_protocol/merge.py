"""Events as bytes: encoded once for every reader, and merged without being read again.

`message.delta` and `tool.output` are the deltas; their ``text`` is the last
property of the object, so that the text of the next one can be put behind it as
it is, escapes and all. Adjacent deltas of one part become one event that stands
for all of them (``firstSeq`` to ``seq``). Anything else between two deltas has
no merge key, and so keeps them apart: what sets or empties a part does.

The invariant: what is merged says the same as what it was merged from, and the
ranges of what comes out join without gap or overlap.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from atrio_protocol.events import EVENT_TYPES, Event, MessageDelta, ToolOutput

__all__ = ["Encoded", "MergeKey", "encode_event", "merge_all", "merge_run"]

MergeKey = tuple[str, str, int]
"""What two adjacent deltas must have in common to be merged: type, message, part."""


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event as it goes to readers.

    ``key`` is None for all but deltas. ``text_at`` is where in ``data`` the text
    of a delta begins, behind its quote.
    """

    seq: int
    data: bytes
    key: MergeKey | None = None
    text_at: int = 0


_encode: Final = msgspec.json.Encoder().encode
_DELTAS: Final = (MessageDelta, ToolOutput)
_DELTA_NAMES: Final[dict[type[Event], str]] = {cls: name for name, cls in EVENT_TYPES.items() if cls in _DELTAS}

# How an event begins before it has a number and a time, and how long that is: it is cut off and made anew,
# because a copy of a frozen struct with the two filled in would cost more than the encoding.
_OPENINGS: Final = {cls: b'{"type":"%b","seq":' % name.encode() for name, cls in EVENT_TYPES.items()}
_BLANKS: Final = {cls: opening + b'0,"at":""' for cls, opening in _OPENINGS.items()}

_BEFORE_TEXT: Final = b'"text":"'
_MERGED_MORE_BYTES: Final = 64
"""Most by which a merged event is longer than its first one and the further texts."""


def encode_event(event: Event, seq: int, at: str) -> Encoded:
    """Give an event its number and its time, and encode it.

    Args:
        event: One that has neither yet.
        seq: Its place in its stream.
        at: RFC 3339; it is put in as it is.

    Raises:
        ValueError: The event has a number or a time already.
        UnicodeEncodeError: A text in it holds half a surrogate pair.
    """
    cls = type(event)
    body = _encode(event)
    blank = _BLANKS[cls]
    if not body.startswith(blank):
        raise ValueError("the event has a number or a time already")
    head = b'%b%d,"at":"%b"' % (_OPENINGS[cls], seq, at.encode())
    data = head + body[len(blank) :]
    if isinstance(event, _DELTAS):
        # Within a string the quotes would be escaped, so the first hit is the property.
        text_at = data.index(_BEFORE_TEXT, len(head)) + len(_BEFORE_TEXT)
        return Encoded(seq, data, (_DELTA_NAMES[cls], event.message_id, event.part), text_at)
    return Encoded(seq, data)


def merge_run(items: Sequence[Encoded]) -> bytes:
    """One event for adjacent deltas of one key; a single event of any kind stays as it is."""
    first, last = items[0], items[-1]
    if first is last:
        return first.data
    before_seq = first.data.index(b',"seq":')
    before_body = first.data.index(b',"messageId":')
    last_at = slice(last.data.index(b',"at":'), last.data.index(b',"messageId":'))
    return b"".join(
        [
            first.data[:before_seq],
            b',"seq":%d,"firstSeq":%d' % (last.seq, first.seq),
            last.data[last_at],
            first.data[before_body : first.text_at],
            *[item.data[item.text_at : -2] for item in items],
            b'"}',
        ]
    )


def merge_all(items: Sequence[Encoded], max_bytes: int) -> tuple[list[bytes], int]:
    """Merge what can be merged, in order.

    Args:
        items: Consecutive events of one stream.
        max_bytes: Limit on the sum of the events, a comma counted with each.
            The first event is taken however large it is.

    Returns:
        The events, and how many of ``items`` they stand for.
    """
    events: list[bytes] = []
    total = 0
    start = 0
    while start < len(items):
        first = items[start]
        total += len(first.data) + 1
        if events and total > max_bytes:
            break
        end = start + 1
        if first.key is not None:
            room = max_bytes - total - _MERGED_MORE_BYTES
            while end < len(items) and items[end].key == first.key:
                room -= len(items[end].data) - items[end].text_at - 2
                if room < 0:
                    break
                end += 1
        event = first.data if end == start + 1 else merge_run(items[start:end])
        total += len(event) - len(first.data)
        events.append(event)
        start = end
    return events, start
