"""Logs: one line an event, to stderr, without ever holding up the event loop.

Lines go into a bounded list and are written by a task of the service, in a
worker thread: a full pipe that nobody reads costs lines, not the server. What
could not be kept is counted and said. Errors of one kind are written at most
`ERRORS_PER_MINUTE` times a minute; the rest is counted too.

Nothing here decides what is worth a line. No payload and no secret is ever
given to a logger.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog
import trio

__all__ = ["ERRORS_PER_MINUTE", "LogSink", "configure_logs"]

ERRORS_PER_MINUTE: Final = 20
KEPT_LINES: Final = 5_000
FLUSH_S: Final = 0.5
"""Seconds that the last lines may take at the end."""

Event = MutableMapping[str, Any]


class LogSink:
    """Takes lines at once and writes them when it can. Its `serve` runs as a task of the service."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._news = trio.Event()
        self._writing = trio.CapacityLimiter(1)

    def msg(self, message: str) -> None:
        """Take a line (structlog calls this)."""
        if len(self._lines) >= KEPT_LINES:
            self._dropped += 1
            return
        self._lines.append(message)
        self._news.set()

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg

    async def serve(self) -> None:
        """Write lines until cancelled; then what is left, for a moment."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._write()

    async def _write(self) -> None:
        while self._lines:
            # A thread does not start in a cancelled scope: the lines must not be taken from the list for it.
            await trio.lowlevel.checkpoint_if_cancelled()
            lines = list(self._lines)
            self._lines.clear()
            if self._dropped:
                lines.append(f"({self._dropped} log lines were dropped: nobody read them in time)")
                self._dropped = 0
            data = ("\n".join(lines) + "\n").encode("utf-8", "replace")
            await trio.to_thread.run_sync(_write_all, data, limiter=self._writing, abandon_on_cancel=True)


class _ErrorLimit:
    """A structlog processor that drops errors of one kind beyond the limit, and says how many."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        if method not in {"error", "exception", "critical"}:
            return event
        kind = str(event.get("event"))
        begun, count = self._windows.get(kind, (0.0, 0))
        now = time.monotonic()
        if now - begun >= 60:
            if count > ERRORS_PER_MINUTE:
                event["suppressed"] = count - ERRORS_PER_MINUTE
            begun, count = now, 0
        self._windows[kind] = (begun, count + 1)
        if count >= ERRORS_PER_MINUTE:
            raise structlog.DropEvent
        return event


def configure_logs(sink: LogSink, form: Literal["text", "json"], *, level: int = logging.INFO) -> None:
    """Send all logs of the process to the sink."""
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    steps: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _ErrorLimit(),
    ]
    if form == "json":
        steps.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*steps, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    # Libraries that log by themselves (hypercorn, the SDKs) may say warnings, never payloads.
    logging.basicConfig(handlers=[_Forward(sink)], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """Warnings of libraries, as lines of ours: the logger's name and the first line, no arguments' contents."""

    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._sink.msg(f"{record.levelname.lower()} {record.name}: {str(record.msg).splitlines()[0][:200]}")


def _write_all(data: bytes) -> None:
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        return  # stderr is closed or its reader gone: there is nowhere left to say so
