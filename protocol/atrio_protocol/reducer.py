"""From a snapshot and the events after it to the state they add up to.

A client that shows a session or a workspace keeps one of the states here and
applies every event that it receives; what it shows is then what the server has,
whether the events came one by one, merged, or in pieces over several
connections. Nothing here reads a socket or decides what is worth showing.

How the text of a message grows is in `atrio_protocol.growing`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from atrio_protocol.events import (
    ClientJoined,
    ClientLeft,
    ClientViewing,
    Event,
    MessageCompleted,
    MessageCreated,
    MessageDelta,
    MessagePart,
    MessageReset,
    PermissionRequested,
    PermissionResolved,
    RunAccepted,
    RunCompleted,
    RunFolded,
    RunStarted,
    SessionCreated,
    SessionDeleted,
    SessionUpdated,
    TodosUpdated,
    ToolOutput,
    WorkspaceClosingEvent,
)
from atrio_protocol.growing import GrowingMessage, StreamGap
from atrio_protocol.marks import queue_order
from atrio_protocol.methods import Position, SessionSnapshot, WorkspaceSnapshot
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import Client, Message, Permission, Run, Session, Todo

__all__ = ["SessionState", "StreamGap", "WorkspaceState", "apply_event", "apply_workspace_event"]


@dataclass(slots=True, kw_only=True)
class SessionState:
    """A session as of event ``seq`` of ``epoch``.

    ``runs`` are those that are not completed. ``growing`` has the messages by id,
    `messages` in order. ``more``: there are older ones than the snapshot had.
    """

    epoch: str
    seq: int
    session: Session
    more: bool
    todos: tuple[Todo, ...]
    runs: dict[str, Run]
    permissions: dict[str, Permission]
    growing: dict[str, GrowingMessage]
    deleted: bool = False

    @classmethod
    def from_snapshot(cls, snapshot: SessionSnapshot, position: Position) -> "SessionState":
        """The state that the events after ``position`` are to be applied to."""
        return cls(
            epoch=position.epoch,
            seq=position.seq,
            session=snapshot.session,
            more=snapshot.more,
            todos=snapshot.todos,
            runs={run.run_id: run for run in snapshot.runs if run.state != "completed"},
            permissions=_by_id(snapshot.permissions),
            growing={message.message_id: GrowingMessage(message) for message in snapshot.messages},
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first, with their text so far."""
        views = [message.view() for message in self.growing.values()]
        return tuple(sorted(views, key=lambda message: message.order))

    @property
    def queue(self) -> tuple[Run, ...]:
        """The open runs: the active one, what was folded into it, and the others in the order of their turns."""
        begun = [run for run in self.runs.values() if run.state == "running"]
        begun.sort(key=lambda run: (run.folded_into is not UNSET, run.accept_seq))
        return (*begun, *queue_order(run for run in self.runs.values() if run.state == "queued"))


@dataclass(slots=True, kw_only=True)
class WorkspaceState:
    """A workspace as of event ``seq`` of ``epoch``. ``more``: there are older sessions than the snapshot had."""

    epoch: str
    seq: int
    sessions: dict[str, Session]
    more: bool
    clients: dict[str, Client]
    permissions: dict[str, Permission]
    closing: str | None = None

    @classmethod
    def from_snapshot(cls, snapshot: WorkspaceSnapshot, position: Position) -> "WorkspaceState":
        """The state that the events after ``position`` are to be applied to."""
        return cls(
            epoch=position.epoch,
            seq=position.seq,
            sessions={session.session_id: session for session in snapshot.sessions},
            more=snapshot.next_cursor is not UNSET,
            clients={client.client_id: client for client in snapshot.clients},
            permissions=_by_id(snapshot.permissions),
        )


def apply_event(state: SessionState, event: Event) -> None:
    """Bring a session's state up to this event. Events of an unknown type only count.

    Raises:
        StreamGap: Something between the state and the event is missing.
    """
    _check_place(state.seq, event)
    _apply_to_messages(state, event)
    _apply_to_runs(state, event)
    _apply_to_permissions(state.permissions, event)
    match event:
        case SessionUpdated(session=session):
            if session.rev >= state.session.rev:
                state.session = session
        case SessionDeleted():
            state.deleted = True
        case TodosUpdated(todos=todos):
            state.todos = todos
        case _:
            pass
    state.seq = event.seq


def apply_workspace_event(state: WorkspaceState, event: Event) -> None:
    """Bring a workspace's state up to this event. Events of an unknown type only count.

    Raises:
        StreamGap: Something between the state and the event is missing.
    """
    _check_place(state.seq, event)
    _apply_to_permissions(state.permissions, event)
    match event:
        case SessionCreated(session=session) | SessionUpdated(session=session):
            known = state.sessions.get(session.session_id)
            if known is None or session.rev >= known.rev:
                state.sessions[session.session_id] = session
        case SessionDeleted(session_id=str(session_id)):
            state.sessions.pop(session_id, None)
        case ClientJoined(client=client) | ClientViewing(client=client):
            state.clients[client.client_id] = client
        case ClientLeft(client=client):
            state.clients.pop(client.client_id, None)
        case WorkspaceClosingEvent(reason=reason):
            state.closing = reason
        case _:
            pass
    state.seq = event.seq


def _check_place(seq: int, event: Event) -> None:
    first = given(event.first_seq, event.seq)
    if first != seq + 1 or event.seq < first:
        raise StreamGap(f"events {first} to {event.seq} after event {seq}")


def _apply_to_messages(state: SessionState, event: Event) -> None:
    messages = state.growing
    match event:
        case MessageCreated(message=message) | MessageCompleted(message=message):
            messages[message.message_id] = GrowingMessage(message)
        # A message that is older than the snapshot reaches may still be told of; it is not shown.
        case MessageDelta(message_id=message_id) if message_id in messages:
            messages[message_id].grow(event.part, "text", event.offset, event.text)
        case ToolOutput(message_id=message_id) if message_id in messages:
            messages[message_id].grow(event.part, "output", event.offset, event.text)
        case MessagePart(message_id=message_id) if message_id in messages:
            messages[message_id].set_part(event.part, event.value)
        case MessageReset(message_id=message_id) if message_id in messages:
            messages[message_id].empty()
        case _:
            pass


def _apply_to_runs(state: SessionState, event: Event) -> None:
    match event:
        case RunAccepted(run=run) | RunStarted(run=run):
            state.runs[run.run_id] = run
        case RunFolded(run_id=run_id, folded_into=host) if run_id in state.runs:
            folded = msgspec.structs.replace(state.runs[run_id], state="running", folded_into=host)
            state.runs[run_id] = folded
        case RunCompleted(run=run):
            state.runs.pop(run.run_id, None)
        case _:
            pass


def _apply_to_permissions(permissions: dict[str, Permission], event: Event) -> None:
    match event:
        case PermissionRequested(permission=permission):
            permissions[permission.permission_id] = permission
        case PermissionResolved(permission_id=permission_id):
            permissions.pop(permission_id, None)
        case _:
            pass


def _by_id(permissions: Iterable[Permission]) -> dict[str, Permission]:
    return {permission.permission_id: permission for permission in permissions}
