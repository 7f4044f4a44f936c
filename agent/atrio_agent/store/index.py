"""What a state directory knows of all its workspaces, in one small database.

Two things: where each workspace is, and which workspace and session a
client-made run id belongs to. Run ids are claimed here, durably, before the
workspace commits its row; a claim whose run never came to be is void and is
taken over. Whether it is void is seen by a look into the other workspace's
database. What a run is, is not known here.

Invariant: of two workspaces that claim one id at the same time, one gets it. The
other is refused while the first one's commit is undecided.

The connection is used by worker threads only, one at a time: writers of several
workspaces claim in their own thread, everything else has a limiter of its own.
"""

import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio

from atrio_agent.clock import now
from atrio_agent.store.base import RunIdTaken, RunIndex, StoreFailed, WorkspaceRow
from atrio_agent.store.connection import (
    Connection,
    DatabaseError,
    check_files,
    connect,
    look_into,
    roll_back,
    store_failure,
)
from atrio_protocol.ids import workspace_id_of

__all__ = ["DATABASE_NAME", "RunIndex", "SqliteRunIndex", "open_run_index"]

DATABASE_NAME: Final = "atrio.db"
"""The database's name in each workspace's directory."""

CLOSE_S: Final = 2.0
"""How long closing may take where nobody has said by when it must be over."""

