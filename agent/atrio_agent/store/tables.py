"""Operations as SQL: how a batch of calls becomes one commit.

The write side of one workspace's database. Each call has a savepoint, so that
one that is refused leaves its neighbours; what concerns the database as a whole
fails them all. Runs in a worker thread, one batch at a time; reading is in
`atrio_agent.store.queries`.

Tables: `sessions`; `messages` (whole, as JSON, with the columns that are asked
for); `appended` (text that a message grew by since it was put); `runs` (with
the whole prompt until completed); `texts` (what is searched: titles and final
messages, with an FTS5 index kept by triggers); `deleted` (sessions that must
not come back while this process lives); `meta`. `touched` rises with every
change of `updated_at` and decides between two in one millisecond; `generation`
counts openings. What else a session keeps is in `atrio_agent.store.keeping`.

Each batch writes its number (`meta`), so that a commit which is reported as
failed can be looked for.

Invariant: a batch of a store that was given up never gets in once the database
has been opened again: each one checks the generation it belongs to.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from atrio_agent.store.base import (
    AcceptRun,
    AppendText,
    CompleteRun,
    DeleteSessions,
    DropGrant,
    ForkSession,
    Op,
    PutFileVersion,
    PutGrant,
    PutMessage,
    PutRun,
    PutSession,
    PutTodos,
    RunIdTaken,
    RunIndex,
    RunNotOpen,
    StoreFailed,
    WriteRefused,
)
from atrio_agent.store.connection import Connection, DatabaseError, roll_back, spoils_everything, store_failure
from atrio_agent.store.copying import copies_of
from atrio_agent.store.keeping import copy_todos, delete_kept, drop_grant, put_file_version, put_grant, put_todos
from atrio_agent.store.paging import stands_for_history, was_started
from atrio_agent.store.search import searchable_text
from atrio_agent.store.writer import Call
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Run

__all__ = ["Tables"]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.store")

_PUT_SESSION: Final = """
INSERT INTO sessions (session_id, parent_session_id, root_session_id, title, title_is_final, model, message_count,
    usage, rev, generation, touched, created_at, updated_at)
SELECT :session_id, :parent_session_id, :root_session_id, :title, :title_is_final, :model, :message_count,
    :usage, :rev, :generation, :touched, :created_at, :updated_at
WHERE NOT EXISTS (SELECT 1 FROM deleted WHERE session_id = :session_id)
ON CONFLICT (session_id) DO UPDATE SET
    parent_session_id = excluded.parent_session_id, root_session_id = excluded.root_session_id,
    title = excluded.title, title_is_final = excluded.title_is_final, model = excluded.model,
    message_count = excluded.message_count, usage = excluded.usage, rev = excluded.rev,
    generation = excluded.generation, created_at = excluded.created_at, updated_at = excluded.updated_at,
    touched = CASE WHEN updated_at = excluded.updated_at THEN touched ELSE excluded.touched END
"""

_PUT_TEXT: Final = """
INSERT INTO texts (source_id, session_id, text) VALUES (?, ?, ?)
ON CONFLICT (source_id) DO UPDATE SET text = excluded.text WHERE text != excluded.text
"""

_PUT_MESSAGE: Final = """
INSERT INTO messages (message_id, session_id, run_id, position, role, summary, finished, updated_at, body)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM sessions WHERE session_id = ?)
ON CONFLICT (message_id) DO UPDATE SET
    run_id = excluded.run_id, position = excluded.position, role = excluded.role, summary = excluded.summary,
    finished = excluded.finished, updated_at = excluded.updated_at, body = excluded.body
"""

_APPEND_TEXT: Final = """
INSERT INTO appended (session_id, message_id, part, field, text)
SELECT session_id, message_id, ?, ?, ? FROM messages WHERE message_id = ? AND finished = 0
"""

_ACCEPT_RUN: Final = """
INSERT INTO runs (run_id, session_id, accept_seq, state, started, client_made, digest, body, prompt)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM sessions WHERE session_id = ?)
ON CONFLICT (run_id) DO UPDATE SET
    accept_seq = excluded.accept_seq, client_made = excluded.client_made, body = excluded.body, prompt = excluded.prompt
