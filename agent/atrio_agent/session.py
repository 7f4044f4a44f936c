"""One conversation: the tasks that announce, run and end what its inbox has accepted.

What is accepted, its order and what a cancel covers is decided in `inbox`, in
synchronous steps. What has to wait is done here, by three tasks: one waits for
commits and announces runs in the order of acceptance, one takes the next run,
one ends what was cancelled before it began.

What a turn does is in `turn`, how an end looks in `ending`, what the session
says of itself in `profile`. The invariant: every announced run gets exactly one
terminal, published after it is stored.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
import trio

from atrio_agent.briefing import Briefing
from atrio_agent.clock import now
from atrio_agent.compaction import run_summary
from atrio_agent.ending import Ending, ending_of
from atrio_agent.gates import HoldPoint
from atrio_agent.ground import Ground
from atrio_agent.inbox import Inbox
from atrio_agent.loop import run_turn
from atrio_agent.messages import LiveMessage
from atrio_agent.profile import Profile, without_text
from atrio_agent.runs import LiveRun, Outcome
from atrio_agent.scribe import Scribe
from atrio_agent.shell_run import run_shell
from atrio_agent.store.base import AcceptRun, Loaded, PutRun, PutTodos, StoreFailed, WriteRefused
from atrio_agent.streams import Stream
from atrio_agent.tools.base import FileSeen
from atrio_agent.trouble import Trouble
from atrio_agent.turn import CallTurn, Turn
from atrio_protocol.content import ContentBlock
from atrio_protocol.errors import AgentFailed, RunError, WireError
from atrio_protocol.events import Notice, RunAccepted, RunCompleted, RunFolded, RunStarted, TodosUpdated
from atrio_protocol.things import Delivery, Permission, Run, RunKind, SessionState, Todo
from atrio_protocol.who import Author

__all__ = ["OpenChild", "Session"]

RETRY_S: Final = 1.0
"""Seconds between two tries to store the end of a run."""

REQUESTS_KEPT: Final = 200

OpenChild = Callable[["Session", str, LiveRun], Awaitable["Session"]]
"""Makes a session beneath another, with a title, on behalf of a run."""

log = structlog.get_logger("atrio.session")


class Session:
    """A loaded session. Its coordinator runs `serve` for as long as it is loaded."""

    def __init__(self, ground: Ground, loaded: Loaded, *, todos: tuple[Todo, ...], open_child: OpenChild) -> None:
        """``open_child`` makes a session for a sub-agent of this one."""
        self._ground = ground
        self.open_child = open_child
        self.session_id = loaded.row.session_id
        self.todos = todos
        self.seen: dict[str, FileSeen] = {}
        """The files that the agent has read or written here, as they were then."""
        self.stream = Stream(ground.rings)
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)
        self.briefing: Briefing | None = None  # what the model was told last
        self.inbox = Inbox(loaded, workspace_id=ground.workspace_id, on_change=self._wake)
        self._unannounced: deque[LiveRun] = deque()
        self._endings: dict[LiveRun, Ending] = {}  # decided, and not published yet
        self._held: dict[LiveRun, bool] = {}  # not given to the store yet; whether it waits at a gate itself
        self._changed = trio.Event()
        self._ending = trio.Lock()  # its holder has drafts: places in the order of messages that are not published yet
        self._told: set[str] = set()  # the troubles that were told here, by their titles
        self.profile = Profile(ground, loaded.row, self.stream, self._state)
        self.scribe = Scribe(
            workspace_id=ground.workspace_id,
            session_id=self.session_id,
            stream=self.stream,
            store=ground.store,
            last_order=loaded.last_order,
            on_message=self.profile.count_message,
        )

    def accept(
        self,
        *,
        prompt: tuple[ContentBlock, ...],
        run_id: str | None,
        delivery: Delivery,
        author: Author,
        model_id: str | None,
        meta: dict[str, Any] | None,
        kind: RunKind = "prompt",
        permitted: bool = False,
        private_id: bool = False,
    ) -> LiveRun:
        """Accept a prompt, in one synchronous step. It is stored once the run's ``commit`` is settled without an error.

        ``permitted``: what a run of kind ``shell`` does is not asked about.
        ``private_id``: another workspace may have a run of that id, of which nothing is told.

        Raises:
            WorkspaceClosing, SessionBusy, QueueFull: Nothing was changed.
        """
        run = self.inbox.admit(
            prompt=prompt,
            run_id=run_id,
            delivery=delivery,
            author=author,
            model_id=model_id,
            meta=meta,
            kind=kind,
            permitted=permitted,
            private_id=private_id,
        )
        gated = self._ground.gates.take_hold("accept.commit", self.session_id)
        if gated or self._held:
            self._held[run] = gated  # the announcing task stores it, once the test lets it
            run.held = True
        else:
            run.commit = self._ground.store.write_soon(self._acceptance(run))
        self._unannounced.append(run)
        self._ground.on_activity()
        self._wake()
        return run

    def forget(self, run: LiveRun) -> None:
        """Undo an acceptance that could not be stored. It was named nowhere. Safe to call twice."""
        self.inbox.forget(run)
        self._ground.on_activity()

    @property
    def root_session_id(self) -> str | None:
        """The session that people see a sub-agent's questions in; None if it is this one."""
        return self.profile.row.root_session_id

    def permissions(self) -> tuple[Permission, ...]:
        """The questions that wait here, those of sub-agents included, the oldest first."""
        return self._ground.broker.pending(self.session_id)

    def set_todos(self, todos: tuple[Todo, ...]) -> None:
        """Replace the list of things to do."""
        self.todos = todos
        self._ground.store.write_later(PutTodos(session_id=self.session_id, todos=todos))
        self.stream.publish(TodosUpdated(todos=todos))

    def close(self) -> None:
        """Refuse new prompts and cancel every run. Does not wait; safe to call twice."""
        self.inbox.close()

    async def serve(self) -> None:
        """Run the session. A bug in here ends the active run with `agent_failed`; the session goes on."""
        try:
            while True:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._announce_runs)
                        nursery.start_soon(self._take_runs)
                        nursery.start_soon(self._end_cancelled)
                except* Exception:
                    log.exception("session failed", session=self.session_id)
                await self._end_after_bug()
        finally:
            # Whoever waits for a run that could not be stored or ended here must not wait for ever.
            for run in self._held:
                run.commit.settle(StoreFailed("The session ended before the prompt was stored."))
            for run in self.inbox.open:
                run.done.set()

    async def quiesced(self) -> None:
        """Wait until nothing is left to do."""
        while len(self.inbox):
            await self._changed.wait()

    async def _announce_runs(self) -> None:
        while True:
            while not self._unannounced:
                await self._changed.wait()
            run = self._unannounced[0]
            try:
                await self._stored(run)
            except StoreFailed as exc:
                log.warning("prompt not stored", session=self.session_id, run=run.run_id, reason=str(exc))
                self._unannounced.popleft()
                self.forget(run)
                self._wake()
                continue
            self._unannounced.popleft()
            self._ground.measures.run_accepted(time.monotonic() - run.taken_in_at)
            run.announced = True
            self.inbox.queue.append(run)
            self._publish_both(RunAccepted(run=run.view()))
            if run.prompt:
                self.profile.prompted(run.prompt)
            active = self.inbox.active
            if run.delivery == "interrupt" and active is not None and not run.cancelled:
                active.cancel(run.author)
            if active is not None:
                self.profile.refresh()
            self._wake()

    async def _stored(self, run: LiveRun) -> None:
        if run in self._held:
            if self._held[run]:
                await self._ground.gates.wait("accept.commit", session_id=self.session_id, run_id=run.run_id)
            run.held = False
            commit = self._ground.store.write_soon(self._acceptance(run))
            try:
                await commit.wait()
            except StoreFailed as exc:
                run.commit.settle(exc)
            else:
                run.commit.settle()
            del self._held[run]
        await run.commit.wait()

    async def _take_runs(self) -> None:
        while True:
            run = self.inbox.next
            if run is None:
                self.profile.refresh()
                await self._changed.wait()
                continue
            self.inbox.active, run.taken = run, True
            self._wake()  # what is cancelled behind it need not wait for its turn
            self.profile.refresh()
            if self.inbox.covers(run):
                await self._finish(run, Outcome("cancelled"))
            else:
                await self._run(run)
            self.inbox.active = None

    async def _end_cancelled(self) -> None:
        """End what was cancelled in the queue while another run goes on."""
        while True:
            run = self.inbox.next_cancelled
            if run is None:
                await self._changed.wait()
            else:
                await self._finish(run, Outcome("cancelled"))
                self.profile.refresh()  # there is one less that waits, and the next step may be long in coming

    async def _run(self, run: LiveRun) -> None:
        """Run a turn, from its first event to its last."""
        outcome = Outcome("cancelled")
        with run.scope:
            try:
                await self.hold("run.start", run)
                await self.in_order()
                if not run.scope.cancel_called:  # as by an interrupt that was told since the run was taken
                    outcome = await self._start(run)
            except RunError as exc:
                outcome = Outcome("error", exc.to_object())
            except WireError as exc:  # the model was there when the prompt was accepted, and is not any more
                outcome = Outcome("error", AgentFailed(exc.message).to_object())
            except Exception as exc:
                log.exception("run failed", session=self.session_id, run=run.run_id)
                outcome = Outcome("error", AgentFailed(f"The agent failed: {type(exc).__name__}.").to_object())
        await self.hold("run.finish", run)
        await self._finish(run, self._without_secrets(outcome))

    def _without_secrets(self, outcome: Outcome) -> Outcome:
        """The outcome as it may be told: some providers repeat the key that they refuse."""
        if outcome.error is None:
            return outcome
        said = self._ground.tools.redacted(outcome.error.message)
        return Outcome(outcome.reason, msgspec.structs.replace(outcome.error, message=said))

    def _start(self, run: LiveRun) -> Awaitable[Outcome]:
        """Begin a run, in one synchronous step; gives what is left to do."""
        run.started_at = now()
        first_order = self.scribe.last_order + 1
        user: LiveMessage | None = None
        if run.kind != "summarize":  # which has no prompt
            user = self.scribe.draft(run_id=run.run_id, role="user", author=run.author, parts=run.prompt)
            run.prompt_message_id = user.message_id
        self.inbox.queue.remove(run)
        self._ground.store.write_later(PutRun(run=run.view(whole=True)))
        self.stream.publish(RunStarted(run=run.view()))
        self._tell_troubles()
        if user is not None:
            self.scribe.announce(user)
            self.scribe.complete(user)
        self.profile.refresh()
        if run.kind == "shell":  # needs no model
            return run_shell(CallTurn(self, self._ground, run))
        model = self._ground.models.get(run.model_id or self.profile.row.model)
        turn = Turn(self, self._ground, run, model, first_order=first_order)
        if run.kind == "summarize":
            return run_summary(turn)
        self.profile.want_title(run.prompt, model)
        return run_turn(turn)

    def fold_into(self, active: LiveRun) -> None:
        """Fold the steered prompts that wait for it into the active run."""
        for run in self.inbox.to_fold(active):
            self.inbox.queue.remove(run)
            run.folded_into = active.run_id
            active.folded.append(run)
            user = self.scribe.draft(run_id=run.run_id, role="user", author=run.author, parts=run.prompt)
            run.prompt_message_id = user.message_id
            self._ground.store.write_later(PutRun(run=run.view(whole=True)))
            self.stream.publish(RunFolded(run_id=run.run_id, folded_into=active.run_id))
            self.scribe.announce(user)
            self.scribe.complete(user)
            self.profile.refresh()

    async def _finish(self, run: LiveRun, outcome: Outcome) -> None:
        """Decide, store and publish the end of a run: exactly one terminal."""
        decided = run.decide(outcome)
        for ended in (*run.folded, run):
            ended.outcome, ended.cancelled_by = decided, run.cancelled_by
            ended.finished_at = ended.finished_at or now()
        async with self._ending:
            await self._finish_decided(run, decided)

    async def _finish_decided(self, run: LiveRun, decided: Outcome) -> None:
        ending = self._endings.get(run)
        if ending is None:
            ending = self._endings[run] = ending_of(self.scribe, run, decided)
            for folded in run.folded:
                folded.message_id, folded.text, folded.usage = run.message_id, run.text, run.usage
        if not await self._store_end(run, ending):
            self._leave_to_recovery(run)
            return
        ending.publish(self.scribe)
        for ended in (*run.folded, run):
            ended.completed = True
            self._publish_end(ended.view())
            self._ground.measures.run_ended(ended.kind, decided.reason)
            self._let_go(ended)
            log.info("run completed", session=self.session_id, run=ended.run_id, reason=decided.reason)
        if self.inbox.active in (run, None):
            self.scribe.drop_tail()
        self._ground.on_activity()
        self._wake()

    async def in_order(self) -> None:
        """Wait until a message may be made and published at once: the order of messages is that of their events.

        Does not wait, nor let others run, where no end is being stored.
        """
        if self._ending.locked():
            async with self._ending:
                pass

    def _leave_to_recovery(self, run: LiveRun) -> None:
        """Forget a run that cannot be ended here; its terminal is not sent, and the next opening writes it."""
        for left in (*run.folded, run):
            self._let_go(left)
        self._forget_drafts()
        if self.inbox.active in (run, None):
            self.scribe.drop_tail()
        self._ground.on_activity()
        self._wake()

    def _forget_drafts(self) -> None:
        """Give up what an ending that came to nothing has drafted."""
        self.scribe.forget_drafts({message for ending in self._endings.values() for message in ending.drafts})

    def _let_go(self, run: LiveRun) -> None:
        """Forget a run that is over."""
        self._endings.pop(run, None)
        self.inbox.let_go(run)

    async def _store_end(self, run: LiveRun, ending: Ending) -> bool:
        """Store the end; while that fails the session waits with it, and says so once.

        Returns:
            Whether it is stored. If not it never will be.
        """
        told = False
        while True:
            commit = self._ground.store.write_soon(*ending.ops(run), *self.profile.ops_at_end(len(ending.drafts)))
            try:
                await commit.wait()
            except StoreFailed as exc:
                log.warning("end of run not stored", session=self.session_id, run=run.run_id, reason=str(exc))
                if isinstance(exc, WriteRefused):
                    stored = await self._is_stored(run)
                    if stored is not None:
                        return stored
                if not told:
                    told = True
                    self.notice(
                        "error", "The end of the run cannot be stored; trying again every second.", str(exc), run
                    )
            else:
                return True
            await trio.sleep(RETRY_S)

    async def _is_stored(self, run: LiveRun) -> bool | None:
        """Whether the end is in the store after all: a commit may succeed and be reported as failed.

        None when the store does not say.
        """
        try:
            stored = await self._ground.store.run(run.run_id)
        except StoreFailed:
            return None
        return stored is not None and stored.state == "completed"

    async def _end_after_bug(self) -> None:
        """End the runs in whose course the session failed, so that no prompt is left without its terminal.

        An end that was decided before stays as it was: it may be stored already.
        """
        active = self.inbox.active
        failed = Outcome("error", AgentFailed("The agent failed; the session goes on.").to_object())
        decided = [run for run in self.inbox.queue if run.stage == "decided" and run is not active]
        self._forget_drafts()
        for run in [*decided, active]:
            if run is None or run.completed:
                continue
            try:
                await self._finish(run, failed)
            except Exception:
                log.exception("run left to recovery", session=self.session_id, run=run.run_id)
                self._leave_to_recovery(run)
        self.inbox.active = None

    def _state(self) -> tuple[SessionState, int]:
        """What the session does, and how many announced runs wait."""
        active, queue = self.inbox.active, self.inbox.queue
        waiting = sum(run is not active for run in queue)
        if self.permissions():
            return "requires_action", waiting
        return "running" if active is not None or queue else "idle", waiting

    async def hold(self, point: HoldPoint, run: LiveRun) -> None:
        """Stop before the next step of this kind if a test asked for it."""
        await self._ground.gates.pass_hold(point, session_id=self.session_id, run_id=run.run_id)

    def tell(self, trouble: Trouble) -> None:
        """Tell those who watch the session what is wrong, or is not any more, in its workspace."""
        self._told.add(trouble.title)
        said = self._ground.tools.redacted(trouble.detail)  # the last words of a process may be in it
        self.stream.publish(Notice(severity=trouble.severity, title=trouble.title, detail=said))

    def _tell_troubles(self) -> None:
        """Tell what was wrong before the session was there to be told. A sub-agent's parent has told it."""
        for trouble in self._ground.troubles():
            if trouble.title not in self._told and self.root_session_id is None:
                self.tell(trouble)

    def notice(self, severity: Any, title: str, detail: str, run: LiveRun) -> None:
        """Tell those who watch the session."""
        said = self._ground.tools.redacted(detail)
        self.stream.publish(Notice(severity=severity, title=title, detail=said, run_id=run.run_id))

    def _acceptance(self, run: LiveRun) -> AcceptRun:
        return AcceptRun(
            run=run.view(whole=True), digest=run.digest, client_made=run.client_made, private_id=run.private_id
        )

    def _publish_both(self, event: RunAccepted) -> None:
        self.stream.publish(event)
        self._ground.stream.publish(event)

    def _publish_end(self, run: Run) -> None:
        self.stream.publish(RunCompleted(run=run))
        self._ground.stream.publish(RunCompleted(run=without_text(run)))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
