"""What a history says, sorted: requests with their answers, attachments, servers, and what was told of each run.

The first step of the checker. It decides what belongs together and checks no
more than that something belongs somewhere: one answer for each request, each
event in an attachment and directly behind the one before it. Pure data in and
out; it imports nothing of the project and knows the contract alone.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = [
    "ACCEPTING",
    "CLOCK_S",
    "DELTAS",
    "Broken",
    "Facts",
    "Life",
    "Reading",
    "Request",
    "RunFacts",
    "read",
    "seconds_of",
    "text_of",
]

Json = dict[str, Any]

CLOCK_S = 0.002
"""By so much two times of one clock may differ for what was at once: some are cut to milliseconds."""

DELTAS = ("message.delta", "tool.output")
ACCEPTING = ("session/prompt", "session/shell", "session/summarize")


@dataclass(frozen=True)
class Broken:
    """A rule that the history breaks, and how."""

    rule: str
    how: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.how}"


@dataclass(eq=False)
class Request:
    """A request and its answer; ``sent`` and ``replied`` are places in the history."""

    conn: str
    id: Any
    method: str
    params: Json
    sent: int
    sent_at: float
    server: int
    client: str | None
    replied: int | None = None
    replied_at: float = 0.0
    result: Any = None
    error: Json | None = None

    @property
    def session(self) -> str:
        """The session that it names, if it names one."""
        return self.params.get("sessionId", "")

    def __str__(self) -> str:
        return f"{self.method} {self.id} of {self.conn}"


@dataclass(eq=False)
class Life:
    """One server process. Signals are noted when they are about to be sent; of each kind the first counts."""

    number: int
    started: int
    started_at: float
    asked: int | None = None
    """Where it got SIGTERM."""
    asked_at: float = 0.0
    killed_at: float = 0.0
    ended: int | None = None
    ended_at: float = 0.0
    code: int | None = None

    @property
    def killed(self) -> bool:
        """Whether it ended without having saved everything, by a signal or by itself."""
        return self.ended is not None and self.code != 0

    @property
    def stopped_at(self) -> float:
        """From when on a crash may have kept it from what it had to do."""
        return self.killed_at or self.ended_at


@dataclass(eq=False)
class Reading:
    """One attachment: where it began, with which snapshot, and the events that came."""

    conn: str
    of: str
    thing: str
    epoch: str
    seq: int
    server: int
    begun: int
    begun_at: float
    snapshot: Json | None
    reads: bool
    events: list[tuple[int, Json]] = field(default_factory=list)
    over: int | None = None
    left: bool = False
    """Its client ended it, or began it anew."""
    last: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """The stream that it reads."""
        return self.of, self.thing, self.epoch


@dataclass(eq=False)
class RunFacts:
    """All that was told of one run: ``told`` are pairs of a place in the history and the run as it stood."""

    run_id: str
    acks: list[Request] = field(default_factory=list)
    told: list[tuple[int, int, str, Json]] = field(default_factory=list)
    """Place in the history, server, by what, the run."""

    @property
    def session(self) -> str:
        return self.told[0][3]["sessionId"]

    @property
    def seq(self) -> int:
        return self.told[0][3]["acceptSeq"]

    @property
    def author(self) -> str:
        return self.told[0][3]["author"]["clientId"]

    @property
    def end(self) -> Json | None:
        """The run as it was told last once it was completed."""
        return next((run for _, _, _, run in reversed(self.told) if run["state"] == "completed"), None)

    @property
    def accepted_at(self) -> float:
        return seconds_of(self.told[0][3]["acceptedAt"])


class Facts:
    """Everything of a history, sorted. Made by `read`."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self.requests: list[Request] = []
        self.lives: dict[int, Life] = {}
        self.readings: list[Reading] = []
        self.about_run: defaultdict[str, list[Request]] = defaultdict(list)
        """The requests that name a run, by its id."""
        self.about_session: defaultdict[str, list[Request]] = defaultdict(list)
        self.runs: dict[str, RunFacts] = {}
        self.by_session: defaultdict[str, list[RunFacts]] = defaultdict(list)
        self.conns: dict[str, Json] = {}
        self.closed: dict[str, tuple[int, int, float]] = {}
        """Place and code of each connection's end."""
        self.stalls: list[tuple[float, float]] = []
        self.messages: dict[str, dict[str, Json]] = defaultdict(dict)
        """By session: its messages as the last reads of `session/messages` had them, by id."""
        self.messages_read: dict[str, int] = {}
        """By session: where the request was sent whose answer is the last of these."""

    def breaks(self, rule: str, how: str) -> None:
        """Note that a rule is broken."""
        self.broken.append(Broken(rule, how))

    def life(self, number: int) -> Life:
        """A server; one that was started outside of the history is taken to run all along."""
        return self.lives.setdefault(number, Life(number, 0, 0.0))

    def home(self, run: RunFacts) -> Life:
        """The server that accepted a run."""
        by_then = [life for life in self.lives.values() if life.started_at <= run.accepted_at + CLOCK_S]
        return max(by_then, key=lambda life: life.number, default=self.life(min(self.lives, default=0)))

    @property
    def last_server(self) -> int:
        return max(self.lives, default=0)

    def of(self, *methods: str) -> list[Request]:
        """The requests of these methods, as they were sent."""
        return [request for request in self.requests if request.method in methods]

    def accepted(self, session: str) -> list[Request]:
        """The prompts and the like of a session that were acknowledged as new, as they were sent."""
        found = [one for one in self.about_session[session] if one.method in ACCEPTING]
        return [one for one in found if one.result is not None and not one.result.get("duplicate")]

    def in_session(self, session: str) -> list[RunFacts]:
        """The runs of a session."""
        return self.by_session[session]


