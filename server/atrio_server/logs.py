"""Logs: one line an event, to stderr, without ever holding up the event loop.

Lines go into a bounded list and are written by a task of the service, in a
worker thread: a full pipe that nobody reads costs lines, not the server. What
could not be kept is counted and said. What others can provoke must not fill a
disk: lines of one kind are written at most `NOTES_PER_MINUTE` times a minute,
warnings and errors `ERRORS_PER_MINUTE` times, and none is longer than
`LINE_CHARS`; the rest is counted too. Any thread may log.

Nothing here decides what is worth a line. No payload and no secret is ever
given to a logger; where an exception of a library holds one all the same, the
sink takes it out.
"""

import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal

import structlog
import trio

__all__ = ["ERRORS_PER_MINUTE", "LINE_CHARS", "NOTES_PER_MINUTE", "LogSink", "configure_logs"]

ERRORS_PER_MINUTE: Final = 20
"""Warnings and errors of one kind."""

NOTES_PER_MINUTE: Final = 300
"""Other lines of one kind. There are a few dozen kinds, and clients can provoke a few."""

LINE_CHARS: Final = 32_768
"""Longest line; the rest of a longer one is not written."""

KEPT_LINES: Final = 5_000
FLUSH_S: Final = 0.5
"""Seconds that the last lines may take at the end."""

Event = MutableMapping[str, Any]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.logs")


class LogSink:
    """Takes lines at once and writes them when it can. Its `serve` runs as a task of the service."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._dropped = 0
        self.lost: Counter[str] = Counter()
        """Lines that are nowhere, by why: not read in time, not written by the system, or too many of one kind."""
        self._news = trio.Event()
        self._thread = threading.get_ident()
        self._token: trio.lowlevel.TrioToken | None = None
        self._writing = trio.CapacityLimiter(1)
        self.redact: Callable[[str], str] = lambda line: line
        """Takes the server's secrets out of a line; set once they are known."""

    def msg(self, message: str) -> None:
        """Take a line (structlog calls this)."""
        if len(self._lines) >= KEPT_LINES:
            self._dropped += 1
            self.lost["unread"] += 1
            return
        line = self.redact(message)
        self._lines.append(line if len(line) <= LINE_CHARS else line[:LINE_CHARS] + " (cut)")
        self._wake()

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg

    async def serve(self) -> None:
        """Write lines until cancelled; then what is left, for a moment."""
        self._token = trio.lowlevel.current_trio_token()
        self._wake()
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._write()

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._news.set()
        elif self._token is not None:  # an event of Trio's is not for another thread to set
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake)

    async def _write(self) -> None:
        while self._lines:
            # A thread does not start in a cancelled scope: the lines must not be taken from the list for it.
            await trio.lowlevel.checkpoint_if_cancelled()
            lines = list(self._lines)
            self._lines.clear()
            data = ("\n".join(lines) + "\n").encode("utf-8", "replace")
            if not await trio.to_thread.run_sync(_write_all, data, limiter=self._writing, abandon_on_cancel=True):
                # Such as a full disk: it is said when there is room again.
                self._dropped += len(lines)
                self.lost["unwritten"] += len(lines)
                return
            if self._dropped and len(self._lines) < KEPT_LINES:
                dropped, self._dropped = self._dropped, 0
                log.warning("log lines dropped: they could not be written in time", lines=dropped)


class _KindLimit:
    """A structlog processor that drops lines of one kind beyond the limit, and says how many."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink
        self._windows: dict[str, tuple[float, int]] = {}

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        limit = ERRORS_PER_MINUTE if method in {"warning", "error", "exception", "critical"} else NOTES_PER_MINUTE
        kind = str(event.get("event"))
        begun, count = self._windows.get(kind, (0.0, 0))
        now = time.monotonic()
        if now - begun >= 60:
            if count > limit:
                event["suppressed"] = count - limit
            begun, count = now, 0
        self._windows[kind] = (begun, count + 1)
        if count >= limit:
            self._sink.lost["repeated"] += 1
            raise structlog.DropEvent
        return event


def configure_logs(sink: LogSink, form: Literal["text", "json"], *, level: int = logging.INFO) -> None:
    """Send all logs of the process to the sink."""
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _KindLimit(sink),
        structlog.processors.format_exc_info,
    ]
    if form == "text":
        steps.append(_flatten_traceback)
    structlog.configure(
        processors=[*steps, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    # Libraries that log by themselves (hypercorn, the SDKs) may say warnings, never payloads.
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """Warnings of libraries as events of ours: the first line of what is said, without the arguments' contents."""

    def emit(self, record: logging.LogRecord) -> None:
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(f"from {record.name}", message=str(record.msg).partition("\n")[0][:200])


def _flatten_traceback(_logger: object, _method: str, event: Event) -> Event:
    """A structlog processor that keeps an event on its line."""
    traceback = event.pop("exception", None)
    if traceback is not None:
        event["traceback"] = " | ".join(line.strip() for line in str(traceback).splitlines())
    return event


def _write_all(data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        return False  # the disk is full, or stderr is closed or its reader gone: there is nowhere left to say so
    return True
