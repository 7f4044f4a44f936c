"""`permission/*`: what tool calls wait for, the answers, and what was allowed for good.

The broker of the workspace decides; what it keeps of a question counts, and
nothing that an answer repeats is read. A question lives in memory, with the
call that waits for it, so one that is looked for in a closed workspace is gone.
"""

from atrio_agent.permissions import Broker
from atrio_protocol.errors import InvalidParams, PermissionNotFound
from atrio_protocol.methods import (
    Empty,
    PermissionGrantsResult,
    PermissionListParams,
    PermissionListResult,
    PermissionRespondParams,
    PermissionRespondResult,
    PermissionRevokeParams,
    SessionParams,
)
from atrio_protocol.questions import lean_permissions
from atrio_protocol.struct import UNSET, given
from atrio_server.calls import Caller, Later
from atrio_server.handlers.finding import author_of, find_session, reading
from atrio_server.server import Server
from atrio_server.workspace import Workspace

__all__ = ["permission_grants", "permission_list", "permission_respond", "permission_revoke"]


async def permission_list(server: Server, caller: Caller, params: PermissionListParams) -> PermissionListResult:
    """The questions that wait in a workspace, or in a session and its sub-agents."""
    session_id, workspace_id = given(params.session_id, ""), given(params.workspace_id, "")
    if session_id:
        workspace, session = await find_session(server, caller, SessionParams(session_id=session_id))
        pending = _broker(workspace).pending(session.session_id)
        return PermissionListResult(permissions=lean_permissions(pending))
    if not workspace_id:
        raise InvalidParams("Name a workspace (workspaceId) or a session (sessionId).", path="/workspaceId")
    return PermissionListResult(permissions=lean_permissions(_broker(server.reach(caller).get(workspace_id)).pending()))


async def permission_respond(
    server: Server, caller: Caller, params: PermissionRespondParams
) -> PermissionRespondResult:
    """Answer a question; the first valid answer counts."""
    workspace = await server.reach(caller).of_permission(params.permission_id)
    answer = _broker(workspace).respond(params.permission_id, params.option_id, author_of(caller))
    return PermissionRespondResult(resolved=answer.resolved, outcome=answer.outcome, by=answer.by or UNSET)


async def permission_grants(server: Server, caller: Caller, params: SessionParams) -> PermissionGrantsResult:
    """What was allowed for good in a session."""
    workspace, session = await find_session(server, caller, params)
    return PermissionGrantsResult(grants=_broker(workspace).grants(session.session_id))


async def permission_revoke(server: Server, caller: Caller, params: PermissionRevokeParams) -> Later:
    """Take back what was allowed for good."""
    workspace = await server.reach(caller).of_permission(params.grant_id)
    if not _broker(workspace).knows_grant(params.grant_id):
        with reading("grant"):
            grant = await workspace.store.grant(params.grant_id)
        if grant is None:
            raise PermissionNotFound(f"There is no grant {params.grant_id!r}.", grantId=params.grant_id)
        await workspace.coordinator.session(grant.session_id)  # loads what it was allowed
    with reading("grant"):
        revoked = workspace.coordinator.revoke_soon(params.grant_id)

    async def answer() -> Empty:
        with reading("grant"):
            await revoked.wait()
        return Empty()

    return Later(answer)


def _broker(workspace: Workspace) -> Broker:
    return workspace.coordinator.ground.broker
