"""A whole server in the test's own process, for what needs no process of its own."""

from pathlib import Path

import pytest

from wire.conftest import Harness


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    """What a test of a whole server works with."""
    return Harness(tmp_path)
