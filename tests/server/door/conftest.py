"""A door for every test that asks for one, and proof that it is left as it was found."""

from collections.abc import AsyncGenerator

import pytest

from door_rig import DoorRig, open_door


@pytest.fixture
async def door() -> AsyncGenerator[DoorRig]:
    """An open door. After the test no connection may be left of it, and it must close in time."""
    async with open_door() as rig:
        yield rig
        await rig.settle()
