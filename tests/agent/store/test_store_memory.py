"""What a test can do with a memory store's disk: hold commits, let them fail, let them hang, restart."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent.store.base import AcceptRun, CompleteRun, StoreFailed
from atrio_agent.store.memory import MemoryDisk, open_memory_store
from store_samples import accept, append, complete, put, put_session, text_of, texts


async def test_commits_wait_at_the_gate_until_they_are_let_go(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    async with open_memory_store(disk=disk) as store:
        disk.hold_commits()
        first = store.write_soon(put_session("s1"))
        await disk.wait_for_commit()
        second = store.write_soon(accept("r1"))
        assert await store.load("s1") is None

        disk.release_commit()
        await first.wait()
        await disk.wait_for_commit()
        assert await store.load("s1") is not None
        assert await store.run("r1") is None
        assert not second.settled

        disk.open_gate()
        await second.wait()
        await store.write_soon(complete("r1")).wait()

    assert disk.commits == 3


async def test_the_commits_that_a_test_names_fail(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    outcome: list[bool] = []
    async with open_memory_store(disk=disk) as store:
        disk.fail_commits(2, after=1)
        for number in range(5):
            commit = store.write_soon(put_session(f"s{number}"))
            with suppress(StoreFailed):
                await commit.wait()
            outcome.append(commit.error is None)

        assert outcome == [True, False, False, True, True]
        page = await store.sessions(query=None, limit=10, cursor=None, children=False)
        assert {row.session_id for row in page.sessions} == {"s0", "s3", "s4"}


async def test_commits_fail_by_what_is_in_them(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    async with open_memory_store(disk=disk) as store:
        disk.fail_commits(having=CompleteRun)
        disk.fail_commits(having=AcceptRun, after=1)
        await store.write_soon(put_session("s1"), put("m1")).wait()
        await store.write_soon(accept("r1")).wait()
        with pytest.raises(StoreFailed):
            await store.write_soon(accept("r2", accept_seq=2)).wait()
        store.write_later(append("m1", "kept"))
        with pytest.raises(StoreFailed):
            await store.write_soon(complete("r1")).wait()
        await store.write_soon(complete("r1")).wait()

        assert text_of(await store.message("m1")) == "kept"


async def test_a_disk_that_hangs_is_given_up_and_a_restart_finds_what_was_committed(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    async with open_memory_store(disk=disk) as store:
        await store.write_soon(put_session("s1"), put("m1"), accept("r1")).wait()
        disk.hold_commits()
        store.write_later(append("m1", "lost"))
        hanging = store.write_soon(complete("r1"))
        await wait_all_tasks_blocked()
        store.set_close_deadline(trio.current_time() + 2)
    with pytest.raises(StoreFailed):
        await hanging.wait()
    assert trio.current_time() == 2
    disk.open_gate()

    async with open_memory_store(disk=disk) as store:
        run = await store.run("r1")
        assert run is not None
        assert run.stop_reason == "interrupted"
        assert (await texts(store))[0] == ""


async def test_an_opening_that_was_given_up_writes_no_more_once_there_is_another(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    async with open_memory_store(disk=disk) as old, open_memory_store(disk=disk) as new:
        with pytest.raises(StoreFailed):
            await old.write_soon(put_session("s1")).wait()
        await new.write_soon(put_session("s2")).wait()

    assert list(disk.sessions) == ["s2"]
