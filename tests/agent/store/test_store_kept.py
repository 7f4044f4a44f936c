"""What a session keeps beside its messages: versions of files, todos, grants."""

import hashlib
import sqlite3
from collections.abc import Generator
from contextlib import closing
from unittest.mock import patch

import pytest

from atrio_agent.store.base import DeleteSessions, DropGrant, PutFileVersion, PutGrant, PutTodos, Store
from atrio_protocol.things import Todo
from store_rig import SqliteState, State
from store_samples import TIME, grant, put_session


def version(
    before: bytes | None, after: bytes | None, *, session_id: str = "s1", path: str = "/work/a.py"
) -> PutFileVersion:
    return PutFileVersion(
        session_id=session_id, run_id="r1", tool_call_id="t1", path=path, before=before, after=after, at=TIME
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def number_of_contents(state: SqliteState) -> int:
    with closing(sqlite3.connect(state.path())) as database:
        return database.execute("SELECT count(*) FROM contents").fetchone()[0]


@pytest.fixture
def small_limits() -> Generator[None]:
    """Three versions, a hundred bytes."""
    with (
        patch("atrio_agent.store.keeping.MAX_VERSIONS", 3),
        patch("atrio_agent.store.keeping.MAX_VERSIONS_BYTES", 100),
        patch("atrio_agent.store.memory_disk.MAX_VERSIONS", 3),
        patch("atrio_agent.store.memory_disk.MAX_VERSIONS_BYTES", 100),
    ):
        yield


async def test_a_version_gives_back_what_the_file_held_before_and_after(store: Store) -> None:
    await store.write_soon(put_session("s1"), version(None, b"one\n"), version(b"one\n", b"two\xff\0\n")).wait()

    first, second = await store.file_versions("s1")

    assert (first.before, first.after) == (None, digest(b"one\n"))
    assert second.before == first.after
    assert second.after is not None
    assert await store.file_content(second.after) == b"two\xff\0\n"
    assert await store.file_content(digest(b"never there")) is None


async def test_a_session_keeps_its_newest_versions_and_forgets_the_contents_of_others(
    state: State, small_limits: None
) -> None:
    async with await state.open() as store:
        await store.write_soon(put_session("s1"), put_session("s2"), version(None, b"0", session_id="s2")).wait()
        for number in range(6):
            await store.write_soon(version(b"%d" % number, b"%d" % (number + 1))).wait()
        assert [found.before for found in await store.file_versions("s1")] == [digest(b"3"), digest(b"4"), digest(b"5")]
        assert await store.file_content(digest(b"1")) is None
        assert await store.file_content(digest(b"0")) == b"0"  # another session has it
        assert await store.file_content(digest(b"3")) == b"3"


async def test_a_session_keeps_no_more_bytes_than_it_may_but_always_the_newest_version(
    store: Store, small_limits: None
) -> None:
    await store.write_soon(put_session("s1"), version(None, b"a" * 40), version(b"a" * 40, b"b" * 40)).wait()
    assert len(await store.file_versions("s1")) == 1
    await store.write_soon(version(b"b" * 40, b"c" * 400)).wait()
    (only,) = await store.file_versions("s1")
    assert only.after == digest(b"c" * 400)


async def test_equal_contents_are_stored_once_and_go_with_the_last_session(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open() as store:
        await store.write_soon(put_session("s1"), put_session("s2")).wait()
        await store.write_soon(version(b"x", b"y"), version(b"y", b"x"), version(b"x", b"y", session_id="s2")).wait()
        assert number_of_contents(sqlite_state) == 2
        await store.write_soon(DeleteSessions(session_ids=("s1",))).wait()
        assert number_of_contents(sqlite_state) == 2
        await store.write_soon(DeleteSessions(session_ids=("s2",))).wait()
        assert number_of_contents(sqlite_state) == 0


async def test_todos_are_replaced_as_a_whole(store: Store) -> None:
    first = (Todo(content="look", status="completed"), Todo(content="mend", status="pending"))
    await store.write_soon(put_session("s1"), PutTodos(session_id="s1", todos=first)).wait()
    assert await store.todos("s1") == first
    await store.write_soon(PutTodos(session_id="s1", todos=first[1:])).wait()
    assert await store.todos("s1") == first[1:]
    assert await store.todos("s2") == ()


async def test_grants_are_kept_over_a_restart_until_they_are_dropped(state: State) -> None:
    async with await state.open() as store:
        puts = [PutGrant(grant=grant("g2", at="2026-11-20T10:00:01.000Z")), PutGrant(grant=grant("g1"))]
        await store.write_soon(put_session("s1"), put_session("s2"), *puts, PutGrant(grant=grant("g3", "s2"))).wait()
    async with await state.open() as store:
        assert [found.grant_id for found in await store.grants("s1")] == ["g1", "g2"]
        assert await store.grants("s2") == (grant("g3", "s2"),)
        await store.write_soon(DropGrant(grant_id="g1"), DropGrant(grant_id="never there")).wait()
        assert [found.grant_id for found in await store.grants("s1")] == ["g2"]


async def test_what_belongs_to_no_session_is_not_kept_and_goes_with_its_session(store: Store) -> None:
    everything = (
        version(b"a", b"b"),
        PutTodos(session_id="s1", todos=(Todo(content="x", status="pending"),)),
        PutGrant(grant=grant("g1")),
    )
    for before in ((), (put_session("s1"), *everything, DeleteSessions(session_ids=("s1",)))):
        await store.write_soon(*before, *everything).wait()
        assert not await store.file_versions("s1")
        assert not await store.todos("s1")
        assert not await store.grants("s1")
        assert await store.file_content(digest(b"a")) is None
