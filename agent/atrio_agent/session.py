"""One conversation: what is accepted, in which order it runs, what a cancel covers.

Everything that decides is one synchronous step, and Trio runs one task at a
time between checkpoints; so there are no locks here. Three tasks of the session
do what has to wait: one waits for commits and announces runs in the order of
acceptance, one takes the next run, one ends what was cancelled before it began.

    accepted (commit pending) -> queue -> active -> completed
                                      |-> folded into the active run -> completed
                                      |-> cancelled before it began  -> completed

What a turn does is in `turn`, how an end looks in `ending`, what the session
says of itself in `profile`.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from atrio_agent.clock import now
from atrio_agent.ending import Ending, ending_of
from atrio_agent.gates import HoldPoint
from atrio_agent.ground import Ground
from atrio_agent.loop import run_turn
from atrio_agent.profile import Profile, without_text
from atrio_agent.runs import LiveRun, Outcome, digest_of
from atrio_agent.scribe import Scribe
from atrio_agent.store.base import AcceptRun, Loaded, PutRun, RunKey, StoreFailed, WriteRefused
from atrio_agent.streams import Stream
from atrio_agent.turn import Turn
from atrio_protocol.content import ContentBlock
from atrio_protocol.errors import (
    AgentFailed,
    IdempotencyConflict,
    QueueFull,
    RunError,
    SessionBusy,
    WireError,
    WorkspaceClosing,
)
from atrio_protocol.events import Notice, RunAccepted, RunCompleted, RunFolded, RunStarted
from atrio_protocol.ids import new_id
from atrio_protocol.limits import MAX_QUEUED_PER_SESSION
from atrio_protocol.marks import covered, covers, next_in_queue, queue_order
from atrio_protocol.things import Delivery, Run, RunKind
from atrio_protocol.who import Author

__all__ = ["Cancelled", "Repeat", "Session"]

RETRY_S: Final = 1.0
"""Seconds between two tries to store the end of a run."""

REQUESTS_KEPT: Final = 200

log = structlog.get_logger("atrio.session")


@dataclass(frozen=True, slots=True)
class Repeat:
    """A prompt that was accepted before: its run id, and the run if it is still open."""

    run_id: str
    run: LiveRun | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel covered."""

    up_to: int
    runs: tuple[LiveRun, ...]


