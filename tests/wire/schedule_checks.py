"""What must be true of a session whatever was done to it, in whatever order.

A second account of the rules, written from the contract alone: it reads what
clients sent and what they got, and knows nothing of how the server does it.
`check_session` looks at a whole history at its end; `covered_now` says exactly
what a cancel must name when everything stands still.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from atrio_protocol.events import decode_event
from atrio_protocol.methods import Attached, Position, SessionSnapshot
from atrio_protocol.reducer import SessionState, apply_event

__all__ = ["Asked", "Reader", "becomes_now", "check_session", "covered_now", "open_runs"]

Json = dict[str, Any]


@dataclass(eq=False)
class Asked:
    """A request and, in the end, its answer.

    ``seen``: how much of the log had come when it was sent. ``covers``,
    ``becomes`` and ``up_to``: what its answer must say, where that is known for sure. ``at_once``: no test holds it up.
    """

    method: str
    params: Json
    session: str
    client_id: str
    connection: int
    seen: int
    covers: list[str] | None = None
    becomes: str | None = None
    up_to: int | None = None
    at_once: bool = False
    answer: Json | None = None

    @property
    def result(self) -> Json | None:
        return None if self.answer is None else self.answer.get("result")

    @property
    def refusal(self) -> str | None:
        return self.answer["error"]["data"]["kind"] if self.answer and "error" in self.answer else None

    @property
    def named(self) -> list[str]:
        return self.result.get("cancelled", []) if self.result else []


@dataclass
class Reader:
    """A client that keeps up with sessions, over any number of connections."""

    states: dict[str, SessionState] = field(default_factory=dict[str, SessionState])
    logs: dict[str, list[Json]] = field(default_factory=dict[str, list[Json]])
    ended: dict[str, str] = field(default_factory=dict[str, str])

    def feed(self, frame: Json, attaching: dict[Any, str]) -> None:
        """Take a frame. ``attaching``: the session of each attach request of this connection, by its id."""
        method = frame.get("method")
        if method == "session/events":
            session = frame["params"]["sessionId"]
            for event in frame["params"]["events"]:
                # Checks that its range joins the last one.
                apply_event(self.states[session], decode_event(json.dumps(event).encode()))
                self.logs[session].append(event)
        elif method == "session/detached":
            self.ended[frame["params"]["sessionId"]] = frame["params"]["reason"]
        elif method is None and frame["id"] in attaching and "result" in frame:
            session, result = attaching[frame["id"]], msgspec.convert(frame["result"], Attached)
            if result.stream.recovered:
                assert (result.stream.epoch, result.stream.seq) == (
                    self.states[session].epoch,
                    self.states[session].seq,
                )
            else:
                assert isinstance(result.snapshot, SessionSnapshot)
                place = Position(epoch=result.stream.epoch, seq=result.stream.seq)
                self.states[session] = SessionState.from_snapshot(result.snapshot, place)
                self.logs[session] = []

    def place(self, session: str) -> Json | None:
        """Where it has got to, as `after`."""
        state = self.states.get(session)
        return None if state is None else {"epoch": state.epoch, "seq": state.seq}


def open_runs(log: Iterable[Json]) -> dict[str, Json]:
    """The runs that are accepted and not completed, by id, as they were accepted."""
    found: dict[str, Json] = {}
    for event in log:
        if event["type"] == "run.accepted":
            found[event["run"]["runId"]] = event["run"]
        elif event["type"] == "run.completed":
            del found[event["run"]["runId"]]
    return found


def covered_now(log: list[Json], asked: Asked, *, taken: Iterable[str]) -> list[str]:
    """What a cancel, or a clearing of the queue, must name when nothing moves.

    ``taken``: runs that their session has taken and that stand at a gate, perhaps before their start.
    """
    runs = open_runs(log)
    turn = {event["run"]["runId"] for event in log if event["type"] == "run.started"} | set(taken)
    folded = {event["runId"] for event in log if event["type"] == "run.folded"}
    run_id = asked.params.get("runId")
    if asked.method == "session/clear_queue":
        found = [name for name in runs if name not in turn | folded]
    elif run_id is not None:
        found = [run_id] if run_id in runs and run_id not in folded else []
    elif asked.params.get("scope") == "mine":
        found = [
            name for name, run in runs.items() if name in turn | folded or run["author"]["clientId"] == asked.client_id
        ]
    else:
        found = list(runs)
    return sorted(found, key=lambda name: runs[name]["acceptSeq"])


def becomes_now(log: list[Json], asked: Asked) -> str:
    """What a prompt must become when nothing moves: a run, the repeat of one, or which refusal."""
    known = {event["run"]["runId"]: event["run"] for event in log if event["type"] == "run.accepted"}
    earlier = known.get(asked.params.get("runId", ""))
    if earlier is not None:
        return "repeat" if earlier["promptText"] == asked.params["prompt"][0]["text"] else "idempotency_conflict"
    return "session_busy" if asked.params.get("delivery") == "reject" and open_runs(log) else "run"


class _Run:
    """A run as its session's log tells of it; the places are indices into the log."""

    def __init__(self, place: int, run: Json) -> None:
        self.accepted_at = place
        self.run_id: str = run["runId"]
        self.seq: int = run["acceptSeq"]
        self.delivery: str = run["delivery"]
        self.turn = run["delivery"] != "interrupt", run["acceptSeq"]
        self.started_at: int | None = None
        self.folded_at: int | None = None
        self.folded_into: str | None = None
        self.completed_at = -1
        self.end: Json = {}

    @property
    def cancelled(self) -> bool:
        return self.end["stopReason"] == "cancelled"

    def waits(self, place: int) -> bool:
        """Whether it is accepted and neither begun nor over there."""
        begun = min(at for at in (self.started_at, self.folded_at, self.completed_at) if at is not None)
        return self.accepted_at < place < begun


