"""Events: what happens, in the order in which it happened.

An event is made without a number; the stream that it is published on gives it
`seq` and `at` while it encodes it, once for all readers. The types below are
therefore the *bodies*; a reader gets them with `seq`, `firstSeq` and `at`
filled in (`decode_event`).

A reader of a newer server may meet an event type it does not know. It is not an
error: such an event is decoded to `UnknownEvent`, keeps its place in the
numbering, and is skipped.
"""

from typing import Any, Literal

import msgspec

from atrio_protocol.parts import Part
from atrio_protocol.struct import UNSET, UnsetType, WireStruct
from atrio_protocol.things import Client, Message, Permission, PermissionOutcome, Run, Session, Todo
from atrio_protocol.who import Author

__all__ = [
    "EVENT_TYPES",
    "SESSION_EVENTS",
    "WORKSPACE_EVENTS",
    "ClientJoined",
    "ClientLeft",
    "ClientViewing",
    "Event",
    "MessageCompleted",
    "MessageCreated",
    "MessageDelta",
    "MessagePart",
    "MessageReset",
    "Notice",
    "PermissionRequested",
    "PermissionResolved",
    "RunAccepted",
    "RunCompleted",
    "RunFolded",
    "RunStarted",
    "SessionCreated",
    "SessionDeleted",
    "SessionUpdated",
    "TodosUpdated",
    "ToolOutput",
    "UnknownEvent",
    "WorkspaceClosingEvent",
    "decode_event",
]


class Event(WireStruct, kw_only=True, tag_field="type"):
    """What every event has. ``first_seq`` is there when it stands for several merged ones."""

    seq: int = 0
    first_seq: int | UnsetType = UNSET
    at: str = ""


class SessionCreated(Event, kw_only=True, tag="session.created"):
    session: Session


class SessionUpdated(Event, kw_only=True, tag="session.updated"):
    session: Session


class SessionDeleted(Event, kw_only=True, tag="session.deleted"):
    """On its own stream without an id, on the workspace's with one."""

    session_id: str | UnsetType = UNSET


class RunAccepted(Event, kw_only=True, tag="run.accepted"):
    run: Run


class RunStarted(Event, kw_only=True, tag="run.started"):
    run: Run


class RunFolded(Event, kw_only=True, tag="run.folded"):
    run_id: str
    folded_into: str


class RunCompleted(Event, kw_only=True, tag="run.completed"):
    run: Run


class MessageCreated(Event, kw_only=True, tag="message.created"):
    message: Message


class MessageDelta(Event, kw_only=True, tag="message.delta"):
    """Text to append to a part. ``offset`` counts the code points before it. ``text`` is always the last property."""

    message_id: str
    part: int
    offset: int
    text: str


class MessagePart(Event, kw_only=True, tag="message.part"):
    message_id: str
    part: int
    value: Part


class MessageReset(Event, kw_only=True, tag="message.reset"):
    message_id: str


class MessageCompleted(Event, kw_only=True, tag="message.completed"):
    message: Message


class ToolOutput(Event, kw_only=True, tag="tool.output"):
    """Live output to append to a tool call. ``text`` is always the last property."""

    message_id: str
    part: int
    offset: int
    text: str


class PermissionRequested(Event, kw_only=True, tag="permission.requested"):
    permission: Permission


class PermissionResolved(Event, kw_only=True, tag="permission.resolved"):
    permission_id: str
    session_id: str
    run_id: str
    tool_call_id: str
    outcome: PermissionOutcome
    by: Author | UnsetType = UNSET


class TodosUpdated(Event, kw_only=True, tag="todos.updated"):
    todos: tuple[Todo, ...]


class Notice(Event, kw_only=True, tag="notice"):
    severity: Literal["info", "warning", "error"]
    title: str
    detail: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET


class ClientJoined(Event, kw_only=True, tag="client.joined"):
    client: Client


class ClientLeft(Event, kw_only=True, tag="client.left"):
    client: Client


class ClientViewing(Event, kw_only=True, tag="client.viewing"):
    client: Client


class WorkspaceClosingEvent(Event, kw_only=True, tag="workspace.closing"):
    reason: str


class UnknownEvent(Event, kw_only=True, tag="unknown"):
    """An event of a type that this version does not know."""

    name: str
    body: dict[str, Any]


SESSION_EVENTS: tuple[type[Event], ...] = (
    SessionUpdated,
    RunAccepted,
    RunStarted,
    RunFolded,
    RunCompleted,
    MessageCreated,
    MessageDelta,
    MessagePart,
    MessageReset,
    MessageCompleted,
    ToolOutput,
    PermissionRequested,
    PermissionResolved,
    TodosUpdated,
    Notice,
    SessionDeleted,
)
"""What a session's stream may hold."""

WORKSPACE_EVENTS: tuple[type[Event], ...] = (
    SessionCreated,
    SessionUpdated,
    SessionDeleted,
    RunAccepted,
    RunCompleted,
    PermissionRequested,
    PermissionResolved,
    ClientJoined,
    ClientLeft,
    ClientViewing,
    WorkspaceClosingEvent,
)
"""What a workspace's stream may hold."""

EVENT_TYPES: dict[str, type[Event]] = {
    str(cls.__struct_config__.tag): cls for cls in dict.fromkeys(SESSION_EVENTS + WORKSPACE_EVENTS)
}


class _Head(msgspec.Struct, rename="camel"):
    """What is known of any event, whatever its type."""

    type: str
    seq: int
    first_seq: int | UnsetType = UNSET
    at: str = ""


_head_decoder = msgspec.json.Decoder(_Head)
_decoders: dict[str, msgspec.json.Decoder[Event]] = {
    name: msgspec.json.Decoder(cls) for name, cls in EVENT_TYPES.items()
}


def decode_event(data: bytes | msgspec.Raw) -> Event:
    """Decode one event, as a client gets it.

    Raises:
        msgspec.DecodeError: It is not an event at all, or a known one is malformed.
    """
    head = _head_decoder.decode(data)
    decoder = _decoders.get(head.type)
    if decoder is not None:
        return decoder.decode(data)
    body = msgspec.json.decode(data, type=dict[str, Any])
    return UnknownEvent(seq=head.seq, first_seq=head.first_seq, at=head.at, name=head.type, body=body)
