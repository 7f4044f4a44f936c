"""What may go wrong in a server: a list of mutations, and by which rule of the checker each is found.

Each is a function that changes one thing in this process, small enough to be
somebody's mistake. ``play`` is what shows it, with certainty; ``rules`` are
those of which at least one must be broken then. A mutation with no rules does
no harm: it is there to show that the play itself passes with it.

Only `mutant_server` and the tests import this.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import trio

from atrio_agent import inbox, session
from atrio_agent.coordinator import Coordinator
from atrio_agent.ending import Ending
from atrio_agent.inbox import Inbox
from atrio_agent.runs import LiveRun, Outcome
from atrio_agent.scribe import Scribe
from atrio_agent.session import Session
from atrio_agent.store import sqlite, writer
from atrio_agent.store.base import CompleteRun, PutMessage
from atrio_agent.store.index import SqliteRunIndex
from atrio_agent.store.tables import Tables
from atrio_agent.streams import Cursor, Slice, Stream
from atrio_protocol import merge
from atrio_protocol.content import TextBlock
from atrio_protocol.events import RunCompleted
from atrio_protocol.methods import CancelParams
from atrio_server import dispatch
from atrio_server.handlers import prompts, sessions
from atrio_server.service import Running

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A mutation; ``apply`` breaks the server of this process."""

    name: str
    play: str
    rules: frozenset[str]
    apply: Callable[[], None]


MUTANTS: dict[str, Mutant] = {}