def check_session(log: list[Json], asked: list[Asked], *, deleted: bool, held_at_start: bool) -> None:
    """Check a whole history: the log of one steady reader, and what was asked of the session."""
    runs = _runs(log)
    _check_turns(log, runs)
    _check_queue(runs)
    _check_folds(log, runs, asked, held_at_start=held_at_start)
    _check_texts(log, runs)
    _check_answers(runs, asked)
    _check_cancels(log, runs, asked, deleted=deleted, held_at_start=held_at_start)


def _runs(log: list[Json]) -> dict[str, _Run]:
    """Every run has its events, each once, in their order."""
    runs: dict[str, _Run] = {}
    for place, event in enumerate(log):
        match event["type"]:
            case "run.accepted":
                run = _Run(place, event["run"])
                assert run.run_id not in runs, "accepted twice"
                runs[run.run_id] = run
            case "run.started":
                run = runs[event["run"]["runId"]]
                assert run.started_at is None and run.folded_at is None and not run.end
                run.started_at = place
            case "run.folded":
                run = runs[event["runId"]]
                assert run.started_at is None and run.folded_at is None and not run.end
                run.folded_at, run.folded_into = place, event["foldedInto"]
            case "run.completed":
                run = runs[event["run"]["runId"]]
                assert not run.end, "two terminals"
                run.completed_at, run.end = place, event["run"]
            case _:
                pass
    assert all(run.end for run in runs.values()), "no terminal"
    numbers = [run.seq for run in runs.values()]
    assert numbers == sorted(set(numbers)), "announced out of order"
    return runs


def _check_turns(log: list[Json], runs: dict[str, _Run]) -> None:
    """One turn at a time; what never began has two messages directly before its end."""
    turn: str | None = None
    for event in log:
        if event["type"] == "run.started":
            assert turn is None, "two turns at once"
            turn = event["run"]["runId"]
        elif event["type"] == "run.completed" and event["run"]["runId"] == turn:
            turn = None
    for run in runs.values():
        if run.started_at is None and run.folded_at is None:
            before = log[run.completed_at - 4 : run.completed_at]
            assert [event["type"] for event in before] == ["message.created", "message.completed"] * 2
            assert [event["message"]["role"] for event in before[::2]] == ["user", "assistant"]
            assert {event["message"]["runId"] for event in before} == {run.run_id}
            assert before[-1]["message"]["finish"]["reason"] == run.end["stopReason"] == "cancelled"


