"""A door for every test that asks for one, and proof that it is left as it was found."""

from collections.abc import AsyncGenerator

import pytest

from door_rig import DoorRig, open_door


@pytest.fixture
async def door() -> AsyncGenerator[DoorRig]:
    """An open door. After the test it has no connection and has logged no fault of its own."""
    async with open_door() as rig:
        yield rig
        await rig.settle()
        assert rig.errors() == []
