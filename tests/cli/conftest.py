"""Commands in processes of their own. They take real time."""

from pathlib import Path

import pytest

from atrio_process import Atrio


@pytest.fixture
def atrio(tmp_path: Path) -> Atrio:
    """Runs `atrio` in a directory and with a state directory of this test."""
    return Atrio(tmp_path)
