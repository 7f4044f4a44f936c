"""The server's figures in the words of Prometheus: what `GET /metrics` answers.

Made at the moment of asking, in one step of the event loop, from what the
server counts anyway (`atrio_server.figures`) and from what it is made of. The
registry is our own, so that no library adds to it; the library itself is loaded
at the first request, in a thread: a server that nobody asks starts sooner and
is smaller.

The invariant: labels come from fixed lists. No id, path, name or text of a user
is ever one, and the number of lines does not grow with use.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import trio

from atrio_protocol.version import VERSION
from atrio_server.figures import Histogram
from atrio_server.server import Server

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["Metrics"]

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]


class Metrics:
    """Shows the figures of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loading = trio.CapacityLimiter(1)
        self._show: Callable[[], tuple[bytes, str]] | None = None

    async def show(self) -> tuple[bytes, str]:
        """The figures as they are now, and the content type of that text."""
        if self._show is None:
            self._show = await trio.to_thread.run_sync(self._load, limiter=self._loading)
        return self._show()

    def _load(self) -> Callable[[], tuple[bytes, str]]:
        """Load the library and make the registry. Runs in a worker thread, which reads nothing of the server."""
        from prometheus_client import exposition  # noqa: PLC0415
        from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._server))
        ProcessCollector(registry=registry)
        return lambda: (exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST)


class _Collector:
    """What the registry asks for the server's figures."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> list["Metric"]:
        """Nothing: all names are ours, and the registry need not look for doubles."""
        return []

    def collect(self) -> Iterator["Metric"]:
        yield from self._runs()
        yield from self._store_and_tools()
        yield from self._streams()
        yield from self._door()
        yield from self._process()

    def _runs(self) -> Iterator["Metric"]:
        figures = self._server.figures
        ended = {(kind, reason): count for (kind, reason), count in figures.runs.items()}
        yield _counter("runs", "Runs that have ended, by how and of which kind.", ended, "kind", "outcome")
        active = queued = longest = sessions = waiting = 0
        open_ones = [one for one in self._server.workspaces.all() if one.state == "open"]
        for workspace in open_ones:
            waiting += len(workspace.coordinator.ground.broker.pending())
            for session in workspace.coordinator.sessions():
                sessions += 1
                inbox = session.inbox
                length = sum(run is not inbox.active for run in inbox.queue)
                active += inbox.active is not None
                queued += length
                longest = max(longest, length)
        yield _gauge("runs_active", "Runs that their sessions have taken.", active)
        yield _gauge("runs_queued", "Accepted runs that wait for their turn, in all sessions.", queued)
        yield _gauge("queue_length_max", "Accepted runs that wait, in the session in which most do.", longest)
        yield _gauge("permissions_waiting", "Questions that wait for an answer.", waiting)
        yield _gauge("workspaces", "Open workspaces.", len(open_ones))
        yield _gauge("sessions", "Sessions in memory.", sessions)
        yield _histogram("accept_seconds", "From taking a prompt in to having it stored.", {(): figures.accepts})

    def _store_and_tools(self) -> Iterator["Metric"]:
        figures = self._server.figures
        yield _histogram("commit_seconds", "How long a batch of writes took.", {(): figures.commits})
        failed = {(): figures.writes_failed}
        yield _counter("writes_failed", "Writes that the disk did not take, tries again included.", failed)
        tools = {(tool,): times for tool, times in figures.tools.items()}
        yield _histogram("tool_seconds", "How long a call that was allowed took.", tools, "tool")
        errors = {(tool,): count for tool, count in figures.tools_failed.items()}
        yield _counter("tool_failures", "Calls that were allowed and ended with an error.", errors, "tool")
        used = figures.tokens
        yield _counter(
            "tokens", "Tokens, as providers count them or else estimated.", used, "provider", "model", "direction"
        )

    def _streams(self) -> Iterator["Metric"]:
        rings = self._server.rings
        connections = self._server.connections.values()
        readers = Counter({"session": 0, "workspace": 0})
        readers.update(key.of for connection in connections for key in connection.attachments)
        by_stream = {(of,): count for of, count in readers.items()}
        yield _gauge("readers", "Attachments to streams.", by_stream, "stream")
        behind = max((connection.most_behind for connection in connections), default=0)
        yield _gauge("reader_lag_events", "Events that the slowest reader has still to be sent.", behind)
        yield _counter("readers_lagged", "Readers that fell out of what is kept.", {(): rings.lagged})
        yield _counter("events", "Events published, each encoded once.", {(): rings.published})
        yield _gauge("stream_kept_bytes", "What all streams keep for their readers.", rings.used_bytes)

    def _door(self) -> Iterator["Metric"]:
        door = self._server.figures.door
        yield _gauge("connections", "Open WebSockets.", len(self._server.connections))
        yield _counter("connections_accepted", "Connections of any kind that came.", {(): door.accepted})
        refused = {(reason,): count for reason, count in door.refused.items()}
        yield _counter("connections_refused", "Connections that were not let in, by why.", refused, "reason")
        yield _counter("connections_stalled", "Connections closed because they took no bytes.", {(): door.stalled})
        yield _counter("received_bytes", "Bytes received from clients.", {(): door.received_bytes})
        yield _counter("sent_bytes", "Bytes sent to clients.", {(): door.sent_bytes})
        yield _gauge("http_requests", "Requests over HTTP that are being served.", self._server.http_requests)

    def _process(self) -> Iterator["Metric"]:
        loop = self._server.loop
        yield _histogram(
            "loop_stall_seconds",
            "Rounds of the event loop of at least 10 ms: nobody is served meanwhile.",
            {(): loop.rounds},
        )
        yield _gauge("loop_stall_max_seconds", "The longest such round since the server began.", loop.longest_s)
        lost = {"unread": 0, "unwritten": 0, "repeated": 0, **self._server.lines_lost()}
        by_why = {(why,): count for why, count in lost.items()}
        yield _counter("log_lines_dropped", "Log lines that were not written, by why.", by_why, "reason")
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield _gauge("tasks", "Tasks of the event loop.", tasks)
        yield _gauge("threads", "Threads of the process.", threading.active_count())
        yield _gauge("build_info", "1, for the version that runs.", {(VERSION,): 1}, "version")


PREFIX: Final = "atrio_"


def _gauge(name: str, help_text: str, value: float | Samples, *labels: str) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    family = GaugeMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, number in ({(): value} if isinstance(value, int | float) else value).items():
        family.add_metric(values, number)
    return family


def _counter(name: str, help_text: str, samples: Samples, *labels: str) -> "Metric":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family


def _histogram(name: str, help_text: str, samples: Mapping[Labels, Histogram], *labels: str) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

    family = HistogramMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, histogram in samples.items():
        family.add_metric(values, buckets=list(_buckets(histogram)), sum_value=histogram.total)
    return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Each bound with how many values were at most as large, as Prometheus wants it."""
    so_far = 0
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        so_far += count
        yield bound, so_far
