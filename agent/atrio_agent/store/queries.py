"""Reading a workspace's database.

Everything here runs in a worker thread and inside a transaction that the caller
has begun, so that a message and the text that was appended to it come from the
same moment. Nothing here writes. The tables are described in
`atrio_agent.store.tables`.

This module imports sqlite-utils, which takes its time: import it in a worker
thread only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, cast

import msgspec
from sqlite_utils import Database

from atrio_agent.store.base import (
    AppendText,
    FileVersionRow,
    Loaded,
    MessagePage,
    RunKey,
    RunPage,
    SessionPage,
    SessionRow,
)
from atrio_agent.store.connection import Connection
from atrio_agent.store.keeping import find_content, find_file_versions, find_grant, find_grants, find_todos
from atrio_agent.store.paging import LARGEST_INTEGER, Place, bounded_limit, grown_message, take_page, write_cursor
from atrio_agent.store.recovery import REV_STEP, Wreck
from atrio_agent.store.search import query_words
from atrio_protocol.content import ContentBlock
from atrio_protocol.things import Grant, Message, Run, Todo, Usage

__all__ = ["Queries"]

_SESSIONS: Final = """
SELECT session_id, parent_session_id, root_session_id, title, title_is_final, model, message_count, usage,
    rev + (:generation - generation) * :rev_step AS rev, touched, created_at, updated_at
FROM sessions
"""

_FOUND: Final = """session_id IN (SELECT session_id FROM texts
    WHERE id IN (SELECT rowid FROM texts_fts WHERE texts_fts MATCH :found))"""

_MESSAGES: Final = "SELECT body FROM messages WHERE session_id = ? AND position < ? ORDER BY position DESC, id DESC"

_HISTORY: Final = """
SELECT m.body FROM messages m LEFT JOIN runs r ON r.run_id = m.run_id
WHERE m.session_id = :session_id
    AND m.position >= ifnull((SELECT max(position) FROM messages WHERE session_id = :session_id AND summary = 1), 0)
    AND (r.run_id IS NULL OR r.state != 'completed' OR r.started = 1)
ORDER BY m.position, m.id
"""

_DESCENDANTS: Final = """
WITH RECURSIVE below (session_id) AS (
    SELECT session_id FROM sessions WHERE parent_session_id = :session_id
    UNION SELECT s.session_id FROM sessions s JOIN below b ON s.parent_session_id = b.session_id)
SELECT session_id FROM below
"""

_WRECKED: Final = """
SELECT session_id FROM sessions WHERE session_id IN (
    SELECT session_id FROM runs WHERE state != 'completed'
    UNION SELECT session_id FROM messages WHERE role = 'assistant' AND finished = 0)
ORDER BY updated_at, touched
"""

_WRECKED_MESSAGES: Final = """
SELECT body FROM messages WHERE session_id = :session_id AND (
    run_id IN (SELECT run_id FROM runs WHERE session_id = :session_id AND state != 'completed')
    OR run_id IN (SELECT run_id FROM messages WHERE session_id = :session_id AND role = 'assistant' AND finished = 0)
    OR (role = 'assistant' AND finished = 0))
