"""`session/prompt`, `session/cancel` and the queue: what the product is about.

The order of the checks is the contract's. Everything up to the acceptance, and
a cancel as a whole, is one synchronous step; only the reply waits for what was
put on its way to the store.
"""

from pathlib import Path

import structlog

from atrio_agent.inbox import Cancelled
from atrio_agent.run_lists import runs_within
from atrio_agent.runs import LiveRun
from atrio_agent.session import Session
from atrio_agent.store.base import RunIdTaken, StoreFailed
from atrio_protocol.content import ContentBlock, ResourceBlock, TextBlock, prompt_text
from atrio_protocol.errors import (
    EmptyPrompt,
    IdempotencyConflict,
    PathNotFound,
    PromptTooLarge,
    RunNotFound,
    ServerClosing,
    StorageUnavailable,
    WorkspaceClosing,
)
from atrio_protocol.limits import MAX_COMMAND_CHARS, MAX_PROMPT_BYTES, PAGE_BYTES
from atrio_protocol.methods import (
    CancelParams,
    CancelResult,
    ClearQueueResult,
    PromptParams,
    PromptResult,
    QueueResult,
    RunResult,
    SessionParams,
    ShellParams,
    SummarizeParams,
)
from atrio_protocol.struct import UNSET, UnsetType, given
from atrio_protocol.things import RunKind
from atrio_server.calls import Caller, Later
from atrio_server.handlers.finding import author_of, find_session, reading
from atrio_server.server import Server
from atrio_server.workspace import Workspace

__all__ = [
    "session_cancel",
    "session_clear_queue",
    "session_prompt",
    "session_queue",
    "session_shell",
    "session_summarize",
]

log = structlog.get_logger("atrio.prompts")


async def session_prompt(server: Server, caller: Caller, params: PromptParams) -> Later:
    """Accept a prompt; the answer comes when it is stored."""
    workspace, session = await find_session(server, caller, params)
    run_id = given(params.run_id, "") or None
    if run_id is not None:
        repeat = session.inbox.recognise(run_id, params.prompt, "prompt")
        if repeat is not None:
            return Later(lambda: _repeat(workspace, session, run_id, repeat.run))
    _check_prompt(params.prompt)
    _check_open(server, workspace)
    model_id = given(params.model, "") or None
    workspace.models.get(model_id or session.profile.row.model)
    run = session.accept(
        prompt=params.prompt,
        run_id=run_id,
        delivery=given(params.delivery, "queue" if run_id else "steer"),
        author=author_of(caller),
        model_id=model_id,
        meta=given(params.meta, {}) or None,
        private_id=not server.reach(caller).whole,
    )
    position = session.inbox.position(run)
    _log_accepted(caller, run)

    async def answer() -> PromptResult:
        await _stored(session, run)
        return PromptResult(run=run.view(), duplicate=False, position=position)

    return Later(answer)


async def session_summarize(server: Server, caller: Caller, params: SummarizeParams) -> Later:
    """Accept a summary as a run; the answer comes when it is stored."""
    workspace, session = await find_session(server, caller, params)
    return _accept_kind(server, workspace, session, caller, kind="summarize", run_id=params.run_id, prompt=())


async def session_shell(server: Server, caller: Caller, params: ShellParams) -> Later:
    """Accept a command as a run; the answer comes when it is stored. Whoever may allow it need not be asked."""
    workspace, session = await find_session(server, caller, params)
    prompt = (TextBlock(text=params.command),)
    return _accept_kind(server, workspace, session, caller, kind="shell", run_id=params.run_id, prompt=prompt)


def _accept_kind(
    server: Server,
    workspace: Workspace,
    session: Session,
    caller: Caller,
    *,
    kind: RunKind,
    run_id: str | None | UnsetType,
    prompt: tuple[ContentBlock, ...],
) -> Later:
    """Accept a run of another kind than a prompt, as `session_prompt` does one; it queues."""
    run_id = given(run_id, "") or None
    repeat = None if run_id is None else session.inbox.recognise(run_id, prompt, kind)
    if run_id is not None and repeat is not None:

        async def again() -> RunResult:
            return RunResult(run=(await _repeat(workspace, session, run_id, repeat.run)).run)

        return Later(again)
    if kind == "shell":
        _check_command(prompt_text(prompt))
    _check_open(server, workspace)
    if kind == "summarize":
        workspace.models.get(session.profile.row.model)
    run = session.accept(
        prompt=prompt,
        run_id=run_id,
        delivery="queue",
        author=author_of(caller),
        model_id=None,
        meta=None,
        kind=kind,
        permitted=kind == "shell" and "approve" in caller.scopes,
        private_id=not server.reach(caller).whole,
    )
    _log_accepted(caller, run)

    async def answer() -> RunResult:
        await _stored(session, run)
        return RunResult(run=run.view())

    return Later(answer)


