"""How `atrio run` carries out an order: connect, prompt, follow, end.

The prompt bears a run id of ours, so that it may be sent again when its answer
was lost and is still one run. Only that run's end decides the exit code; what
else happens in the session is shown, or not, and changes nothing. The command
never ends well without having seen its run's end.
"""

import os
import signal
import uuid
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from atrio_protocol.content import ContentBlock
from atrio_protocol.errors import WireError
from atrio_protocol.events import Event, RunCompleted
from atrio_protocol.methods import (
    CancelParams,
    ModelListParams,
    PromptParams,
    SessionNewParams,
    SessionParams,
    SessionSnapshot,
)
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Permission, Run, RunKind
from atrio_server.cli.approving import Approval, Approver
from atrio_server.cli.calls import begin_shell, begin_summary
from atrio_server.cli.connect import find_session, newest_session, open_connection, open_workspace, real_directory
from atrio_server.cli.failure import Exit, Failure, exit_of_run
from atrio_server.cli.lines import JsonLines
from atrio_server.cli.on_trio import run_on_trio
from atrio_server.cli.options import Target
from atrio_server.cli.output import print_result, say
from atrio_server.cli.terminal.keys import Keyboard, open_keyboard
from atrio_server.cli.terminal.paper import Paper, can_ask, is_interactive, open_paper
from atrio_server.cli.terminal.tools import RESULT_LINES
from atrio_server.cli.transcript import Transcript
from atrio_server.cli.which_model import model_line, unseen_key
from atrio_server.client import Client, ClientError, Detached, ReplyLost, Resync, ServerGone, SessionStream
from atrio_server.client.nursery import open_plain_nursery
from atrio_server.discover import Found, open_own_server

__all__ = ["Order", "absolute_model", "carry_out", "follow_order"]

HISTORY: Final = 30
"""How many messages a snapshot has; the run's own are the newest."""

TERMINATED: Final = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `atrio run` was asked to do, or another command that begins a run."""

    prompt: tuple[ContentBlock, ...]
    kind: RunKind = "prompt"
    command: str | None = None
    """What a run of the kind ``shell`` runs."""
    session: str | None
    or_new: bool
    model: str | None
    directory: str | None
    as_json: bool
    quiet: bool
    output: str | None
    no_wait: bool
    approve: Approval | None = None


def absolute_model(model: str) -> str:
    """A model's name, with the path of a script made absolute: the server may be elsewhere."""
    kind, separator, path = model.partition(":")
    return f"script:{Path(path).expanduser().absolute()}" if kind == "script" and separator else model


def carry_out(order: Order, target: Target, *, standalone: bool) -> int:
    """Do it, and return the exit code."""
    if order.output is not None:
        from atrio_server.cli.whole_file import check_writable

        check_writable(order.output)
    if not standalone:
        return run_on_trio(follow_order, order, target, None)
    # The server of its own has the model as its default; asking for it again would need more rights.
    own = replace(order, model=None)
    if target.state_dir is not None:
        return run_on_trio(follow_order, own, target, open_own_server(target.resolved_state_dir(), model=order.model))
    import tempfile

    with tempfile.TemporaryDirectory(prefix="atrio-", ignore_cleanup_errors=True) as directory:
        return run_on_trio(follow_order, own, target, open_own_server(Path(directory).resolve(), model=order.model))


async def follow_order(order: Order, target: Target, own_server: AbstractAsyncContextManager[Found] | None) -> int:
    """Do it, with the command's own server if there is one.

    Raises:
        Failure, WireError, ClientError, CannotStart: It was not to be; see `explain`.
    """
    with ExitStack() as stack:
        approve: Approval = order.approve or ("ask" if can_ask() else "none")
        screen = is_interactive() and not (order.as_json or order.quiet or order.no_wait)
        paper = stack.enter_context(open_paper(screen=screen))
        asks = can_ask() and approve in {"ask", "reads"} and not order.no_wait
        keyboard = stack.enter_context(open_keyboard()) if screen or asks else None
        command = _Command(order, target, paper, keyboard, approve, own_server=own_server is not None)
        return await _carry(command, target, own_server)


async def _carry(command: "_Command", target: Target, own_server: AbstractAsyncContextManager[Found] | None) -> int:
    """Connect and run the command; signals are heeded from here on."""
    code = int(Exit.OTHER)
    with trio.CancelScope() as whole:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(command.heed_signals, whole)
            try:
                async with own_server or nullcontext() as found, open_connection(target, found=found) as client:
                    code = await command.run(client)
            except Exception as exc:  # noqa: BLE001 - passed on below, out of the nursery and so without a group
                command.error = exc
            nursery.cancel_scope.cancel()
    if command.left_with is not None:
        return command.left_with
    if isinstance(command.error, ServerGone) and command.sent and target.server is None and own_server is None:
        sentence = f"{command.error}; `atrio wait {command.run_id}` starts a server and tells what became of the run"
        raise Failure(Exit.UNREACHABLE, sentence)
    if command.error is not None:
        raise command.error
    return code