ORDER BY position, id
"""

_read_message: Final = msgspec.json.Decoder(Message).decode
_read_run: Final = msgspec.json.Decoder(Run).decode
_read_prompt: Final = msgspec.json.Decoder(tuple[ContentBlock, ...]).decode
_read_usage: Final = msgspec.json.Decoder(Usage).decode


class Queries:
    """The read side of one database, as of its ``generation``."""

    def __init__(self, connection: Connection, *, generation: int) -> None:
        self._connection = connection
        database = Database(connection, execute_plugins=False, recursive_triggers=False)
        # sqlite-utils leaves open what a row is.
        self._query = cast("Callable[[str, dict[str, Any]], Iterable[dict[str, Any]]]", database.query)  # pyright: ignore[reportUnknownMemberType] - as said
        self._rev = {"generation": generation, "rev_step": REV_STEP}

    def session(self, session_id: str) -> SessionRow | None:
        for row in self._rows(_SESSIONS + " WHERE session_id = :session_id", {**self._rev, "session_id": session_id}):
            return _session_row(row)
        return None

    def load(self, session_id: str) -> Loaded | None:
        row = self.session(session_id)
        if row is None:
            return None
        keys = self._rows(
            "SELECT run_id, accept_seq, digest FROM runs WHERE session_id = :session_id ORDER BY accept_seq",
            {"session_id": session_id},
        )
        runs = tuple(RunKey(**key) for key in keys)
        return Loaded(
            row=row,
            runs=runs,
            last_order=self._last_order(session_id),
            last_accept_seq=runs[-1].accept_seq if runs else 0,
        )

    def sessions(self, *, query: str | None, limit: int, after: Place | None, children: bool) -> SessionPage:
        limit = bounded_limit(limit)
        values: dict[str, Any] = {**self._rev, "limit": limit + 1}
        conditions = [] if children else ["parent_session_id IS NULL"]
        words = query_words(query)
        if words is not None:
            if not words:
                return SessionPage(sessions=())
            values["found"] = " ".join(f'"{word}"*' for word in words)
            conditions.append(_FOUND)
        if after is not None:
            values |= after._asdict()
            conditions.append("(updated_at, touched) < (:updated_at, :touched)")
        where = " WHERE " + " AND ".join(conditions) if conditions else ""
        rows = self._rows(_SESSIONS + where + " ORDER BY updated_at DESC, touched DESC LIMIT :limit", values)
        page = tuple(_session_row(row) for row in rows[:limit])
        if len(rows) <= limit:
            return SessionPage(sessions=page)
        last = rows[limit - 1]
        return SessionPage(sessions=page, next_cursor=write_cursor(Place(last["updated_at"], last["touched"])))

    def messages(self, session_id: str, *, before: int | None, limit: int, max_bytes: int) -> MessagePage:
        below = LARGEST_INTEGER if before is None else min(before, LARGEST_INTEGER)
        rows = self._connection.execute(_MESSAGES, (session_id, max(below, -LARGEST_INTEGER)))
        try:
            return take_page(self._grown(session_id, rows), limit=limit, max_bytes=max_bytes)
        finally:
            rows.close()

    def message(self, message_id: str) -> Message | None:
        rows = self._connection.execute("SELECT session_id, body FROM messages WHERE message_id = ?", (message_id,))
        for session_id, body in rows.fetchall():
            return grown_message(_read_message(body), self._appended(session_id, message_id)[message_id])
        return None

    def history(self, session_id: str) -> tuple[Message, ...]:
        rows = self._connection.execute(_HISTORY, {"session_id": session_id}).fetchall()
        return tuple(self._grown(session_id, rows))

    def run(self, run_id: str) -> Run | None:
        for body, prompt in self._connection.execute("SELECT body, prompt FROM runs WHERE run_id = ?", (run_id,)):
            return _whole_run(body, prompt)
        return None

    def runs(self, session_id: str, *, before: int | None, limit: int) -> RunPage:
        limit = bounded_limit(limit)
        below = LARGEST_INTEGER if before is None else max(min(before, LARGEST_INTEGER), -LARGEST_INTEGER)
        rows = self._connection.execute(
            "SELECT body FROM runs WHERE session_id = ? AND accept_seq < ? ORDER BY accept_seq DESC LIMIT ?",
            (session_id, below, limit + 1),
        ).fetchall()
        return RunPage(runs=tuple(_read_run(body) for (body,) in rows[:limit]), more=len(rows) > limit)

    def descendants(self, session_id: str) -> list[str]:
        return [row["session_id"] for row in self._rows(_DESCENDANTS, {"session_id": session_id})]

    def file_versions(self, session_id: str) -> tuple[FileVersionRow, ...]:
        return find_file_versions(self._connection, session_id)

    def file_content(self, digest: str) -> bytes | None:
        return find_content(self._connection, digest)

    def todos(self, session_id: str) -> tuple[Todo, ...]:
        return find_todos(self._connection, session_id)

    def grants(self, session_id: str) -> tuple[Grant, ...]:
        return find_grants(self._connection, session_id)

    def grant(self, grant_id: str) -> Grant | None:
        return find_grant(self._connection, grant_id)

    def wrecks(self) -> list[Wreck]:
        """Every session in which something is unfinished, in the order of their last updates."""
        found: list[Wreck] = []
        for (session_id,) in self._connection.execute(_WRECKED).fetchall():
            row = self.session(session_id)
            assert row is not None, "a run or message is only stored where its session is, and goes with it"
            runs = self._connection.execute(
                "SELECT body, prompt FROM runs WHERE session_id = ? AND state != 'completed' ORDER BY accept_seq",
                (session_id,),
            ).fetchall()
            messages = self._connection.execute(_WRECKED_MESSAGES, {"session_id": session_id}).fetchall()
            count = self._connection.execute("SELECT count(*) FROM messages WHERE session_id = ?", (session_id,))
            found.append(
                Wreck(
                    row=row,
                    runs=tuple(_whole_run(body, prompt) for body, prompt in runs),
                    messages=tuple(self._grown(session_id, messages)),
                    message_count=count.fetchone()[0],
                    last_order=self._last_order(session_id),
                )
            )
        return found

    def client_made_runs(self) -> dict[str, str]:
        """Every run with a client-made id, and its session."""
        rows = self._connection.execute("SELECT run_id, session_id FROM runs WHERE client_made = 1")
        return dict(rows.fetchall())

    def _rows(self, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self._query(statement, values))

    def _last_order(self, session_id: str) -> int:
        rows = self._connection.execute("SELECT max(position) FROM messages WHERE session_id = ?", (session_id,))
        return rows.fetchone()[0] or 0

    def _grown(self, session_id: str, rows: Iterable[Sequence[str]]) -> Iterator[Message]:
        """Read messages of one session, with what was appended to them."""
        appended = self._appended(session_id)
        for (body,) in rows:
            message = _read_message(body)
            yield grown_message(message, appended.get(message.message_id, ()))

    def _appended(self, session_id: str, message_id: str | None = None) -> defaultdict[str, list[AppendText]]:
        """What was appended in a session, or to one message of it, by message."""
        rows = self._connection.execute(
            "SELECT message_id, part, field, text FROM appended WHERE session_id = ? AND message_id >= ?"
            " AND message_id <= ifnull(?, message_id) ORDER BY id",
            (session_id, message_id or "", message_id),
        )
        found: defaultdict[str, list[AppendText]] = defaultdict(list)
        for of, part, field, text in rows:
            piece = AppendText(message_id=of, session_id=session_id, part=part, field=field, text=text)
            found[of].append(piece)
        return found


def _session_row(row: dict[str, Any]) -> SessionRow:
    return SessionRow(
        session_id=row["session_id"],
        parent_session_id=row["parent_session_id"],
        root_session_id=row["root_session_id"],
        title=row["title"],
        title_is_final=bool(row["title_is_final"]),
        model=row["model"],
        message_count=row["message_count"],
        usage=_read_usage(row["usage"]),
        rev=row["rev"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _whole_run(body: str, prompt: str | None) -> Run:
    run = _read_run(body)
    return run if prompt is None else msgspec.structs.replace(run, prompt=_read_prompt(prompt))
