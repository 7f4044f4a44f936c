"""Whoever prompts, answers, cancels and comes and goes: each question is resolved once, and binds.

Each schedule is drawn from a seed: a few sessions, turns that ask for one to
three files to be written, two clients that answer, cancel, steer and drop their
sockets, and one that only watches. What it saw and the files decide.
"""

import random
from collections import Counter, defaultdict
from typing import Any

import pytest
import trio

from atrio_server.service import Running
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import asking, write
from wire.steps import new_session, rows

Json = dict[str, Any]

SESSIONS = 3
TURNS = 12
STEPS = 45
OPTIONS = ("allow_once", "allow_once", "allow_always", "reject_once")


def files_of(turn: int) -> list[str]:
    """The files that a turn asks to write, in two directories."""
    return [f"{'ab'[(turn + number) % 2]}/{turn}-{number}.txt" for number in range(1 + turn % 3)]


class Schedule:
    """One schedule as it goes on."""

    def __init__(self, bench: Harness, running: Running, seed: int) -> None:
        self.bench = bench
        self.running = running
        self.draw = random.Random(seed)
        self.sessions: list[str] = []
        self.turns = 0
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.told: dict[str, list[Json]] = defaultdict(list)

    async def play(self, watcher: Wire, workspace: str, nursery: trio.Nursery) -> None:
        """Do all steps, then reject what still waits until nothing does."""
        self.sessions = [await new_session(watcher, workspace) for _ in range(SESSIONS)]
        for _ in range(2):
            nursery.start_soon(self._client, watcher)

    async def _client(self, watcher: Wire) -> None:
        steps = STEPS // 2
        while steps > 0:
            async with connect(self.running.ws, self.running.token) as wire:
                await wire.call("workspace/open", path=str(self.bench.directory))
                for _ in range(self.draw.randint(3, 12)):
                    steps -= 1
                    await self._step(wire, watcher)
                if self.draw.random() < 0.5:
                    await wire.ws._stream.aclose()  # without a word
                    await wire.closing()

    async def _step(self, wire: Wire, watcher: Wire) -> None:
        session = self.draw.choice(self.sessions)
        match self.draw.choice(("prompt", "prompt", "answer", "answer", "answer", "cancel", "wait")):
            case "prompt":
                if self.turns < TURNS:
                    self.turns += 1
                    text = f"turn {self.turns}"
                    delivery = self.draw.choice(("queue", "queue", "steer", "interrupt"))
                    run = (await wire.prompt(session, text, delivery=delivery))["run"]
                    self.accepted[session].append(run["runId"])
            case "answer":
                await self._answer(wire, watcher)
            case "cancel":
                runs = self.accepted[session]
                which = {"runId": self.draw.choice(runs)} if runs and self.draw.random() < 0.5 else {}
                await wire.call("session/cancel", sessionId=session, wait=self.draw.random() < 0.3, **which)
            case _:
                for _ in range(self.draw.randrange(20)):  # let others go on for a while
                    await wire.call("ping")

    async def _answer(self, wire: Wire, watcher: Wire) -> None:
        """Answer a question, mostly one that waits; or several times at once."""
        known = [
            e["permission"]["permissionId"] for s in self.sessions for e in watcher.of_type(s, "permission.requested")
        ]
        if not known:
            return
        chosen = known[-1] if self.draw.random() < 0.7 else self.draw.choice(known)
        options = [self.draw.choice(OPTIONS) for _ in range(self.draw.randint(1, 3))]
        sent = [await wire.send("permission/respond", permissionId=chosen, optionId=option) for option in options]
        for request in sent:
            self.told[chosen].append(await wire.reply(request))

    async def finish(self, watcher: Wire, workspace: str) -> None:
        """Answer what is left until every run has its end."""
        while any(len(self._ends(watcher, session)) < len(self.accepted[session]) for session in self.sessions):
            for permission in (await watcher.call("permission/list", workspaceId=workspace))["permissions"]:
                known = permission["permissionId"]
                told = await watcher.call("permission/respond", permissionId=known, optionId="allow_once")
                self.told[known].append(told)
        await watcher.until(
            lambda: all(
                (watcher.of_type(session, "session.updated") or [{"session": {"state": "idle"}}])[-1]["session"][
                    "state"
                ]
                == "idle"
                for session in self.sessions
            )
        )

    @staticmethod
    def _is_idle(watcher: Wire, session: str) -> bool:
        updates = watcher.of_type(session, "session.updated")
        return not updates or updates[-1]["session"]["state"] == "idle"

    @staticmethod
    def _ends(watcher: Wire, session: str) -> list[str]:
        return [event["run"]["runId"] for event in watcher.of_type(session, "run.completed")]

    async def check(self, watcher: Wire, workspace: str) -> None:
        """What must hold, whatever was done."""
        assert (await watcher.call("permission/list", workspaceId=workspace))["permissions"] == []
        written: set[str] = set()
        for session in self.sessions:
            assert sorted(self._ends(watcher, session)) == sorted(self.accepted[session])
            outcomes = self._check_questions(watcher, session)
            written |= await self._check_calls(watcher, session, outcomes)
        there = {str(path.relative_to(self.bench.directory)) for path in self.bench.directory.glob("*/*.txt")}
        assert there == written

    def _check_questions(self, watcher: Wire, session: str) -> dict[str, Json]:
        """Each question of a session is resolved once, and all its answers were told what the streams were."""
        log = watcher.of_type(session, "permission.requested", "permission.resolved", "run.completed")
        requested = {e["permission"]["permissionId"]: e for e in log if e["type"] == "permission.requested"}
        resolved = [event for event in log if event["type"] == "permission.resolved"]
        assert Counter(event["permissionId"] for event in resolved) == Counter(requested.keys())
        ends = {event["run"]["runId"]: event["seq"] for event in log if event["type"] == "run.completed"}
        for event in resolved:
            known = event["permissionId"]
            assert requested[known]["seq"] < event["seq"] < ends[event["runId"]]
            told = self.told[known]
            assert all((one["outcome"], one.get("by")) == (event["outcome"], event.get("by")) for one in told)
            answered = event["outcome"]["kind"] != "cancelled"
            assert sum(one["resolved"] for one in told) == answered
            assert ("by" in event) == answered
        return {event["toolCallId"]: event for event in resolved}

    async def _check_calls(self, watcher: Wire, session: str, outcomes: dict[str, Json]) -> set[str]:
        """A call has run if, and only if, it was allowed; returns the files that were written."""
        written: set[str] = set()
        granted: set[str] = set()
        parts = [part for row in await rows(watcher, session) for part in row["parts"]]
        results = {part["toolCallId"]: part for part in parts if part["type"] == "tool_result"}
        for call in [part for part in parts if part["type"] == "tool_call"]:
            path, asked = call["input"]["path"], outcomes.get(call["toolCallId"])
            kind = call.get("permission", {}).get("kind")
            if asked is not None and asked["outcome"]["kind"] == "allow_always":
                granted.add(path.partition("/")[0])
            if call["status"] == "completed":
                assert kind == ("allow_always" if asked is None else asked["outcome"]["kind"])
                assert kind in ("allow_once", "allow_always")
                assert asked is not None or path.partition("/")[0] in granted
                written.add(path)
            elif (self.bench.directory / path).exists():
                # Allowed, and cancelled when it was done and had not said so.
                assert call["status"] == "cancelled" and kind in ("allow_once", "allow_always")
                written.add(path)
            assert results[call["toolCallId"]]["isError"] == (call["status"] != "completed")
            assert call["status"] in ("completed", "failed", "cancelled")
            assert kind != "reject_once" or call["status"] == "failed"
        return written


@pytest.mark.parametrize("seed", range(12))
async def test_every_question_is_resolved_once_and_nothing_runs_that_was_not_allowed(bench: Harness, seed: int) -> None:
    for folder in "ab":
        (bench.directory / folder).mkdir()
    turns = [asking(f"turn {turn}", *[write(path) for path in files_of(turn)]) for turn in range(1, TURNS + 1)]
    async with bench.serve(model=bench.script(*turns)) as running, bench.open(running) as (watcher, workspace):
        schedule = Schedule(bench, running, seed)
        async with trio.open_nursery() as nursery:
            await schedule.play(watcher, workspace, nursery)
        await schedule.finish(watcher, workspace)
        await schedule.check(watcher, workspace)
