"""Which messages a fork takes over, and what they look like there.

Pure functions over messages in their order, one at a time, so that a session of
any length can be copied without holding it. Both stores use them; which runs a
model has seen, and where the source ends, is the store's business.

Invariant: a copy never has a tool call without the results that its original has.
"""

from collections.abc import Iterable, Iterator

import msgspec

from atrio_agent.store.base import ForkSession
from atrio_protocol.ids import new_id
from atrio_protocol.parts import ToolCallPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message

__all__ = ["copies_of"]


def copies_of(messages: Iterable[Message], op: ForkSession) -> Iterator[Message]:
    """The messages of the fork, made from those of its source.

    Args:
        messages: The source's complete messages, oldest first.
        op: Up to which of them, and for whom. Results of calls made up to there come along.

    Yields:
        Copies with ids and places of their own, without a run. Tool calls keep
        their ids, which are the session's alone.
    """
    for order, message in enumerate(_wanted(messages, op.through), start=1):
        yield msgspec.structs.replace(
            message,
            message_id=new_id(op.workspace_id, "m"),
            session_id=op.row.session_id,
            order=order,
            run_id=UNSET,
        )


def _wanted(messages: Iterable[Message], through: int | None) -> Iterator[Message]:
    calling: Message | None = None  # its results come next; where the source ends before them it stays behind
    for message in messages:
        if through is not None and message.order > through and (calling is None or message.role != "tool"):
            if calling is not None:
                yield calling
            return
        if calling is not None:
            yield calling
            calling = None
        if any(isinstance(part, ToolCallPart) for part in message.parts):
            calling = message
        else:
            yield message
