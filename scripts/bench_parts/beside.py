"""What stands beside Atrio's figures: the machine's floor, the provider's own maximum, and the time to start.

The floor is a line server on Trio that does nothing else (`bench_parts.floor`);
the provider's maximum is what a bare client gets out of the mock that Atrio is
measured with. Where Atrio comes near either, it is not Atrio that is measured.
"""

import json
import re
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_parts.figures import Figure, percentile
from bench_parts.processes import Mock, start_server

__all__ = ["floor", "provider", "provider_latency_ms", "start"]

_MS = 1_000_000
_LIMIT_S = 60.0
_STAMP = re.compile(rb'"content":"(\d+) "')


@contextmanager
def _connect(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _round_trips(connection: socket.socket, line: bytes, count: int) -> list[int]:
    taken: list[int] = []
    for _ in range(count):
        began_ns = time.monotonic_ns()
        connection.sendall(line)
        while not connection.recv(65536).endswith(b"\n"):
            pass
        taken.append(time.monotonic_ns() - began_ns)
    return taken


def _read_all(connections: list[socket.socket], sizes: list[int]) -> int:
    """Read so many bytes from each; the time (ns) of the last."""
    deadline = time.monotonic() + _LIMIT_S
    left = dict(zip(connections, sizes, strict=True))
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while left:
            for key, _ in selector.select(deadline - time.monotonic()):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                left[connection] -= len(connection.recv(1024 * 1024))
                if left[connection] <= 0:
                    selector.unregister(connection)
                    del left[connection]
            if time.monotonic() > deadline:
                raise TimeoutError("the floor did not answer in time")
    return time.monotonic_ns()


def floor(port: int) -> list[Figure]:
    """What this machine gives a server that does nothing."""
    with _connect(port) as connection:
        echo = _round_trips(connection, b"echo".ljust(199, b"x") + b"\n", 2000)[200:]
        commit = _round_trips(connection, b"commit " + b"x" * 192 + b"\n", 1000)[100:]
    readers = [socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S) for _ in range(50)]
    for reader in readers:
        reader.sendall(b"join\n")
        assert reader.recv(16) == b"join\n"
    rates: dict[str, float] = {}
    with _connect(port) as connection:
        for word, lines in (("tell", 500), ("pour", 20_000)):
            began_ns = time.monotonic_ns()
            connection.sendall(f"{word} {lines}\n".encode())
            ended_ns = _read_all(readers, [lines * 200] * len(readers))
            assert connection.recv(64)
            rates[word] = lines * len(readers) / (ended_ns - began_ns) * 1e9
    for reader in readers:
        reader.close()
    return [
        Figure("floor: a line and its echo: p50", percentile(echo, 50) / _MS, "ms"),
        Figure("floor: a line, a commit, its echo: p50", percentile(commit, 50) / _MS, "ms"),
        Figure("floor: lines to 50 readers, one by one", rates["tell"], "lines/s"),
        Figure("floor: lines to 50 readers, in slices", rates["pour"], "lines/s"),
    ]


def _ask(connection: socket.socket, model: str) -> None:
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "go on"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def _read_answers(connections: list[socket.socket]) -> list[bytes]:
    """Read one streamed answer from each connection."""
    answers = {connection: bytearray() for connection in connections}
    left = set(connections)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while left:
            ready = selector.select(_LIMIT_S)
            if not ready:
                raise TimeoutError("the mock provider did not answer in time")
            for key, _ in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                answers[connection] += connection.recv(1024 * 1024)
                if answers[connection].endswith(b"0\r\n\r\n"):
                    selector.unregister(connection)
                    left.discard(connection)
    return [bytes(answer) for answer in answers.values()]


def provider(mock: Mock) -> list[Figure]:
    """What the mock provider gives at most to a client that only reads."""
    with _connect(mock.port) as connection:
        _ask(connection, "tokens,n=2000")
        _read_answers([connection])
        began_ns = time.monotonic_ns()
        _ask(connection, "tokens,n=200000")
        (answer,) = _read_answers([connection])
        chunks_per_s = answer.count(b"data: ") / (time.monotonic_ns() - began_ns) * 1e9
    crowd = [socket.create_connection(("127.0.0.1", mock.port), timeout=_LIMIT_S) for _ in range(200)]
    began_ns = time.monotonic_ns()
    for connection in crowd:
        _ask(connection, "tokens,n=500,rate=50")
    _read_answers(crowd)
    taken_s = (time.monotonic_ns() - began_ns) / 1e9
    for connection in crowd:
        connection.close()
    return [
        Figure("mock provider alone: one stream", chunks_per_s, "chunks/s"),
        Figure("mock provider alone: 200 streams at 50/s, time of the ideal", taken_s / 10, "times"),
    ]


def provider_latency_ms(mock: Mock) -> tuple[float, float]:
    """How long a word takes from the mock straight to a client: p50 and p99."""
    delays: list[int] = []
    read, counted = b"", 0
    with _connect(mock.port) as connection:
        _ask(connection, "tokens,n=500,rate=50,stamp=1")
        while not read.endswith(b"0\r\n\r\n"):
            read += connection.recv(65536)
            now_ns = time.monotonic_ns()
            stamps = _STAMP.findall(read)
            delays += [now_ns - int(stamp) for stamp in stamps[counted:]]
            counted = len(stamps)
    return percentile(delays, 50) / _MS, percentile(delays, 99) / _MS


def start(mock: Mock) -> list[Figure]:
    """How long a server takes from being started to being ready, with warm caches."""
    taken: list[float] = []
    for _ in range(8):
        with tempfile.TemporaryDirectory(prefix="atrio-bench-") as name:
            began_ns = time.monotonic_ns()
            with start_server(Path(name), model_url=mock.url) as process:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise RuntimeError("the server did not start")
                taken.append((time.monotonic_ns() - began_ns) / _MS)
                process.terminate()
    return [Figure("start to ready: p50", statistics.median(taken[1:]), "ms", 700)]