WAY_OUT: Final = (
    "Move it away, with {name}-wal and {name}-shm beside it: the next start makes another out of the workspaces' "
    "databases, and nothing is lost."
)
"""What to do about an index that cannot be used."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.store")

T = TypeVar("T")

_CLAIM: Final = """
INSERT INTO runs (run_id, workspace_id, session_id) VALUES (?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET workspace_id = excluded.workspace_id, session_id = excluded.session_id
"""

_REGISTER: Final = """
INSERT INTO workspaces (workspace_id, path, directory, created_at) VALUES (?, ?, ?, ?)
ON CONFLICT (workspace_id) DO UPDATE SET path = excluded.path, directory = excluded.directory
"""

_WORKSPACES: Final = "SELECT workspace_id, path, directory, created_at FROM workspaces"


class SqliteRunIndex:
    """The index of a state directory. Made by `open_run_index`. Its methods are described by `RunIndex`."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()
        self._undecided: dict[str, str] = {}
        """Run ids whose workspace has claimed them and has not decided its commit."""
        self._limiter = trio.CapacityLimiter(1)
        self._close_deadline: float | None = None

    async def register_workspace(self, workspace_id: str, path: str, directory: str) -> WorkspaceRow:
        return await self._ask(partial(self._register, workspace_id, path, directory))

    async def workspace_path(self, workspace_id: str) -> str | None:
        found = await self._ask(partial(self._workspace, workspace_id))
        return found.path if found else None

    async def workspaces(self) -> Sequence[WorkspaceRow]:
        return await self._ask(self._workspaces)

    async def find_run(self, run_id: str) -> tuple[str, str] | None:
        return await self._ask(partial(self._find_run, run_id))

    def claim(
        self, workspace_id: str, wanted: Mapping[str, str], *, private: Collection[str] = ()
    ) -> dict[str, StoreFailed]:
        try:
            with self._lock:
                taken = {run_id: why for run_id in wanted if (why := self._obstacle(workspace_id, run_id))}
                refused = {run_id: why for run_id, why in taken.items() if run_id not in private}
                free = {run_id: session_id for run_id, session_id in wanted.items() if run_id not in taken}
                if free and not refused:
                    self._commit(_CLAIM, [(run_id, workspace_id, session_id) for run_id, session_id in free.items()])
                    self._undecided |= dict.fromkeys(free, workspace_id)
                return refused
        except DatabaseError as error:
            return dict.fromkeys(wanted, self._failure(error))

    def settle(self, workspace_id: str, run_ids: Collection[str]) -> None:
        with self._lock:
            for run_id in run_ids:
                if self._undecided.get(run_id) == workspace_id:
                    del self._undecided[run_id]

    def free(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        rows = [(run_id, workspace_id, session_id) for run_id, session_id in runs.items()]
        try:
            with self._lock:
                self._commit("DELETE FROM runs WHERE run_id = ? AND workspace_id = ? AND session_id = ?", rows)
        except DatabaseError as error:
            log.warning("run ids of deleted sessions stay in the index as void", reason=str(error))

    def restore(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        if not runs:
            return
        rows = [(run_id, workspace_id, session_id) for run_id, session_id in runs.items()]
        try:
            with self._lock:
                self._commit("INSERT OR IGNORE INTO runs (run_id, workspace_id, session_id) VALUES (?, ?, ?)", rows)
        except DatabaseError as error:
            raise self._failure(error) from error

    def set_close_deadline(self, at: float) -> None:
        """Say by when (Trio's clock) closing must be over; `CLOSE_S` after its beginning if never called."""
        self._close_deadline = at

    async def aclose(self) -> None:
        """Close the database; shielded. Past the deadline it is left open: a thread may still be using it."""
        deadline = trio.current_time() + CLOSE_S if self._close_deadline is None else self._close_deadline
        with trio.CancelScope(deadline=deadline, shield=True) as last:
            await trio.to_thread.run_sync(self._close, limiter=self._limiter, abandon_on_cancel=True)
        if last.cancelled_caught:
            log.error("index not closed before its deadline", path=str(self._path))

    async def _ask(self, question: Callable[[], T]) -> T:
        def ask() -> T:
            with self._lock:
                return question()

        try:
            return await trio.to_thread.run_sync(ask, limiter=self._limiter)
        except DatabaseError as error:
            raise self._failure(error) from error

    def _failure(self, error: DatabaseError) -> StoreFailed:
        return store_failure(error, self._path, way_out=WAY_OUT)

    def _close(self) -> None:
        with self._lock:
            self._connection.close()

    def _commit(self, statement: str, rows: Sequence[tuple[str, ...]]) -> None:
        if len(rows) == 1:  # the usual case, and each statement less is a wait for the interpreter less
            self._connection.execute(statement, rows[0])
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except BaseException:
            roll_back(self._connection)
            raise

    def _register(self, workspace_id: str, path: str, directory: str) -> WorkspaceRow:
        row = self._workspace(workspace_id)
        if row is None or (row.path, row.directory) != (path, directory):  # else a full disk is no obstacle
            self._commit(_REGISTER, [(workspace_id, path, directory, now())])
            row = self._workspace(workspace_id)
        assert row is not None, "it was just written, under the lock"
        return row

    def _workspace(self, workspace_id: str) -> WorkspaceRow | None:
        rows = self._connection.execute(_WORKSPACES + " WHERE workspace_id = ?", (workspace_id,))
        return next(map(_workspace_row, rows.fetchall()), None)

    def _workspaces(self) -> list[WorkspaceRow]:
        rows = self._connection.execute(_WORKSPACES + " ORDER BY created_at, rowid")
        return list(map(_workspace_row, rows.fetchall()))

    def _find_run(self, run_id: str) -> tuple[str, str] | None:
        rows = self._connection.execute("SELECT workspace_id, session_id FROM runs WHERE run_id = ?", (run_id,))
        return rows.fetchone()

    def _obstacle(self, workspace_id: str, run_id: str) -> StoreFailed | None:
        """Why this workspace, in which there is no such run, cannot have the id."""
        if self._undecided.get(run_id, workspace_id) != workspace_id:
            return RunIdTaken(f"The run id {run_id} is in use.")
        claimed = self._find_run(run_id)
        # Also where the id says it comes from: a client's id may equal one that a server made.
        others = {claimed[0] if claimed else None, workspace_id_of(run_id)} - {None, workspace_id}
        for other in others:
            try:
                if other is not None and self._has_run(other, run_id):
                    return RunIdTaken(f"The run id {run_id} is in use.")
            except DatabaseError as error:
                return StoreFailed(f"Whether the run id {run_id} is in use cannot be seen: {error}.")
        return None

    def _has_run(self, workspace_id: str, run_id: str) -> bool:
        row = self._workspace(workspace_id)
        if row is None:
            return False
        path = self._path.parent / row.directory / DATABASE_NAME
        if not path.exists():
            return False
        with closing(look_into(path)) as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone() is None:
                return False
            return connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None


def _workspace_row(row: tuple[str, str, str, str]) -> WorkspaceRow:
    workspace_id, path, directory, created_at = row
    return WorkspaceRow(workspace_id=workspace_id, path=path, directory=directory, created_at=created_at)


def _open(path: Path, *, full_sync: bool) -> Connection:
    # Imported here, in the worker thread: it takes a sixth of a second.
    from sqlite_utils import Database  # noqa: PLC0415

    from atrio_agent.store.migrations import INDEX_STEPS, migrate  # noqa: PLC0415

    try:
        check_files(path, way_out=WAY_OUT)
        connection = connect(path, full_sync=full_sync)
        try:
            migrate(Database(connection, execute_plugins=False), INDEX_STEPS, path)
        except BaseException:
            connection.close()
            raise
    except DatabaseError as error:
        raise store_failure(error, path, way_out=WAY_OUT) from error
    except OSError as error:
        raise StoreFailed(f"{path} cannot be used: {error}.") from error
    return connection


@asynccontextmanager
async def open_run_index(path: Path, *, full_sync: bool = False) -> AsyncGenerator[SqliteRunIndex]:
    """Open the index of a state directory, and close it at the end.

    Args:
        path: The database file, in the state directory, which exists.
        full_sync: Whether each claim also survives a loss of power.

    Raises:
        StoreFailed: It cannot be opened, or is damaged. Nothing is left open.
    """
    limiter = trio.CapacityLimiter(1)
    connection = await trio.to_thread.run_sync(partial(_open, path, full_sync=full_sync), limiter=limiter)
    index = SqliteRunIndex(connection, path)
    try:
        yield index
    finally:
        await index.aclose()
