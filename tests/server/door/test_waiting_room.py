"""Places for strangers: a crowd passes, a blockade is not waited for."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_server.waiting_room import PATIENCE_S, STILL_S, WaitingRoom


async def test_places_are_taken_without_a_wait_while_there_are_some(autojump_clock: MockClock) -> None:
    room = WaitingRoom(2)
    assert await room.enter()
    assert await room.enter()
    room.leave()
    assert await room.enter()
    assert autojump_clock.current_time() == 0


async def test_who_comes_to_a_full_room_that_does_not_move_is_turned_away(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    assert await room.enter()
    assert not await room.enter()
    assert autojump_clock.current_time() == STILL_S
    assert not await room.enter()
    assert autojump_clock.current_time() == STILL_S


async def test_a_crowd_is_let_in_one_after_another_in_its_order(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    entered: list[int] = []

    async def visit(number: int) -> None:
        assert await room.enter()
        entered.append(number)
        await trio.sleep(0.1)
        room.leave()

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(visit, number)
            await wait_all_tasks_blocked()
    assert entered == list(range(50))


async def test_nobody_waits_longer_than_is_decent_in_a_line_that_crawls(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    turned_away: list[float] = []

    async def visit() -> None:
        if await room.enter():
            await trio.sleep(STILL_S * 0.9)
            room.leave()
        else:
            turned_away.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(visit)
    assert turned_away
    assert set(turned_away) == {PATIENCE_S}


async def test_a_visitor_who_is_cancelled_in_the_line_takes_no_place(autojump_clock: MockClock) -> None:
    room = WaitingRoom(1)
    assert await room.enter()
    with trio.move_on_after(STILL_S / 2):
        await room.enter()
    room.leave()
    assert await room.enter()