class _Command:
    """One `atrio run`."""

    def __init__(
        self,
        order: Order,
        target: Target,
        paper: Paper,
        keyboard: Keyboard | None,
        approve: Approval,
        *,
        own_server: bool,
    ) -> None:
        self.order = order
        self.sent = False
        """The prompt may have reached a server."""
        self._shared_server = None if own_server or target.server or os.environ.get("ATRIO_SERVER") else target
        """Where the server is found that other commands use as well; None if this run uses another one."""
        self.run_id = f"cli-{uuid.uuid4()}"
        self.left_with: int | None = None
        """The exit code, when a signal made the command leave."""
        self.error: Exception | None = None
        self._client: Client | None = None
        self._session_id = ""
        self._model_by = "-m"
        self._made_session = False
        self._cancelling = False
        self._paper = paper
        self._keyboard = keyboard
        self._approve: Approval = approve
        directory = real_directory(order.directory)
        # A command's output is the result, and where nothing is redrawn it is told once.
        is_quiet = order.quiet or order.as_json or (order.kind == "shell" and not paper.redraws)
        self._words = Transcript(self.run_id, paper, quiet=is_quiet, directory=directory)
        self._sink = JsonLines() if order.as_json else self._words
        self._directory = directory
        self._approver: Approver | None = None

    async def heed_signals(self, whole: trio.CancelScope) -> None:
        """The first Ctrl-C cancels the run, if it was sent; the second one, or SIGTERM, leaves at once."""
        async with trio.open_nursery() as nursery:
            heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGWINCH)
            with trio.open_signal_receiver(*heeded) as signals:
                async for number in signals:
                    if number in {signal.SIGCONT, signal.SIGWINCH}:
                        if number == signal.SIGCONT and self._keyboard is not None:
                            self._keyboard.resume()
                        self._paper.redraw()
                        continue
                    if number == signal.SIGINT and self._client is not None and not self._cancelling:
                        self._cancelling = True
                        self._sink.end_line()
                        say("cancelling; press Ctrl-C again to leave the run to itself")
                        nursery.start_soon(self._cancel, self._client)
                        continue
                    self.left_with = TERMINATED if number == signal.SIGTERM else Exit.INTERRUPTED
                    if self._client is not None and not self._cancelling:
                        say(f"the run goes on; `atrio wait {self.run_id}` waits for it")
                    whole.cancel()

    async def run(self, client: Client) -> int:
        """Prompt, and follow the run to its end."""
        order = self.order
        self._session_id = await self._find_session(client)
        model = await self._model(client) if order.kind == "prompt" else None
        stream = None if order.no_wait else self._attach(client)
        self._client = client
        self.sent = True
        try:
            run, position = await self._send_or_take_back(client, model)
            if order.kind == "prompt" and not order.quiet and not order.as_json:
                await self._tell_session(client, model)
            if stream is None:
                return self._leave_to_run(run)
            if position:
                self._notice(f"waiting for {position} other run{'s' if position > 1 else ''}")
            run = await self._follow_and_answer(client, stream)
        finally:
            self._client = None
            if stream is not None:
                stream.close()
        return self._end(run)

    async def _send_or_take_back(self, client: Client, model: str | None) -> tuple[Run, int]:
        """Ask for the run; if it is refused, leave nothing behind."""
        try:
            return await self._send(client, model)
        except WireError as exc:
            refusal = exc
        await self._take_back(client, refusal)
        raise refusal

    async def _send(self, client: Client, model: str | None) -> tuple[Run, int]:
        """Ask for the run; gives it as accepted, and how many are before it."""
        order, session_id = self.order, self._session_id
        match order.kind:
            case "shell":
                run = await begin_shell(client, session_id, order.command or "", self.run_id)
                return await self._placed(client, run)
            case "summarize":
                return await self._placed(client, await begin_summary(client, session_id, self.run_id))
            case _:
                prompt = PromptParams(
                    session_id=session_id, prompt=order.prompt, run_id=self.run_id, model=model or UNSET
                )
                answer = await client.call("session/prompt", prompt)
                return answer.run, answer.position

    async def _placed(self, client: Client, run: Run) -> tuple[Run, int]:
        """A run that was accepted, and how many are before it just now; its answer does not tell."""
        queue = (await client.call("session/queue", SessionParams(session_id=self._session_id))).runs
        return run, next((place for place, each in enumerate(queue) if each.run_id == run.run_id), 0)

    async def _find_session(self, client: Client) -> str:
        order = self.order
        if order.session is not None and not order.or_new:
            return await find_session(client, order.session, order.directory)
        if order.session is not None and (newest := await newest_session(client, order.directory)):
            return newest
        opened = await open_workspace(client, order.directory)
        try:
            made = await client.call("session/new", SessionNewParams(workspace_id=opened.workspace.workspace_id))
        except ReplyLost:
            # Asked for again: the worst that can come of it is a session that stays empty.
            made = await client.call("session/new", SessionNewParams(workspace_id=opened.workspace.workspace_id))
        self._made_session = True
        return made.session.session_id

    async def _model(self, client: Client) -> str | None:
        """The model to ask for; None is the session's own."""
        wished = os.environ.get("ATRIO_MODEL")
        if self.order.model is not None or not wished:
            return self.order.model
        self._model_by = "ATRIO_MODEL"
        # A server that was started with the same wish has it as its default already.
        wished = absolute_model(wished)
        session = (await client.call("session/get", SessionParams(session_id=self._session_id))).session
        listed = await client.call("model/list", ModelListParams(workspace_id=session.workspace_id))
        defaults = {absolute_model(model.model_id) for model in listed.models if model.default}
        return None if wished in defaults else wished

    async def _tell_session(self, client: Client, asked: str | None) -> None:
        if self._made_session:
            say(f"session {self._session_id}")
        if line := await model_line(client, self._session_id, asked, by=self._model_by):
            say(line)
        if asked is None and self._shared_server is not None:
            await self._tell_unseen_key(client, self._shared_server)

    async def _tell_unseen_key(self, client: Client, target: Target) -> None:
        if hint := await unseen_key(client, target.resolved_state_dir(), os.environ):
            say(hint)

    async def _take_back(self, client: Client, refusal: WireError) -> None:
        """The prompt was refused: leave no empty session behind."""
        if self._made_session:
            with suppress(WireError, ClientError):
                await client.call("session/delete", SessionParams(session_id=self._session_id))
        if refusal.kind == "agent_not_initialized" and self._shared_server is not None:
            await self._tell_unseen_key(client, self._shared_server)

    def _attach(self, client: Client) -> SessionStream:
        # Watched, the run's end is in every snapshot: whatever the stream goes on from, it tells the end.
        return client.session(self._session_id, history_limit=HISTORY, watch=(self.run_id,))

    async def _follow_and_answer(self, client: Client, stream: SessionStream) -> Run:
        """Follow our run to its end, and answer what it asks."""
        self._approver = Approver(
            client,
            policy=self._approve,
            is_own=self._is_own,
            paper=self._paper,
            board=self._words.board,
            keyboard=self._keyboard,
            directory=self._directory,
            is_quiet=self.order.quiet or self.order.as_json,
        )
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._approver.run)
            run = await self._follow(client, stream)
            nursery.cancel_scope.cancel()
        return run

    def _is_own(self, permission: Permission) -> bool:
        return permission.run_id == self.run_id or permission.session_id in self._words.board.children

    async def _follow(self, client: Client, stream: SessionStream) -> Run:
        """Show what happens until our run has ended, and return it completed."""
        while True:
            async for item in stream:
                self._sink.take(item, stream)
                if self._sink is not self._words:
                    self._words.take(item, stream)  # prints nothing, and knows whose questions are ours
                if self._approver is not None:
                    self._approver.take(item)
                ended = self._our_end(item)
                if ended is not None:
                    return ended
                if item == Detached("deleted"):
                    raise Failure(Exit.NOT_FOUND, "the session was deleted before the end of the run was known")
            stream = self._attach(client)  # its workspace was closed, and opens afresh

    def _our_end(self, item: Event | Resync[SessionSnapshot] | Detached) -> Run | None:
        match item:
            case RunCompleted(run=run) if run.run_id == self.run_id:
                return run
            case Resync(snapshot=snapshot):
                ours = (run for run in snapshot.runs if run.run_id == self.run_id and run.state == "completed")
                return next(ours, None)
            case _:
                return None

    def _end(self, run: Run) -> int:
        if self.order.kind == "shell" and not self.order.as_json and (printed := self._words.board.result_text):
            if not (self._paper.redraws and printed.count("\n") < RESULT_LINES):  # else all of it was just shown
                print_result(printed)
        else:
            self._sink.show_end(run)
        code, sentence = exit_of_run(run)
        if code == Exit.OK and self._approver is not None and self._approver.denied:
            code, sentence = Exit.DENIED, "a permission was denied by policy; --approve says what is allowed"
        output = self.order.output
        if output is not None and code == Exit.OK:
            from atrio_server.cli.whole_file import write_whole

            write_whole(output, run.text or "")
        if code != Exit.OK:
            say(f"atrio: {sentence}" + (f"; {output} is left as it was" if output else ""))
        return code

    def _leave_to_run(self, run: Run) -> int:
        if self.order.as_json:
            JsonLines.show_run(run)
        else:
            print_result(run.run_id)
            self._notice(f"follow it with `atrio tail {run.session_id}`, wait for it with `atrio wait {run.run_id}`")
        return Exit.OK

    async def _cancel(self, client: Client) -> None:
        with suppress(WireError, ClientError):  # the run's end, or what keeps us from it, is told elsewhere
            await client.call("session/cancel", CancelParams(session_id=self._session_id, run_id=self.run_id))

    def _notice(self, sentence: str) -> None:
        if not self.order.quiet and not self.order.as_json:
            say(sentence)
