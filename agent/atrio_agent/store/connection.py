"""SQLite connections, and what their failures mean.

The one place that opens a database file and that reads SQLite's error codes.
Every failure becomes a `StoreFailed` with a sentence for people; whether it
concerns one statement or everything that was about to be written is decided
here too. Nothing here starts a thread or knows a table.

Invariant: a connection is used by one thread at a time, never by the event
loop's; whoever holds it sees to that.
"""

import sqlite3
from pathlib import Path
from typing import Any, Final

from atrio_agent.store.base import StoreFailed

__all__ = ["Connection", "DatabaseError", "connect", "look_into", "roll_back", "spoils_everything", "store_failure"]

Connection = sqlite3.Connection
DatabaseError = sqlite3.Error

BUSY_S: Final = 2.0
"""How long to wait for another process that has locked the file."""

_THE_CALLS_OWN: Final = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}

_SENTENCES: Final = {
    sqlite3.SQLITE_FULL: "The disk is full: {path} cannot grow. Make room; it goes on by itself.",
    sqlite3.SQLITE_IOERR: "The disk failed or is full while {path} was in use. It goes on when the disk does.",
    sqlite3.SQLITE_BUSY: "Another process has locked {path}. End it, or wait.",
    sqlite3.SQLITE_LOCKED: "{path} is locked. Try again.",
    sqlite3.SQLITE_READONLY: "{path} may not be written to. Check its permissions and those of its directory.",
    sqlite3.SQLITE_PERM: "{path} may not be opened. Check its permissions.",
    sqlite3.SQLITE_CANTOPEN: "{path} cannot be opened. Check that its directory exists and may be written to.",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged. Put a copy of it back, or move it away to begin anew without it.",
    sqlite3.SQLITE_NOTADB: "{path} is not a database. Put a copy of it back, or move it away to begin anew without it.",
}


def connect(path: Path, *, full_sync: bool = False) -> Connection:
    """Open a database for reading and writing, in WAL mode; make it if it is not there.

    Args:
        path: The database file. Its directory exists.
        full_sync: Whether each commit also survives a loss of power.

    Raises:
        DatabaseError: It cannot be opened, or is no database. Nothing is left open.
    """
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
    except BaseException:
        connection.close()
        raise
    return connection


def look_into(path: Path) -> Connection:
    """Open a database that is there, for reading only.

    Raises:
        DatabaseError: It cannot be opened. Nothing was made and nothing is left open.
    """
    # Not ``mode=ro``: after a crash somebody has to read the write-ahead log back, and that writes.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def roll_back(connection: Connection) -> None:
    """Leave the transaction, if there still is one; never raises a `DatabaseError`."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except DatabaseError:
        # SQLite has then left it itself, or the next BEGIN fails and says why.
        pass


def _primary_code(error: DatabaseError) -> int | None:
    code: Any = getattr(error, "sqlite_errorcode", None)  # absent where sqlite3 itself refused
    return code & 0xFF if isinstance(code, int) else None


def spoils_everything(error: DatabaseError) -> bool:
    """Whether it is about the database as a whole, not about the one statement that met it."""
    code = _primary_code(error)
    return code is not None and code not in _THE_CALLS_OWN


def store_failure(error: DatabaseError, path: Path) -> StoreFailed:
    """Say for people what went wrong with this database, without a word of what is in it."""
    code = _primary_code(error)
    if code is None and not isinstance(error, sqlite3.ProgrammingError):
        return StoreFailed(f"{path} has a row that cannot be read. Put a copy of it back.")
    sentence = _SENTENCES.get(code or 0)
    return StoreFailed(sentence.format(path=path) if sentence else f"{path} cannot be used: {error}")
