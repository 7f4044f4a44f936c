"""`session/*` and `message/get`: conversations as things, apart from running them.

What changes a session is done by its owner; a request here begins the change
and waits until it is stored. Prompts and cancels are in `prompts`.
"""

import trio

from atrio_agent.export import export_json, export_markdown
from atrio_agent.lifetime import Errand
from atrio_agent.profile import MAX_TITLE_CHARS
from atrio_agent.session import Session
from atrio_agent.snapshot import messages_page, take_snapshot
from atrio_protocol.errors import InvalidParams, MessageNotFound, ServerClosing
from atrio_protocol.limits import HISTORY_LIMIT_MAX
from atrio_protocol.methods import (
    Attached,
    AttachedStream,
    AttachParams,
    Empty,
    ForkParams,
    MessageGetParams,
    MessageResult,
    MessagesParams,
    MessagesResult,
    Position,
    RenameParams,
    SessionExportParams,
    SessionExportResult,
    SessionNewParams,
    SessionParams,
    SessionResult,
    SetModelParams,
)
from atrio_protocol.struct import given
from atrio_protocol.things import Message
from atrio_server.calls import AttachReply, Caller, Key, Later
from atrio_server.handlers.finding import find_session, reading
from atrio_server.server import Server

__all__ = [
    "message_get",
    "session_attach",
    "session_delete",
    "session_detach",
    "session_export",
    "session_fork",
    "session_get",
    "session_messages",
    "session_new",
    "session_rename",
    "session_set_model",
]

_EXPORTING = trio.CapacityLimiter(1)


async def session_new(server: Server, caller: Caller, params: SessionNewParams) -> Later:
    """Make a session."""
    if server.closing:
        raise ServerClosing("The server is closing; connect again in a moment.")
    workspace = server.reach(caller).get(params.workspace_id)
    title = _title(given(params.title, "")) if given(params.title, "").strip() else None
    model = given(params.model, "") or None
    if model is not None:
        workspace.models.get(model)

    async def make() -> SessionResult:
        with reading("session"):
            session = await workspace.coordinator.new_session(title=title, model=model)
        return SessionResult(session=session.profile.view())

    return Later(make)


async def session_get(server: Server, caller: Caller, params: SessionParams) -> SessionResult:
    """A session as it stands."""
    _, session = await find_session(server, caller, params)
    return SessionResult(session=session.profile.view())


async def session_rename(server: Server, caller: Caller, params: RenameParams) -> Later:
    """Give a session its title."""
    title = _title(params.title)
    _, session = await find_session(server, caller, params)
    return _answer_when_stored(session, session.profile.set_title_soon(title))


async def session_set_model(server: Server, caller: Caller, params: SetModelParams) -> Later:
    """Choose the model of a session's next turns."""
    workspace, session = await find_session(server, caller, params)
    workspace.models.get(params.model_id)
    return _answer_when_stored(session, session.profile.set_model_soon(params.model_id))


def _answer_when_stored(session: Session, change: Errand[None]) -> Later:
    async def wait() -> SessionResult:
        with reading("session"):
            await change.wait()
        return SessionResult(session=session.profile.view())

    return Later(wait)


async def session_fork(server: Server, caller: Caller, params: ForkParams) -> Later:
    """Make a session that begins with what this one has said."""
    workspace, session = await find_session(server, caller, params)
    if server.closing:
        raise ServerClosing("The server is closing; connect again in a moment.")
    fork = workspace.coordinator.fork_soon(session, given(params.message_id, "") or None)

    async def wait() -> SessionResult:
        with reading("session"):
            made = await fork.wait()
        return SessionResult(session=made.profile.view())

    return Later(wait)


async def session_delete(server: Server, caller: Caller, params: SessionParams) -> Later:
    """Delete a session and its children."""
    workspace, session = await find_session(server, caller, params)
    deletion = workspace.coordinator.delete_soon(session)

    async def wait() -> Empty:
        with reading("session"):
            await deletion.wait()
        return Empty()

    # The reply is the last of it: after the session's last event and the end of its stream.
    return Later(wait, behind=(Key("session", session.session_id),))


