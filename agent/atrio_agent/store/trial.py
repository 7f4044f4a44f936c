"""Whether a store would work in a directory, found out by a few commits to a database that is thrown away.

It uses what the store uses, the write-ahead log, and syncs every commit. Nothing
of a real store is opened.
"""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

__all__ = ["PlaceUnusable", "commit_time_s"]

_TRIES: Final = 5


class PlaceUnusable(Exception):
    """No store works there. The sentence says why."""


def commit_time_s(file: Path) -> float:
    """How long a synced commit takes, in seconds: the median of some.

    Raises:
        PlaceUnusable: SQLite cannot keep a database there. What it made is left to who owns the directory.
    """
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            if database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise PlaceUnusable("SQLite's write-ahead log does not work here, as on a network file system")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("CREATE TABLE kept (number INTEGER)")
            took: list[float] = []
            for number in range(_TRIES):
                began = time.monotonic()
                database.execute("INSERT INTO kept VALUES (?)", (number,))
                took.append(time.monotonic() - began)
            if database.execute("SELECT count(*) FROM kept").fetchone()[0] != _TRIES:
                raise PlaceUnusable("SQLite does not find again what it has kept here")
            return sorted(took)[_TRIES // 2]
    except sqlite3.Error as exc:
        raise PlaceUnusable(f"SQLite cannot work here: {exc}") from exc
