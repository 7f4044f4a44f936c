"""A workspace's store in SQLite.

Two connections: one writes, for the writer task; one reads. Each is used in
worker threads, one at a time, never in the event loop. What a batch becomes is
in `atrio_agent.store.tables`, what a question becomes in
`atrio_agent.store.queries`.

Opening recovers, in one transaction, before anybody can read. Only the closing
deadline abandons a thread; a database with an abandoned thread is not closed.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import structlog
import trio

from atrio_agent.clock import now
from atrio_agent.measures import UNMEASURED, Measures
from atrio_agent.store.base import (
    Commit,
    FileVersionRow,
    Loaded,
    MessagePage,
    Op,
    RunIndex,
    RunPage,
    SessionPage,
    StoreClosed,
    StoreFailed,
)
from atrio_agent.store.connection import (
    BEGIN_ANEW,
    Connection,
    DatabaseError,
    check_files,
    connect,
    is_damage,
    look_into,
    look_only,
    roll_back,
    store_failure,
)
from atrio_agent.store.paging import read_cursor
from atrio_agent.store.recovery import repair
from atrio_agent.store.tables import Tables
from atrio_agent.store.writer import Call, Tell, Writer, open_writer
from atrio_protocol.ids import new_id
from atrio_protocol.things import Grant, Message, Run, Todo

if TYPE_CHECKING:
    from atrio_agent.store.queries import Queries

__all__ = ["SqliteStore", "open_sqlite_store"]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.store")

T = TypeVar("T")


class _Opened(NamedTuple):
    """A database that was opened, migrated and recovered."""

    write_connection: Connection
    read_connection: Connection
    tables: Tables
    queries: "Queries"


class _Database:
    """The two connections and their threads; the writer's backend."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self._opened: _Opened
        self._closed = False

    async def open(self, *, index: RunIndex, workspace_id: str, full_sync: bool) -> None:
        """Open, migrate and recover.

        Raises:
            StoreFailed: It could not be done. Nothing was changed, but for migrations, and nothing is left open.
        """
        owner = {"workspace_id": workspace_id}
        if (workspace_path := await index.workspace_path(workspace_id)) is not None:
            owner["workspace_path"] = workspace_path
        self._opened = await trio.to_thread.run_sync(
            partial(_open, self._path, owner=owner, index=index, full_sync=full_sync), limiter=self._writing
        )

    async def apply(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        apply = self._opened.tables.apply
        # Nothing but the closing deadline cancels the writer, so nothing else abandons the thread.
        return await trio.to_thread.run_sync(apply, calls, limiter=self._writing, abandon_on_cancel=True)

    async def aclose(self) -> None:
        self._closed = True
        close = self._opened.read_connection.close
        await trio.to_thread.run_sync(close, limiter=self._reading, abandon_on_cancel=True)
        await trio.to_thread.run_sync(self._close, limiter=self._writing, abandon_on_cancel=True)

    async def ask(self, question: "Callable[[Queries], T]") -> T:
        """Ask a question of what is committed.

        Raises:
            StoreClosed: It is being closed.
            StoreFailed: It could not be read.
        """
        return await trio.to_thread.run_sync(self._ask, question, limiter=self._reading)

    def _ask(self, question: "Callable[[Queries], T]") -> T:
        connection = self._opened.read_connection
        if self._closed:
            raise StoreClosed("The store is closed.")
        with _failures_of(self._path):
            try:
                connection.execute("BEGIN")
                return question(self._opened.queries)
            finally:
                roll_back(connection)

    def _close(self) -> None:
        connection = self._opened.write_connection
        try:
            connection.execute("UPDATE meta SET value = 'yes' WHERE key = 'closed'")
        except DatabaseError as error:
            log.warning("database not marked as closed", path=str(self._path), reason=str(error))
        finally:
            connection.close()


@contextmanager
def _failures_of(path: Path) -> Generator[None]:
    """Turn what this database does wrong into `StoreFailed`."""
    try:
        yield
    except DatabaseError as error:
        raise store_failure(error, path) from error
    except msgspec.DecodeError as error:
        way_out = BEGIN_ANEW.format(name=path.name)
        raise StoreFailed(f"{path} has a row that cannot be read: {error}. {way_out}") from error
    except OSError as error:
        raise StoreFailed(f"{path} cannot be used: {error}.") from error


def _open(path: Path, *, owner: Mapping[str, str], index: RunIndex, full_sync: bool) -> _Opened:
    # Imported here, in the worker thread: sqlite-utils takes a sixth of a second.
    from sqlite_utils import Database  # noqa: PLC0415

    from atrio_agent.store.migrations import WORKSPACE_STEPS, migrate  # noqa: PLC0415
    from atrio_agent.store.queries import Queries  # noqa: PLC0415

    with _failures_of(path), ExitStack() as undo:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_files(path)
        _check_owner_of_log(path, owner["workspace_id"])
        writing = connect(path, full_sync=full_sync)
        undo.callback(writing.close)
        migrate(Database(writing, execute_plugins=False), WORKSPACE_STEPS, path)

        writing.execute("BEGIN IMMEDIATE")
        undo.callback(roll_back, writing)
        meta: dict[str, str] = dict(writing.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("workspace_id", owner["workspace_id"]) != owner["workspace_id"]:
            raise StoreFailed(f"{path} belongs to another workspace ({meta.get('workspace_path')}).")
        generation = int(meta.get("generation", 0)) + 1
        tables = Tables(
            writing,
            path=path,
            workspace_id=owner["workspace_id"],
            generation=generation,
            index=index,
            batch=int(meta.get("batch", 0)),
        )
        _recover(Queries(writing, generation=generation), tables, owner["workspace_id"])
        if meta.get("closed") == "no":
            index.restore(owner["workspace_id"], Queries(writing, generation=generation).client_made_runs())
        meta |= {**owner, "generation": str(generation), "closed": "no"}
        writing.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", meta.items())
        writing.execute("COMMIT")

        reading = look_into(path)
        undo.pop_all()
    return _Opened(writing, reading, tables, Queries(reading, generation=generation))


def _check_owner_of_log(path: Path, workspace_id: str) -> None:
    """Refuse the log of another workspace's database before it becomes a part of this one.

    Raises:
        StoreFailed: It is another's. Nothing was changed.
    """
    log_of = path.with_name(f"{path.name}-wal")
    if not log_of.is_file() or not log_of.stat().st_size:
        return
    with closing(look_only(path)) as connection:
        try:
            found = connection.execute("SELECT value FROM meta WHERE key = 'workspace_id'").fetchone()
        except DatabaseError as error:
            if is_damage(error):
                raise
            return  # not made to its end; or it does not say, and then the opening does
    if found is not None and found[0] != workspace_id:
        raise StoreFailed(
            f"{log_of} or {path} belongs to another workspace. Put the right ones back; or move the log away, and what "
            "was stored there last is lost."
        )


def _recover(queries: "Queries", tables: Tables, workspace_id: str) -> None:
    """Repair what is unfinished, in the caller's transaction."""
    time = now()
    for wreck in queries.wrecks():
        tables.repair(repair(wreck, new_message_id=partial(new_id, workspace_id, "m"), now=time))
    tables.forget_deleted()


class SqliteStore:
    """One workspace's store. Made by `open_sqlite_store`. Its methods are described by `Store`."""

    def __init__(self, database: _Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def write_soon(self, *ops: Op) -> Commit:
        return self._writer.write_soon(ops)

    def write_later(self, *ops: Op) -> None:
        self._writer.write_later(ops)

    @property
    def is_behind(self) -> bool:
        return self._writer.is_behind

    def set_close_deadline(self, at: float) -> None:
        self._writer.set_close_deadline(at)

    async def load(self, session_id: str) -> Loaded | None:
        return await self._database.ask(lambda queries: queries.load(session_id))

    async def sessions(self, *, query: str | None, limit: int, cursor: str | None, children: bool) -> SessionPage:
        after = None if cursor is None else read_cursor(cursor)
        return await self._database.ask(
            lambda queries: queries.sessions(query=query, limit=limit, after=after, children=children)
        )

    async def messages(self, session_id: str, *, before: int | None, limit: int, max_bytes: int) -> MessagePage:
        return await self._database.ask(
            lambda queries: queries.messages(session_id, before=before, limit=limit, max_bytes=max_bytes)
        )

    async def message(self, message_id: str) -> Message | None:
        return await self._database.ask(lambda queries: queries.message(message_id))

    async def history(self, session_id: str) -> tuple[Message, ...]:
        return await self._database.ask(lambda queries: queries.history(session_id))

    async def run(self, run_id: str) -> Run | None:
        return await self._database.ask(lambda queries: queries.run(run_id))

    async def runs(self, session_id: str, *, before: int | None, limit: int) -> RunPage:
        return await self._database.ask(lambda queries: queries.runs(session_id, before=before, limit=limit))

    async def descendants(self, session_id: str) -> Sequence[str]:
        return await self._database.ask(lambda queries: queries.descendants(session_id))

    async def file_versions(self, session_id: str) -> tuple[FileVersionRow, ...]:
        return await self._database.ask(lambda queries: queries.file_versions(session_id))

    async def file_content(self, digest: str) -> bytes | None:
        return await self._database.ask(lambda queries: queries.file_content(digest))

    async def todos(self, session_id: str) -> tuple[Todo, ...]:
        return await self._database.ask(lambda queries: queries.todos(session_id))

    async def grants(self, session_id: str) -> tuple[Grant, ...]:
        return await self._database.ask(lambda queries: queries.grants(session_id))

    async def grant(self, grant_id: str) -> Grant | None:
        return await self._database.ask(lambda queries: queries.grant(grant_id))


@asynccontextmanager
async def open_sqlite_store(
    path: Path,
    *,
    index: RunIndex,
    workspace_id: str,
    full_sync: bool = False,
    measures: Measures = UNMEASURED,
    tell: Tell = lambda _why: None,
) -> AsyncGenerator[SqliteStore]:
    """Open a workspace's store, recovered, and close it at the end: drained, shielded, within its deadline.

    Args:
        path: The database file; it and its directory are made if they are not there.
        index: Where client-made run ids are claimed; it outlives the store.
        workspace_id: Whose store it is.
        full_sync: Whether each commit also survives a loss of power.
        measures: Told how long each commit took.
        tell: Told why what nobody waits for is only in memory, and (None) when it is stored after all.

    Raises:
        StoreFailed: It cannot be opened, is damaged, or belongs to another
            workspace. Nothing is left open.
    """
    database = _Database(path)
    await database.open(index=index, workspace_id=workspace_id, full_sync=full_sync)
    async with open_writer(database, measures=measures, tell=tell) as writer:
        yield SqliteStore(database, writer)
