"""What a memory store keeps, and where a test gets at its commits.

A `MemoryDisk` outlives the stores that are opened on it, as a database file
does: open another store on it to restart. What operations mean is written here
a second time, independently of SQL; both are held to one set of tests.

A test may hold commits at a gate in front of them (a hang is a gate that never
opens) and may let some of them fail. Nothing here uses a thread or reads a
clock, so that time may be virtual.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import trio

from atrio_agent.store.base import (
    AcceptRun,
    AppendText,
    CompleteRun,
    DeleteSessions,
    DropGrant,
    FileVersionRow,
    ForkSession,
    Op,
    PutFileVersion,
    PutGrant,
    PutMessage,
    PutRun,
    PutSession,
    PutTodos,
    RunIdTaken,
    RunNotOpen,
    SessionRow,
    StoreFailed,
    WriteRefused,
)
from atrio_agent.store.copying import copies_of
from atrio_agent.store.paging import grown_message, was_started
from atrio_agent.store.search import searchable_text
from atrio_agent.store.versions import MAX_VERSIONS, MAX_VERSIONS_BYTES, digest_of
from atrio_agent.store.writer import Call
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Grant, Message, Run, Todo

__all__ = ["KeptMessage", "KeptRun", "KeptSession", "KeptText", "KeptVersion", "MemoryDisk"]


class Claim(Protocol):
    """Claims client-made run ids, with their sessions; see `RunIndex.claim`."""

    def __call__(self, wanted: Mapping[str, str], *, private: Collection[str]) -> dict[str, StoreFailed]: ...


Free = Callable[[Mapping[str, str]], None]

_ABSENT: Final = object()


class KeptSession(NamedTuple):
    """``touched`` rises with each change of ``updated_at``; ``generation`` is the opening that wrote it."""

    row: SessionRow
    touched: int
    generation: int


class KeptRun(NamedTuple):
    """The run has its whole prompt until it is completed."""

    run: Run
    digest: str
    client_made: bool


class KeptMessage(NamedTuple):
    """``serial`` decides between two of the same order."""

    message: Message
    serial: int


class KeptText(NamedTuple):
    """What is searched: a title or a final message."""

    session_id: str
    text: str


class KeptVersion(NamedTuple):
    """A change of a file, with what it held before and after."""

    row: FileVersionRow
    before: bytes | None
    after: bytes | None

    @property
    def size_bytes(self) -> int:
        return len(self.before or b"") + len(self.after or b"")


class _Fault:
    """Commits that are to fail."""

    def __init__(self, count: int, after: int, having: type[Op] | None, is_lie: bool) -> None:
        self.is_lie = is_lie
        self.count = count
        self.after = after
        self.having = having

    def hits(self, calls: Sequence[Call]) -> bool:
        """Whether this commit fails; uses the fault up."""
        having = self.having
        if self.count == 0 or not (having is None or any(isinstance(op, having) for call in calls for op in call)):
            return False
        if self.after:
            self.after -= 1
            return False
        self.count -= 1
        return True


class MemoryDisk:
    """The durable side of a memory store."""

    def __init__(self) -> None:
        self.sessions: dict[str, KeptSession] = {}
        self.runs: dict[str, KeptRun] = {}
        self.messages: dict[str, KeptMessage] = {}
        self.appended: dict[str, tuple[AppendText, ...]] = {}
        self.texts: dict[str, KeptText] = {}
        self.versions: dict[str, tuple[KeptVersion, ...]] = {}
        self.todos: dict[str, tuple[Todo, ...]] = {}
        self.grants: dict[str, Grant] = {}
        self.deleted: dict[str, None] = {}
        self.generation = 0
        """How often a store was opened on it."""
        self.commits = 0
        """How many commits were tried, failed ones too."""
        self._counter = 0
        self._undo: list[tuple[dict[str, Any], str, Any]] = []
        self._wanted: dict[str, str] = {}
        self._private: set[str] = set()
        self._freed: dict[str, str] = {}
        self._faults: list[_Fault] = []
        self._holding = False
        self._standing: trio.Event | None = None
        self._arrived = trio.Event()

    # What a test does.

    def fail_commits(
        self, count: int = 1, *, after: int = 0, having: type[Op] | None = None, is_lie: bool = False
    ) -> None:
        """Let commits fail as on a full disk.

        Args:
            count: How many.
            after: How many go well before.
            having: Only count and fail those in which there is such an operation.
            is_lie: They are done, and reported as failed all the same; and nothing tells.
        """
        self._faults.append(_Fault(count, after, having, is_lie))

    def hold_commits(self) -> None:
        """Stop every further commit at the gate in front of it."""
        self._holding = True

    async def wait_for_commit(self) -> None:
        """Wait until a commit stands at the gate."""
        while self._standing is None:
            await self._arrived.wait()

    def release_commit(self) -> None:
        """Let the commit at the gate go on; the next one stops again."""
        if self._standing is not None:
            self._standing.set()

    def open_gate(self) -> None:
        """Let all commits go on."""
        self._holding = False
        self.release_commit()

    # What a store does.

    async def pass_gate(self) -> None:
        """Wait at the gate, if commits are held."""
        if not self._holding:
            await trio.lowlevel.checkpoint()
            return
        self._standing = trio.Event()
        self._arrived.set()
        try:
            await self._standing.wait()
        finally:
            self._standing = None
            self._arrived = trio.Event()

    def commit(self, calls: Sequence[Call], *, claim: Claim, free: Free) -> list[StoreFailed | None]:
        """Do these calls, in order, each whole or not at all; per call None or why not.

        Args:
            calls: The batch.
            claim: Claims client-made run ids, with their sessions; returns those that cannot be had.
            free: Gives up the ids of runs that are gone, with their sessions.
        """
        self.commits += 1
        # All of them count it, so that none shifts another.
        hits = [fault for fault in self._faults if fault.hits(calls)]
        outcome: list[StoreFailed | None] = [StoreFailed("The disk is full (a test has said so).")] * len(calls)
        if all(fault.is_lie for fault in hits):
            self._freed.clear()
            done = [self._do_call(call, claim) for call in calls]
            free(self._freed)
            outcome = outcome if hits else done
        return outcome

    def repair(self, ops: Sequence[Op]) -> None:
        """Do the operations of a recovery."""
        for op in ops:
            self._do(op)

    def message(self, message_id: str) -> Message | None:
        """One message with what was appended to it."""
        kept = self.messages.get(message_id)
        return None if kept is None else grown_message(kept.message, self.appended.get(message_id, ()))

    def messages_of(self, session_id: str) -> list[Message]:
        """All messages of a session, oldest first, with what was appended to them."""
        mine = [kept for kept in self.messages.values() if kept.message.session_id == session_id]
        mine.sort(key=lambda kept: (kept.message.order, kept.serial))
        return [grown_message(kept.message, self.appended.get(kept.message.message_id, ())) for kept in mine]

    def runs_of(self, session_id: str) -> list[KeptRun]:
        """All runs of a session, in the order of acceptance."""
        mine = [kept for kept in self.runs.values() if kept.run.session_id == session_id]
        return sorted(mine, key=lambda kept: kept.run.accept_seq)

    def content(self, digest: str) -> bytes | None:
        """What a file held, as long as a version says so."""
        for kept in (version for versions in self.versions.values() for version in versions):
            if digest == kept.row.before:
                return kept.before
            if digest == kept.row.after:
                return kept.after
        return None

    def _do_call(self, call: Call, claim: Claim) -> StoreFailed | None:
        self._undo.clear()
        self._wanted.clear()
        self._private.clear()
        try:
            for op in call:
                self._do(op)
            for reason in claim(self._wanted, private=self._private).values():
                raise reason
        except StoreFailed as error:
            reason = error
        except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeError) as error:
            reason = WriteRefused(f"This cannot be stored: {error}.")
        else:
            return None
        for table, key, old in reversed(self._undo):
            if old is _ABSENT:
                del table[key]
            else:
                table[key] = old
        return reason

    def _do(self, op: Op) -> None:
        msgspec.json.encode(op)  # what SQLite could not take is not taken here either
        match op:
            case AppendText(message_id=message_id):
                there = self.messages.get(message_id)
                if there is not None and there.message.finish is UNSET:
                    self._put(self.appended, message_id, (*self.appended.get(message_id, ()), op))
            case PutMessage():
                self._put_message(op)
            case PutSession(row=row):
                self._put_session(row)
            case AcceptRun():
                self._accept_run(op)
            case PutRun(run=run):
                old = self.runs.get(run.run_id)
                if old is not None and old.run.state != "completed":
                    prompt = old.run.prompt if run.prompt is UNSET else run.prompt
                    self._put(self.runs, run.run_id, old._replace(run=msgspec.structs.replace(run, prompt=prompt)))
            case CompleteRun(run=run):
                old = self.runs.get(run.run_id)
                if old is None or old.run.state == "completed":
                    raise RunNotOpen(f"Run {run.run_id} is completed already, or gone.")
                self._put(self.runs, run.run_id, old._replace(run=msgspec.structs.replace(run, prompt=UNSET)))
            case PutFileVersion() | PutTodos() | PutGrant() | DropGrant():
                self._keep(op)
            case ForkSession():
                self._fork(op)
            case DeleteSessions(session_ids=session_ids):
                for session_id in session_ids:
                    self._delete(session_id)

    def _keep(self, op: PutFileVersion | PutTodos | PutGrant | DropGrant) -> None:
        match op:
            case PutFileVersion():
                self._put_file_version(op)
            case PutTodos(session_id=session_id, todos=todos):
                if session_id in self.sessions:
                    self._put(self.todos, session_id, todos)
            case PutGrant(grant=grant):
                if grant.session_id in self.sessions:
                    self._put(self.grants, grant.grant_id, grant)
            case DropGrant(grant_id=grant_id):
                self._drop(self.grants, grant_id)

    def _put_session(self, row: SessionRow) -> None:
        if row.session_id in self.deleted:
            return
        self._counter += 1
        old = self.sessions.get(row.session_id)
        same = old is not None and old.row.updated_at == row.updated_at
        touched = old.touched if old is not None and same else self._counter
        self._put(self.sessions, row.session_id, KeptSession(row, touched, self.generation))
        self._put(self.texts, row.session_id, KeptText(row.session_id, row.title))

    def _put_message(self, op: PutMessage) -> None:
        message = op.message
        if message.session_id not in self.sessions:
            return
        self._counter += 1
        old = self.messages.get(message.message_id)
        serial = self._counter if old is None else old.serial
        self._put(self.messages, message.message_id, KeptMessage(message, serial))
        self._drop(self.appended, message.message_id)
        if op.final:
            text = searchable_text(message)
            self._put(self.texts, message.message_id, KeptText(message.session_id, text))

    def _accept_run(self, op: AcceptRun) -> None:
        run = op.run
        there = self.runs.get(run.run_id)
        if there is not None and not _was_never_told(there, op):
            raise RunIdTaken(f"The run id {run.run_id} is in use.")
        if run.session_id not in self.sessions:
            raise WriteRefused(f"Session {run.session_id} is not there.")
        if op.client_made:
            self._wanted[run.run_id] = run.session_id
            if op.private_id:
                self._private.add(run.run_id)
        self._put(self.runs, run.run_id, KeptRun(run, op.digest, op.client_made))

    def was_seen(self, message: Message) -> bool:
        """Whether a model may have seen it: not what belongs to a run that ended before it started."""
        kept = None if message.run_id is UNSET else self.runs.get(message.run_id)
        return kept is None or kept.run.state != "completed" or was_started(kept.run)

    def _fork(self, op: ForkSession) -> None:
        if op.source_id not in self.sessions:
            raise WriteRefused(f"Session {op.source_id} is not there.")
        mine = [kept for kept in self.messages.values() if kept.message.session_id == op.source_id]
        mine.sort(key=lambda kept: (kept.message.order, kept.serial))
        below = (kept.message for kept in mine if kept.message.order < op.below and self.was_seen(kept.message))
        copies = list(copies_of(below, op))
        self._put_session(msgspec.structs.replace(op.row, message_count=len(copies)))
        for message in copies:
            self._put_message(PutMessage(message=message, final=True))
        if op.row.session_id in self.sessions and op.source_id in self.todos:
            self._put(self.todos, op.row.session_id, self.todos[op.source_id])

    def _put_file_version(self, op: PutFileVersion) -> None:
        if op.session_id not in self.sessions:
            return
        row = FileVersionRow(
            session_id=op.session_id,
            run_id=op.run_id,
            tool_call_id=op.tool_call_id,
            path=op.path,
            before=digest_of(op.before),
            after=digest_of(op.after),
            at=op.at,
        )
        newest = KeptVersion(row, op.before, op.after)
        kept, total_bytes = [newest], newest.size_bytes
        for version in reversed(self.versions.get(op.session_id, ())):
            total_bytes += version.size_bytes
            if len(kept) == MAX_VERSIONS or total_bytes > MAX_VERSIONS_BYTES:
                break
            kept.append(version)
        self._put(self.versions, op.session_id, tuple(reversed(kept)))

    def _delete(self, session_id: str) -> None:
        for message in self.messages_of(session_id):
            self._drop(self.messages, message.message_id)
            self._drop(self.appended, message.message_id)
            self._drop(self.texts, message.message_id)
        for kept in self.runs_of(session_id):
            self._drop(self.runs, kept.run.run_id)
            if kept.client_made:
                self._put(self._freed, kept.run.run_id, session_id)
        self._drop(self.sessions, session_id)
        self._drop(self.texts, session_id)
        self._drop(self.versions, session_id)
        self._drop(self.todos, session_id)
        for grant in [grant for grant in self.grants.values() if grant.session_id == session_id]:
            self._drop(self.grants, grant.grant_id)
        self._put(self.deleted, session_id, None)

    def _put(self, table: dict[str, Any], key: str, value: object) -> None:
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _drop(self, table: dict[str, Any], key: str) -> None:
        if key in table:
            self._undo.append((table, key, table.pop(key)))


def _was_never_told(kept: KeptRun, op: AcceptRun) -> bool:
    """Whether this acceptance was stored and reported as failed, so that it is now asked for again."""
    run, again = kept.run, op.run
    same = run.session_id == again.session_id and kept.digest == op.digest
    return same and run.state == "queued" and run.accept_seq < again.accept_seq
