"""Find the server of a state directory, or start one.

However many commands look at the same moment, one of them starts a server and
the others find it: the start has a lock of its own. A server that is started
for a command runs in a session of its own and ends by itself when nobody has
used it for `EXIT_IDLE_S`; `open_own_server` is for the command that wants one
which ends with it.

Nothing here speaks to a server beyond its first line. Whether it answers, and in
which version, its client finds out.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from atrio_protocol.version import VERSION
from atrio_server.statedir import RunningServer, make_state_dir, open_private, running_server
from atrio_server.token import load_or_make_token

__all__ = ["CannotStart", "Found", "find_or_start", "find_server", "open_own_server"]

START_S: Final = 30.0
"""How long a server may take to get ready, and others wait for whoever starts it."""

EXIT_IDLE_S: Final = 300
"""When a server that a command started ends by itself."""

ORPHANED_S: Final = 30
"""The same for one that was to end with its command, in case the command was killed."""

STOP_S: Final = 12.0
"""How long an own server may take to end: a little more than it promises."""

LOG_FILE: Final = "server.log"
LOG_BYTES: Final = 5 * 1024 * 1024
START_FILE: Final = "start.lock"
SHOWN_LINES: Final = 3


class CannotStart(Exception):
    """A server was started and is not ready. The sentence has its last words."""


class Found(NamedTuple):
    """A server that is ready, and what opens it."""

    ws: str
    token: str
    pid: int
    version: str
    started: bool


class _Ready(msgspec.Struct, frozen=True):
    """The one line that a server prints."""

    event: str
    pid: int
    ws: str


def find_server(state_dir: Path) -> Found | None:
    """The server that has this state directory now, if there is one that is ready.

    Raises:
        StateDirUnsafe, TokenFileUnsafe: The directory, or the token in it, may be in other hands.
    """
    running = running_server(state_dir)
    return None if running is None else _found(running, state_dir)


async def find_or_start(state_dir: Path) -> Found:
    """The server of this state directory; start one if there is none.

    Raises:
        CannotStart: It did not get ready.
        StateDirUnsafe, TokenFileUnsafe: The directory, or the token in it, may be in other hands.
    """
    if found := find_server(state_dir):
        return found
    make_state_dir(state_dir)
    with trio.move_on_after(START_S):
        async with _turn_to_start(state_dir):
            if found := find_server(state_dir):
                return found
            return await _start_detached(state_dir)
    raise CannotStart(f"the server was not ready after {START_S:.0f} s; its log is {state_dir / LOG_FILE}")


@asynccontextmanager
async def open_own_server(state_dir: Path, *, model: str | None = None) -> AsyncGenerator[Found]:
    """Start a server that ends when the block is left.

    Raises:
        CannotStart: It did not get ready, such as when another one has the directory. Nothing is left behind.
    """
    make_state_dir(state_dir)
    log, log_from = _open_log(state_dir)
    # A command that was killed leaves nobody to answer its run, which must not keep the server for ever.
    command = [
        *_command(state_dir, ORPHANED_S),
        "--keep-alive",
        "clients",
        *([] if model is None else ["--model", model]),
    ]
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command; it ends the server itself
        )
    finally:
        os.close(log)
    try:
        ready = None
        with trio.move_on_after(START_S):
            ready = await _read_ready(process.stdout)
        if ready is None:
            raise CannotStart(f"the server did not start: {_last_words(state_dir, log_from)}")
        yield Found(ready.ws, load_or_make_token(state_dir), ready.pid, VERSION, started=True)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
            process.terminate()
            await process.wait()
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def _turn_to_start(state_dir: Path) -> AsyncGenerator[None]:
    """Held by the one command that may start a server. Waiting for it is bounded by the caller."""
    lock = open_private(state_dir / START_FILE, os.O_RDWR | os.O_CREAT)
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await trio.sleep(0.05)
        yield
    finally:
        os.close(lock)


async def _start_detached(state_dir: Path) -> Found:
    stdout, log_from = _spawn_detached(state_dir)
    ready = await _read_ready(stdout)
    if ready is not None:
        return Found(ready.ws, load_or_make_token(state_dir), ready.pid, VERSION, started=True)
    # It may have been too late: somebody's `atrio serve` has the directory and is about to be ready.
    last_words = _last_words(state_dir, log_from)
    while "data_dir_locked" in last_words:
        if found := find_server(state_dir):
            return found
        await trio.sleep(0.05)
    raise CannotStart(f"the server did not start: {last_words}")


def _spawn_detached(state_dir: Path) -> tuple[trio.lowlevel.FdStream, int]:
    """Start a server that is not ours to wait for: it has a session of its own and outlives us."""
    log, log_from = _open_log(state_dir)
    read_end, write_end = os.pipe()
    try:
        os.posix_spawn(
            sys.executable,
            _command(state_dir, EXIT_IDLE_S),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(log)
        os.close(write_end)
    return trio.lowlevel.FdStream(read_end), log_from


def _command(state_dir: Path, exit_idle_s: int) -> list[str]:
    # -P: a file of the directory we are in must not be taken for a module of ours.
    command = [sys.executable, "-P", "-m", "atrio_server", "serve", "--port", "0"]
    return [*command, "--state-dir", str(state_dir), "--exit-idle", str(exit_idle_s)]


async def _read_ready(stdout: trio.abc.ReceiveStream | None) -> _Ready | None:
    """Read the line that says the server is ready; None if it ends without one."""
    assert stdout is not None
    line = b""
    async with stdout:
        while not line.endswith(b"\n") and (data := await stdout.receive_some()):
            line += data
    try:
        ready = msgspec.json.decode(line, type=_Ready)
    except msgspec.DecodeError:
        return None
    return ready if ready.event == "ready" else None


def _found(running: RunningServer, state_dir: Path) -> Found:
    return Found(running.ws, load_or_make_token(state_dir), running.pid, running.version, started=False)


def _open_log(state_dir: Path) -> tuple[int, int]:
    """The server's log, ready to be written on, and how long it is."""
    path = state_dir / LOG_FILE
    log = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    size = os.fstat(log).st_size
    if size > LOG_BYTES:
        os.close(log)
        path.rename(path.with_suffix(".log.1"))
        log = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        size = 0
    return log, size


def _last_words(state_dir: Path, log_from: int) -> str:
    """What this server said last, on one line."""
    path = state_dir / LOG_FILE
    with path.open("rb") as log:
        log.seek(max(log_from, log.seek(0, os.SEEK_END) - 4_096))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-SHOWN_LINES:]) or f"it said nothing; see {path}"