def _check_queue(runs: dict[str, _Run]) -> None:
    """Turns begin in the queue's order; a prompt that will not wait found nothing to wait for."""
    for run in runs.values():
        if run.started_at is not None:
            passed = [
                other
                for other in runs.values()
                if other.waits(run.started_at) and other.turn < run.turn and other.started_at is not None
            ]
            assert not passed, "not in the queue's order"
        if run.delivery == "reject":
            assert all(other.completed_at < run.accepted_at for other in runs.values() if other.seq < run.seq)


def _check_folds(log: list[Json], runs: dict[str, _Run], asked: list[Asked], *, held_at_start: bool) -> None:
    """Steers fold into the turn in which they were accepted, at its next step, and end directly before it."""
    ends = [event["run"]["runId"] for event in log if event["type"] == "run.completed"]
    for run in runs.values():
        if run.folded_into is None:
            continue
        main = runs[run.folded_into]
        assert run.delivery == "steer"
        assert main.started_at is not None and run.folded_at is not None
        assert main.started_at < run.folded_at < main.completed_at
        assert main.started_at < run.accepted_at or (held_at_start and main.accepted_at < run.accepted_at)
        between = ends[ends.index(run.run_id) + 1 : ends.index(main.run_id) + 1]
        assert between[-1] == main.run_id
        assert all(runs[name].folded_into == main.run_id for name in between[:-1]), "not directly before its turn"
        alike = ("text", "messageId", "stopReason", "error")
        assert [run.end.get(name) for name in alike] == [main.end.get(name) for name in alike]
        assert run.end["foldedInto"] == main.run_id
    for main in runs.values():
        folded = [run for run in runs.values() if run.folded_into == main.run_id]
        assert sorted(folded, key=lambda run: run.folded_at or 0) == sorted(folded, key=lambda run: run.seq)
        if main.started_at is not None:
            # Those sent when the turn was known to run; of what is sent at once with it the log cannot tell.
            steers = [
                runs[one.result["run"]["runId"]]
                for one in asked
                if one.method == "session/prompt" and one.result is not None and one.seen > main.started_at
                if not one.result["duplicate"]
            ]
            _check_steps(log, [run for run in steers if run.delivery == "steer"], main, main.started_at)


def _check_steps(log: list[Json], steers: list[_Run], main: _Run, started_at: int) -> None:
    """A steer that waits when a step ends is folded in before the next answer begins."""
    step_at = None
    for place in range(started_at, main.completed_at):
        message = log[place].get("message", {})
        if message.get("runId") != main.run_id:
            continue
        kind = log[place]["type"], message["role"]
        if kind == ("message.completed", "tool"):
            step_at = place
        elif kind == ("message.created", "assistant") and step_at is not None:
            missed = [run for run in steers if run.accepted_at < step_at and run.waits(place)]
            # A turn that is being cancelled takes none, nor is one taken that is being cancelled itself.
            assert main.cancelled or all(run.cancelled for run in missed), "a steer missed a step"


def _check_texts(log: list[Json], runs: dict[str, _Run]) -> None:
    """A text is what its part was set to and the deltas since, and a run's is that of its last answer."""
    texts: dict[tuple[str, int], str] = {}
    final: dict[str, str] = {}
    for event in log:
        match event["type"]:
            case "message.created":
                message = event["message"]
                texts |= {(message["messageId"], at): part.get("text", "") for at, part in enumerate(message["parts"])}
            case "message.part":
                value = event["value"]
                texts[event["messageId"], event["part"]] = value.get("text", value.get("inputText", ""))
            case "message.delta":
                key = event["messageId"], event["part"]
                assert event["offset"] == len(texts[key])
                texts[key] += event["text"]
            case "message.completed":
                message = event["message"]
                for at, part in enumerate(message["parts"]):
                    if part["type"] == "text":
                        assert texts[message["messageId"], at] == part["text"]
                final[message["messageId"]] = "".join(
                    part["text"] for part in message["parts"] if part["type"] == "text"
                )
            case "run.completed":
                assert event["run"]["text"] == final[event["run"]["messageId"]]
            case _:
                pass
    assert all(run.end["promptMessageId"] in final for run in runs.values())