WHERE session_id = excluded.session_id AND digest = excluded.digest AND state = 'queued'
    AND accept_seq < excluded.accept_seq
"""

_PUT_RUN: Final = """
UPDATE runs SET state = ?, started = ?, body = ?, prompt = ifnull(?, prompt)
WHERE run_id = ? AND state != 'completed'
"""

_COMPLETE_RUN: Final = """
UPDATE runs SET state = 'completed', started = ?, body = ?, prompt = NULL
WHERE run_id = ? AND state != 'completed'
"""

_SEEN: Final = """
SELECT m.body FROM messages m LEFT JOIN runs r ON r.run_id = m.run_id
WHERE m.session_id = ? AND m.position < ? AND (r.run_id IS NULL OR r.state != 'completed' OR r.started = 1)
ORDER BY m.position, m.id
"""

_DELETE_SESSION: Final = (
    "DELETE FROM sessions WHERE session_id = ?",
    "DELETE FROM messages WHERE session_id = ?",
    "DELETE FROM appended WHERE session_id = ?",
    "DELETE FROM runs WHERE session_id = ?",
    "DELETE FROM texts WHERE session_id = ?",
    "INSERT OR IGNORE INTO deleted (session_id) VALUES (?)",
)


_read_message: Final = msgspec.json.Decoder(Message).decode


class _Claim(NamedTuple):
    """A call of a batch accepts or deletes a run with a client-made id, for or with this session."""

    at: int
    session_id: str
    private: bool = False


class _Outcome:
    """What one attempt at a batch has done so far; claimed and freed run ids by id."""

    def __init__(self, refused: Mapping[int, StoreFailed]) -> None:
        self.refused = dict(refused)
        self.claimed: dict[str, _Claim] = {}
        self.freed: dict[str, _Claim] = {}

    def forget(self, at: int) -> None:
        """This call did not happen."""
        self.claimed = {run_id: claim for run_id, claim in self.claimed.items() if claim.at != at}
        self.freed = {run_id: claim for run_id, claim in self.freed.items() if claim.at != at}


class Tables:
    """The write side of one database.

    Args:
        connection: Used by nobody else while a batch is applied.
        path: Where the database is, for sentences.
        workspace_id: Whose it is.
        generation: Which opening of the database this is.
        index: Where client-made run ids are claimed.
        batch: The number of the last batch that was committed.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        path: Path,
        workspace_id: str,
        generation: int,
        index: RunIndex,
        batch: int = 0,
    ) -> None:
        self._connection = connection
        self._path = path
        self._workspace_id = workspace_id
        self._generation = generation
        self._index = index
        self._batch = batch
        self._encode = msgspec.json.Encoder().encode
        self._touched: int = connection.execute("SELECT ifnull(max(touched), 0) FROM sessions").fetchone()[0]

    def apply(self, calls: Sequence[Call]) -> list[StoreFailed | None]:
        """Commit these calls; per call None or why nothing of it is stored. Raises nothing for a bad disk."""
        refused: dict[int, StoreFailed] = {}
        claimed: dict[str, str] = {}
        try:
            outcome = self._attempt(calls, refused)
            while outcome.claimed:
                # Durable in the index before the rows are here: a crash between the two leaves a void claim,
                # never a run whose id somebody else can take.
                wanted = {run_id: claim.session_id for run_id, claim in outcome.claimed.items()}
                private = {run_id for run_id, claim in outcome.claimed.items() if claim.private}
                taken = self._index.claim(self._workspace_id, wanted, private=private)
                if not taken:
                    claimed = wanted
                    break
                roll_back(self._connection)
                refused |= {outcome.claimed[run_id].at: reason for run_id, reason in taken.items()}
                outcome = self._attempt(calls, refused)
            self._commit()
        except DatabaseError as error:
            roll_back(self._connection)
            failure = store_failure(error, self._path)
            return [refused.get(at, failure) for at in range(len(calls))]
        except StoreFailed as failure:
            roll_back(self._connection)
            return [failure] * len(calls)
        except BaseException:
            roll_back(self._connection)
            raise
        finally:
            if claimed:
                self._index.settle(self._workspace_id, claimed)
        if outcome.freed:
            freed = {run_id: claim.session_id for run_id, claim in outcome.freed.items()}
            self._index.free(self._workspace_id, freed)
        return [outcome.refused.get(at) for at in range(len(calls))]

    def _commit(self) -> None:
        """Commit; one that is reported as failed and is there all the same has succeeded."""
        try:
            self._connection.execute("COMMIT")
        except DatabaseError:
            roll_back(self._connection)
            if not self._is_stored():
                raise
            log.warning("a commit was reported as failed and is there", path=str(self._path))

    def _is_stored(self) -> bool:
        """Whether the last batch is in the database; False also if the database does not say."""
        try:
            found = self._connection.execute("SELECT value FROM meta WHERE key = 'batch'").fetchone()
        except DatabaseError:
            return False
        return found == (str(self._batch),)

    def repair(self, ops: Iterable[Op]) -> None:
        """Do these operations in a transaction that the caller has begun."""
        outcome = _Outcome({})
        for op in ops:
            self._do(op, 0, outcome)

    def forget_deleted(self) -> None:
        """Forget which sessions were deleted: nobody is left who could put one again."""
        self._connection.execute("DELETE FROM deleted")

    def _attempt(self, calls: Sequence[Call], refused: Mapping[int, StoreFailed]) -> _Outcome:
        """Do all but the commit. The transaction is left open."""
        outcome = _Outcome(refused)
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        (generation,) = execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
        if generation != str(self._generation):
            raise StoreFailed(f"{self._path} has been opened again since; this opening of it writes no more.")
        self._batch += 1
        execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('batch', ?)", (str(self._batch),))
        for at, call in enumerate(calls):
            if at in refused:
                continue
            execute("SAVEPOINT one_call")
            try:
                for op in call:
                    self._do(op, at, outcome)
            except DatabaseError as error:
                if spoils_everything(error):
                    raise
                reason = WriteRefused(f"This cannot be stored: {error}.")
            except WriteRefused as error:
                reason = error
            except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeError) as error:
                reason = WriteRefused(f"This cannot be stored: {error}.")
            else:
                execute("RELEASE one_call")
                continue
            execute("ROLLBACK TO one_call")
            execute("RELEASE one_call")
            outcome.refused[at] = reason
            outcome.forget(at)
        return outcome

    def _do(self, op: Op, at: int, outcome: _Outcome) -> None:
        match op:
            case AppendText():
                self._connection.execute(_APPEND_TEXT, (op.part, op.field, op.text, op.message_id))
            case PutMessage():
                self._put_message(op)
            case PutSession():
                self._put_session(op)
            case AcceptRun():
                self._accept_run(op, at, outcome)
            case PutRun(run=run):
                self._connection.execute(_PUT_RUN, (run.state, was_started(run), *self._run_json(run), run.run_id))
            case CompleteRun(run=run):
                body, _ = self._run_json(run)
                done = self._connection.execute(_COMPLETE_RUN, (was_started(run), body, run.run_id))
                if done.rowcount == 0:
                    raise RunNotOpen(f"Run {run.run_id} is completed already, or gone.")
            case PutFileVersion() | PutTodos() | PutGrant() | DropGrant():
                self._keep(op)
            case ForkSession():
                self._fork(op)
            case DeleteSessions(session_ids=session_ids):
                for session_id in session_ids:
                    self._delete_session(session_id, at, outcome)

    def _keep(self, op: PutFileVersion | PutTodos | PutGrant | DropGrant) -> None:
        match op:
            case PutFileVersion():
                put_file_version(self._connection, op)
            case PutTodos():
                put_todos(self._connection, op)
            case PutGrant():
                put_grant(self._connection, op)
            case DropGrant(grant_id=grant_id):
                drop_grant(self._connection, grant_id)

    def _fork(self, op: ForkSession) -> None:
        execute = self._connection.execute
        if not execute("SELECT 1 FROM sessions WHERE session_id = ?", (op.source_id,)).fetchone():
            raise WriteRefused(f"Session {op.source_id} is not there.")
        self._put_session(PutSession(row=op.row))
        count = 0
        with closing(execute(_SEEN, (op.source_id, op.below))) as rows:
            for copy in copies_of((_read_message(body) for (body,) in rows), op):
                self._put_message(PutMessage(message=copy, final=True))
                count += 1
        execute("UPDATE sessions SET message_count = ? WHERE session_id = ?", (count, op.row.session_id))
        copy_todos(self._connection, source_id=op.source_id, session_id=op.row.session_id)

    def _put_session(self, op: PutSession) -> None:
        row = op.row
        self._touched += 1
        done = self._connection.execute(
            _PUT_SESSION,
            {
                "session_id": row.session_id,
                "parent_session_id": row.parent_session_id,
                "root_session_id": row.root_session_id,
                "title": row.title,
                "title_is_final": row.title_is_final,
                "model": row.model,
                "message_count": row.message_count,
                "usage": self._encode(row.usage).decode(),
                "rev": row.rev,
                "generation": self._generation,
                "touched": self._touched,
                "created_at": row.created_at,
                "updated_at": row.updated_at,
            },
        )
        if done.rowcount:
            self._connection.execute(_PUT_TEXT, (row.session_id, row.session_id, row.title))

    def _put_message(self, op: PutMessage) -> None:
        message = op.message
        done = self._connection.execute(
            _PUT_MESSAGE,
            (
                message.message_id,
                message.session_id,
                None if message.run_id is UNSET else message.run_id,
                message.order,
                message.role,
                stands_for_history(message),
                message.finish is not UNSET,
                message.updated_at,
                self._encode(message).decode(),
                message.session_id,
            ),
        )
        if not done.rowcount:
            return
        self._connection.execute(
            "DELETE FROM appended WHERE session_id = ? AND message_id = ?", (message.session_id, message.message_id)
        )
        if not op.final:
            return
        text = searchable_text(message)
        if text:
            self._connection.execute(_PUT_TEXT, (message.message_id, message.session_id, text))
        else:
            self._connection.execute("DELETE FROM texts WHERE source_id = ?", (message.message_id,))

    def _accept_run(self, op: AcceptRun, at: int, outcome: _Outcome) -> None:
        run = op.run
        row = (
            run.run_id,
            run.session_id,
            run.accept_seq,
            run.state,
            was_started(run),
            op.client_made,
            op.digest,
            *self._run_json(run),
            run.session_id,
        )
        if not self._connection.execute(_ACCEPT_RUN, row).rowcount:
            if self._connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run.run_id,)).fetchone():
                raise RunIdTaken(f"The run id {run.run_id} is in use.")
            raise WriteRefused(f"Session {run.session_id} is not there.")
        if op.client_made:
            outcome.claimed[run.run_id] = _Claim(at, run.session_id, op.private_id)

    def _delete_session(self, session_id: str, at: int, outcome: _Outcome) -> None:
        found = self._connection.execute(
            "SELECT run_id FROM runs WHERE session_id = ? AND client_made = 1", (session_id,)
        ).fetchall()
        for (run_id,) in found:
            outcome.freed[run_id] = _Claim(at, session_id)
        delete_kept(self._connection, session_id)
        for statement in _DELETE_SESSION:
            self._connection.execute(statement, (session_id,))

    def _run_json(self, run: Run) -> tuple[str, str | None]:
        if run.prompt is UNSET:
            return self._encode(run).decode(), None
        return self._encode(msgspec.structs.replace(run, prompt=UNSET)).decode(), self._encode(run.prompt).decode()
