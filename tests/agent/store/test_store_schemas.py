"""A database of an earlier schema is taken over with every row."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from sqlite_utils import Database

from atrio_agent.store.base import PutFileVersion
from atrio_agent.store.connection import connect
from atrio_agent.store.migrations import WORKSPACE_STEPS, migrate
from atrio_protocol.parts import ReasoningPart
from store_rig import SqliteState
from store_samples import MAX_BYTES, TIME, text_of, texts

TABLES = ("sessions", "messages", "appended", "runs", "texts", "deleted", "meta")

SCHEMAS = {"first": "first_schema.sql"}


@pytest.fixture(params=SCHEMAS.values(), ids=list(SCHEMAS))
def earlier(request: pytest.FixtureRequest, sqlite_state: SqliteState) -> Path:
    """A workspace's database as an earlier version left it."""
    path = sqlite_state.path()
    path.parent.mkdir()
    dump = Path(__file__).with_name(request.param).read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as database:
        database.executescript(dump)
    return path


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(path)) as database:
        found = Database(database, execute_plugins=False)
        return {
            table: cast("list[dict[str, Any]]", list(found.query(f"SELECT * FROM {table} ORDER BY rowid")))
            for table in TABLES
        }


async def test_every_row_and_column_is_kept_by_the_migration(earlier: Path) -> None:
    before = rows_of(earlier)
    assert all(before.values())
    with closing(connect(earlier)) as database:
        migrate(Database(database, execute_plugins=False), WORKSPACE_STEPS, earlier)
    after = rows_of(earlier)
    for table, rows in before.items():
        assert [{column: row[column] for column in old} for old, row in zip(rows, after[table], strict=True)] == rows


async def test_what_was_said_under_an_earlier_schema_is_read_found_and_goes_on(
    earlier: Path, sqlite_state: SqliteState
) -> None:
    async with await sqlite_state.open() as store:
        loaded = await store.load("s1")
        assert loaded is not None
        assert (loaded.row.title, loaded.row.title_is_final, loaded.row.model) == (
            "Find the naïve Straße",
            True,
            "openai/one",
        )
        assert [run.run_id for run in loaded.runs] == ["r1", "r2", "r3"]
        assert (await texts(store))[:3] == ["please find it", "I lookwhere is it", ""]
        assert "half of an answer" in await texts(store)
        called = await store.message("m2")
        assert called is not None
        assert isinstance(called.parts[1], ReasoningPart)
        assert text_of(await store.message("c1")) == "child says"
        assert await store.descendants("s1") == ["s2"]
        page = await store.sessions(query="naive stras", limit=10, cursor=None, children=True)
        assert page.sessions == ()
        page = await store.sessions(query="naive straße", limit=10, cursor=None, children=True)
        assert [row.session_id for row in page.sessions] == ["s1"]
        done = await store.run("r1")
        assert done is not None
        assert done.stop_reason == "end_turn"
        assert await store.grants("s1") == ()
        change = PutFileVersion(
            session_id="s1", run_id="r1", tool_call_id="t1", path="/a", before=None, after=b"new", at=TIME
        )
        await store.write_soon(change).wait()
    async with await sqlite_state.open() as store:
        assert len(await store.file_versions("s1")) == 1
        assert (await store.messages("s1", before=None, limit=100, max_bytes=MAX_BYTES)).messages