def _check_answers(runs: dict[str, _Run], asked: list[Asked]) -> None:
    """What was acknowledged was accepted, once, and in the order in which one connection sent it."""
    prompts = [one for one in asked if one.method == "session/prompt"]
    first: dict[str, Asked] = {}
    for one in prompts:
        if one.answer is not None and one.becomes is not None:
            assert one.becomes == (one.refusal or ("repeat" if one.result and one.result["duplicate"] else "run"))
        if one.result is None:
            continue
        run = runs[one.result["run"]["runId"]]
        assert one.result["run"]["acceptSeq"] == run.seq
        if not one.result["duplicate"]:
            assert run.run_id not in first, "accepted twice"
            first[run.run_id] = one
    for earlier, later in itertools.combinations(first.values(), 2):
        if earlier.connection == later.connection:
            assert _number(earlier) < _number(later)


def _number(one: Asked) -> int:
    assert one.result is not None
    return one.result["run"]["acceptSeq"]


def _check_cancels(
    log: list[Json], runs: dict[str, _Run], asked: list[Asked], *, deleted: bool, held_at_start: bool
) -> None:
    """A cancel names what it covers, what it names is cancelled, and nothing else is."""
    named: set[str] = set()
    all_answered = True
    for position, one in enumerate(asked):
        if one.method not in {"session/cancel", "session/clear_queue"}:
            continue
        all_answered &= one.answer is not None
        named.update(one.named)
        if one.covers is not None and one.result is not None:
            assert one.named == one.covers
            begun = [at for at in (runs[run_id].started_at for run_id in one.named) if at is not None]
            assert all(at < one.seen for at in begun), "begun after it was cancelled"
        if one.result is None or one.method != "session/cancel" or "runId" in one.params:
            continue
        up_to = one.result["upTo"]
        assert one.up_to in (None, up_to)
        assert all(runs[run_id].seq <= up_to for run_id in one.named)
        for other_position, other in enumerate(asked):
            mine = other.method == "session/prompt" and other.connection == one.connection
            if mine and other.result is not None and not other.result["duplicate"]:
                assert (other_position < position) == (_number(other) <= up_to), "the mark"
    for run_id in named:
        assert runs[run_id].cancelled, "named, and not cancelled"
    for one in asked:
        _check_interrupt(log, runs, one)
    for run in runs.values():
        if run.cancelled and run.run_id not in named and all_answered and not deleted:
            turn = runs[run.folded_into] if run.folded_into is not None else run
            began = turn.started_at is not None or held_at_start
            interrupted = any(
                other.delivery == "interrupt"
                and turn.seq != other.seq
                and other.accepted_at < turn.completed_at
                and (turn.started_at or 0) < other.accepted_at
                for other in runs.values()
            )
            assert turn.run_id in named or (began and interrupted), "cancelled by nobody"


def _check_interrupt(log: list[Json], runs: dict[str, _Run], asked: Asked) -> None:
    """An interrupt ends the turn that it finds, where nothing moved while it was accepted."""
    if (
        asked.becomes != "run"
        or not asked.at_once
        or asked.params.get("delivery") != "interrupt"
        or asked.result is None
    ):
        return
    run = runs[asked.result["run"]["runId"]]
    moved = any(event["type"] != "session.updated" for event in log[asked.seen : run.accepted_at])
    if moved or run.cancelled:  # one that is taken back at once interrupts nothing
        return
    for turn in runs.values():
        if turn.started_at is not None and turn.started_at < run.accepted_at < turn.completed_at:
            assert turn.cancelled, "not interrupted"
