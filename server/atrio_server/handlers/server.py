"""`server/*` and `model/list`: the server itself.

A shutdown that is asked for here is the one that a signal begins; the answer
does not wait for it.
"""

import os
import time

from atrio_protocol.errors import ServerNotIdle
from atrio_protocol.methods import (
    Empty,
    ModelListParams,
    ModelListResult,
    NoParams,
    ServerInfoResult,
    ServerShutdownParams,
)
from atrio_protocol.struct import given
from atrio_protocol.version import VERSION
from atrio_server.calls import Caller
from atrio_server.server import Server

__all__ = ["model_list", "server_info", "server_shutdown"]


async def model_list(server: Server, caller: Caller, params: ModelListParams) -> ModelListResult:
    """The models that can be used, which is the default, and why: of the server, or of an open workspace."""
    workspace_id = given(params.workspace_id, "")
    models = server.reach(caller).get(workspace_id).models if workspace_id else server.models
    return ModelListResult(models=models.listing())


async def server_info(server: Server, caller: Caller, _params: NoParams) -> ServerInfoResult:
    """What the server is and how busy; to a token for one workspace, how busy that is."""
    reach = server.reach(caller)
    workspaces = reach.all()
    claims = sum(workspace.presence.connection_count() for workspace in workspaces)
    return ServerInfoResult(
        version=VERSION,
        pid=os.getpid(),
        uptime_ms=int((time.monotonic() - server.started_at) * 1000),
        workspaces=len(workspaces),
        connections=len(server.connections) if reach.whole else claims,
        runs_active=sum(
            workspace.coordinator.active_run_count() for workspace in workspaces if workspace.state == "open"
        ),
    )


async def server_shutdown(server: Server, caller: Caller, params: ServerShutdownParams) -> Empty:
    """Stop the server as a signal would; with ``ifIdle`` only when nothing runs."""
    if params.if_idle:
        running = server.reach(caller).open_run_count()
        if running:
            raise ServerNotIdle(f"{running} runs are not completed; wait for them, or shut down without ifIdle.")
    server.closing = True  # from this step on, so that what was idle stays so
    server.stop_soon()
    return Empty()
