"""What a session has accepted: in which order it runs, and what a cancel covers.

Every method is one synchronous step, and Trio runs one task at a time between
checkpoints; so there are no locks here, and no moment in which a prompt is
nowhere. Nothing here waits, stores or publishes: the session's tasks do, and
they are told by ``on_change`` that there may be something to do.

    accepted -> announced, in the queue -> active -> completed
                                        |-> folded into the active run -> completed
                                        |-> cancelled before it began  -> completed
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atrio_agent.runs import LiveRun, digest_of
from atrio_agent.store.base import Loaded, RunKey
from atrio_protocol.content import ContentBlock
from atrio_protocol.errors import IdempotencyConflict, QueueFull, SessionBusy, WorkspaceClosing
from atrio_protocol.ids import new_id
from atrio_protocol.limits import MAX_QUEUED_PER_SESSION
from atrio_protocol.marks import covered, covers, next_in_queue, queue_order
from atrio_protocol.things import Delivery, RunKind
from atrio_protocol.who import Author

__all__ = ["Cancelled", "Inbox", "Repeat"]


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


class Inbox:
    """The runs of one session that are not completed, and the ids of all that ever were.

    ``active`` is the run that the session has taken. ``queue`` holds what is
    announced and has not begun, the active run until it begins among it.
    """

    def __init__(self, loaded: Loaded, *, workspace_id: str, on_change: Callable[[], None]) -> None:
        self._workspace_id = workspace_id
        self._session_id = loaded.row.session_id
        self._on_change = on_change
        self._mark = 0
        self._known = {key.run_id: key for key in loaded.runs}
        self._open: dict[str, LiveRun] = {}
        self.accept_seq = loaded.last_accept_seq
        self.closing = False
        self.active: LiveRun | None = None
        self.queue: list[LiveRun] = []

    def __len__(self) -> int:
        """How many accepted runs are not completed."""
        return len(self._open)

    @property
    def open(self) -> list[LiveRun]:
        """The accepted runs that are not completed, announced or not, in the order of acceptance."""
        return list(self._open.values())

    @property
    def announced(self) -> list[LiveRun]:
        """The announced runs that are not completed: the active one first, then in the queue's order."""
        waiting = [run for run in self.queue if run is not self.active]
        first = [self.active, *self.active.folded] if self.active else []
        return [*first, *queue_order(waiting)]

    @property
    def next(self) -> LiveRun | None:
        """The run whose turn is next."""
        return next_in_queue(run for run in self.queue if run.stage == "waiting")

    @property
    def next_cancelled(self) -> LiveRun | None:
        """The next of what was cancelled in the queue and need not wait for its turn to end."""
        if self.active is None or self.active.cancelled:
            return None  # then all take their turns, so that the ends come in the queue's order
        return next_in_queue(run for run in self.queue if run.cancelled and run.stage == "waiting")

    def find(self, run_id: str) -> LiveRun | None:
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

    def admit(
        self,
        *,
        prompt: tuple[ContentBlock, ...],
        run_id: str | None,
        delivery: Delivery,
        author: Author,
        model_id: str | None,
        meta: dict[str, Any] | None,
        kind: RunKind,
        permitted: bool = False,
        private_id: bool = False,
    ) -> LiveRun:
        """Take in a prompt; whoever asked puts it on its way to the store in the same step.

        Raises:
            WorkspaceClosing, SessionBusy, QueueFull: Nothing was changed.
        """
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        if delivery == "reject" and self._open:
            raise SessionBusy("The session is busy; wait for its run, or queue the prompt.")
        if len(self._waiting()) >= MAX_QUEUED_PER_SESSION + (self.active is None):
            raise QueueFull(
                f"{MAX_QUEUED_PER_SESSION} prompts wait in this session already; try again when some are done."
            )
        self.accept_seq += 1
        run = LiveRun(
            run_id=run_id or new_id(self._workspace_id, "r"),
            session_id=self._session_id,
            accept_seq=self.accept_seq,
            delivery=delivery,
            kind=kind,
            author=author,
            prompt=prompt,
            digest=digest_of(prompt, kind),
            client_made=run_id is not None,
            model_id=model_id,
            meta=meta,
            permitted=permitted,
            private_id=private_id,
            steers=self.active if delivery == "steer" and kind == "prompt" else None,
        )
        self._open[run.run_id] = run
        self._known[run.run_id] = RunKey(run_id=run.run_id, accept_seq=run.accept_seq, digest=run.digest)
        return run

    def forget(self, run: LiveRun) -> None:
        """Undo an admission that could not be stored. It was named nowhere. Safe to call twice."""
        if self._open.get(run.run_id) is run:
            del self._open[run.run_id]
            del self._known[run.run_id]
            run.done.set()

    def let_go(self, run: LiveRun) -> None:
        """Let go of a run that is over; its id stays known."""
        self._open.pop(run.run_id, None)
        if run in self.queue:
            self.queue.remove(run)
        run.done.set()

    def position(self, run: LiveRun) -> int:
        """How many turns come before this one's: 0 is active or about to be, 1 is next."""
        ahead = queue_order(self._waiting())
        return ahead.index(run) + (self.active is not None) if run in ahead else 0

    def to_fold(self, active: LiveRun) -> list[LiveRun]:
        """The steered prompts that may be folded into the active run now, in the order of acceptance.

        None into one that is cancelled already, though its loop may not know yet: they would end with it.
        """
        if active.cancelled or active.kind != "prompt":
            return []
        found = [
            run
            for run in self.queue
            if run.steers is active and not run.cancelled and run.model_id in (None, active.model_id)
        ]
        return sorted(found, key=lambda run: run.accept_seq)

    def covers(self, run: LiveRun) -> bool:
        """Whether a run was accepted before the last cancel of the session, or cancelled by itself."""
        return run.cancelled or covers(self._mark, run.accept_seq)

    def cancel(self, *, by: Author | None, mine: bool = False) -> Cancelled:
        """Cancel what was accepted up to now and is not decided.

        ``mine``: the active run and what this author queued. What is accepted
        later is never touched.
        """
        if not mine:
            self._mark = self.accept_seq
        runs = covered(
            self._open.values(),
            mark=self.accept_seq,
            scope="mine" if mine else "all",
            client_id=None if by is None else by.client_id,
        )
        return self._cancel(runs, by)

    def cancel_run(self, run: LiveRun, *, by: Author | None) -> Cancelled:
        """Cancel one run alone. A folded one, or one whose end is decided, is not touched."""
        return self._cancel([run] if run.stage in ("waiting", "active") else [], by)

    def clear_queue(self, *, by: Author | None) -> Cancelled:
        """Cancel all that waits; the active run and what is folded into it go on."""
        return self._cancel([run for run in self._open.values() if run.stage == "waiting"], by)

    def close(self) -> None:
        """Refuse new prompts and cancel every run. Safe to call twice."""
        self.closing = True
        self.cancel(by=None)

    def _cancel(self, runs: list[LiveRun], by: Author | None) -> Cancelled:
        for run in runs:
            run.cancel(by)
        self._on_change()
        return Cancelled(self.accept_seq, tuple(runs))

    def _waiting(self) -> list[LiveRun]:
        """What waits for its turn, announced or not; what is cancelled already does not."""
        return [run for run in self._open.values() if run.stage == "waiting" and not run.cancelled]
