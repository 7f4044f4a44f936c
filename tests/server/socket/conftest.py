"""A connection under virtual time for every test that asks for one."""

from collections.abc import AsyncGenerator

import pytest
from trio.testing import MockClock

from socket_rig import Rig, open_rig


@pytest.fixture
async def rig(autojump_clock: MockClock) -> AsyncGenerator[Rig]:
    """An open connection. A test that wants time to pass names `autojump_clock` itself, too."""
    async with open_rig() as rig:
        yield rig
