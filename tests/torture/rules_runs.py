"""Rules about runs while a server lives: accepted once and in order, run in the queue's order, ended once.

Part of the checker; pure. What must hold over a crash is in `rules_crash`, what
a cancel covers in `rules_cancel`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torture.facts import Facts, Request
from torture.logs import Log

__all__ = ["check_runs"]

Json = dict[str, Any]

SAME = ("sessionId", "acceptSeq", "delivery", "kind", "author", "promptText", "acceptedAt")
"""What of a run never changes."""

CONFLICTS = ("idempotency_conflict", "queue_full", "session_busy", "empty_prompt", "model_not_found")
"""What nobody is told who repeats himself: a known run comes before all of these."""


def check_runs(facts: Facts, logs: list[Log]) -> None:
    """Check all of them."""
    sessions = [log for log in logs if log.of == "session"]
    _check_identity(facts)
    _check_acks(facts)
    _check_order_of_acceptance(facts)
    for log in sessions:
        stories = _stories(facts, log)
        _check_turns(facts, log, stories)
        _check_queue(facts, log, stories)
        _check_folds(facts, log, stories)
    _check_across_epochs(facts, sessions)
    _check_workspaces(facts, logs)


def _check_identity(facts: Facts) -> None:
    """A run is always the same one, and of a session's runs no two have one number."""
    numbers: dict[tuple[str, int], str] = {}
    for run in facts.runs.values():
        _, _, by, first = run.told[0]
        for _, _, how, told in run.told[1:]:
            changed = [name for name in SAME if told.get(name) != first.get(name)]
            if changed:
                facts.breaks("identity", f"{run.run_id}: {how} has another {changed} than {by}")
        other = numbers.setdefault((run.session, run.seq), run.run_id)
        if other != run.run_id:
            facts.breaks("accept_order", f"{other} and {run.run_id} have the same acceptSeq {run.seq}")


def _check_acks(facts: Facts) -> None:
    """A prompt is acknowledged as what was sent, and as new at most once."""
    for run in facts.runs.values():
        new = [ack for ack in run.acks if not ack.result.get("duplicate") and ack.method == "session/prompt"]
        if len(new) > 1:
            facts.breaks(
                "one_accept", f"{run.run_id} was accepted as new {len(new)} times: {[str(one) for one in new]}"
            )
        known = min((ack.replied or 0 for ack in run.acks), default=None)
        for again in facts.about_run.get(run.run_id, ()):
            if again.method != "session/prompt" or again.error is None or known is None or again.sent < known:
                continue
            same = [ack for ack in run.acks if ack.params.get("prompt") == again.params["prompt"]]
            if same and again.session == run.session and again.error["data"]["kind"] in CONFLICTS:
                facts.breaks("repeat", f"{again} repeats {same[0]}, and was answered {again.error['data']['kind']}")
        for ack in run.acks:
            if ack.method != "session/prompt":
                continue
            told = ack.result["run"]
            sent = "".join(block.get("text", "") for block in ack.params["prompt"])
            if told["promptText"] != sent[:2000] or ack.params.get("runId", told["runId"]) != told["runId"]:
                facts.breaks("identity", f"{ack} was answered with {told['runId']}, of another prompt")


def _check_order_of_acceptance(facts: Facts) -> None:
    """Numbers rise as prompts were sent on one connection, and from an answer to whatever was sent after it."""
    for session in list(facts.about_session):
        requests = facts.accepted(session)
        last: dict[str, Request] = {}
        for request in requests:
            before = last.get(request.conn)
            if before is not None and _number(before) >= _number(request):
                facts.breaks("accept_order", f"{session}: {before} has {_number(before)}, {request} {_number(request)}")
            last[request.conn] = request
        events = sorted(
            [(request.sent, 1, request) for request in requests]
            + [(request.replied or 0, 0, request) for request in requests],
            key=lambda one: one[:2],
        )
        highest, whose = 0, ""
        floors: dict[Request, tuple[int, str]] = {}
        for _, sent, request in events:
            if sent:
                floors[request] = highest, whose
            else:
                floor, by = floors[request]
                if _number(request) <= floor:
                    facts.breaks(
                        "accept_order", f"{session}: {request} has {_number(request)}, and {by} had {floor} before it"
                    )
                if _number(request) > highest:
                    highest, whose = _number(request), str(request)


