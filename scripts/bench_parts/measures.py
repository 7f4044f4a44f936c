"""What is measured on Atrio. Each measure takes a running server and gives figures.

Times are taken in this process, which is a client like any other: from the
moment before a request's bytes are handed to the kernel to the moment after the
bytes of its answer came out. A delta's way is measured from the clock reading
that the mock provider sends as its text.
"""

import time
from collections.abc import Callable

from bench_parts.figures import Figure, percentile
from bench_parts.load import slow_clients, stall
from bench_parts.processes import Server, cpu_s, rss_kb, wait_until_quiet
from bench_parts.wire import Connection, Message, drain

__all__ = ["MEASURES"]

_MS = 1_000_000


class Progress:
    """Counts, per connection, the events that came and the runs that ended."""

    def __init__(self) -> None:
        self.deltas = 0
        self.ended = 0
        self.ended_at_ns = 0
        self.bad_ends: list[str] = []
        self.gaps = 0
        self._seq: dict[Connection, int] = {}

    def handle(self, connection: Connection, message: Message, now_ns: int) -> None:
        if message.error:
            self.bad_ends.append(bytes(message.error).decode())
            self.ended += 1
        for event in message.session_events:
            last = self._seq.get(connection)
            self.gaps += last is not None and event.seq - event.stands_for != last
            self._seq[connection] = event.seq
            if event.type == "message.delta":
                self.deltas += event.stands_for
            elif event.type == "run.completed":
                self.ended += 1
                self.ended_at_ns = now_ns
                if event.run is not None and event.run.stop_reason != "end_turn":
                    self.bad_ends.append(event.run.stop_reason)

    def check(self, *, deltas: int) -> None:
        """Refuse to report a number for work that was not done."""
        if self.bad_ends or self.gaps or self.deltas != deltas:
            problem = f"{self.deltas} of {deltas} deltas, {self.gaps} gaps, ends {self.bad_ends[:3]}"
            raise RuntimeError(f"the server did not do what was measured: {problem}")


def _turn(connection: Connection, model: str) -> tuple[int, int]:
    """Run one prompt to its end; the time to its reply and to its end, in ns."""
    began = time.monotonic_ns()
    request = connection.prompt(model)
    times = [0, 0]

    def handle(_: Connection, message: Message, now_ns: int) -> None:
        if message.error:
            raise RuntimeError(bytes(message.error).decode())
        if message.id == request:
            times[0] = now_ns - began
        if any(event.type == "run.completed" for event in message.session_events):
            times[1] = now_ns - began

    drain([connection], handle, lambda: all(times))
    return times[0], times[1]


def accept(server: Server) -> list[Figure]:
    """How long until a prompt is accepted, which is to say committed."""
    connection = server.session()
    for _ in range(20):
        _turn(connection, "tokens,n=1")
    replies, ends = zip(*(_turn(connection, "tokens,n=1") for _ in range(300)), strict=True)
    connection.close()
    return [
        Figure("accept, committed: p50", percentile(replies, 50) / _MS, "ms", 1.5),
        Figure("accept, committed: p99", percentile(replies, 99) / _MS, "ms"),
        Figure("prompt to end of a one-word turn: p50", percentile(ends, 50) / _MS, "ms"),
    ]


def _accept_round(connections: list[Connection]) -> list[int]:
    """One prompt on each connection, as fast as they can be sent; the time to each reply, in ns."""
    began: dict[Connection, tuple[int, int]] = {}
    replies: list[int] = []
    ended = 0

    def handle(connection: Connection, message: Message, now_ns: int) -> None:
        nonlocal ended
        request, sent_ns = began[connection]
        if message.id == request:
            replies.append(now_ns - sent_ns)
        ended += sum(event.type == "run.completed" for event in message.session_events)

    for connection in connections:
        sent_ns = time.monotonic_ns()
        began[connection] = (connection.prompt("tokens,n=1"), sent_ns)
    drain(connections, handle, lambda: ended == len(connections))
    return replies


def accept_many(server: Server) -> list[Figure]:
    """Fifty prompts at once, each on a connection and in a session of its own."""
    connections = server.readers(50)
    _accept_round(connections)
    replies = [reply for _ in range(20) for reply in _accept_round(connections)]
    for connection in connections:
        connection.close()
    return [
        Figure("50 accepts at once: p50", percentile(replies, 50) / _MS, "ms", 15),
        Figure("50 accepts at once: p99", percentile(replies, 99) / _MS, "ms", 40),
    ]


def latency(server: Server) -> list[Figure]:
    """How long a word takes from the provider to a client, on a server that does nothing else."""
    connection = server.session()
    _turn(connection, "tokens,n=20,rate=100,stamp=1")
    delays: list[int] = []
    ended = False

    def handle(_: Connection, message: Message, now_ns: int) -> None:
        nonlocal ended
        for event in message.session_events:
            if event.type == "message.delta":
                delays.extend(now_ns - int(stamp) for stamp in event.text.split())
            ended = ended or event.type == "run.completed"

    connection.prompt("tokens,n=500,rate=50,stamp=1")
    drain([connection], handle, lambda: ended)
    connection.close()
    return [
        Figure("provider to client: p50", percentile(delays, 50) / _MS, "ms"),
        Figure("provider to client: p99", percentile(delays, 99) / _MS, "ms"),
    ]


