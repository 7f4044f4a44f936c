"""What a session keeps beside its messages: versions of files, todos, grants.

The SQL of both sides, for `atrio_agent.store.tables` to write and
`atrio_agent.store.queries` to read; the transaction is the caller's.

Tables: `file_versions` (which change of which file, by digests); `contents`
(what files held, compressed, once however often it occurs); `todos` and
`grants` (whole, as JSON). A session keeps its newest versions only.

Invariant: a content is there as long as a version names it, and no longer.
"""

import zlib
from typing import Final

import msgspec

from atrio_agent.store.base import FileVersionRow, PutFileVersion, PutGrant, PutTodos
from atrio_agent.store.connection import Connection
from atrio_agent.store.versions import MAX_VERSIONS, MAX_VERSIONS_BYTES, digest_of
from atrio_protocol.things import Grant, Todo

__all__ = [
    "copy_todos",
    "delete_kept",
    "drop_grant",
    "find_content",
    "find_file_versions",
    "find_grant",
    "find_grants",
    "find_todos",
    "put_file_version",
    "put_grant",
    "put_todos",
]

_PUT_CONTENT: Final = "INSERT OR IGNORE INTO contents (digest, data) VALUES (?, ?)"

_PUT_VERSION: Final = """
INSERT INTO file_versions (session_id, run_id, tool_call_id, path, before, after, size, at)
SELECT session_id, ?, ?, ?, ?, ?, ?, ? FROM sessions WHERE session_id = ?
"""

_OLD_VERSIONS: Final = """
SELECT id, before, after FROM (
    SELECT id, before, after, row_number() OVER newest_first AS place, sum(size) OVER newest_first AS total
    FROM file_versions WHERE session_id = ? WINDOW newest_first AS (ORDER BY id DESC))
WHERE place > ? OR (total > ? AND place > 1)
"""

_DROP_CONTENT: Final = """
DELETE FROM contents WHERE digest = :digest
    AND NOT EXISTS (SELECT 1 FROM file_versions WHERE before = :digest)
    AND NOT EXISTS (SELECT 1 FROM file_versions WHERE after = :digest)
"""

_PUT_TODOS: Final = """
INSERT INTO todos (session_id, body) SELECT session_id, ? FROM sessions WHERE session_id = ?
ON CONFLICT (session_id) DO UPDATE SET body = excluded.body
"""

_COPY_TODOS: Final = """
INSERT OR REPLACE INTO todos (session_id, body)
SELECT s.session_id, t.body FROM todos t JOIN sessions s ON s.session_id = ? WHERE t.session_id = ?
"""

_PUT_GRANT: Final = """
INSERT INTO grants (grant_id, session_id, body) SELECT ?, session_id, ? FROM sessions WHERE session_id = ?
ON CONFLICT (grant_id) DO UPDATE SET session_id = excluded.session_id, body = excluded.body
"""

_read_todos: Final = msgspec.json.Decoder(tuple[Todo, ...]).decode
_read_grant: Final = msgspec.json.Decoder(Grant).decode


def put_file_version(connection: Connection, op: PutFileVersion) -> None:
    """Keep a version, and let go of the session's oldest ones that are too many."""
    digests = (digest_of(op.before), digest_of(op.after))
    size_bytes = len(op.before or b"") + len(op.after or b"")
    row = (op.run_id, op.tool_call_id, op.path, *digests, size_bytes, op.at, op.session_id)
    if not connection.execute(_PUT_VERSION, row).rowcount:
        return
    for digest, content in zip(digests, (op.before, op.after), strict=True):
        if (
            content is not None
            and not connection.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone()
        ):
            connection.execute(_PUT_CONTENT, (digest, zlib.compress(content)))
    old = connection.execute(_OLD_VERSIONS, (op.session_id, MAX_VERSIONS, MAX_VERSIONS_BYTES)).fetchall()
    connection.executemany("DELETE FROM file_versions WHERE id = ?", [(version_id,) for version_id, _, _ in old])
    _drop_contents(connection, {digest for _, before, after in old for digest in (before, after)})


def put_todos(connection: Connection, op: PutTodos) -> None:
    """Replace a session's todos."""
    connection.execute(_PUT_TODOS, (msgspec.json.encode(op.todos).decode(), op.session_id))


def copy_todos(connection: Connection, *, source_id: str, session_id: str) -> None:
    """Give a session the todos of another one."""
    connection.execute(_COPY_TODOS, (session_id, source_id))


def put_grant(connection: Connection, op: PutGrant) -> None:
    """Keep a grant."""
    grant = op.grant
    connection.execute(_PUT_GRANT, (grant.grant_id, msgspec.json.encode(grant).decode(), grant.session_id))


def drop_grant(connection: Connection, grant_id: str) -> None:
    """Let go of a grant."""
    connection.execute("DELETE FROM grants WHERE grant_id = ?", (grant_id,))


def delete_kept(connection: Connection, session_id: str) -> None:
    """Delete all of this that is a session's."""
    found = connection.execute("SELECT before, after FROM file_versions WHERE session_id = ?", (session_id,)).fetchall()
    for table in ("file_versions", "todos", "grants"):
        connection.execute(f"DELETE FROM {table} WHERE session_id = ?", (session_id,))  # noqa: S608  # our own names
    _drop_contents(connection, {digest for pair in found for digest in pair})


def find_file_versions(connection: Connection, session_id: str) -> tuple[FileVersionRow, ...]:
    """The versions that a session keeps, the oldest first."""
    rows = connection.execute(
        "SELECT session_id, run_id, tool_call_id, path, before, after, at FROM file_versions"
        " WHERE session_id = ? ORDER BY id",
        (session_id,),
    )
    return tuple(
        FileVersionRow(
            session_id=of, run_id=run_id, tool_call_id=tool_call_id, path=path, before=before, after=after, at=at
        )
        for of, run_id, tool_call_id, path, before, after, at in rows
    )


def find_content(connection: Connection, digest: str) -> bytes | None:
    """What a digest stands for, or None if nothing kept has it."""
    for (data,) in connection.execute("SELECT data FROM contents WHERE digest = ?", (digest,)):
        return zlib.decompress(data)
    return None


def find_todos(connection: Connection, session_id: str) -> tuple[Todo, ...]:
    """A session's todos, in their order."""
    for (body,) in connection.execute("SELECT body FROM todos WHERE session_id = ?", (session_id,)):
        return _read_todos(body)
    return ()


def find_grants(connection: Connection, session_id: str) -> tuple[Grant, ...]:
    """A session's grants, the oldest first."""
    rows = connection.execute("SELECT body FROM grants WHERE session_id = ?", (session_id,))
    return tuple(sorted((_read_grant(body) for (body,) in rows), key=lambda grant: (grant.at, grant.grant_id)))


def find_grant(connection: Connection, grant_id: str) -> Grant | None:
    """One grant, of whichever session."""
    for (body,) in connection.execute("SELECT body FROM grants WHERE grant_id = ?", (grant_id,)):
        return _read_grant(body)
    return None


def _drop_contents(connection: Connection, digests: set[str | None]) -> None:
    connection.executemany(_DROP_CONTENT, [{"digest": digest} for digest in digests if digest is not None])
