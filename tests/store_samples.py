"""Rows, runs and messages for tests of a store: plausible, short to write, equal when asked for equally.

Ids are given by the test, so that it can name them; times only matter where a
test sets them.
"""

from typing import Any, Literal

import msgspec

from atrio_agent.store.base import AcceptRun, AppendText, CompleteRun, PutMessage, PutSession, SessionRow, Store
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Grant, Message, MessageFinish, Run, Usage
from atrio_protocol.who import Author

__all__ = [
    "ALICE",
    "MAX_BYTES",
    "TIME",
    "accept",
    "append",
    "complete",
    "finish",
    "grant",
    "message",
    "put",
    "put_session",
    "run",
    "session_row",
    "stored",
    "text_of",
    "texts",
    "tool_call",
    "tool_result",
]

ALICE = Author(client_id="11111111-1111-1111-1111-111111111111", name="Alice")
TIME = "2026-11-20T10:00:00.000Z"
MAX_BYTES = 512 * 1024


def session_row(session_id: str, **changes: Any) -> SessionRow:
    row = SessionRow(
        session_id=session_id,
        title=f"about {session_id}",
        message_count=0,
        usage=Usage(),
        rev=1,
        created_at=TIME,
        updated_at=TIME,
    )
    return msgspec.structs.replace(row, **changes)


def put_session(session_id: str, **changes: Any) -> PutSession:
    return PutSession(row=session_row(session_id, **changes))


def run(run_id: str, session_id: str = "s1", accept_seq: int = 1, **changes: Any) -> Run:
    made = Run(
        run_id=run_id,
        session_id=session_id,
        accept_seq=accept_seq,
        state="queued",
        delivery="queue",
        kind="prompt",
        author=ALICE,
        prompt_text=f"do {run_id}",
        attachments=(),
        accepted_at=TIME,
        prompt=(TextBlock(text=f"do {run_id}"),),
    )
    return msgspec.structs.replace(made, **changes)


def accept(
    run_id: str,
    session_id: str = "s1",
    accept_seq: int = 1,
    *,
    client_made: bool = False,
    private_id: bool = False,
    **changes: Any,
) -> AcceptRun:
    return AcceptRun(
        run=run(run_id, session_id, accept_seq, **changes),
        digest=f"digest of {run_id}",
        client_made=client_made,
        private_id=private_id,
    )


def complete(run_id: str, session_id: str = "s1", accept_seq: int = 1, **changes: Any) -> CompleteRun:
    ended: dict[str, Any] = {
        "state": "completed",
        "stop_reason": "end_turn",
        "text": "done",
        "started_at": TIME,
        "finished_at": TIME,
        "prompt": UNSET,
    }
    return CompleteRun(run=run(run_id, session_id, accept_seq, **(ended | changes)))


def finish(reason: Any = "end_turn") -> MessageFinish:
    return MessageFinish(reason=reason, at=TIME)


def message(
    message_id: str,
    text: str | None = "",
    *parts: Part,
    session_id: str = "s1",
    order: int = 1,
    role: Literal["user", "assistant", "tool"] = "assistant",
    **changes: Any,
) -> Message:
    """A message; its first part is the text, unless that is None."""
    made = Message(
        message_id=message_id,
        session_id=session_id,
        order=order,
        role=role,
        parts=(*(() if text is None else (TextBlock(text=text),)), *parts),
        created_at=TIME,
        updated_at=TIME,
    )
    return msgspec.structs.replace(made, **changes)


def put(message_id: str, text: str | None = "", *parts: Part, final: bool = False, **changes: Any) -> PutMessage:
    return PutMessage(message=message(message_id, text, *parts, **changes), final=final)


def append(message_id: str, text: str, *, part: int = 0, field: str = "text", session_id: str = "s1") -> AppendText:
    return AppendText(message_id=message_id, session_id=session_id, part=part, field=field, text=text)


def tool_call(tool_call_id: str, **changes: Any) -> ToolCallPart:
    call = ToolCallPart(
        tool_call_id=tool_call_id, name="read", title="Read a.py", kind="read", input=None, status="pending"
    )
    return msgspec.structs.replace(call, **changes)


def tool_result(tool_call_id: str, text: str = "content", *, is_error: bool = False) -> ToolResultPart:
    return ToolResultPart(tool_call_id=tool_call_id, name="read", content=(TextBlock(text=text),), is_error=is_error)


def grant(grant_id: str, session_id: str = "s1", at: str = TIME) -> Grant:
    return Grant(
        grant_id=grant_id, session_id=session_id, name="write", action="write", path="/work/src", by=ALICE, at=at
    )


def text_of(found: Message | None) -> str:
    assert found is not None
    return "".join(part.text for part in found.parts if isinstance(part, TextBlock | ReasoningPart))


async def stored(store: Store, session_id: str = "s1") -> tuple[Message, ...]:
    """All messages of a session, oldest first."""
    page = await store.messages(session_id, before=None, limit=2**40, max_bytes=2**40)
    assert not page.more
    return page.messages


async def texts(store: Store, session_id: str = "s1") -> list[str]:
    return [text_of(found) for found in await stored(store, session_id)]
