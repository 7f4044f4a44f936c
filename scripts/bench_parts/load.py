"""What the server does to others under load: clients that do not read, and work that is large in one piece.

How long the event loop was held is the server's own figure, from `/metrics`. It
is real time: what else runs on the machine is in it.
"""

import http.client
import re
import socket
import time

from bench_parts.figures import Figure, percentile
from bench_parts.processes import Server
from bench_parts.wire import Connection, Message, drain

__all__ = ["slow_clients", "stall"]

_MS = 1_000_000

SLOW = 20
PINGS = 2_000
LARGE_TEXT = "lorem ipsum dolor sit amet, consectetur " * 26_000  # a megabyte


def slow_clients(server: Server) -> list[Figure]:
    """How long a ping takes while twenty clients are sent all they can be, and read nothing of it."""
    loader, canary = server.connect(), server.connect()
    loader.session_id = loader.make_session(server.path)
    slow = [server.connect() for _ in range(SLOW)]
    for connection in slow:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.attach(loader.session_id)
    times: list[int] = []
    asked = {"ping": (canary.send("ping"), time.monotonic_ns()), "prompt": (loader.prompt("tokens,n=20000"), 0)}

    def handle(connection: Connection, message: Message, now_ns: int) -> None:
        if message.error:
            raise RuntimeError(bytes(message.error).decode())
        if connection is canary and message.id == asked["ping"][0]:
            times.append(now_ns - asked["ping"][1])
            asked["ping"] = canary.send("ping"), time.monotonic_ns()
        elif connection is loader and message.id == asked["prompt"][0]:
            asked["prompt"] = loader.prompt("tokens,n=20000", delivery="interrupt"), 0

    drain([loader, canary], handle, lambda: len(times) >= PINGS, limit_s=120)
    for connection in (loader, canary, *slow):
        connection.close()
    return [
        Figure(f"ping beside {SLOW} clients that do not read: p50", percentile(times, 50) / _MS, "ms"),
        Figure(f"ping beside {SLOW} clients that do not read: p99", percentile(times, 99) / _MS, "ms", 50),
    ]


def stall(server: Server) -> list[Figure]:
    """The longest that the event loop is held by prompts of a megabyte, long histories, floods and replays."""
    first = server.session()
    readers = [server.connect() for _ in range(10)]
    for connection in readers:
        connection.attach(first.session_id)
    for _ in range(5):
        _to_end(first, readers, "tokens,n=3", text=LARGE_TEXT)
    _to_end(first, readers, "tokens,n=10000")
    for connection in readers:
        stream = connection.call("session/attach", sessionId=first.session_id, historyLimit=1)["stream"]
        after = {"epoch": stream["epoch"], "seq": max(stream["seq"] - 4000, 0)}
        connection.call("session/attach", sessionId=first.session_id, historyLimit=1000, after=after)
    for form in ("json", "markdown"):
        first.call("session/export", sessionId=first.session_id, format=form)
    held_s = _longest_round_s(server)
    for connection in (first, *readers):
        connection.close()
    return [Figure("event loop held at most, with 1 MiB prompts and replays", held_s * 1000, "ms", 250)]


def _to_end(first: Connection, readers: list[Connection], model: str, **more: str) -> None:
    """Run a prompt until every reader knows of its end."""
    ended = 0

    def handle(_: Connection, message: Message, _now_ns: int) -> None:
        nonlocal ended
        ended += sum(event.type == "run.completed" for event in message.session_events)

    first.prompt(model, **more)
    drain([first, *readers], handle, lambda: ended > len(readers))


def _longest_round_s(server: Server) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {server.token}"})
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^atrio_loop_stall_max_seconds (\S+)$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("the server has no such figure")
    return float(found[1])
