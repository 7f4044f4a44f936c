"""Stores and state directories, each bounded in time."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

from atrio_agent.store.base import Store
from atrio_agent.store.index import open_run_index
from store_rig import MemoryState, SqliteState, State

LONGEST_S = 90


@pytest.fixture
async def bounded(nursery: trio.Nursery) -> None:
    """End the test when it takes too long; by Trio's clock, so virtual time counts too."""

    async def give_up() -> None:
        await trio.sleep(LONGEST_S)
        raise trio.TooSlowError(f"the test took longer than {LONGEST_S} s")

    nursery.start_soon(give_up)


@pytest.fixture
async def sqlite_state(bounded: None, tmp_path: Path) -> AsyncGenerator[SqliteState]:
    async with open_run_index(tmp_path / "index.db") as index:
        yield SqliteState(tmp_path, index)


@pytest.fixture
async def memory_state(bounded: None) -> MemoryState:
    return MemoryState()


@pytest.fixture(params=["memory", "sqlite"])
async def state(request: pytest.FixtureRequest, bounded: None, tmp_path: Path) -> AsyncGenerator[State]:
    if request.param == "memory":
        yield MemoryState()
    else:
        async with open_run_index(tmp_path / "index.db") as index:
            yield SqliteState(tmp_path, index)


@pytest.fixture
async def store(state: State) -> AsyncGenerator[Store]:
    async with await state.open() as opened:
        yield opened