def _number(request: Request) -> int:
    return request.result["run"]["acceptSeq"]


@dataclass(eq=False)
class _Story:
    """A run as one log tells of it; places are numbers of events."""

    run: Json
    accepted: int
    started: int | None = None
    folded: int | None = None
    into: str = ""
    completed: int | None = None
    end: Json | None = None

    @property
    def turn(self) -> tuple[bool, int]:
        return self.run["delivery"] != "interrupt", self.run["acceptSeq"]

    @property
    def begun(self) -> float:
        found = [place for place in (self.started, self.folded, self.completed) if place is not None]
        return min(found, default=float("inf"))

    def waits(self, place: int) -> bool:
        return self.accepted < place < self.begun


def _stories(facts: Facts, log: Log) -> dict[str, _Story]:
    """Collect what a log tells of each run that it tells of from its beginning; each event once, in its order."""
    stories: dict[str, _Story] = {}
    known = {run["runId"] for one in log.readings if one.snapshot for run in one.snapshot["runs"]}
    ended: set[str] = set()
    gap = bool(log.items) and log.items[0].first > 1
    for item in log.items:
        gap = gap or item.after_gap
        kind, at = item.type, item.last
        message = item.event.get("message", {})
        if message.get("runId") in ended:
            facts.breaks("story", f"{log.thing} {at}: {kind} of {message['runId']}, which is completed")
        if not kind.startswith("run."):
            continue
        run_id = item.event["runId"] if kind == "run.folded" else item.event["run"]["runId"]
        story = stories.get(run_id)
        if kind == "run.accepted":
            if story is not None or run_id in ended:
                facts.breaks("one_accept", f"{log.thing} {at}: {run_id} is accepted a second time")
            stories[run_id] = _Story(item.event["run"], at)
            continue
        if kind == "run.completed":
            if run_id in ended:
                facts.breaks("one_terminal", f"{log.thing} {at}: {run_id} completes a second time")
            ended.add(run_id)
        if story is None:
            if not gap and run_id not in known:
                facts.breaks("story", f"{log.thing} {at}: {kind} of {run_id}, which was not accepted")
            continue
        if kind == "run.completed":
            story.completed, story.end = at, item.event["run"]
        elif story.begun != float("inf"):
            facts.breaks("story", f"{log.thing} {at}: {kind} of {run_id}, which has begun already")
        elif kind == "run.started":
            story.started = at
        else:
            story.folded, story.into = at, item.event["foldedInto"]
    numbers = [story.run["acceptSeq"] for story in stories.values()]
    if numbers != sorted(set(numbers)):
        facts.breaks("accept_order", f"{log.thing}: runs are announced in the order {numbers}")
    return stories


def _check_turns(facts: Facts, log: Log, stories: dict[str, _Story]) -> None:
    """One turn at a time; a prompt that never began has its two messages directly before its end."""
    turn: str | None = None
    for item in log.items:
        if item.after_gap:
            turn = None
        if item.type == "run.started":
            if turn is not None:
                facts.breaks("one_turn", f"{log.thing} {item.last}: a turn begins while that of {turn} goes on")
            turn = item.event["run"]["runId"]
        elif item.type == "run.completed" and item.event["run"]["runId"] == turn:
            turn = None
    places = {item.last: index for index, item in enumerate(log.items)}
    for run_id, story in stories.items():
        if story.completed is None or story.started is not None or story.folded is not None:
            continue
        if story.run["kind"] != "prompt" or any(item.after_gap for item in log.items):
            continue
        index = places[story.completed]
        before = [(item.type, item.event.get("message", {})) for item in log.items[max(index - 4, 0) : index]]
        told = [(kind, message.get("role"), message.get("runId")) for kind, message in before]
        roles = ("user", "user", "assistant", "assistant")
        kinds = ("message.created", "message.completed") * 2
        if told != [(kind, role, run_id) for kind, role in zip(kinds, roles, strict=True)]:
            facts.breaks("story", f"{log.thing}: {run_id} never began, and before its end stands {told}")


