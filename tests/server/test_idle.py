"""When a server that a command started ends by itself."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from atrio_server.server import Server
from atrio_server.service import _stop_when_idle

IDLE_S = 300.0


class Use:
    """How a server is used, as far as idleness goes."""

    def __init__(self) -> None:
        self.connections: dict[str, object] = {}
        self.http_requests = 0
        self.http_until = -1.0
        self.runs = 0
        self.workspaces = SimpleNamespace(open_run_count=lambda: self.runs)


async def stopped_at(use: Use, *steps: tuple[float, dict[str, Any]]) -> float:
    """When the server stops that is used so: each step sets what it says at its time."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_idle, cast("Server", use), IDLE_S, stop)
        for at, changes in steps:
            await trio.sleep_until(at)
            assert not stop.is_set()
            for name, value in changes.items():
                setattr(use, name, value)
        await stop.wait()
    return trio.current_time()


@pytest.mark.parametrize("kind", [{"connections": {"c": object()}}, {"http_requests": 1}, {"runs": 1}])
async def test_a_server_that_is_used_waits_for_the_end_of_it_and_then_as_long_again(
    autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    over = {"connections": {}, "http_requests": 0, "runs": 0}
    at = await stopped_at(Use(), (100, kind), (5_000, over))
    assert 5_000 + IDLE_S - 2 <= at <= 5_000 + IDLE_S + 2


async def test_short_requests_over_http_keep_it_up(autojump_clock: MockClock) -> None:
    steps = [(at + 0.3, {"http_until": at + 0.3}) for at in range(200, 2_001, 200)]
    at = await stopped_at(Use(), *steps)
    assert 2_000 + IDLE_S <= at <= 2_000 + IDLE_S + 2


async def test_a_server_that_nobody_ever_used_ends(autojump_clock: MockClock) -> None:
    assert IDLE_S <= await stopped_at(Use()) <= IDLE_S + 2