def seconds_of(time: str) -> float:
    """A time of the wire as seconds of the wall clock, cut to milliseconds."""
    return datetime.fromisoformat(time).timestamp()


def text_of(message: Json) -> str:
    """All text parts of a message, joined."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


class _Reader:
    """Goes through the entries once."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.open: dict[tuple[str, Any], Request] = {}
        self.current: dict[tuple[str, str], Reading] = {}
        self.by_id: dict[tuple[str, Any], Request] = {}

    def take(self, place: int, entry: Json) -> None:
        getattr(self, f"_{entry['what']}")(place, entry)

    def _start(self, place: int, entry: Json) -> None:
        self.facts.lives[entry["server"]] = Life(entry["server"], place, entry["at"])

    def _signal(self, place: int, entry: Json) -> None:
        life = self.facts.life(entry["server"])
        if entry["name"] == "SIGKILL":
            life.killed_at = life.killed_at or entry["at"]
        elif life.asked is None:
            life.asked, life.asked_at = place, entry["at"]

    def _ended(self, place: int, entry: Json) -> None:
        life = self.facts.life(entry["server"])
        life.ended, life.ended_at, life.code = place, entry["at"], entry["code"]

    def _stall(self, _place: int, entry: Json) -> None:
        self.facts.stalls.append((entry["at"], entry["s"]))

    def _open(self, _place: int, entry: Json) -> None:
        self.facts.conns[entry["conn"]] = entry
        self.facts.life(entry["server"])

    def _closed(self, place: int, entry: Json) -> None:
        self.facts.closed[entry["conn"]] = place, entry["code"], entry["at"]
        for key in [key for key in self.current if key[0] == entry["conn"]]:
            self.current.pop(key).over = place

    def _send(self, place: int, entry: Json) -> None:
        conn = self.facts.conns[entry["conn"]]
        request = Request(
            conn=entry["conn"],
            id=entry.get("id"),
            method=entry["method"],
            params=entry["params"],
            sent=place,
            sent_at=entry["at"],
            server=conn["server"],
            client=conn["client"],
        )
        self.facts.requests.append(request)
        self.facts.about_session[request.session].append(request)
        if "runId" in request.params:
            self.facts.about_run[request.params["runId"]].append(request)
        if request.id is not None:
            self.open[entry["conn"], request.id] = request

    def _reply(self, place: int, entry: Json) -> None:
        request = self.open.pop((entry["conn"], entry["id"]), None)
        if request is None:
            self.facts.breaks("answered", f"{entry['conn']} got an answer to {entry['id']!r}, which waits for none")
            return
        request.replied, request.replied_at = place, entry["at"]
        request.result, request.error = entry.get("result"), entry.get("error")
        if isinstance(request.result, dict):
            self._take_result(place, request, request.result)

    def _take_result(self, place: int, request: Request, result: Json) -> None:
        if "stream" in result:
            self._begin(place, request, result)
        if request.method in ("session/detach", "workspace/close"):
            thing = request.params.get("sessionId") or request.params.get("workspaceId", "")
            reading = self.current.pop((request.conn, thing), None)
            if reading is not None:
                reading.over, reading.left = place, True
        if "run" in result:
            self._tell(place, request.server, request.method, result["run"])
            if request.method in ACCEPTING:
                self.facts.runs[result["run"]["runId"]].acks.append(request)
        for run in result.get("runs", ()):
            self._tell(place, request.server, request.method, run)
        if request.method == "session/messages":
            kept = self.facts.messages[request.session]
            if request.params.get("before") is None:
                kept.clear()  # a fresh reading from the newest page on
                self.facts.messages_read[request.session] = request.sent
            kept |= {message["messageId"]: message for message in result["messages"]}

    def _begin(self, place: int, request: Request, result: Json) -> None:
        of = "workspace" if "workspace" in result else "session"
        thing = result["workspace"]["workspaceId"] if of == "workspace" else request.params["sessionId"]
        stream, snapshot, after = result["stream"], result.get("snapshot"), request.params.get("after")
        if stream["recovered"]:
            if (stream["epoch"], stream["seq"]) != (after and after["epoch"], after and after["seq"]):
                self.facts.breaks("attachment", f"{request} resumed at {stream}, which is not after {after}")
        elif snapshot is None:
            self.facts.breaks("attachment", f"{request} got neither a snapshot nor what it missed")
        reading = Reading(
            conn=request.conn,
            of=of,
            thing=thing,
            epoch=stream["epoch"],
            seq=stream["seq"],
            server=request.server,
            begun=place,
            begun_at=request.replied_at,
            snapshot=snapshot,
            reads=self.facts.conns[request.conn]["reads"],
            last=stream["seq"],
        )
        replaced = self.current.get((request.conn, thing))
        if replaced is not None:
            replaced.over, replaced.left = place, True
        self.current[request.conn, thing] = reading
        self.facts.readings.append(reading)
        if of == "session" and snapshot is not None:
            for run in snapshot["runs"]:
                self._tell(place, request.server, "snapshot", run)

    def _events(self, place: int, entry: Json) -> None:
        reading = self.current.get((entry["conn"], entry["thing"]))
        where = f"{entry['conn']} in {entry['thing']}"
        if reading is None:
            self.facts.breaks("attachment", f"{where} got events without an attachment")
            return
        if entry["epoch"] != reading.epoch:
            self.facts.breaks("attachment", f"{where} got events of another epoch")
            return
        for event in entry["events"]:
            first = event.get("firstSeq", event["seq"])
            if first != reading.last + 1 or event["seq"] < first:
                kind = "a gap" if first > reading.last + 1 else "a repeat"
                self.facts.breaks("attachment", f"{where}: {kind}: {first}..{event['seq']} after {reading.last}")
            if "firstSeq" in event and event["type"] not in DELTAS:
                self.facts.breaks("attachment", f"{where}: a {event['type']} stands for several events")
            reading.last = event["seq"]
            reading.events.append((place, event))
            if "run" in event and entry["of"] == "session":
                self._tell(place, reading.server, event["type"], event["run"])

    def _detached(self, place: int, entry: Json) -> None:
        reading = self.current.pop((entry["conn"], entry["thing"]), None)
        if reading is None:
            self.facts.breaks("attachment", f"{entry['conn']} was detached from {entry['thing']}, where it was not")
        else:
            reading.over = place

    def _tell(self, place: int, server: int, by: str, run: Json) -> None:
        facts = self.facts.runs.get(run["runId"])
        if facts is None:
            facts = self.facts.runs[run["runId"]] = RunFacts(run["runId"])
            self.facts.by_session[run["sessionId"]].append(facts)
        facts.told.append((place, server, by, run))


def read(entries: list[Json]) -> Facts:
    """Sort a history."""
    reader = _Reader()
    for place, entry in enumerate(entries):
        reader.take(place, entry)
    return reader.facts