def _check_queue(facts: Facts, log: Log, stories: dict[str, _Story]) -> None:
    """Turns begin in the queue's order: interrupts first, then the rest, each by number."""
    for run_id, story in stories.items():
        if story.started is None:
            continue
        for other_id, other in stories.items():
            if other.waits(story.started) and other.turn < story.turn and other.started is not None:
                facts.breaks("queue_order", f"{log.thing}: {run_id} began before {other_id}, whose turn was first")
        if story.run["delivery"] == "reject":
            busy = [
                other_id
                for other_id, other in stories.items()
                if other.accepted < story.accepted and (other.completed or 0) > story.accepted
            ]
            if busy:
                facts.breaks("queue_order", f"{log.thing}: {run_id} was to be refused, as {busy} were open")


def _check_folds(facts: Facts, log: Log, stories: dict[str, _Story]) -> None:
    """A folded prompt was meant to, ends with its turn, directly before it and as it."""
    ends = [story for story in stories.values() if story.completed is not None]
    ends.sort(key=lambda story: story.completed or 0)
    after = {one.run["runId"]: other for one, other in pairwise(ends)}
    for run_id, story in stories.items():
        if story.folded is None:
            continue
        main = stories.get(story.into)
        if story.run["delivery"] != "steer":
            facts.breaks("fold", f"{log.thing}: {run_id} was folded, and is a {story.run['delivery']}")
        if main is None or story.completed is None or story.end is None:
            continue
        if not log.is_whole(main.accepted, max(story.completed, main.completed or 0)):
            continue
        if main.started is None or not main.started < story.folded < (main.completed or float("inf")):
            facts.breaks("fold", f"{log.thing}: {run_id} was folded into {story.into}, which did not run")
        follower = after.get(run_id)
        if follower is None or story.into not in (follower.run["runId"], follower.into):
            facts.breaks("fold", f"{log.thing}: {run_id} does not end directly before {story.into}")
        alike = ("text", "messageId", "stopReason", "error")
        if main.end and [story.end.get(name) for name in alike] != [main.end.get(name) for name in alike]:
            facts.breaks("fold", f"{log.thing}: {run_id} does not end as {story.into}")
    _check_folded_in_time(facts, log, stories)


def _check_folded_in_time(facts: Facts, log: Log, stories: dict[str, _Story]) -> None:
    """A turn that was folded into does not end before what is folded into it."""
    for run_id, story in stories.items():
        if story.into and story.end is None:
            main = stories.get(story.into)
            if main is not None and main.completed is not None and log.is_whole(story.accepted, main.completed):
                facts.breaks("one_terminal", f"{log.thing}: {run_id} has no end, though {story.into} has")


def _check_across_epochs(facts: Facts, logs: list[Log]) -> None:
    """What one epoch has told of a run, no other tells again."""
    told: dict[tuple[str, str], Log] = {}
    for log in logs:
        for item in log.events("run.accepted", "run.completed"):
            key = item.type, item.event["run"]["runId"]
            other = told.setdefault(key, log)
            if other is not log:
                rule = "one_accept" if item.type == "run.accepted" else "one_terminal"
                facts.breaks(rule, f"{key[1]}: {item.type} in two epochs of {log.thing}")


def _check_workspaces(facts: Facts, logs: list[Log]) -> None:
    """A workspace's stream tells of the same ends as those of its sessions, without the text."""
    ends = {run.run_id: run.end for run in facts.runs.values() if run.end is not None}
    for log in logs:
        if log.of != "workspace":
            continue
        seen: set[tuple[str, str]] = set()
        for item in log.events("run.accepted", "run.completed"):
            run = item.event["run"]
            key = item.type, run["runId"]
            if key in seen:
                rule = "one_accept" if item.type == "run.accepted" else "one_terminal"
                facts.breaks(rule, f"{log.thing}: {item.type} of {run['runId']} comes twice")
            seen.add(key)
            end = ends.get(run["runId"])
            if item.type == "run.completed" and end is not None:
                parts = ("stopReason", "messageId", "finishedAt")
                if [run.get(name) for name in parts] != [end.get(name) for name in parts]:
                    facts.breaks("terminal_kept", f"{run['runId']} ends otherwise on the stream of its workspace")
            if "text" in run:
                facts.breaks("run_text", f"{log.thing} tells the text of {run['runId']}")
