"""SQLite connections, and what their failures mean.

The one place that opens a database file and that reads SQLite's error codes.
Every failure becomes a `StoreFailed` with a sentence for people; whether it
concerns one statement or everything that was about to be written is decided
here too. Nothing here starts a thread or knows a table.

Invariant: a connection is used by one thread at a time, never by the event
loop's; whoever holds it sees to that.
"""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from atrio_agent.store.base import StoreFailed

__all__ = [
    "BEGIN_ANEW",
    "Connection",
    "DatabaseError",
    "check_files",
    "connect",
    "is_damage",
    "look_into",
    "look_only",
    "make_database",
    "roll_back",
    "spoils_everything",
    "store_failure",
]

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
    sqlite3.SQLITE_CORRUPT: "{path} is damaged. {way_out}",
    sqlite3.SQLITE_NOTADB: "{path} is not a database. {way_out}",
}

BEGIN_ANEW: Final = (
    "Put a copy of it back (and delete {name}-wal and {name}-shm beside it), or move it away with them: the workspace "
    "then begins anew, without its sessions. Its files and the other workspaces have nothing to do with it."
)
"""What to do about a workspace's database that cannot be used."""

_LOG_MAGIC: Final = {b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"}
_LOG_HEAD_BYTES: Final = 32


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
        # Else storing fails where a scratch file cannot be opened, or the disk that those are on is full.
        connection.execute("PRAGMA temp_store = MEMORY")
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


def look_only(path: Path) -> Connection:
    """Open a database that is there so that closing it changes nothing, not even by merging its log into it.

    Raises:
        DatabaseError: It cannot be opened. Nothing is left open.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


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


def is_damage(error: DatabaseError) -> bool:
    """Whether the file is not what it should be."""
    return _primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def spoils_everything(error: DatabaseError) -> bool:
    """Whether it is about the database as a whole, not about the one statement that met it."""
    code = _primary_code(error)
    return code is not None and code not in _THE_CALLS_OWN


def store_failure(error: DatabaseError, path: Path, *, way_out: str = BEGIN_ANEW) -> StoreFailed:
    """Say for people what went wrong with this database, without a word of what is in it.

    ``way_out`` is what to do if it is damaged; ``{name}`` in it is the file's.
    """
    code = _primary_code(error)
    way_out = way_out.format(name=path.name)
    if code is None and not isinstance(error, sqlite3.ProgrammingError):
        return StoreFailed(f"{path} has a row that cannot be read. {way_out}")
    if code == sqlite3.SQLITE_CANTOPEN and _no_file_can_be_opened():
        return StoreFailed(f"{path} cannot be opened: the server has too many open files. Try again in a moment.")
    sentence = _SENTENCES.get(code or 0)
    return StoreFailed(sentence.format(path=path, way_out=way_out) if sentence else f"{path} cannot be used: {error}")


def _no_file_can_be_opened() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno in {errno.EMFILE, errno.ENFILE}
    return False


def make_database(path: Path) -> None:
    """Make an empty database in a file that is there and empty; a database of ours never is an empty file.

    Raises:
        DatabaseError: It could not be made.
    """
    connect(path).close()


def check_files(path: Path, *, way_out: str = BEGIN_ANEW) -> None:
    """Look at a database's file and its log from outside, before SQLite takes one for the other.

    SQLite begins anew in an empty file, and passes over a log that it cannot
    read: both would lose what was stored, and say nothing.

    Raises:
        StoreFailed: They cannot be what was left here. Nothing was changed.
        OSError: They cannot be looked at.
    """
    if path.is_file() and not path.stat().st_size:
        raise StoreFailed(f"{path} is empty, and was not left so. {way_out.format(name=path.name)}")
    log = path.with_name(f"{path.name}-wal")
    if not log.is_file():
        return
    with log.open("rb") as file:
        head = file.read(_LOG_HEAD_BYTES)
    # Zeros are what a loss of power leaves of one that was just begun.
    if len(head) == _LOG_HEAD_BYTES and any(head) and head[:4] not in _LOG_MAGIC:
        raise StoreFailed(
            f"{log} is damaged, or not the log of {path}. Put the right one back; or move it away, and what was stored "
            "there last is lost."
        )
