"""What tests of commands stand on: a folder for long outputs, jobs, and who carries a run's mark.

Only processes that a test started are looked for and ended. Waits are for lines
of output, never for time.
"""

import os
from collections.abc import Callable
from pathlib import Path

import trio

from atrio_agent.tools.process import Directory

# Tells its pid, and then ignores all requests to end: itself, a child, a child that left the session, and a
# grandchild that left its session and both parents.
STUBBORN = """
trap '' TERM HUP INT
(trap '' TERM; echo pid $BASHPID; while :; do sleep 0.1; done) &
setsid bash -c "trap '' TERM; echo pid \\$\\$; while :; do sleep 0.1; done" &
(setsid bash -c "(trap '' TERM; echo pid \\$BASHPID; while :; do sleep 0.1; done) & exit 0" &) &
echo pid $$
while :; do sleep 0.1; done
"""


def opener(path: Path) -> Callable[[], Directory]:
    """Opens this directory, as a tool would after its checks."""
    return lambda: Directory(os.open(path, os.O_RDONLY | os.O_DIRECTORY), path)


def mine(name: str) -> str:
    """A run id that no other run of the tests on this machine has."""
    return f"{name}-{os.getpid()}"


def marked(run_id: str) -> list[int]:
    """The pids that carry a run's mark."""
    entry = f"ATRIO_RUN={run_id}".encode()
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        try:
            environment = (directory / "environ").read_bytes() if directory.name.isdigit() else b""
        except OSError:
            continue
        if entry in environment.split(b"\0"):
            found.append(int(directory.name))
    return found


async def unmarked(run_id: str) -> None:
    """Wait until nothing carries a run's mark any more: what was killed at a deadline ends when its turn comes."""
    while marked(run_id):
        await trio.lowlevel.checkpoint()


def exists(pid: int) -> bool:
    """Whether there is such a process, dead and not reaped included."""
    return Path("/proc", str(pid)).exists()


class Heard:
    """Live output, and a way to wait for it."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._more = trio.Event()

    def __call__(self, text: str) -> None:
        self.pieces.append(text)
        self._more.set()
        self._more = trio.Event()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    async def until(self, done: Callable[[str], bool]) -> str:
        """Wait until what was heard so far is enough."""
        while not done(self.text):
            await self._more.wait()
        return self.text

    async def pids(self, count: int) -> list[int]:
        """Wait for so many lines ``pid N`` and give the numbers."""
        text = await self.until(lambda text: text.count("pid ") >= count and text.endswith("\n"))
        return [int(line[4:]) for line in text.splitlines() if line.startswith("pid ")]
