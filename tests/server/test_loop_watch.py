"""The watch over the event loop: it measures every long round, and sees where it stood.

Real time, since that is what is measured; nothing here is asserted to be quick.
"""

import threading
import time

import trio
import trio.lowlevel
from structlog.testing import capture_logs
from structlog.typing import EventDict

from atrio_server.loop_watch import LoopWatch

LIMIT_S = 30


def hog_the_loop(seconds: float) -> None:
    """Hold the loop, without a system call that would let it go."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def test_a_round_that_holds_the_loop_is_measured_and_its_place_is_logged() -> None:
    found: list[EventDict] = []
    # A machine that stands still just then keeps the watch from looking as well: such a try shows nothing.
    for _ in range(10):
        watch = LoopWatch(stall_s=0.25)
        with trio.fail_after(LIMIT_S), capture_logs() as logged:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.serve)
                await trio.testing.wait_all_tasks_blocked()
                hog_the_loop(0.6)
                await trio.sleep(0.01)
                watch.close()
        assert watch.longest_s >= 0.6
        assert sum(watch.rounds.counts) >= 1 and watch.rounds.total >= 0.6
        stalls = [entry for entry in logged if entry["event"] == "event loop stalled" and entry["seconds"] >= 0.6]
        assert stalls
        if found := [entry for entry in stalls if "hog_the_loop" in entry["where"]]:
            break
    assert len(found) == 1 and "test_loop_watch.py" in found[0]["where"]
    assert len(found[0]["where"]) < 1000


async def test_many_short_rounds_are_no_stall() -> None:
    watch = LoopWatch(stall_s=60)
    with trio.fail_after(LIMIT_S), capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.serve)
            for _ in range(200):
                await trio.lowlevel.checkpoint()
            watch.close()
    assert logged == []


async def test_it_leaves_no_thread_at_work_when_closed_or_cancelled() -> None:
    for end in (LoopWatch.close, None):
        watch = LoopWatch()
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.serve)
                await trio.testing.wait_all_tasks_blocked()
                if end is not None:
                    end(watch)
                else:
                    nursery.cancel_scope.cancel()
        assert watch._looking.borrowed_tokens == 0
        assert not any(thread.name.startswith("atrio_server.loop_watch") for thread in threading.enumerate())
