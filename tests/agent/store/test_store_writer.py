"""The writer task: order, group commit, waiters that go away, a disk that fails, and the end.

The backend here is a list; time is virtual where it matters. That both stores
really commit is tested with them.
"""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent.store.base import Commit, DeleteSessions, Op, PutMessage, PutSession, StoreFailed, WriteRefused
from atrio_agent.store.writer import CLOSE_S, COLLECT_CHARS, Call, coalesced, open_writer
from store_samples import append, complete, put, put_session


class Backend:
    """Remembers what it committed; ``failures`` are what the next commits answer instead."""

    def __init__(self) -> None:
        self.batches: list[list[Call]] = []
        self.times: list[float] = []
        self.failures: list[StoreFailed] = []
        self.takes_s = 0.0
        self.closed = False

    @property
    def ops(self) -> list[Op]:
        return [op for batch in self.batches for call in batch for op in call]

    async def apply(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        await trio.sleep(self.takes_s)
        if self.failures:
            return [self.failures.pop(0)] * len(calls)
        self.batches.append(list(calls))
        self.times.append(trio.current_time())
        return [None] * len(calls)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


@pytest.fixture
def backend() -> Backend:
    return Backend()


async def test_what_is_queued_while_a_commit_is_under_way_is_one_commit(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.takes_s = 1
    async with open_writer(backend) as writer:
        commits = [writer.write_soon((put("m0"),))]
        await trio.sleep(0.5)
        commits += [writer.write_soon((put(f"m{n}"),)) for n in range(1, 100)]
        for commit in commits:
            await commit.wait()

    assert [len(batch) for batch in backend.batches] == [1, 99]
    assert [op.message.message_id for op in backend.ops if isinstance(op, PutMessage)] == [f"m{n}" for n in range(100)]


async def test_text_that_nobody_waits_for_is_collected_for_fifty_milliseconds(
    backend: Backend, autojump_clock: MockClock
) -> None:
    async with open_writer(backend) as writer:
        for _ in range(10):
            writer.write_later((append("m1", "a"),))
            await trio.sleep(0.02)
        await trio.sleep(1)

        assert backend.ops == [append("m1", "aaa")] * 3 + [append("m1", "a")]
        assert backend.times == pytest.approx([0.05, 0.11, 0.17, 0.23])


async def test_much_text_is_written_at_once(backend: Backend, autojump_clock: MockClock) -> None:
    async with open_writer(backend) as writer:
        for _ in range(COLLECT_CHARS // 256):
            writer.write_later((append("m1", "x" * 256),))
        await wait_all_tasks_blocked()

        assert backend.ops == [append("m1", "x" * COLLECT_CHARS)]
        assert trio.current_time() == 0


async def test_a_call_that_somebody_waits_for_takes_what_is_before_it_along(
    backend: Backend, autojump_clock: MockClock
) -> None:
    async with open_writer(backend) as writer:
        writer.write_later((append("m1", "before"),))
        commit = writer.write_soon((complete("r1"),))
        writer.write_later((append("m2", "after"),))
        await commit.wait()

        assert trio.current_time() == 0
        assert backend.ops == [append("m1", "before"), complete("r1"), append("m2", "after")]


async def test_a_cancelled_waiter_loses_nothing(backend: Backend, autojump_clock: MockClock) -> None:
    backend.takes_s = 1
    async with open_writer(backend) as writer:
        first = writer.write_soon((put("m1"),))
        second = writer.write_soon((put("m2"),))
        with trio.move_on_after(0.5) as giving_up:
            await first.wait()
        assert giving_up.cancelled_caught
        await second.wait()

    assert first.settled
    assert [len(batch) for batch in backend.batches] == [2]


async def test_any_number_may_wait_for_one_commit(backend: Backend, autojump_clock: MockClock) -> None:
    backend.failures = [StoreFailed("full")]
    failed: list[int] = []
    async with open_writer(backend) as writer:
        commit = writer.write_soon((put("m1"),))

        async def wait(number: int) -> None:
            with pytest.raises(StoreFailed):
                await commit.wait()
            failed.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(wait, number)
        await wait(5)

    assert sorted(failed) == [0, 1, 2, 3, 4, 5]


async def test_text_that_could_not_be_written_goes_with_the_next_write_in_order(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.failures = [StoreFailed("full"), StoreFailed("full")]
    async with open_writer(backend) as writer:
        writer.write_later((put("m1", "a"),))
        writer.write_later((append("m1", "b"),))
        await trio.sleep(0.1)
        writer.write_later((append("m1", "c"),))
        failing = writer.write_soon((put("m2"),))
        with pytest.raises(StoreFailed):
            await failing.wait()
        writer.write_later((append("m1", "d"),))
        await writer.write_soon((put("m3"),)).wait()

    assert backend.ops == [put("m1", "a"), append("m1", "bcd"), put("m3")]


async def test_text_that_could_not_be_written_precedes_what_came_while_it_was_tried(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.takes_s = 1
    backend.failures = [StoreFailed("full")]
    async with open_writer(backend) as writer:
        writer.write_later((append("m1", "a"),))
        await trio.sleep(0.5)
        await writer.write_soon((complete("r1"),)).wait()

    assert backend.ops == [append("m1", "a"), complete("r1")]


async def test_text_that_could_not_be_written_is_tried_again_by_itself(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.failures = [StoreFailed("full")] * 3
    async with open_writer(backend) as writer:
        writer.write_later((append("m1", "a"),))
        await trio.sleep(10)

        assert backend.ops == [append("m1", "a")]
        assert backend.times == [pytest.approx(3.05)]


async def test_a_failing_disk_is_not_asked_for_every_delta(backend: Backend, autojump_clock: MockClock) -> None:
    backend.failures = [StoreFailed("full")] * 1_000
    async with open_writer(backend) as writer:
        for _ in range(1_000):
            writer.write_later((append("m1", "x" * 100),))
            await trio.sleep(0.01)
        tries = 1_000 - len(backend.failures)
        backend.failures.clear()

    assert tries <= 11
    assert backend.ops == [append("m1", "x" * 100_000)]


async def test_what_is_refused_for_good_is_not_tried_again(backend: Backend, autojump_clock: MockClock) -> None:
    backend.failures = [WriteRefused("never")]
    async with open_writer(backend) as writer:
        writer.write_later((append("m1", "a"),))
        await trio.sleep(1)
        writer.write_later((append("m1", "b"),))
        await trio.sleep(1)

    assert backend.ops == [append("m1", "b")]


async def test_what_is_told_of_text_that_is_kept_is_why_it_is_and_not_why_another_write_was_refused(
    backend: Backend, autojump_clock: MockClock
) -> None:
    class Choosy(Backend):
        async def apply(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
            await trio.lowlevel.checkpoint()
            return [WriteRefused("its session is gone"), StoreFailed("the disk is full")] if len(calls) == 2 else [None]

    told: list[str | None] = []
    async with open_writer(Choosy(), tell=lambda why: told.append(why and str(why))) as writer:
        refused = writer.write_soon((put("m0"),))
        writer.write_later((put("m1"),))
        with pytest.raises(WriteRefused):
            await refused.wait()
        await trio.sleep(5)
    assert told == ["the disk is full", None]


async def test_a_bug_in_the_store_fails_its_batch_and_not_the_writer(
    backend: Backend, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def buggy(calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with open_writer(backend) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "apply", buggy)
            with pytest.raises(StoreFailed):
                await writer.write_soon((put("m1"),)).wait()
        await writer.write_soon((put("m2"),)).wait()

    assert backend.ops == [put("m2")]


async def test_closing_writes_all_that_is_queued_and_then_closes(backend: Backend, autojump_clock: MockClock) -> None:
    backend.takes_s = 1
    async with open_writer(backend) as writer:
        soon = writer.write_soon((put("m1"),))
        await trio.sleep(0.5)
        writer.write_later((put("m2"),))

    assert soon.settled
    assert backend.ops == [put("m1"), put("m2")]
    assert backend.closed


async def test_nothing_is_lost_when_everything_around_is_cancelled(backend: Backend, autojump_clock: MockClock) -> None:
    backend.takes_s = 1
    commits: list[Commit] = []
    with trio.CancelScope() as server:
        async with open_writer(backend) as writer:
            commits.append(writer.write_soon((put("m1"),)))
            await trio.sleep(0.5)
            server.cancel()
            commits.append(writer.write_soon((put("m2"),)))
            writer.write_later((append("m2", "x"),))
            await trio.sleep_forever()

    assert server.cancelled_caught
    for commit in commits:
        await commit.wait()
    assert backend.ops == [put("m1"), put("m2"), append("m2", "x")]
    assert trio.current_time() == 2


async def test_a_disk_that_hangs_is_given_up_at_the_deadline(backend: Backend, autojump_clock: MockClock) -> None:
    backend.takes_s = 3600
    async with open_writer(backend) as writer:
        in_work = writer.write_soon((put("m1"),))
        await trio.sleep(1)
        queued = writer.write_soon((put("m2"),))
        writer.set_close_deadline(trio.current_time() + 3)

    assert trio.current_time() == 4
    assert not backend.closed
    for commit in (in_work, queued):
        with pytest.raises(StoreFailed):
            await commit.wait()


async def test_closing_takes_six_seconds_at_most_if_nobody_says_otherwise(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.takes_s = 3600
    async with open_writer(backend) as writer:
        writer.write_soon((put("m1"),))

    assert trio.current_time() == CLOSE_S


async def test_a_deadline_may_be_set_while_closing(backend: Backend, autojump_clock: MockClock) -> None:
    backend.takes_s = 3600

    async with trio.open_nursery() as nursery, open_writer(backend) as writer:
        writer.write_soon((put("m1"),))

        async def hurry() -> None:
            await trio.sleep(2)
            writer.set_close_deadline(trio.current_time())

        nursery.start_soon(hurry)

    assert trio.current_time() == 2


async def test_closing_does_not_wait_for_a_disk_to_recover(backend: Backend, autojump_clock: MockClock) -> None:
    backend.failures = [StoreFailed("full")] * 100
    async with open_writer(backend) as writer:
        writer.write_later((append("m1", "a"),))
        await trio.sleep(0.1)

    assert backend.closed
    assert trio.current_time() == pytest.approx(0.1)


async def test_after_closing_a_write_fails(backend: Backend, autojump_clock: MockClock) -> None:
    async with open_writer(backend) as writer:
        pass
    commit = writer.write_soon((put("m1"),))
    writer.write_later((put("m2"),))

    with pytest.raises(StoreFailed):
        await commit.wait()
    assert backend.ops == []


async def test_an_error_of_the_block_comes_out_as_it_is(backend: Backend, autojump_clock: MockClock) -> None:
    error = KeyError("plain")

    async def block() -> None:
        async with open_writer(backend) as writer:
            writer.write_later((put("m1"),))
            raise error

    with pytest.raises(KeyError) as caught:
        await block()

    assert caught.value is error
    assert error.__context__ is None
    assert backend.ops == [put("m1")]


def test_the_text_of_streams_that_run_side_by_side_is_joined_by_part() -> None:
    calls: list[Call] = [(append(mid, text, part=part),) for text in "abc" for mid in ("m1", "m2") for part in (0, 1)]

    assert coalesced(calls) == [(append(mid, "abc", part=part),) for mid in ("m1", "m2") for part in (0, 1)]


def test_a_whole_message_makes_what_was_written_of_it_void() -> None:
    calls: list[Call] = [
        (append("m1", "a"), append("m2", "kept")),
        (put("m1", "a b"),),
        (append("m1", " c"),),
        (put("m1", "final", final=True), put_session("s1")),
        (put("m1", "with its tool call done"),),
        (append("m1", "d"),),
    ]

    assert coalesced(calls) == [
        (append("m2", "kept"),),
        (put_session("s1"),),
        (put("m1", "with its tool call done", final=True),),
        (append("m1", "d"),),
    ]


def test_of_a_session_only_the_newest_row_is_written_where_the_first_stood() -> None:
    calls: list[Call] = [
        (put_session("s1", rev=1),),
        (put("m1"),),
        (put_session("s2", rev=1), put_session("s1", rev=2)),
        (put_session("s1", rev=3),),
    ]

    assert coalesced(calls) == [
        (put_session("s1", rev=3),),
        (put("m1"),),
        (put_session("s2", rev=1),),
    ]


def test_nothing_is_moved_across_other_operations() -> None:
    wall = DeleteSessions(session_ids=("s9",))
    calls: list[Call] = [
        (append("m1", "a"), put_session("s1", rev=1)),
        (wall,),
        (append("m1", "b"), PutSession(row=put_session("s1", rev=2).row)),
    ]

    assert coalesced(calls) == calls
