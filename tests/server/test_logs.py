"""Logs: a line an event from any thread, never in anybody's way, and what is not written is counted.

Lines go to file descriptor 2, which each test replaces by one of its own.
"""

import json
import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import structlog
import trio
import trio.testing

from atrio_server import logs
from atrio_server.logs import ERRORS_PER_MINUTE, LINE_CHARS, NOTES_PER_MINUTE, LogSink, configure_logs

log = structlog.get_logger("atrio.test")


pytestmark = pytest.mark.usefixtures("logging_as_found")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where the lines of a test go."""
    return tmp_path / "stderr"


@contextmanager
def stderr_into(file: int) -> Generator[None]:
    """Let a descriptor be standard error; pytest has put its own there when the test begins."""
    kept = os.dup(2)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def clogged_pipe() -> tuple[int, int]:
    """A full pipe: the end that nobody reads and the one that takes nothing."""
    unread, full = os.pipe()
    os.set_blocking(full, False)
    with suppress(BlockingIOError):
        while True:
            os.write(full, b"x" * 65_536)
    os.set_blocking(full, True)
    return unread, full


@asynccontextmanager
async def serving(
    into: Path | int, form: Literal["text", "json"] = "json", *, flush_s: float = 30
) -> AsyncGenerator[LogSink]:
    """A sink that takes all logs; at the end it is stopped, as at the end of a server.

    There it has longer than a server gives it: a machine that stands still costs no line that a test looks for.
    """
    file = os.open(into, os.O_WRONLY | os.O_CREAT, 0o600) if isinstance(into, Path) else into
    sink = LogSink()
    configure_logs(sink, form)
    with stderr_into(file), mock.patch.object(logs, "FLUSH_S", flush_s), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.serve)
            yield sink
            nursery.cancel_scope.cancel()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path)]


async def test_what_was_logged_last_is_written_at_the_end(written: Path) -> None:
    async with serving(written):
        log.info("first", run="r1")
        await trio.testing.wait_all_tasks_blocked()
        log.info("last", run="r2")
    assert [(event["event"], event["run"]) for event in events(written)] == [("first", "r1"), ("last", "r2")]


async def test_a_worker_thread_may_log(written: Path) -> None:
    async with serving(written):
        await trio.testing.wait_all_tasks_blocked()  # the sink waits now, and must be woken from the thread
        await trio.to_thread.run_sync(lambda: log.warning("from below"), limiter=trio.CapacityLimiter(1))
        while not lines(written):
            await trio.lowlevel.checkpoint()
    assert [event["event"] for event in events(written)] == ["from below"]


async def test_a_pipe_that_nobody_reads_costs_lines_and_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KEPT_LINES", 10)
    unread, full = clogged_pipe()
    async with serving(full):
        log.info("stuck in the pipe")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(15):
            log.info("line", number=number)
        read = bytearray()

        def read_until_told() -> None:
            while b"dropped" not in read or not read.endswith(b"\n"):
                read.extend(os.read(unread, 1 << 20))

        await trio.to_thread.run_sync(read_until_told, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
    os.close(unread)
    told = [json.loads(line) for line in bytes(read).lstrip(b"x").splitlines()]
    assert [event["number"] for event in told if event["event"] == "line"] == list(range(10))
    assert [event["lines"] for event in told if "dropped" in event["event"]] == [5]


async def test_a_clogged_pipe_does_not_hold_up_the_end() -> None:
    unread, full = clogged_pipe()
    async with serving(full, flush_s=logs.FLUSH_S):
        log.info("nobody will read this")
        await trio.testing.wait_all_tasks_blocked()
        log.info("nor this")
    os.close(unread)  # lets go of the thread that was left behind


@pytest.mark.parametrize("level", ["warning", "error"])
async def test_one_kind_of_error_is_written_so_often_a_minute_and_the_rest_counted(
    written: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    at = 1_000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: at)
    async with serving(written):
        for _ in range(ERRORS_PER_MINUTE + 7):
            getattr(log, level)("disk failed")
        getattr(log, level)("something else")
        for _ in range(NOTES_PER_MINUTE + 7):
            log.info("not an error")
        at += 61
        getattr(log, level)("disk failed")
        log.info("not an error")
    told = events(written)
    failed = [event for event in told if event["event"] == "disk failed"]
    assert len(failed) == ERRORS_PER_MINUTE + 1
    assert [event.get("suppressed") for event in failed[-2:]] == [None, 7]
    assert sum(event["event"] == "something else" for event in told) == 1
    notes = [event for event in told if event["event"] == "not an error"]
    assert len(notes) == NOTES_PER_MINUTE + 1
    assert notes[-1]["suppressed"] == 7


async def test_lines_that_the_system_does_not_write_are_counted(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(logs, "_write_all", lambda _data: False)
        async with serving(written) as sink:
            for number in range(7):
                log.info("on a full disk", number=number)
            with trio.fail_after(30):
                while sink.lost["unwritten"] < 7:  # noqa: ASYNC110  a thread finds out, and nobody is told
                    await trio.sleep(0.01)
    assert sink.lost == {"unwritten": 7}


async def test_a_line_is_cut_where_it_would_be_endless(written: Path) -> None:
    async with serving(written, "text"):
        log.info("long", said="x" * (LINE_CHARS + 1000))
    (line,) = lines(written)
    assert line.endswith("xxx (cut)")
    assert len(line) < LINE_CHARS + 10


async def test_warnings_of_libraries_are_events_without_their_arguments(written: Path) -> None:
    async with serving(written):
        library = logging.getLogger("somelib")
        library.warning("asked %s\nand then", "a secret")
        library.warning("")
        library.info("too much detail")
        for _ in range(ERRORS_PER_MINUTE * 2):
            library.error("again and again")
    told = events(written)
    assert {event["event"] for event in told} == {"from somelib"}
    assert told[0]["message"] == "asked %s"
    assert len(told) == ERRORS_PER_MINUTE
    assert "secret" not in str(told)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_an_event_with_a_traceback_is_one_line(written: Path, form: Literal["text", "json"]) -> None:
    async with serving(written, form):
        try:
            {}["what"]
        except KeyError:
            log.exception("broken", run="r1\nr2")
    (line,) = lines(written)
    assert "broken" in line and "KeyError" in line and "test_logs.py" in line


async def test_what_a_task_is_bound_to_is_on_its_lines(written: Path) -> None:
    async with serving(written):
        with structlog.contextvars.bound_contextvars(connection="c1"):
            log.info("bound")
            log.info("named itself", connection="c2")
    assert [event["connection"] for event in events(written)] == ["c1", "c2"]
