"""The processes that a measurement needs: the server, the mock of a model provider, the machine's floor.

Each is started, waited for and ended here; none outlives its `with`. Memory and
processor time are read from /proc, so the numbers are Linux's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench_parts.wire import Connection

__all__ = [
    "Mock",
    "Server",
    "cpu_s",
    "open_floor",
    "open_mock",
    "open_server",
    "rss_kb",
    "start_server",
    "wait_until_quiet",
]

ROOT = Path(__file__).resolve().parent.parent.parent


class Mock(NamedTuple):
    """The mock provider; ``url`` is what goes into ``OPENAI_BASE_URL``."""

    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])


class Server(NamedTuple):
    """A running Atrio, with a directory to work in."""

    process: subprocess.Popen[str]
    port: int
    token: str
    path: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Connection:
        """A connection that is initialised."""
        return Connection(self.port, self.token)

    def session(self) -> Connection:
        """A connection that is attached to a session of its own."""
        connection = self.connect()
        connection.new_session(self.path)
        return connection

    def readers(self, count: int) -> list[Connection]:
        """Connections that are attached to a session of their own, and to nothing else.

        Nobody reads the workspace's news, which tell everybody in it of every
        session: with many of both these would be measured, and not the sessions.
        """
        maker = self.connect()
        sessions = [maker.make_session(self.path) for _ in range(count)]
        connections = [self.connect() for _ in range(count)]
        for connection, session in zip(connections, sessions, strict=True):
            connection.attach(session)
        maker.close()
        return connections


def start_server(state: Path, *, model_url: str, profile: Path | None = None) -> subprocess.Popen[str]:
    """Start a server; the line that says it is ready is the first of its standard output."""
    work = state / "work"
    work.mkdir(parents=True, exist_ok=True)
    program = [str(ROOT / ".venv/bin/atrio")]
    if profile is not None:
        program = [sys.executable, str(ROOT / "scripts/bench_parts/sampled.py"), str(profile)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ATRIO_", "PYTHON"))}
    environment |= {"OPENAI_BASE_URL": model_url, "OPENAI_API_KEY": "bench"}
    return subprocess.Popen(
        [*program, "serve", "--port", "0", "--state-dir", str(state / "state")],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(state / "server.log").open("w"),
        text=True,
    )


@contextmanager
def open_server(*, model_url: str, profile: Path | None = None) -> Iterator[Server]:
    """Run a server on a state directory of its own, with the mock as its model."""
    with tempfile.TemporaryDirectory(prefix="atrio-bench-") as name:
        state = Path(name)
        with start_server(state, model_url=model_url, profile=profile) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError("the server did not start:\n" + (state / "server.log").read_text()[-2000:])
                ready = json.loads(line)
                token = Path(ready["tokenFile"]).read_text().strip()
                yield Server(process, int(ready["http"].rsplit(":", 1)[1]), token, str(state / "work"))
            finally:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()


@contextmanager
def _open_child(script: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Run a Python program that prints one JSON line when it is ready and ends with its standard input."""
    with subprocess.Popen(
        [sys.executable, *script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def open_mock() -> Iterator[Mock]:
    """Run the mock of the OpenAI HTTP API."""
    with _open_child(["tests/providers/openai_mock.py", "--port", "0"]) as (pid, ready):
        yield Mock(ready["url"], pid)


@contextmanager
def open_floor() -> Iterator[int]:
    """Run the raw line server and give its port."""
    with _open_child(["-m", "bench_parts.floor"]) as (_, ready):
        yield int(ready["port"])


def rss_kb(pid: int) -> int:
    """Resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(pid: int, *, limit_s: float = 10.0) -> None:
    """Wait until a process has used next to no processor for half a second."""
    deadline = time.monotonic() + limit_s
    used = cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)  # noqa: TID251  # no event loop here
        before, used = used, cpu_s(pid)
        if used - before < 0.02:
            return
