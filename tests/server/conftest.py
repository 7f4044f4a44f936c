"""What tests of the server's parts have in common."""

import logging
from collections.abc import Generator

import pytest
import structlog


@pytest.fixture
def logging_as_found() -> Generator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