async def session_messages(server: Server, caller: Caller, params: MessagesParams) -> Later:
    """A page of a session's messages."""
    workspace, session = await find_session(server, caller, params)
    before = params.before if isinstance(params.before, int) else None

    async def read() -> MessagesResult:
        with reading("messages"):
            page = await messages_page(session, workspace.store, before=before, limit=params.limit)
        return MessagesResult(messages=page.messages, more=page.more)

    return Later(read)


async def message_get(server: Server, caller: Caller, params: MessageGetParams) -> Later:
    """One message, whole."""
    workspace = await server.reach(caller).of_message(params.message_id)

    async def read() -> MessageResult:
        if workspace is not None:
            for session in workspace.coordinator.sessions():
                live = session.scribe.live(params.message_id)
                if live is not None:
                    return MessageResult(message=live)
            with reading("message"):
                stored = await workspace.store.message(params.message_id)
            if stored is not None and not workspace.coordinator.deleted(stored.session_id):
                return MessageResult(message=stored)
        raise MessageNotFound(f"There is no message {params.message_id!r}.", messageId=params.message_id)

    return Later(read)


async def session_export(server: Server, caller: Caller, params: SessionExportParams) -> Later:
    """A whole session as one text."""
    workspace, session = await find_session(server, caller, params)

    async def read() -> SessionExportResult:
        messages: list[Message] = []
        before = None
        with reading("session"):
            while True:
                page = await messages_page(session, workspace.store, before=before, limit=HISTORY_LIMIT_MAX)
                messages[:0] = page.messages
                if not page.more:
                    break
                before = page.messages[0].order
        export = export_json if params.format == "json" else export_markdown
        # A long session takes longer to write out than the event loop may stand still.
        content = await trio.to_thread.run_sync(export, session.profile.view(), messages, limiter=_EXPORTING)
        return SessionExportResult(content=content)

    return Later(read)


async def session_attach(server: Server, caller: Caller, params: AttachParams) -> Later:
    """Claim the session's workspace and read its stream, from where the reader left off or from a snapshot."""
    workspace, session = await find_session(server, caller, params)
    key = Key("session", session.session_id)
    caller.check_attaching(key)
    workspace.claim(caller)
    workspace.note_attachment(caller, key)
    after = params.after if isinstance(params.after, Position) else None

    async def attach() -> AttachReply:
        stream = session.stream
        cursor = stream.cursor(after)
        if after is not None and cursor.recovered:
            place = AttachedStream(epoch=after.epoch, seq=after.seq, recovered=True, head=stream.seq)
            return AttachReply(Attached(stream=place), key, cursor)
        with reading("messages"):
            cursor, snapshot = await take_snapshot(
                session, workspace.store, history_limit=params.history_limit, watch=params.watch
            )
        place = AttachedStream(epoch=stream.epoch, seq=cursor.seq, recovered=False, head=stream.seq)
        return AttachReply(Attached(stream=place, snapshot=snapshot), key, cursor)

    return Later(attach, after=(key,))


async def session_detach(server: Server, caller: Caller, params: SessionParams) -> Later:
    """Stop reading a session's stream. The claim on the workspace stays."""
    _, session = await find_session(server, caller, params)
    key = Key("session", session.session_id)

    async def answer() -> Empty:
        return Empty()

    return Later(answer, after=(key,), detaches=(key,))


def _title(title: str) -> str:
    shown = " ".join(title.split())
    if not shown:
        raise InvalidParams("A title must not be blank.", path="/title")
    if len(shown) > MAX_TITLE_CHARS:
        raise InvalidParams(f"A title has at most {MAX_TITLE_CHARS} characters.", path="/title")
    return shown
