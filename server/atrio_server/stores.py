"""Where the state directory keeps its databases: the index of all, and one for each workspace.

Their files are made here, before SQLite would make them in its own way, and
opened; what is in them is not known here. Invariant: a file under a database's
name is a database, and for its owner's eyes only.
"""

import os
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import trio

from atrio_agent.store.base import Store
from atrio_agent.store.connection import DatabaseError, make_database, store_failure
from atrio_agent.store.index import DATABASE_NAME, SqliteRunIndex, open_run_index
from atrio_agent.store.rebuilding import rebuild_index
from atrio_agent.store.sqlite import open_sqlite_store
from atrio_server.figures import Figures
from atrio_server.statedir import make_state_dir, open_private
from atrio_server.workspace import Workspace

__all__ = ["OPENERS", "open_index", "open_store"]

INDEX_FILE: Final = "index.db"
INCOMPLETE_FILE: Final = "index.db.incomplete"
"""Is there as long as an index is made again, and afterwards where that did not come to its end."""

WORKSPACES: Final = "workspaces"
OUTPUT_DIRECTORY: Final = "output"

OPENERS: Final = 4
"""Workspaces whose directories are prepared at a time."""

log = structlog.get_logger("atrio.service")


@asynccontextmanager
async def open_store(
    state_dir: Path, index: SqliteRunIndex, opening: trio.CapacityLimiter, figures: Figures, workspace: Workspace
) -> AsyncGenerator[Store]:
    """Open a workspace's database, in a directory that a person can recognise."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", workspace.path.name)[:40] or "root"
    directory = Path(WORKSPACES) / f"{name}-{workspace.workspace_id[1:]}"
    row = await index.register_workspace(workspace.workspace_id, str(workspace.path), str(directory))
    workspace.created_at = row.created_at
    home = state_dir / row.directory
    workspace.output_dir = home.resolve() / OUTPUT_DIRECTORY
    database = await trio.to_thread.run_sync(_prepare_home, home, limiter=opening)
    async with open_sqlite_store(
        database, index=index, workspace_id=workspace.workspace_id, measures=figures, tell=workspace.note_kept
    ) as store:
        yield store


@asynccontextmanager
async def open_index(state_dir: Path) -> AsyncGenerator[SqliteRunIndex]:
    """Open the index; one that is not there is made out of the workspaces' databases."""
    path, incomplete = state_dir / INDEX_FILE, state_dir / INCOMPLETE_FILE
    homes = _homes_without(path, incomplete)
    if homes:
        os.close(open_private(incomplete, os.O_WRONLY | os.O_CREAT))
    async with open_run_index(_private_database(path)) as index:
        if homes and (count := await rebuild_index(index, state_dir, homes)):
            log.warning("the index was made again out of the workspaces' databases", workspaces=count)
        incomplete.unlink(missing_ok=True)
        yield index


def _homes_without(index: Path, incomplete: Path) -> list[Path]:
    """The workspaces' directories, if there is no whole index of them. Before anybody is served, so in no thread."""
    if os.path.lexists(index) and not os.path.lexists(incomplete):
        return []
    return sorted(database.parent for database in index.parent.glob(f"{WORKSPACES}/*/{DATABASE_NAME}"))


def _prepare_home(home: Path) -> Path:
    """Make a workspace's directory and database file, if need be. Runs in a worker thread."""
    make_state_dir(home.parent)  # by itself: what is missing is made, but a link on the way would be followed
    make_state_dir(home)
    return _private_database(home / DATABASE_NAME)


def _private_database(path: Path) -> Path:
    """Have a database that only its owner may read before SQLite makes one that others may, under any umask.

    It appears under its name when it is one: an empty file is a database that somebody has lost.
    """
    if os.path.lexists(path):
        os.close(open_private(path, os.O_RDWR))
        return path
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)  # of a maker that was killed: whoever holds the state directory makes it alone
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        os.close(open_private(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        make_database(draft)
        draft.rename(path)
    except DatabaseError as exc:
        raise store_failure(exc, path) from exc
    finally:
        for left in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm")):
            left.unlink(missing_ok=True)
    return path