def shown_by(play: str, *rules: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Put a mutation on the list."""

    def add(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[apply.__name__] = Mutant(apply.__name__, play, frozenset(rules), apply)
        return apply

    return add


# Accepting.


@shown_by("crash", "durable")
def ack_before_the_commit() -> None:
    """A prompt is acknowledged before it is stored."""

    async def stored(*_: Any) -> None:
        await trio.lowlevel.checkpoint()

    prompts._stored = stored


@shown_by("talk", "repeat")
def known_runs_not_recognised() -> None:
    """A session does not know its run ids any more."""
    Inbox.recognise = lambda self, run_id, prompt, kind: None


@shown_by("talk", "identity", "one_accept")
def index_of_run_ids_not_asked() -> None:
    """A run id may be used in two workspaces."""
    SqliteRunIndex._obstacle = lambda self, workspace_id, run_id: None


@shown_by("crash", "accept_order")
def numbers_begin_again() -> None:
    """After a restart acceptSeq begins at 1."""
    init = Inbox.__init__

    def begin_again(self: Any, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self.accept_seq = 0

    Inbox.__init__ = begin_again


# The queue.


@shown_by("queue", "queue_order")
def queue_from_the_wrong_end() -> None:
    """The prompt that came last is run first."""
    inbox.next_in_queue = lambda runs: max(runs, key=lambda run: run.accept_seq, default=None)


@shown_by("queue", "one_turn")
def two_turns_at_once() -> None:
    """A session takes the next run while one goes on."""
    take_runs = Session._take_runs

    async def take_two(self: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_runs, self)
            nursery.start_soon(take_runs, self)

    Session._take_runs = take_two


@shown_by("queue", "story", "messages")
def steer_folded_twice() -> None:
    """What is folded into a turn is folded into it again."""
    fold_into = Session.fold_into

    def fold_again(self: Any, active: Any) -> None:
        before = len(active.folded)
        fold_into(self, active)
        for run in active.folded[before:]:
            run.folded_into = None
            self.inbox.queue.append(run)
        fold_into(self, active)
        active.folded[before:] = dict.fromkeys(active.folded[before:])

    Session.fold_into = fold_again


@shown_by("queue", "one_terminal")
def folded_run_never_completes() -> None:
    """The end of a turn is not told for what was folded into it."""
    publish_end = Session._publish_end

    def publish(self: Any, run: Any) -> None:
        if not run.folded_into:
            publish_end(self, run)

    Session._publish_end = publish


# Cancels.


@shown_by("cancel", "cancel_mark")
def mark_one_too_low() -> None:
    """A cancel's mark lies one below the newest prompt."""
    cancel = Inbox.cancel

    def cancel_below(self: Any, **more: Any) -> Any:
        self.accept_seq -= 1
        try:
            return cancel(self, **more)
        finally:
            self.accept_seq += 1

    Inbox.cancel = cancel_below


@shown_by("cancel", "cancel_covers")
def cancel_misses_the_newest() -> None:
    """A cancel leaves out what was accepted last, and says so."""
    covered = inbox.covered
    inbox.covered = lambda *args, **more: covered(*args, **more)[:-1]


@shown_by("cancel", "cancel_explained")
def cancel_covers_a_later_prompt() -> None:
    """A cancel ends the next prompt too."""
    cancel = Inbox.cancel

    def cancel_beyond(self: Any, **more: Any) -> Any:
        cancelled = cancel(self, **more)
        self._mark += 1
        return cancelled

    Inbox.cancel = cancel_beyond


@shown_by("cancel", "cancel_named")
def cancelled_run_goes_on() -> None:
    """A run that a cancel names ends as if nothing had been."""
    decide = LiveRun.decide

    def decide_otherwise(self: Any, outcome: Any) -> Any:
        decided = decide(self, outcome)
        if decided.reason == "cancelled":
            self.outcome = Outcome("end_turn")
        return self.outcome

    LiveRun.decide = decide_otherwise


@shown_by("cancel", "cancel_named")
def cancel_does_not_wait() -> None:
    """A cancel that is to wait answers at once."""
    session_cancel = prompts.session_cancel

    async def cancel_at_once(server: Any, caller: Any, params: CancelParams) -> Any:
        return await session_cancel(server, caller, msgspec.structs.replace(params, wait=False))

    replace_handler("session/cancel", cancel_at_once)


def replace_handler(method: str, handler: Any) -> None:
    """Have another function answer a method."""
    dispatch.HANDLERS[method] = handler


# Streams.


@shown_by("talk", "attachment")
def merged_range_begins_one_too_late() -> None:
    """A merged event leaves its first number out."""
    merge_run = merge.merge_run

    def merge_short(items: Any) -> bytes:
        data = merge_run(items)
        return data.replace(b'"firstSeq":%d' % items[0].seq, b'"firstSeq":%d' % (items[0].seq + 1), 1)

    merge.merge_run = merge_short


@shown_by("talk", "agreement", "text")
def merged_text_lacks_its_end() -> None:
    """What is merged lacks the last of the deltas."""
    merge_run = merge.merge_run

    def merge_less(items: Any) -> bytes:
        if len(items) < 3:
            return merge_run(items)
        empty = msgspec.structs.replace(items[-1], text_at=len(items[-1].data) - 2)
        return merge_run([*items[:-1], empty])

    merge.merge_run = merge_less


@shown_by("talk", "attachment")
def resume_one_too_late() -> None:
    """Who comes back misses one event."""

    def cursor(self: Any, after: Any = None) -> Cursor:
        if after is not None and self.can_resume(after.epoch, after.seq):
            return Cursor(self, min(after.seq + 1, self.seq), recovered=True)
        return Cursor(self, self.seq)

    Stream.cursor = cursor


@shown_by("talk", "snapshot")
def snapshot_older_than_its_place() -> None:
    """The place of a snapshot is taken after what it shows."""
    take_snapshot = sessions.take_snapshot

    async def take_late(session: Any, store: Any, **more: Any) -> Any:
        _, snapshot = await take_snapshot(session, store, **more)
        if session.inbox.active is not None:
            await trio.sleep(0.1)
        return session.stream.cursor(), snapshot

    sessions.take_snapshot = take_late


@shown_by("talk", "agreement")
def another_reader_gets_another_event() -> None:
    """Every second reader of a stream gets other words."""
    start, read = Stream.start, Stream.read
    odd: set[int] = set()

    def start_counting(self: Any, cursor: Any, wake: Any) -> None:
        start(self, cursor, wake)
        if self.readers % 2 == 0:
            odd.add(id(cursor))

    def read_otherwise(self: Any, cursor: Any, max_bytes: int) -> Slice | None:
        found = read(self, cursor, max_bytes)
        if found is None or id(cursor) not in odd:
            return found
        return Slice(found.first_seq, found.last_seq, [one.replace(b"tok", b"tik") for one in found.events])

    Stream.start, Stream.read = start_counting, read_otherwise


@shown_by("crash", "epoch")
def epoch_outlives_the_server() -> None:
    """A stream has the same epoch after a restart."""
    init = Stream.__init__

    def begin(self: Any, rings: Any) -> None:
        init(self, rings)
        self.epoch = "always"

    Stream.__init__ = begin


@shown_by("talk", "text")
def reset_is_not_told() -> None:
    """A message that is taken back is taken back here alone."""
    Scribe.reset = lambda self, message: message.clear()


# Ends.


@shown_by("talk", "run_text")
def stale_text_in_the_end() -> None:
    """A run ends with its text as it was before its last character."""
    ending_of = session.ending_of

    def ending(scribe: Any, run: Any, outcome: Any) -> Any:
        found = ending_of(scribe, run, outcome)
        run.text = run.text[:-1]
        return found

    session.ending_of = ending


@shown_by("talk", "run_text", "stored")
def last_words_not_stored() -> None:
    """The last character of an answer is told and not stored."""
    ops = Ending.ops

    def cut(op: Any) -> Any:
        if not isinstance(op, PutMessage) or not op.message.parts or not isinstance(op.message.parts[-1], TextBlock):
            return op
        last = TextBlock(text=op.message.parts[-1].text[:-1])
        return PutMessage(message=msgspec.structs.replace(op.message, parts=(*op.message.parts[:-1], last)), final=True)

    Ending.ops = lambda self, run: [cut(op) for op in ops(self, run)]


@shown_by("talk", "story")
def end_before_its_message() -> None:
    """A run completes, and then its message does."""
    publish, publish_end = Ending.publish, Session._publish_end
    late: list[Callable[[], None]] = []

    def later(self: Any, scribe: Any) -> None:
        late.append(lambda: publish(self, scribe))

    def first(self: Any, run: Any) -> None:
        publish_end(self, run)
        while late:
            late.pop()()

    Ending.publish, Session._publish_end = later, first


# Crashes and ends of servers.


@shown_by("crash", "running")
def recovery_skips_what_waits() -> None:
    """A recovery ends what ran, and leaves what waited."""
    repair = sqlite.repair

    def repair_some(wreck: Any, **more: Any) -> Any:
        running = [run for run in wreck.runs if run.state == "running"]
        return repair(replace(wreck, runs=running), **more)

    sqlite.repair = repair_some


def die_once(state_dir: Path) -> None:
    """End this process like kill -9, the first time that it is asked to."""
    marker = state_dir / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@shown_by("crash_twice")
def dies_in_its_recovery() -> None:
    """No fault: the process dies when the recovery is done and not committed. The next one does it again."""
    recover = sqlite._recover

    def recover_and_die(queries: Any, tables: Any, workspace_id: str) -> None:
        has_wrecks = bool(list(queries.wrecks()))
        recover(queries, tables, workspace_id)
        if has_wrecks:
            die_once(tables._path.parent)

    sqlite._recover = recover_and_die


@shown_by("crash_twice", "messages")
def recovery_in_two_transactions() -> None:
    """A recovery commits the ends of runs before their messages, and the process dies between the two."""
    repair = Tables.repair

    def repair_in_steps(self: Any, ops: Any) -> None:
        repair(self, [op for op in ops if isinstance(op, CompleteRun)])
        self._connection.execute("COMMIT")
        die_once(self._path.parent)
        self._connection.execute("BEGIN IMMEDIATE")
        repair(self, [op for op in ops if not isinstance(op, CompleteRun)])

    Tables.repair = repair_in_steps


@shown_by("crash", "one_terminal")
def end_told_again_after_a_restart() -> None:
    """A session tells the ends of before a restart once more, with its next prompt."""
    load, accept = Coordinator._load, Session.accept
    over: dict[str, list[Any]] = {}

    async def load_all(self: Any, session_id: str) -> Any:
        session = await load(self, session_id)
        runs = [await self.ground.store.run(run_id) for run_id in session.inbox._known]
        over[session_id] = [run for run in runs if run is not None]
        return session

    def accept_and_tell(self: Any, **more: Any) -> Any:
        for run in over.pop(self.session_id, []):
            self.stream.publish(RunCompleted(run=run))
        return accept(self, **more)

    Coordinator._load, Session.accept = load_all, accept_and_tell


@shown_by("crash", "loss")
def text_kept_back_for_long() -> None:
    """Text is written when there is much of it, or after ten seconds."""
    writer.COLLECT_S = 10.0
    writer.COLLECT_CHARS = 1_000_000


@shown_by("stop", "interrupted", "drained")
def ends_without_saving() -> None:
    """SIGTERM ends the process at once, as if all were done."""

    async def end(self: Any, deadlines: Any) -> None:
        os._exit(0)

    Running.shut_down = end