def _flood_round(connections: list[Connection], deltas: int) -> float:
    """Deltas a second that all get together, from the prompt to the last one's end."""
    progress = Progress()
    began_ns = time.monotonic_ns()
    connections[0].prompt(f"tokens,n={deltas}")
    drain(connections, progress.handle, lambda: progress.ended >= len(connections))
    progress.check(deltas=deltas * len(connections))
    return progress.deltas / (progress.ended_at_ns - began_ns) * 1e9


def _flood(server: Server, readers: int) -> float:
    """The median of seven rounds with so many readers of one session."""
    connections = [server.session()]
    for _ in range(readers - 1):
        connections.append(server.connect())
        connections[-1].attach(connections[0].session_id)
    rates = [_flood_round(connections, 2000) for _ in range(8)]
    for connection in connections:
        connection.close()
    return percentile(rates[1:], 50)


def flood_one(server: Server) -> list[Figure]:
    """2,000 deltas with no delay, one client."""
    return [Figure("2,000 deltas to 1 client", _flood(server, 1), "events/s", 30_000, "≥")]


def flood_fifty(server: Server) -> list[Figure]:
    """2,000 deltas with no delay, fifty clients."""
    return [Figure("2,000 deltas to 50 clients, together", _flood(server, 50), "deliveries/s", 250_000, "≥")]


def sessions(server: Server) -> list[Figure]:
    """200 sessions that stream 50 deltas a second each, for ten seconds."""
    count, deltas, rate = 200, 500, 50
    connections = server.readers(count)
    progress = Progress()
    peak_kb = 0
    next_look = 0.0

    def done() -> bool:
        nonlocal peak_kb, next_look
        if time.monotonic() >= next_look:
            peak_kb = max(peak_kb, rss_kb(server.pid))
            next_look = time.monotonic() + 0.25
        return progress.ended >= count

    used_s = cpu_s(server.pid)
    began_ns = time.monotonic_ns()
    for connection in connections:
        connection.prompt(f"tokens,n={deltas},rate={rate}")
    drain(connections, progress.handle, done, limit_s=60)
    progress.check(deltas=deltas * count)
    taken_s = (progress.ended_at_ns - began_ns) / 1e9
    used_s = cpu_s(server.pid) - used_s
    for connection in connections:
        connection.close()
    return [
        Figure("200 sessions at 50 deltas/s: time, of the ideal", taken_s / (deltas / rate), "times", 1.10),
        Figure("200 sessions at 50 deltas/s: memory", peak_kb / 1024, "MiB", 250),
        Figure("200 sessions at 50 deltas/s: processor time of a delta", used_s / progress.deltas * 1e6, "µs"),
    ]


def _cancel_once(connection: Connection) -> int:
    """Cancel a run that streams; the time to its end, in ns."""
    seen = {"message.delta": 0, "run.completed": 0}

    def handle(_: Connection, message: Message, now_ns: int) -> None:
        for event in message.session_events:
            if event.type in seen:
                seen[event.type] = now_ns

    connection.prompt("tokens,n=1000,rate=50")
    drain([connection], handle, lambda: bool(seen["message.delta"]))
    began_ns = time.monotonic_ns()
    connection.send("session/cancel", sessionId=connection.session_id)
    drain([connection], handle, lambda: bool(seen["run.completed"]))
    return seen["run.completed"] - began_ns


def cancel(server: Server) -> list[Figure]:
    """How long from a cancel to the end of a run that streams."""
    connection = server.session()
    times = [_cancel_once(connection) for _ in range(101)][1:]
    connection.close()
    return [
        Figure("cancel to end: p50", percentile(times, 50) / _MS, "ms", 3),
        Figure("cancel to end: p99", percentile(times, 99) / _MS, "ms"),
    ]


def memory(server: Server) -> list[Figure]:
    """Memory of a fresh server, and of each connection that is attached to a session."""
    count = 500
    wait_until_quiet(server.pid)
    idle_kb = rss_kb(server.pid)
    first = server.session()
    wait_until_quiet(server.pid)
    before_kb = rss_kb(server.pid)
    others = [server.connect() for _ in range(count)]
    for connection in others:
        connection.attach(first.session_id)
    wait_until_quiet(server.pid)
    after_kb = rss_kb(server.pid)
    for connection in (first, *others):
        connection.close()
    return [
        Figure("memory of an idle server", idle_kb / 1024, "MiB", 90),
        Figure("memory of a further connection", (after_kb - before_kb) / count, "KiB", 60),
    ]


MEASURES: dict[str, Callable[[Server], list[Figure]]] = {
    "memory": memory,
    "accept": accept,
    "accept-many": accept_many,
    "latency": latency,
    "flood-one": flood_one,
    "flood-fifty": flood_fifty,
    "cancel": cancel,
    "sessions": sessions,
    "slow-clients": slow_clients,
    "stall": stall,
}
"""What can be measured on a running server, in the order in which it is. Each gets a fresh one."""
