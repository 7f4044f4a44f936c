"""What only a real database can do: fail, be damaged, be locked, hang, and be killed."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

import store_victim
from atrio_agent.store import connection
from atrio_agent.store.base import AcceptRun, StoreClosed, StoreFailed
from atrio_agent.store.index import DATABASE_NAME, open_run_index
from atrio_agent.store.migrations import WORKSPACE_STEPS, migrate
from atrio_agent.store.queries import Queries
from atrio_agent.store.sqlite import open_sqlite_store
from atrio_agent.store.tables import Tables
from atrio_agent.store.writer import COLLECT_S, Call
from atrio_protocol.ids import workspace_id_for
from atrio_protocol.parts import ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from store_rig import SqliteState, end_of_process
from store_samples import accept, append, complete, finish, message, put, put_session, stored, text_of, texts

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def no_room_for(path: Path, more_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond this one's size and a little; writing fails as on a bad disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log_of(state: SqliteState) -> Path:
    return state.path().with_name(f"{DATABASE_NAME}-wal")


async def test_a_disk_without_room_refuses_and_goes_on_when_there_is_room(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put("m1"), accept("r0", accept_seq=0)).wait()
        with no_room_for(log_of(sqlite_state), 0):
            for number in range(1, 4):
                store.write_later(append("m1", "kept "))
                with pytest.raises(StoreFailed, match=DATABASE_NAME):
                    await store.write_soon(accept(f"r{number}", accept_seq=number)).wait()
            # What is there can be read meanwhile.
            assert await store.run("r0") is not None
            assert await store.run("r1") is None

        await store.write_soon(accept("r4", accept_seq=4)).wait()

        assert await texts(store) == ["kept kept kept "]
        assert [run.run_id for run in (await store.runs("s1", before=None, limit=10)).runs] == ["r4", "r0"]
    async with await sqlite_state.open() as store:
        assert await store.run("r4") is not None


async def test_an_index_without_room_refuses_only_what_needs_it(sqlite_state: SqliteState) -> None:
    log = sqlite_state.directory / "index.db-wal"
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put_session("s2"), accept("r0", client_made=True)).wait()
        for number in range(200):  # make the index's log the longer one
            await sqlite_state.index.register_workspace(workspace_id_for(str(number)), "/x" * 200, "x")
        with no_room_for(log, 0):
            claimed = store.write_soon(accept("r1", client_made=True))
            other = store.write_soon(accept("r2", accept_seq=2))
            with pytest.raises(StoreFailed, match=r"index\.db"):
                await claimed.wait()
            await other.wait()

        await store.write_soon(accept("r1", accept_seq=3, client_made=True)).wait()


async def test_a_store_that_is_closed_says_so_and_not_what_its_database_says(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1")).wait()
    with pytest.raises(StoreClosed, match="closed"):
        await store.load("s1")
    with pytest.raises(StoreClosed, match="closed"):
        await store.write_soon(put_session("s1")).wait()


async def test_another_process_that_locks_the_file_is_waited_for_and_then_named(
    sqlite_state: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_S", 0.02)
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1")).wait()
        with closing(sqlite3.connect(sqlite_state.path(), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFailed, match="locked"):
                await store.write_soon(accept("r1")).wait()
            other.execute("ROLLBACK")
        await store.write_soon(accept("r1")).wait()


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to look like one" * 100, b"SQLite format 3\0" + b"\xff" * 8192]
)
async def test_a_damaged_file_is_named_with_what_to_do(sqlite_state: SqliteState, content: bytes) -> None:
    path = sqlite_state.path()
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(StoreFailed, match=r"atrio\.db is .*move it away") as caught:
        async with await sqlite_state.open():
            pass

    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


async def test_a_damaged_page_is_a_failure_of_what_reads_it(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        messages = [put(f"m{n}", "x" * 4000, order=n, finish=finish()) for n in range(200)]
        await store.write_soon(put_session("s1"), *messages).wait()
    data = bytearray(sqlite_state.path().read_bytes())
    middle = data.find(b"x" * 3000, len(data) // 2) // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    sqlite_state.path().write_bytes(data)

    async with await sqlite_state.open() as store:
        with pytest.raises(StoreFailed, match=DATABASE_NAME) as caught:
            await stored(store)
        assert "xxx" not in str(caught.value)
        assert await store.load("s1") is not None


async def test_a_row_that_cannot_be_read_is_a_failure(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put("m1")).wait()
        with closing(sqlite3.connect(sqlite_state.path(), isolation_level=None)) as other:
            other.execute('UPDATE messages SET body = \'{"no": "message"}\'')

        with pytest.raises(StoreFailed, match="cannot be read"):
            await store.message("m1")


async def test_a_directory_that_cannot_be_made_is_a_failure(sqlite_state: SqliteState) -> None:
    sqlite_state.path().parent.write_text("a file where the directory should be")

    with pytest.raises(StoreFailed, match="one"):
        async with await sqlite_state.open():
            pass


async def test_an_index_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"no database" * 1000)

    with pytest.raises(StoreFailed, match=r"index\.db is not a database"):
        async with open_run_index(path):
            pass


async def test_a_database_of_another_workspace_is_refused(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open("one"):
        pass

    with pytest.raises(StoreFailed, match="another workspace"):
        async with open_sqlite_store(
            sqlite_state.path("one"), index=sqlite_state.index, workspace_id=workspace_id_for("two")
        ):
            pass


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open():
        pass
    with closing(sqlite3.connect(sqlite_state.path(), isolation_level=None)) as other:
        other.execute("UPDATE _sqlite_migrations SET name = '9999_later' WHERE name = '0001_first'")

    with pytest.raises(StoreFailed, match="newer version"):
        async with await sqlite_state.open():
            pass


async def test_text_of_a_thousand_deltas_is_exact_and_takes_few_commits(
    sqlite_state: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    apply = Tables.apply

    def counted(self: Tables, calls: Sequence[Call]) -> list[StoreFailed | None]:
        batches.append(len(calls))
        return apply(self, calls)

    monkeypatch.setattr(Tables, "apply", counted)
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put("m1")).wait()
        began = trio.current_time()
        for number in range(1_000):
            store.write_later(append("m1", f"{number} "))
            await trio.lowlevel.checkpoint()
        await store.write_soon(put_session("s1", rev=2)).wait()
        took_s = trio.current_time() - began

        assert text_of(await store.message("m1")) == "".join(f"{number} " for number in range(1_000))

    assert len(batches) <= 5 + took_s / COLLECT_S


async def test_a_store_that_hangs_is_given_up_at_its_deadline_and_left_open(sqlite_state: SqliteState) -> None:
    lock = sqlite_state.index._lock
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1")).wait()
        lock.acquire()
        hanging = store.write_soon(accept("r1", client_made=True))
        while not store._database._writing.borrowed_tokens:  # its thread begins in any case from here on
            await trio.lowlevel.checkpoint()
        store.set_close_deadline(trio.current_time() + 0.1)
    assert hanging.settled
    with pytest.raises(StoreFailed, match="deadline"):
        await hanging.wait()
    lock.release()

    # The thread comes back and commits; nobody was told so, and the next opening recovers it.
    async with store._database._writing:
        pass
    end_of_process(store)
    async with await sqlite_state.open() as again:
        found = await again.run("r1")
    assert found is not None
    assert found.stop_reason == "interrupted"


async def test_an_opening_that_was_given_up_writes_no_more_once_there_is_another(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as old:
        await old.write_soon(put_session("s1")).wait()
        async with await sqlite_state.open() as new:
            late = old.write_soon(accept("r1"))
            await new.write_soon(accept("r2")).wait()

            with pytest.raises(StoreFailed, match="opened again"):
                await late.wait()
            assert await new.run("r1") is None


async def test_a_cancelled_reader_leaves_the_store_readable(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), *(put(f"m{n}", "x" * 1000, order=n) for n in range(500))).wait()
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stored, store)
                nursery.start_soon(store.load, "s1")
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert len(await stored(store)) == 500


async def test_a_reader_never_sees_a_message_between_two_states(
    sqlite_state: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put("m1", "old"), append("m1", " and new")).wait()
        appended = Queries._appended
        whole = msgspec.json.encode(message("m1", "old and new")).decode()

        def put_in_between(self: Queries, *which: Any) -> Any:
            # The row of the message is read already; now it is put whole, and what was appended goes.
            with closing(sqlite3.connect(sqlite_state.path())) as other, other:
                other.execute("UPDATE messages SET body = ?", (whole,))
                other.execute("DELETE FROM appended")
            return appended(self, *which)

        monkeypatch.setattr(Queries, "_appended", put_in_between)

        assert text_of(await store.message("m1")) == "old and new"
        assert text_of(await store.message("m1")) == "old and new"


async def test_a_cancelled_task_loses_no_write(sqlite_state: SqliteState) -> None:
    with trio.CancelScope() as workspace:
        async with await sqlite_state.open() as store:
            await store.write_soon(put_session("s1"), put("m1")).wait()
            commit = store.write_soon(accept("r1"))
            store.write_later(append("m1", "last words"))
            workspace.cancel()
            await commit.wait()

    assert workspace.cancelled_caught
    async with await sqlite_state.open() as store:
        assert await store.run("r1") is not None
        assert text_of(await store.message("m1")) == "last words"


async def test_after_closing_nothing_can_be_read_or_written(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        pass

    with pytest.raises(StoreFailed):
        await store.load("s1")
    with pytest.raises(StoreFailed):
        await store.write_soon(put_session("s1")).wait()


async def test_every_commit_may_be_made_to_survive_a_loss_of_power(tmp_path: Path, bounded: None) -> None:
    async with (
        open_run_index(tmp_path / "index.db", full_sync=True) as index,
        open_sqlite_store(
            tmp_path / DATABASE_NAME, index=index, workspace_id=workspace_id_for("x"), full_sync=True
        ) as store,
    ):
        await store.write_soon(put_session("s1"), accept("r1", client_made=True)).wait()
        writing = store._database._opened.write_connection
        assert writing.execute("PRAGMA synchronous").fetchone() == (2,)


def victim(directory: Path, what: str) -> list[str]:
    return [sys.executable, store_victim.__file__, str(directory), what]


def check_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.execute("INSERT INTO texts_fts (texts_fts) VALUES ('integrity-check')")


def open_runs(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT run_id FROM runs WHERE state != 'completed' ORDER BY run_id").fetchall()


async def acknowledged_before_a_kill(directory: Path, count: int) -> list[str]:
    """Let a process write until it has acknowledged so many runs, then kill it; returns all that it acknowledged."""
    said = b""
    start = partial(trio.run_process, victim(directory, "write"), stdout=subprocess.PIPE, check=False, env=ENVIRONMENT)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        async with process.stdout:
            async for chunk in process.stdout:
                said += chunk
                if said.count(b"\n") >= count:
                    process.kill()
    return said.decode().split("\n")[:-1]


@pytest.mark.parametrize("count", [1, 40, 300])
async def test_a_process_that_is_killed_while_it_writes_loses_nothing_acknowledged(
    tmp_path: Path, bounded: None, count: int
) -> None:
    acknowledged = await acknowledged_before_a_kill(tmp_path, count)
    assert len(acknowledged) >= count

    async with (
        open_run_index(tmp_path / "index.db") as index,
        open_sqlite_store(tmp_path / DATABASE_NAME, index=index, workspace_id=store_victim.WORKSPACE_ID) as store,
    ):
        for run_id in acknowledged:
            run = await store.run(run_id)
            assert run is not None
            assert run.state == "completed"
            assert run.stop_reason in {"interrupted", "end_turn"}
        for session_id in {run_id.split("-")[0] for run_id in acknowledged}:
            loaded = await store.load(session_id)
            assert loaded is not None
            messages = await stored(store, session_id)
            assert loaded.row.message_count == len(messages)
            assert len({found.order for found in messages}) == len(messages)
            results = {
                part.tool_call_id for found in messages for part in found.parts if isinstance(part, ToolResultPart)
            }
            for found in messages:
                assert found.role != "assistant" or found.finish is not UNSET
                for part in found.parts:
                    assert not isinstance(part, ToolCallPart) or part.tool_call_id in results
        await store.write_soon(put_session("next"), accept("next", "next", client_made=True)).wait()
    check_tables(tmp_path / DATABASE_NAME)


async def test_a_recovery_that_is_killed_leaves_everything_as_it_was(tmp_path: Path, bounded: None) -> None:
    await acknowledged_before_a_kill(tmp_path, 60)
    path = tmp_path / DATABASE_NAME
    before = open_runs(path)
    assert len(before) > 3

    ended = await trio.run_process(victim(tmp_path, "recover"), env=ENVIRONMENT, check=False, capture_stdout=True)

    assert ended.returncode == -signal.SIGKILL
    assert open_runs(path) == before
    async with (
        open_run_index(tmp_path / "index.db") as index,
        open_sqlite_store(path, index=index, workspace_id=store_victim.WORKSPACE_ID),
    ):
        assert open_runs(path) == []
    check_tables(path)


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    steps = Migrations("test")

    @steps(name="0001")
    def _good(database: Database) -> None:
        database.table("good").create({"id": int, "text": str}, pk="id", strict=True)

    @steps(name="0002")
    def _bad(database: Database) -> None:
        database.table("good").enable_fts(["text"], create_triggers=True)
        database.table("bad").create({"id": int}, strict=True)
        raise sqlite3.OperationalError("disk I/O error")

    with closing(connection.connect(tmp_path / "x.db")) as opened:
        database = Database(opened, execute_plugins=False)
        with pytest.raises(sqlite3.OperationalError):
            migrate(database, steps, tmp_path)

        assert set(database.table_names()) == {"_sqlite_migrations", "good"}
        assert not opened.in_transaction


def test_every_table_is_strict(tmp_path: Path) -> None:
    with closing(connection.connect(tmp_path / "x.db")) as opened:
        database = Database(opened, execute_plugins=False)
        migrate(database, WORKSPACE_STEPS, tmp_path)
        ours = {"appended", "deleted", "messages", "meta", "runs", "sessions", "texts"}

        assert {table.name for table in database.tables if table.strict} >= ours


def test_the_library_that_takes_long_to_import_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, atrio_agent.store.sqlite, atrio_agent.store.index; print('sqlite_utils' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=True)

    assert ended.stdout.split() == [b"False"]


async def test_an_accept_is_one_row_with_what_was_given(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        op: AcceptRun = accept("r1", client_made=True)
        await store.write_soon(put_session("s1"), op).wait()

        assert await store.run("r1") == op.run
        await store.write_soon(complete("r1")).wait()
