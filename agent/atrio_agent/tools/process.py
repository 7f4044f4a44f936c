"""One shell command as a process, and the end of everything it started.

It runs in a session and process group of its own, without a terminal, with
nothing on its standard input and an environment from an allow-list. When the
shell has ended, or the caller is cancelled, whatever it left running is ended
too: TERM, a second, KILL, waited for. So nothing that a command started
outlives `run_command`, unless it hid from `orphans.Kin` or the deadline passed.

It decides nothing about permission or time limits, and keeps no output.
"""

import math
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import trio

from atrio_agent.lifetime import CLOSE_S
from atrio_agent.tools.orphans import Kin

__all__ = ["SHELLS", "Directory", "Ended", "Sink", "child_environment", "child_path", "run_command"]

SHELLS: Final = ("bash", "sh")
"""What reads a command: the first of these that there is."""

_PASSED_ON: Final = ("HOME", "LANG", "LANGUAGE", "LOGNAME", "SHELL", "TMPDIR", "TZ", "USER")
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_QUIET: Final = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0"}
"""There is nobody at a terminal: nothing should colour, page or ask."""

_READ_BYTES: Final = 64 * 1024
_DRAIN_S: Final = 1.0
"""How long the rest of the output may take when every process of a command that was given up is gone."""

_LEAST_S: Final = 0.1
"""What it gets even if the time is over: the shell has been killed by then and only needs to be reaped."""


class Directory(NamedTuple):
    """An open directory. Whoever gets it closes it."""

    fd: int
    path: Path


class Sink(Protocol):
    """What takes a command's output. It raises nothing."""

    @property
    def live_due_at(self) -> float: ...

    def flush_live(self) -> None: ...

    async def take(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. ``left_running``: how many processes it left, which were ended."""

    exit_code: int
    left_running: int


def child_path(environment: Mapping[str, str] = os.environ) -> str:
    """``PATH`` without its relative entries: what they name depends on the directory one stands in."""
    entries = environment.get("PATH", _DEFAULT_PATH).split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if entry.startswith("/")) or _DEFAULT_PATH


def child_environment(run_id: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a command gets of our environment: no key, no token, nothing that is not named here."""
    passed = {
        name: value for name, value in environment.items() if name in _PASSED_ON or (name.startswith("LC_") and value)
    }
    # A client may choose any characters for its ids; a variable cannot hold this one.
    return passed | _QUIET | {"PATH": child_path(environment), "ATRIO_RUN": run_id.replace("\0", "")}


async def run_command(
    command: str,
    *,
    directory: Callable[[], Directory],
    environment: Mapping[str, str],
    sink: Sink,
    threads: trio.CapacityLimiter,
    ends_by: Callable[[], float | None] = lambda: None,
    started: Callable[[int], None] = lambda _pid: None,
) -> Ended:
    """Run a command in a shell until it and everything it started has ended.

    Args:
        command: What the shell reads: bash, where there is one, else sh.
        directory: Opens the directory to run in. Called in a thread, right before the start.
        environment: All of the child's environment.
        sink: Takes stdout and stderr, in the order in which they were written.
        threads: For what blocks.
        ends_by: Asked when the end begins: until when ending may take, in Trio's
            time. Five seconds from then, if it says None.
        started: Told the pid of the shell.

    Raises:
        OSError: It could not be started. There is no process.
        ToolFailed: ``directory`` refused. There is no process.
        trio.Cancelled: After everything was ended.
    """
    mark = f"ATRIO_COMMAND={secrets.token_hex(16)}"
    name, _, value = mark.partition("=")
    process = await _start(command, directory, {**environment, name: value}, threads)
    started(process.pid)
    # A thread of its own: a disk that hangs must not keep processes from being ended.
    kin = Kin(process.pid, mark, trio.CapacityLimiter(1))
    left_running = 0
    drained = trio.Event()
    async with trio.open_nursery() as nursery:
        # Shielded: the output of processes that are being ended is output too.
        reading = trio.CancelScope(shield=True)
        nursery.start_soon(_read, process, sink, reading, drained, name="output")
        drain_s = _DRAIN_S
        try:
            await process.wait()
            drain_s = math.inf  # it ended by itself, so all that it said is wanted, also on a slow disk
        finally:
            by = ends_by() or trio.current_time() + CLOSE_S
            with trio.CancelScope(deadline=max(by, trio.current_time()) + _LEAST_S, shield=True):
                left_running = await kin.end(by)
            now = trio.current_time()
            with trio.CancelScope(deadline=max(now + _LEAST_S, min(by, now + drain_s)), shield=True):
                await process.wait()
                await drained.wait()
            reading.cancel()
    assert process.returncode is not None
    code = process.returncode
    return Ended(128 - code if code < 0 else code, left_running)


async def _start(
    command: str, directory: Callable[[], Directory], environment: Mapping[str, str], threads: trio.CapacityLimiter
) -> trio.Process:
    shell = await trio.to_thread.run_sync(_shell, environment["PATH"], limiter=threads)
    # Not abandoned when cancelled: the descriptor must reach us.
    found = await trio.to_thread.run_sync(directory, limiter=threads)
    try:
        return await trio.lowlevel.open_process(
            [*shell, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Through the descriptor, so that no link leads elsewhere between the check and the start.
            cwd=f"/proc/self/fd/{found.fd}" if sys.platform == "linux" else found.path,
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(found.fd)


async def _read(process: trio.Process, sink: Sink, reading: trio.CancelScope, drained: trio.Event) -> None:
    stream = process.stdout
    assert stream is not None
    try:
        with reading:
            while True:
                data = None
                with trio.CancelScope(deadline=sink.live_due_at):
                    data = await stream.receive_some(_READ_BYTES)
                if data is None:
                    sink.flush_live()
                elif data:
                    await sink.take(bytes(data))
                else:
                    break
    finally:
        sink.finish()
        drained.set()
        with trio.move_on_after(_DRAIN_S, shield=True):
            await stream.aclose()


def _shell(path: str) -> list[str]:
    for name in SHELLS:
        program = shutil.which(name, path=path)
        if program is not None:
            return [program, "--noprofile", "--norc"] if name == "bash" else [program]
    return ["/bin/sh"]
