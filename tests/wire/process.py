"""A server in a process of its own, for what only a process can show: signals, kill -9, exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

__all__ = ["Process", "spawn"]

SOURCES = [str(Path(__file__).parents[2] / folder) for folder in ("protocol", "agent", "server")]


class Process:
    """A running server process; ``ready`` is its ready line."""

    def __init__(self, process: trio.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.pid = process.pid
        self.ready = ready
        self.ws: str = ready["ws"]
        self.http: str = ready["http"]
        self.token = Path(ready["tokenFile"]).read_text().strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        return await self.process.wait()


@asynccontextmanager
async def spawn(
    state_dir: Path,
    *flags: str,
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "atrio_server"),
) -> AsyncGenerator[Process]:
    """Run `atrio serve` until the end of the block; it is killed there if it still runs.

    ``program`` is what Python runs: a test may put something between the server and the world.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES), **(environ or {})}
    command = [sys.executable, *program, "serve", "--port", "0", "--state-dir", str(state_dir)]
    with (log or state_dir.with_suffix(".log")).open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [*command, *flags], stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
    assert process.stdout is not None
    try:
        with trio.fail_after(60):  # ten may start side by side
            line = b""
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, f"the server ended with {await process.wait()} before it was ready"
                line += piece
        yield Process(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
