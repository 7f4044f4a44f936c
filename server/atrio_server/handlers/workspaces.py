"""`workspace/*`, `session/list`, `client/list` and `session/view`: directories, and who is in them.

Claims and presence are taken in the same synchronous step in which a workspace
is found. None of these methods opens a workspace by its id: only by its path.
"""

from contextlib import suppress

import msgspec

from atrio_agent.store.base import StoreClosed, StoreFailed
from atrio_protocol.errors import (
    Forbidden,
    InvalidParams,
    NotAttached,
    PathRequired,
    SessionNotFound,
    StorageUnavailable,
    WorkspaceClosing,
)
from atrio_protocol.limits import PAGE_BYTES
from atrio_protocol.methods import (
    AttachedStream,
    ClientListResult,
    Empty,
    NoParams,
    OpenParams,
    OpenResult,
    Position,
    SessionListParams,
    SessionListResult,
    ViewParams,
    WorkspaceListResult,
    WorkspaceParams,
    WorkspaceResult,
    WorkspaceSnapshot,
)
from atrio_protocol.questions import lean_permissions
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import Session
from atrio_server.calls import AttachReply, Caller, Key, Later, Reply
from atrio_server.handlers.finding import author_of
from atrio_server.server import Server
from atrio_server.workspace import Workspace

__all__ = [
    "client_list",
    "session_list",
    "session_view",
    "workspace_close",
    "workspace_get",
    "workspace_list",
    "workspace_open",
]

SNAPSHOT_SESSIONS = 100


async def workspace_open(server: Server, caller: Caller, params: OpenParams) -> Later:
    """Open a directory's workspace, claim it, and attach to its stream; by HTTP, hold it and only look."""
    path = given(params.path, "")
    if not path:
        raise PathRequired("A workspace needs the absolute path of its directory.", path="/path")
    if params.create and "prompt" not in caller.scopes:
        raise Forbidden("Making a directory (create) needs a token with the scope 'prompt'.", scope="prompt")
    workspace = await server.reach(caller).open(path, create=params.create)
    key = Key("workspace", workspace.workspace_id)
    caller.check_attaching(key)
    if caller.is_socket:
        workspace.claim(caller)
        workspace.note_attachment(caller, key)
        if view := given(params.view, ""):
            # A client that comes back may have looked at what is deleted by now: then it looks at nothing.
            with suppress(SessionNotFound):
                await _look_at(workspace, caller, view)
    else:
        workspace.hold()
    after = params.after if isinstance(params.after, Position) else None

    async def attach() -> AttachReply:
        cursor = workspace.stream.cursor(after)
        if after is not None and cursor.recovered:
            stream = AttachedStream(epoch=after.epoch, seq=after.seq, recovered=True, head=workspace.stream.seq)
            return AttachReply(OpenResult(workspace=workspace.view(), stream=stream), key, cursor)
        while True:
            cursor = workspace.stream.cursor()
            clients = workspace.presence.clients()
            permissions = lean_permissions(workspace.coordinator.ground.broker.pending())
            listed = await _list(workspace, limit=SNAPSHOT_SESSIONS, cursor=None, query=None, children=False)
            if not cursor.lagged:
                break
        stream = AttachedStream(
            epoch=workspace.stream.epoch, seq=cursor.seq, recovered=False, head=workspace.stream.seq
        )
        snapshot = WorkspaceSnapshot(
            sessions=listed.sessions, next_cursor=listed.next_cursor, clients=clients, permissions=permissions
        )
        return AttachReply(OpenResult(workspace=workspace.view(), stream=stream, snapshot=snapshot), key, cursor)

    return Later(attach, after=(key,))


async def workspace_close(server: Server, caller: Caller, params: WorkspaceParams) -> Reply | Later:
    """End this connection's claim and its attachments there; by HTTP, the hold."""
    workspace = server.reach(caller).get(params.workspace_id)
    if not caller.is_socket:
        workspace.close_claim(caller)
        return Empty()
    keys = workspace.close_claim(caller)

    async def answer() -> Empty:
        return Empty()

    return Later(answer, after=keys, detaches=keys)


async def workspace_list(server: Server, caller: Caller, _params: NoParams) -> WorkspaceListResult:
    """The open workspaces."""
    return WorkspaceListResult(workspaces=tuple(workspace.view() for workspace in server.reach(caller).all()))


async def workspace_get(server: Server, caller: Caller, params: WorkspaceParams) -> WorkspaceResult:
    """One open workspace."""
    workspace = server.reach(caller).get(params.workspace_id)
    return WorkspaceResult(
        workspace=workspace.view(), mcp=workspace.mcp_states() or UNSET, problems=workspace.problems or UNSET
    )


async def session_list(server: Server, caller: Caller, params: SessionListParams) -> Later:
    """The sessions of a workspace, newest updated first."""
    workspace = server.reach(caller).get(params.workspace_id)

    async def read() -> SessionListResult:
        return await _list(
            workspace,
            limit=params.limit,
            cursor=given(params.cursor, "") or None,
            query=given(params.query, "") or None,
            children=params.children,
        )

    return Later(read)


async def session_view(server: Server, caller: Caller, params: ViewParams) -> Empty:
    """Say what this client looks at."""
    workspace = server.reach(caller).get(params.workspace_id)
    if not workspace.claimed_by(caller):
        raise NotAttached("Open the workspace on this connection before you say what you look at.")
    await _look_at(workspace, caller, params.session_id)
    return Empty()


async def client_list(server: Server, caller: Caller, params: WorkspaceParams) -> ClientListResult:
    """Who is in a workspace."""
    return ClientListResult(clients=server.reach(caller).get(params.workspace_id).presence.clients())


async def _look_at(workspace: Workspace, caller: Caller, session_id: str | None) -> None:
    if session_id is not None:
        await workspace.coordinator.session(session_id)
    # The claim is still there: only its connection ends it, and that waits here.
    workspace.presence.view(author_of(caller).client_id, session_id)


async def _list(
    workspace: Workspace, *, limit: int, cursor: str | None, query: str | None, children: bool
) -> SessionListResult:
    """A page of sessions, cut so that the answer stays a moderate frame."""
    while True:
        try:
            page = await workspace.store.sessions(query=query, limit=limit, cursor=cursor, children=children)
        except ValueError as exc:
            raise InvalidParams("The cursor is not one of this server's.", path="/cursor") from exc
        except StoreClosed as exc:
            raise WorkspaceClosing("The workspace closed before this was done; open it again.") from exc
        except StoreFailed as exc:
            raise StorageUnavailable(f"The sessions cannot be read: {exc}") from exc
        found: list[Session] = []
        size = 0
        coordinator = workspace.coordinator
        for row in page.sessions:
            if coordinator.deleted(row.session_id):
                continue
            session = coordinator.view_of(row)
            size += len(msgspec.json.encode(session))
            found.append(session)
        if size <= PAGE_BYTES or limit == 1:
            return SessionListResult(sessions=tuple(found), next_cursor=given(page.next_cursor, "") or UNSET)
        limit = max(limit // 2, 1)