async def session_cancel(server: Server, caller: Caller, params: CancelParams) -> Later:
    """Cancel what was accepted up to now, or one run."""
    _, session = await find_session(server, caller, params)
    run_id = given(params.run_id, "")
    author = author_of(caller)
    if params.wait:
        caller.check_waiting()
    if not run_id:
        cancelled = session.inbox.cancel(by=author, mine=params.scope == "mine")
    else:
        run = session.inbox.find(run_id)
        if run is None:
            if not session.inbox.knows(run_id):
                raise RunNotFound(f"The session has no run {run_id!r}.", runId=run_id)
            cancelled = Cancelled(session.inbox.accept_seq, ())
        else:
            cancelled = session.inbox.cancel_run(run, by=author)

    async def answer() -> CancelResult:
        named = await _stored_ones(cancelled.runs)
        if params.wait:
            for run in named:
                await run.done.wait()
        return CancelResult(up_to=cancelled.up_to, cancelled=tuple(run.run_id for run in named))

    return Later(answer, by_design=params.wait)


async def session_queue(server: Server, caller: Caller, params: SessionParams) -> QueueResult:
    """The runs that are not completed: the active one first, then in order."""
    _, session = await find_session(server, caller, params)
    return QueueResult(runs=runs_within(session.inbox.announced, PAGE_BYTES))


async def session_clear_queue(server: Server, caller: Caller, params: SessionParams) -> Later:
    """Cancel everything but the active run."""
    _, session = await find_session(server, caller, params)
    cancelled = session.inbox.clear_queue(by=author_of(caller))

    async def answer() -> ClearQueueResult:
        named = await _stored_ones(cancelled.runs)
        return ClearQueueResult(cancelled=tuple(run.run_id for run in named))

    return Later(answer)


def _check_open(server: Server, workspace: Workspace) -> None:
    """Whether new work is taken, and there is something to work on."""
    if server.closing:
        raise ServerClosing("The server is closing; connect again in a moment.")
    if workspace.state != "open":
        raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
    if not _is_there(workspace.path):
        raise PathNotFound(f"The workspace's directory {workspace.path} is gone.")


def _log_accepted(caller: Caller, run: LiveRun) -> None:
    log.info(
        "run accepted",
        connection=caller.connection_id,
        client=run.author.client_id,
        token=caller.identity.token_name,
        session=run.session_id,
        run=run.run_id,
        kind=run.kind,
    )


def _is_there(directory: Path) -> bool:
    """Look once, without a thread: waiting for one would break the order of acceptance."""
    try:
        return directory.is_dir()
    except OSError:  # where we may not look there is nothing to work on either
        return False


async def _repeat(workspace: Workspace, session: Session, run_id: str, run: LiveRun | None) -> PromptResult:
    """Answer a prompt that was sent before: the run as it now stands."""
    if run is not None:
        await _stored(session, run)
        return PromptResult(run=run.view(), duplicate=True, position=session.inbox.position(run))
    with reading("run"):
        stored = await workspace.store.run(run_id)
    if stored is None:
        raise StorageUnavailable("The run was just being stored and could not be; send it again.")
    return PromptResult(run=stored, duplicate=True, position=0)


async def _stored(session: Session, run: LiveRun) -> None:
    """Wait until an acceptance is stored; undo it if it could not be."""
    try:
        await run.commit.wait()
    except StoreFailed as exc:
        session.forget(run)
        if isinstance(exc, RunIdTaken):
            raise IdempotencyConflict(
                f"The run id {run.run_id!r} belongs to another session; use a new one.", runId=run.run_id
            ) from exc
        raise StorageUnavailable(f"The prompt cannot be stored and was not accepted: {exc}") from exc


async def _stored_ones(runs: tuple[LiveRun, ...]) -> list[LiveRun]:
    """Wait for the commits of these runs; those that could not be stored are named nowhere."""
    stored: list[LiveRun] = []
    for run in runs:
        try:
            await run.commit.wait()
        except StoreFailed:
            continue
        stored.append(run)
    return stored


def _check_prompt(prompt: tuple[ContentBlock, ...]) -> None:
    texts = [block.text for block in prompt if isinstance(block, TextBlock)]
    if not any(text.strip() for text in texts) and all(isinstance(block, TextBlock) for block in prompt):
        raise EmptyPrompt("The prompt is empty: it needs some text or an attachment.", path="/prompt")
    embedded = [
        block.resource.text for block in prompt if isinstance(block, ResourceBlock) and block.resource.text is not UNSET
    ]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in (*texts, *embedded))
    if size > MAX_PROMPT_BYTES:
        raise PromptTooLarge(
            f"The prompt has {size} bytes of text; at most {MAX_PROMPT_BYTES} are taken.",
            path="/prompt",
            limit=MAX_PROMPT_BYTES,
        )


def _check_command(command: str) -> None:
    if not command.strip():
        raise EmptyPrompt("The command is empty.", path="/command")
    if len(command) > MAX_COMMAND_CHARS:
        raise PromptTooLarge(
            f"The command has {len(command)} characters; at most {MAX_COMMAND_CHARS} are taken.",
            path="/command",
            limit=MAX_COMMAND_CHARS,
        )
