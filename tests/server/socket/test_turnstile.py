"""Large writes: so many in a round of the event loop, in the order in which they came, and nobody waits for ever."""

import trio
from trio.testing import MockClock

from atrio_server.turnstile import Turnstile

LIMIT_S = 1000


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        del timeout
        self.count += 1


async def test_many_large_writes_are_spread_over_rounds_in_order(autojump_clock: MockClock) -> None:
    rounds = Rounds()
    turnstile = Turnstile(round_bytes=100)
    passed: list[tuple[int, int]] = []

    async def write(number: int) -> None:
        await turnstile.enter(60)
        passed.append((rounds.count, number))

    trio.lowlevel.add_instrument(rounds)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await turnstile.enter(60)
            await turnstile.enter(60)  # the round is full now
            for number in range(10):
                nursery.start_soon(write, number)
                await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(rounds)
    by_number = [at for _, at in sorted((number, at) for at, number in passed)]
    assert len(passed) == 10 and by_number == sorted(by_number)
    in_round = [sum(at == count for at, _ in passed) for count in set(by_number)]
    assert max(in_round) <= 2


async def test_who_is_gone_takes_nobody_elses_turn(autojump_clock: MockClock) -> None:
    turnstile = Turnstile(round_bytes=100)
    with trio.fail_after(LIMIT_S):
        await turnstile.enter(1000)
        with trio.move_on_after(0) as gone:
            await turnstile.enter(1000)
        assert gone.cancelled_caught
        for _ in range(3):
            await turnstile.enter(1000)


async def test_a_write_larger_than_a_round_passes_by_itself(autojump_clock: MockClock) -> None:
    turnstile = Turnstile(round_bytes=100)
    with trio.fail_after(LIMIT_S):
        for _ in range(5):
            await turnstile.enter(10_000)
