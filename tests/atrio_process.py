"""`atrio` as its users have it: in a process of its own, with an environment of its own."""

import codecs
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from fake_server import TOKEN, FakeServer

__all__ = ["COMMAND", "LIMIT_S", "Atrio", "Done", "Started", "serving"]

LIMIT_S = 110
"""How long a command may run beside others: some tests have a dozen of them, one after the other, on a busy machine."""

COMMAND = (sys.executable, "-P", "-m", "atrio_server")


@dataclass
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


class Atrio:
    """Runs commands in a directory, with a state directory, both of this test."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "work"
        self.state_dir = tmp_path / "state"
        self.directory.mkdir(exist_ok=True)
        self.environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "ATRIO_STATE_DIR": str(self.state_dir),
            "PYTHONWARNINGS": "error",
            "NO_COLOR": "1",
        }

    async def __call__(self, *words: str, stdin: bytes | None = None, within_s: float = 60, **environ: str) -> Done:
        """Run a command to its end. Without ``stdin`` there is none (``/dev/null``)."""
        with trio.fail_after(within_s):
            process = await trio.run_process(
                [*COMMAND, *words],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=self.directory,
                env=self.environ | environ,
            )
        out, err = process.stdout.decode(), process.stderr.decode()
        assert "Traceback" not in err
        return Done(process.returncode, out, err)

    @asynccontextmanager
    async def started(self, *words: str, **environ: str) -> AsyncGenerator["Started"]:
        """Start a command and leave it running; whatever is left of it at the end is killed."""
        process = await trio.lowlevel.open_process(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.environ | environ,
        )
        try:
            with trio.fail_after(LIMIT_S):
                await trio.lowlevel.checkpoint()
                yield Started(process)
        finally:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                await process.wait()
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.aclose()
            await process.stderr.aclose()


@dataclass
class Started:
    """A command that runs."""

    process: trio.Process
    out: str = ""
    err: str = ""
    # A read may end within a character.
    _out: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))
    _err: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    async def read_out(self, until: str) -> None:
        """Read stdout until it has this in it."""
        assert self.process.stdout is not None
        while until not in self.out:
            data = await self.process.stdout.receive_some()
            assert data, f"stdout ended: {self.out!r} {self.err!r}"
            self.out += self._out.decode(data)

    async def read_err(self, until: str) -> None:
        """Read stderr until it has this in it."""
        assert self.process.stderr is not None
        while until not in self.err:
            data = await self.process.stderr.receive_some()
            assert data, f"stderr ended: {self.err!r}"
            self.err += self._err.decode(data)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def end(self) -> Done:
        """Read what is left, and wait for the end."""
        out, err = bytearray(), bytearray()

        async def drain(stream: trio.abc.ReceiveStream | None, into: bytearray) -> None:
            assert stream is not None
            async for data in stream:
                into.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, self.process.stdout, out)
            nursery.start_soon(drain, self.process.stderr, err)
        code = await self.process.wait()
        return Done(code, self.out + self._out.decode(out), self.err + self._err.decode(err))


@asynccontextmanager
async def serving(atrio: Atrio, server: FakeServer) -> AsyncGenerator[FakeServer]:
    """A fake server that every command of this test talks to."""
    with trio.fail_after(LIMIT_S):
        async with server.serving_tcp() as url:
            atrio.environ |= {"ATRIO_SERVER": url, "ATRIO_TOKEN": TOKEN}
            yield server
