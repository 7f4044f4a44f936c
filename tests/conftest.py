"""What holds for every test: it is told what the developer's own settings are not.

Tests read no configuration, key or state of whoever runs them, and write
nothing outside pytest's temporary directories. How long one may take is set in
pyproject.toml (`faulthandler_timeout`); every wait inside a test is bounded by
the test itself, far below that.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from scale import TRIED, Scale

FOREIGN_PREFIXES = ("ATRIO_", "ANTHROPIC_", "OPENAI_", "OPENROUTER_", "OLLAMA_")

settings.register_profile(
    "atrio",
    deadline=None,  # what a machine is doing besides must not decide
    print_blob=True,
    # An example that uses the test clock goes on where the last one stopped; no test here minds.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("atrio")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the random tests: those that take the `scale` fixture."""
    group = parser.getgroup("atrio")
    group.addoption("--long", action="store_true", help="the random tests alone, at full length (an hour or more)")
    group.addoption("--seed", type=int, default=1, help="seed of the random tests; the default is 1")


@pytest.fixture
def scale(pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> Scale:
    """How much to try, and the random numbers to try it with."""
    return Scale(pytestconfig.option.seed, pytestconfig.option.long, record_property)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """At full length, leave out what would only do once more what every run does."""
    if config.option.long:
        by_scale: dict[bool, list[pytest.Item]] = {True: [], False: []}
        for item in items:
            by_scale["scale" in getattr(item, "fixturenames", ())].append(item)
        config.hook.pytest_deselected(items=by_scale[False])
        items[:] = by_scale[True]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the random tests have tried."""
    tried = [
        str(value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == TRIED and report.when == "call"
    ]
    if tried:
        terminalreporter.section(f"tried with seed {config.option.seed}")
        for line in tried:
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's keys, models and directories, for this process and all that it starts."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
        del os.environ[name]
    os.environ["ATRIO_LOCAL_MODELS"] = "0"
    home = tempfile.TemporaryDirectory(prefix="atrio-tests-")
    config.add_cleanup(home.cleanup)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = str(Path(home.name) / name.lower())

    # Tracebacks without the values of every local: those drown what went wrong.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
