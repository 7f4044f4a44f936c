"""A session that somebody watches and talks to: what is shown of it, and what is sent to it.

A line is a prompt, a command (``/help``), a shell command (``!ls``) or, while a
question waits, the answer to it. Everything that is sent can be sent again when
the connection broke, and what others do is shown as well.

Here is no terminal and no keyboard; those are `atrio_server.cli.visit`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import trio

from atrio_protocol.content import TextBlock
from atrio_protocol.errors import Forbidden, PermissionNotFound, WireError
from atrio_protocol.events import Event, PermissionRequested, PermissionResolved, RunCompleted
from atrio_protocol.methods import (
    CancelParams,
    PromptParams,
    Scope,
    SessionSnapshot,
    ViewParams,
)
from atrio_protocol.reducer import SessionState, apply_event
from atrio_protocol.struct import given
from atrio_protocol.things import Permission, PermissionKind, Run
from atrio_server.cli.calls import respond
from atrio_server.cli.failure import exit_of_run, explain
from atrio_server.cli.talk_commands import COMMANDS, is_command, new_run_id
from atrio_server.cli.terminal.clean import flat
from atrio_server.cli.terminal.paper import Paper
from atrio_server.cli.terminal.questions import answer_of, choice_rows, option_for, outcome_row, question_rows
from atrio_server.cli.terminal.rows import Row, row
from atrio_server.cli.transcript import Transcript
from atrio_server.cli.which_model import model_line
from atrio_server.client import Client, ClientError, Detached, Resync, SessionStream

__all__ = ["Talk"]

DETAILS: Final = {"d", "details"}


class Talk:
    """One session, from the side of one who is here.

    Args:
        client: The connection.
        session_id: The session.
        paper: Where all of it is shown.
        history: How many messages of before are shown.
        directory: What paths are shown relative to.
    """

    def __init__(self, client: Client, session_id: str, paper: Paper, *, history: int, directory: str) -> None:
        self.client = client
        self.session_id = session_id
        self.paper = paper
        self.state: SessionState | None = None
        self.attached = trio.Event()
        self.was_used = False
        """Something was sent, by anybody."""
        self.was_forbidden = False
        """Something that was typed needs a scope that our token does not have."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when what `bottom_rows` gives may have changed."""
        self._history = history
        self._directory = directory
        self._words = Transcript(None, paper, directory=directory, own_id=client.client_id)
        self._own: set[str] = set()
        """The runs that we sent and that have not ended."""
        self._ended: set[str] = set()
        self._questions: dict[str, Permission] = {}
        self._changed = trio.Event()

    @property
    def is_running(self) -> bool:
        """Whether anything is running or waits for its turn."""
        return self.state is not None and bool(self.state.runs)

    def may(self, scope: Scope) -> bool:
        """Whether our token has this scope."""
        return scope in self.client.server.scopes

    async def follow(self) -> None:
        """Show what happens, until the session is removed.

        Raises:
            WireError, ClientError: The session is not there, or the server is gone.
        """
        while True:
            with self.client.session(self.session_id, history_limit=max(self._history, 1)) as stream:
                async for item in stream:
                    self._take(item, stream)
                    if isinstance(item, Resync):
                        await self._view()
                    if item == Detached("deleted"):
                        self.paper.say("the session was removed")
                        return

    def _take(self, item: Event | Resync[SessionSnapshot] | Detached, stream: SessionStream) -> None:
        if isinstance(item, Resync):
            first = self.state is None
            self.state = SessionState.from_snapshot(item.snapshot, item.position)
            self.was_used = self.was_used or bool(item.snapshot.messages or item.snapshot.runs)
            if first and self._history == 0:
                self._words.skip(item.snapshot)
            else:
                self._words.take(item, stream)
            self._take_questions(item.snapshot)
            self._own &= set(self.state.runs)
            self.attached.set()
        elif isinstance(item, Event) and self.state is not None:
            apply_event(self.state, item)
            self._words.take(item, stream)
            match item:
                case PermissionRequested(permission=permission):
                    self._ask(permission)
                case PermissionResolved(permission_id=permission_id) if permission_id in self._questions:
                    permission = self._questions.pop(permission_id)
                    self.paper.rows([outcome_row(permission, item, self.client.client_id)])
                case RunCompleted(run=run):
                    self._own.discard(run.run_id)
                    self._ended.add(run.run_id)
                    self._completed(run)
                case _:
                    pass
        self._tell_change()

    def _completed(self, run: Run) -> None:
        self._words.show_end(run)
        if given(run.folded_into, ""):
            return
        _, sentence = exit_of_run(run)
        if sentence:
            self.paper.rows([row(("! ", "warn"), (sentence, "dim"))])

    # Questions.

    def _take_questions(self, snapshot: SessionSnapshot) -> None:
        pending = {permission.permission_id: permission for permission in snapshot.permissions}
        for permission_id in set(self._questions) - set(pending):
            del self._questions[permission_id]  # resolved while we were away
        for permission_id, permission in pending.items():
            if permission_id not in self._questions:
                self._ask(permission)

    def _ask(self, permission: Permission) -> None:
        self._questions[permission.permission_id] = permission
        self.paper.rows(question_rows(permission, directory=self._directory))
        self._words.board.asked(permission)
        if not self.paper.redraws and self.may("approve"):
            self.paper.rows(choice_rows(permission, directory=self._directory))

    async def _answer(self, permission: Permission, kind: PermissionKind) -> None:
        option_id = option_for(permission, kind)
        if option_id is None:
            self.paper.say("this question has no such answer")
            return
        with suppress(PermissionNotFound):  # its run has ended a moment ago, which the stream tells
            await respond(self.client, permission.permission_id, option_id)

    # What is typed.

    def bottom_rows(self) -> list[Row]:
        """What stands above the line that is typed: how things are, and what is asked."""
        if self.state is None:
            return []
        session = self.state.session
        facts = [flat(session.title, max_chars=40) or "a new session", session.state.replace("_", " ")]
        if session.queued:
            facts.append(f"{session.queued} waiting")
        if session.viewers > 1:
            facts.append(f"{session.viewers} here")
        usage = session.usage
        if given(usage.context_size, 0) and usage.context_tokens:
            facts.append(f"context {100 * usage.context_tokens // given(usage.context_size, 1)} %")
        rows = [row((" · ".join(facts), "dim"))]
        if self._questions and self.may("approve"):
            rows += choice_rows(next(iter(self._questions.values())), directory=self._directory)
        return rows

    async def greet(self, *, fresh: bool, is_terminal: bool) -> None:
        """Say where one is."""
        line = await model_line(self.client, self.session_id, None, by="")
        self.paper.say(f"{'new ' if fresh else ''}session {self.session_id}")
        if line:
            self.paper.say(line)
        if not self.may("prompt"):
            self.paper.say("this token may only watch (it has no scope prompt)")
        elif not self.may("approve"):
            self.paper.say("this token may not answer what tools ask (it has no scope approve)")
        if is_terminal:
            self.paper.say("/help lists the commands, Ctrl-D leaves")

    async def take_line(self, line: str) -> bool:
        """Do what a line says. False: it says to leave."""
        try:
            return await self._do(line.strip())
        except (WireError, ClientError) as exc:
            explained = explain(exc)
            self.was_forbidden = self.was_forbidden or isinstance(exc, Forbidden)
            self.paper.aside([row(("! ", "bad"), (explained[1] if explained else str(exc), ""))])
            return True

    async def _do(self, line: str) -> bool:
        if self._questions:
            if line.lower() in DETAILS:
                permission = next(iter(self._questions.values()))
                self.paper.rows(question_rows(permission, directory=self._directory, whole=True))
                return True
            kind = answer_of(line)
            if kind is not None:
                await self._answer(next(iter(self._questions.values())), kind)
                return True
        if line.startswith("!"):
            line = f"/shell {line[1:].strip()}"
        if is_command(line):
            name, _, rest = line[1:].partition(" ")
            return await COMMANDS[name].do(self, rest.strip())
        if line.startswith("/") and "/" not in line[1:].partition(" ")[0] and not line.startswith("//"):
            self.paper.say(f"there is no {line.partition(' ')[0]}; /help lists the commands, // sends a /")
            return True
        await self._prompt(line.removeprefix("/") if line.startswith("//") else line)
        return True

    async def _prompt(self, text: str) -> None:
        # Steered: a person who types while it works wants it to be heeded at the next step, not afterwards.
        params = PromptParams(
            session_id=self.session_id, prompt=(TextBlock(text=text),), run_id=new_run_id(), delivery="steer"
        )
        answer = await self.client.call("session/prompt", params)
        self.sent(answer.run)
        if answer.position:
            self.paper.say("it is read at the next step, or has its turn after what is before it")

    def sent(self, run: Run) -> None:
        """A run of ours was accepted."""
        self.was_used = True
        if run.run_id not in self._ended and run.state != "completed":
            self._own.add(run.run_id)

    async def wait_own_ended(self) -> None:
        """Wait for the end of what we sent. Nobody is here any more to allow anything, so that is rejected."""
        while self._own:
            changed = self._changed
            for permission in [*self._questions.values()]:
                if not self.may("approve"):
                    continue  # there may be somebody who may
                if permission.run_id in self._own or permission.session_id in self._words.board.children:
                    self.paper.say("nobody is here to answer; the question is rejected")
                    await self._answer(permission, "reject_once")
            if self._own:
                await changed.wait()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.on_change()

    async def _view(self) -> None:
        """Tell the others what is looked at."""
        assert self.state is not None
        params = ViewParams(workspace_id=self.state.session.workspace_id, session_id=self.session_id)
        with suppress(WireError, ClientError):  # they may do without it
            await self.client.call("session/view", params)

    async def cancel(self, scope: Literal["all", "mine"]) -> tuple[str, ...]:
        """Cancel what runs, and what we (or all) have waiting."""
        try:
            done = await self.client.call("session/cancel", CancelParams(session_id=self.session_id, scope=scope))
        except (WireError, ClientError) as exc:
            self.paper.say(f"it was not cancelled: {exc}")
            return ()
        return done.cancelled
