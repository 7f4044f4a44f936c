"""Places for strangers: a crowd passes, and who says nothing gives way."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_server.waiting_room import PATIENCE_S, STAY_S, Stay, WaitingRoom


async def entered(room: WaitingRoom) -> Stay:
    stay = await room.enter()
    assert stay is not None
    return stay


async def stay_silent(room: WaitingRoom) -> None:
    """Take a place and say nothing until sent away."""
    stay = await entered(room)
    with stay.scope:
        await trio.sleep_forever()
    room.leave(stay)


async def test_places_are_taken_without_a_wait_while_there_are_some(autojump_clock: MockClock) -> None:
    room = WaitingRoom(2)
    first = await entered(room)
    await entered(room)
    room.leave(first)
    await entered(room)
    assert autojump_clock.current_time() == 0


async def test_who_says_nothing_gives_way_to_who_comes(autojump_clock: MockClock) -> None:
    room = WaitingRoom(3)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stay_silent, room)
        await wait_all_tasks_blocked()
        stay = await entered(room)
        assert autojump_clock.current_time() <= STAY_S * 1.5
        room.leave(stay)
        nursery.cancel_scope.cancel()


async def test_a_blockade_of_many_is_passed_within_seconds(autojump_clock: MockClock) -> None:
    room = WaitingRoom(64)
    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(stay_silent, room)
        await wait_all_tasks_blocked()
        stay = await entered(room)
        assert autojump_clock.current_time() < 10 * STAY_S
        room.leave(stay)
        nursery.cancel_scope.cancel()


async def test_nobody_is_sent_away_while_nobody_waits(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    stay = await entered(room)
    await trio.sleep(100 * STAY_S)
    assert not stay.scope.cancel_called


async def test_a_crowd_is_let_in_one_after_another_in_its_order(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    visited: list[int] = []

    async def visit(number: int) -> None:
        stay = await entered(room)
        with stay.scope:
            await trio.sleep(STAY_S / 5)
            visited.append(number)
        room.leave(stay)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(visit, number)
            await wait_all_tasks_blocked()
    assert visited == list(range(30))


async def test_nobody_waits_for_ever_for_a_place_that_is_not_given_back(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    await entered(room)  # and deaf to being sent away
    assert await room.enter() is None
    assert autojump_clock.current_time() == pytest.approx(PATIENCE_S)


async def test_a_visitor_who_is_cancelled_in_the_line_takes_no_place(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    stay = await entered(room)
    with trio.move_on_after(STAY_S / 2):
        await room.enter()
    room.leave(stay)
    await entered(room)
    assert autojump_clock.current_time() == STAY_S / 2
