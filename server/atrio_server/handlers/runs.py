"""`run/*`: what became of a prompt.

A run that is open is told from memory, one that is completed from the store.
Nothing here changes a run.
"""

import math

import msgspec
import trio

from atrio_agent.runs import LiveRun
from atrio_agent.store.base import StoreFailed
from atrio_protocol.errors import RunNotFound, WorkspaceClosing
from atrio_protocol.limits import PAGE_BYTES
from atrio_protocol.methods import RunListParams, RunListResult, RunParams, RunResult, RunWaitParams
from atrio_protocol.things import Run
from atrio_server.calls import Caller, Later
from atrio_server.handlers.finding import find_session, reading
from atrio_server.server import Server
from atrio_server.workspace import Workspace

__all__ = ["run_get", "run_list", "run_wait"]


async def run_get(server: Server, caller: Caller, params: RunParams) -> Later:
    """One run as it stands, with its whole prompt while it is open."""
    workspace = await server.reach(caller).of_run(params.run_id)

    async def read() -> RunResult:
        run = await _open_run(workspace, params.run_id)
        if run is not None:
            return RunResult(run=run.view(whole=not run.completed))
        return RunResult(run=await _stored(workspace, params.run_id))

    return Later(read)


async def run_wait(server: Server, caller: Caller, params: RunWaitParams) -> Later:
    """A run once it is completed, or as it stands when the time is over."""
    workspace = await server.reach(caller).of_run(params.run_id)
    timeout_ms = params.timeout_ms if isinstance(params.timeout_ms, int) else None

    async def wait() -> RunResult:
        run = await _open_run(workspace, params.run_id)
        if run is not None:
            with trio.move_on_after(math.inf if timeout_ms is None else timeout_ms / 1000):
                await run.done.wait()
            if run.completed or not run.done.is_set():
                return RunResult(run=run.view())
            raise WorkspaceClosing("The workspace closed before the end of the run was stored.")
        return RunResult(run=await _stored(workspace, params.run_id))

    return Later(wait, by_design=True)


async def run_list(server: Server, caller: Caller, params: RunListParams) -> Later:
    """A session's runs, newest first; fewer than asked where their texts are long."""
    workspace, session = await find_session(server, caller, params)
    before = params.before if isinstance(params.before, int) else None

    async def read() -> RunListResult:
        with reading("runs"):
            page = await workspace.store.runs(session.session_id, before=before, limit=params.limit)
        runs: list[Run] = []
        size = 0
        for stored in page.runs:
            run = _now(workspace, stored)
            size += len(msgspec.json.encode(run))
            if runs and size > PAGE_BYTES:
                return RunListResult(runs=tuple(runs), more=True)
            runs.append(run)
        return RunListResult(runs=tuple(runs), more=page.more)

    return Later(read)


async def _open_run(workspace: Workspace, run_id: str) -> LiveRun | None:
    """The run, if it is accepted for good and not completed. One whose commit is under way is waited for."""
    run = workspace.coordinator.find_open_run(run_id)
    if run is not None:
        if run.held:
            return None
        try:
            await run.commit.wait()
        except StoreFailed:
            return None
    return run


def _now(workspace: Workspace, stored: Run) -> Run:
    """A run of a list: as it stands where it is open, else as it is stored."""
    run = None if stored.state == "completed" else workspace.coordinator.find_open_run(stored.run_id)
    return stored if run is None else run.view()


async def _stored(workspace: Workspace, run_id: str) -> Run:
    with reading("run"):
        run = await workspace.store.run(run_id)
    if run is None or workspace.coordinator.deleted(run.session_id):
        raise RunNotFound(f"There is no run {run_id!r}.", runId=run_id)
    return msgspec.structs.replace(run, prompt=msgspec.UNSET)