class Session:
    """A loaded session. Its coordinator runs `serve` for as long as it is loaded."""

    def __init__(self, ground: Ground, loaded: Loaded) -> None:
        self._ground = ground
        self.session_id = loaded.row.session_id
        self.stream = Stream(ground.rings)
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)
        self.closing = False
        self._accept_seq = loaded.last_accept_seq
        self._mark = 0
        self._known = {key.run_id: key for key in loaded.runs}
        self._open: dict[str, LiveRun] = {}
        self._unannounced: deque[LiveRun] = deque()
        self._endings: dict[LiveRun, Ending] = {}  # decided, and not published yet
        self._held: dict[LiveRun, bool] = {}  # not given to the store yet; whether it waits at a gate itself
        self._queue: list[LiveRun] = []
        self._active: LiveRun | None = None
        self._changed = trio.Event()
        self._ending = trio.Lock()  # its holder has drafts: places in the order of messages that are not published yet
        self.profile = Profile(ground, loaded.row, self.stream, self._state)
        self.scribe = Scribe(
            workspace_id=ground.workspace_id,
            session_id=self.session_id,
            stream=self.stream,
            store=ground.store,
            last_order=loaded.last_order,
            on_message=self.profile.count_message,
        )

    # What is asked of it: each a synchronous step.

    @property
    def active(self) -> LiveRun | None:
        """The run that the session has taken."""
        return self._active

    def open_runs(self) -> list[LiveRun]:
        """The announced runs that are not completed: the active one first, then in the queue's order."""
        waiting = [run for run in self._queue if run is not self._active]
        first = [self._active, *self._active.folded] if self._active else []
        return [*first, *queue_order(waiting)]

    @property
    def accept_seq(self) -> int:
        """The highest number of acceptance so far."""
        return self._accept_seq

    def idle(self) -> bool:
        """Whether nothing that was accepted is left to do."""
        return not self._open

    def open_count(self) -> int:
        """How many accepted runs are not completed."""
        return len(self._open)

    def find_open(self, run_id: str) -> LiveRun | None:
        """A run that is not completed, announced or not."""
        return self._open.get(run_id)

    def knows(self, run_id: str) -> bool:
        """Whether the session has, or had, a run of this id."""
        return run_id in self._known

    def recognise(self, run_id: str, prompt: tuple[ContentBlock, ...], kind: RunKind) -> Repeat | None:
        """Look for a run that was accepted before under this id.

        Raises:
            IdempotencyConflict: There is one, with another prompt.
        """
        known = self._known.get(run_id)
        if known is None:
            return None
        if known.digest != digest_of(prompt, kind):
            raise IdempotencyConflict(
                f"The run id {run_id!r} was used before with another prompt; use a new one.", runId=run_id
            )
        return Repeat(run_id, self._open.get(run_id))

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
    ) -> LiveRun:
        """Accept a prompt. It is stored once the run's ``commit`` is settled without an error.

        Raises:
            WorkspaceClosing, SessionBusy, QueueFull: Nothing was changed.
        """
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        if delivery == "reject" and not self.idle():
            raise SessionBusy("The session is busy; wait for its run, or queue the prompt.")
        if len(self._waiting()) >= MAX_QUEUED_PER_SESSION + (self._active is None):
            raise QueueFull(
                f"{MAX_QUEUED_PER_SESSION} prompts wait in this session already; try again when some are done."
            )
        self._accept_seq += 1
        run = LiveRun(
            run_id=run_id or new_id(self._ground.workspace_id, "r"),
            session_id=self.session_id,
            accept_seq=self._accept_seq,
            delivery=delivery,
            kind=kind,
            author=author,
            prompt=prompt,
            digest=digest_of(prompt, kind),
            client_made=run_id is not None,
            model_id=model_id,
            meta=meta,
            steers=self._active if delivery == "steer" and kind == "prompt" else None,
        )
        self._open[run.run_id] = run
        self._known[run.run_id] = RunKey(run_id=run.run_id, accept_seq=run.accept_seq, digest=run.digest)
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
        if self._open.get(run.run_id) is run:
            del self._open[run.run_id]
            del self._known[run.run_id]
            run.done.set()
            self._ground.on_activity()

    def position(self, run: LiveRun) -> int:
        """How many turns come before this one's: 0 is active or about to be, 1 is next."""
        ahead = queue_order(self._waiting())
        return ahead.index(run) + (self._active is not None) if run in ahead else 0

    def cancel(self, *, by: Author | None, mine: bool = False) -> Cancelled:
        """Cancel what was accepted up to now and is not decided.

        ``mine``: the active run and what this author queued. What is accepted
        later is never touched.
        """
        up_to = self._accept_seq
        if not mine:
            self._mark = up_to
        runs = covered(
            self._open.values(),
            mark=up_to,
            scope="mine" if mine else "all",
            client_id=None if by is None else by.client_id,
        )
        return Cancelled(up_to, self._cancel(runs, by))

    def cancel_run(self, run: LiveRun, *, by: Author | None) -> Cancelled:
        """Cancel one run alone. A folded one, or one whose end is decided, is not touched."""
        runs = [run] if run.stage in ("waiting", "active") else []
        return Cancelled(self._accept_seq, self._cancel(runs, by))

    def clear_queue(self, *, by: Author | None) -> Cancelled:
        """Cancel all that waits; the active run and what is folded into it go on."""
        runs = [run for run in self._open.values() if run.stage == "waiting"]
        return Cancelled(self._accept_seq, self._cancel(runs, by))

    def close(self) -> None:
        """Refuse new prompts and cancel every run. Does not wait; safe to call twice."""
        self.closing = True
        self.cancel(by=None)

    def _cancel(self, runs: list[LiveRun], by: Author | None) -> tuple[LiveRun, ...]:
        for run in runs:
            run.cancel(by)
        self._wake()
        return tuple(runs)

    def _waiting(self) -> list[LiveRun]:
        """What waits for its turn, announced or not; what is cancelled already does not."""
        return [run for run in self._open.values() if run.stage == "waiting" and not run.cancelled]

    # The tasks.

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
            for run in self._open.values():
                run.done.set()

    async def quiesced(self) -> None:
        """Wait until nothing is left to do."""
        while self._open:
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
            run.announced = True
            self._queue.append(run)
            self.profile.prompted(run.prompt)
            self._publish_both(RunAccepted(run=run.view()))
            if run.delivery == "interrupt" and self._active is not None and not run.cancelled:
                self._active.cancel(run.author)
            if self._active is not None:
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
            run = self._next()
            if run is None:
                self.profile.refresh()
                await self._changed.wait()
                continue
            self._active, run.taken = run, True
            self._wake()  # what is cancelled behind it need not wait for its turn
            self.profile.refresh()
            if run.cancelled or covers(self._mark, run.accept_seq):
                await self._finish(run, Outcome("cancelled"))
            else:
                await self._run(run)
            self._active = None

    async def _end_cancelled(self) -> None:
        """End what was cancelled in the queue while another run goes on."""
        while True:
            cancelled = [run for run in self._queue if run.cancelled and run.stage == "waiting"]
            if not cancelled or self._active is None or self._active.cancelled:
                await self._changed.wait()
                continue
            await self._finish(queue_order(cancelled)[0], Outcome("cancelled"))

    async def _run(self, run: LiveRun) -> None:
        """Run a turn, from its first event to its last."""
        turn: Turn | None = None
        outcome = Outcome("cancelled")
        with run.scope:
            try:
                await self.hold("run.start", run)
                await self.in_order()
                turn = self._start(run)
                outcome = await run_turn(turn)
            except RunError as exc:
                outcome = Outcome("error", exc.to_object())
            except WireError as exc:  # the model was there when the prompt was accepted, and is not any more
                outcome = Outcome("error", AgentFailed(exc.message).to_object())
            except Exception as exc:
                log.exception("run failed", session=self.session_id, run=run.run_id)
                outcome = Outcome("error", AgentFailed(f"The agent failed: {type(exc).__name__}.").to_object())
        await self.hold("run.finish", run)
        await self._finish(run, outcome)

    def _start(self, run: LiveRun) -> Turn:
        run.started_at = now()
        user = self.scribe.draft(run_id=run.run_id, role="user", author=run.author, parts=run.prompt)
        run.prompt_message_id = user.message_id
        self._queue.remove(run)
        self._ground.store.write_later(PutRun(run=run.view(whole=True)))
        self.stream.publish(RunStarted(run=run.view()))
        self.scribe.announce(user)
        self.scribe.complete(user)
        self.profile.refresh()
        model = self._ground.models.get(run.model_id or self.profile.row.model)
        self.profile.want_title(run.prompt, model)
        return Turn(self, self._ground, run, model, first_order=user.order)

    def fold_into(self, active: LiveRun) -> None:
        """Fold the steered prompts that wait into the active run, in the order of acceptance.

        Not into one that is cancelled already, though its loop may not know yet: they would end with it.
        """
        if active.cancelled:
            return
        for run in sorted(self._queue, key=lambda run: run.accept_seq):
            if run.steers is not active or run.cancelled or active.kind != "prompt":
                continue
            if run.model_id not in (None, active.model_id):
                continue
            self._queue.remove(run)
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
            self._let_go(ended)
        if run is self._active or self._active is None:
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
        if run is self._active or self._active is None:
            self.scribe.drop_tail()
        self._ground.on_activity()
        self._wake()

    def _forget_drafts(self) -> None:
        """Give up what an ending that came to nothing has drafted."""
        self.scribe.forget_drafts({message for ending in self._endings.values() for message in ending.drafts})

    def _let_go(self, run: LiveRun) -> None:
        """Forget a run that is over."""
        self._open.pop(run.run_id, None)
        self._endings.pop(run, None)
        if run in self._queue:
            self._queue.remove(run)
        run.done.set()

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
        active = self._active
        failed = Outcome("error", AgentFailed("The agent failed; the session goes on.").to_object())
        decided = [run for run in self._queue if run.stage == "decided" and run is not active]
        self._forget_drafts()
        for run in [*decided, active]:
            if run is None or run.completed:
                continue
            try:
                await self._finish(run, failed)
            except Exception:
                log.exception("run left to recovery", session=self.session_id, run=run.run_id)
                self._leave_to_recovery(run)
        self._active = None

    def _next(self) -> LiveRun | None:
        return next_in_queue(run for run in self._queue if run.stage == "waiting")

    def _state(self) -> tuple[bool, int]:
        """Whether the session is running, and how many announced runs wait."""
        waiting = sum(run is not self._active for run in self._queue)
        return self._active is not None or bool(self._queue), waiting

    async def hold(self, point: HoldPoint, run: LiveRun) -> None:
        """Stop before the next step of this kind if a test asked for it."""
        await self._ground.gates.pass_hold(point, session_id=self.session_id, run_id=run.run_id)

    def notice(self, severity: Any, title: str, detail: str, run: LiveRun) -> None:
        """Tell those who watch the session."""
        self.stream.publish(Notice(severity=severity, title=title, detail=detail, run_id=run.run_id))

    def _acceptance(self, run: LiveRun) -> AcceptRun:
        return AcceptRun(run=run.view(whole=True), digest=run.digest, client_made=run.client_made)

    def _publish_both(self, event: RunAccepted) -> None:
        self.stream.publish(event)
        self._ground.stream.publish(event)

    def _publish_end(self, run: Run) -> None:
        self.stream.publish(RunCompleted(run=run))
        self._ground.stream.publish(RunCompleted(run=without_text(run)))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
