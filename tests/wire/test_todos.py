"""`todos`: what the agent has set out to do, told to everybody and kept."""

from typing import Any

import pytest

from wire.client import connect
from wire.conftest import Harness
from wire.steps import PLAIN, new_session, rows

FIRST = [{"content": "look", "status": "in_progress"}, {"content": "mend", "status": "pending"}]
SECOND = [{"content": "look", "status": "completed"}, {"content": "mend", "status": "in_progress"}]
PLAN = {
    "match": "^plan",
    "responses": [
        [{"tool": "todos", "input": {"todos": FIRST}}],
        [{"gate": "go"}, {"tool": "todos", "input": {"todos": SECOND}}],
        [{"say": "planned"}],
    ],
}


def bad(match: str, todos: Any) -> dict[str, Any]:
    return {"match": f"^{match}$", "responses": [[{"tool": "todos", "input": {"todos": todos}}], [{"say": "oh"}]]}


async def test_they_are_an_event_and_in_snapshots_and_outlast_the_server(bench: Harness) -> None:
    model = bench.script(PLAN, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "plan", runId="plan")
        assert (await wire.event(session, "todos.updated"))["todos"] == FIRST
        await wire.call("test/gates", wait="go")
        async with connect(running.ws, running.token) as other:
            assert (await other.attach(session))["snapshot"]["todos"] == FIRST
            await wire.call("test/release", gate="go")
            await other.completed(session, "plan")
            assert [event["todos"] for event in other.of_type(session, "todos.updated")] == [SECOND]
        assert [event["todos"] for event in wire.of_type(session, "todos.updated")] == [FIRST, SECOND]
        call = (await rows(wire, session))[3]["parts"][0]
        assert (call["title"], call["status"], "permission" in call) == ("To do: 1 of 2 done", "completed", False)
        # A fork takes them along; each has its own from then on.
        fork = (await wire.call("session/fork", sessionId=session))["session"]["sessionId"]
        assert (await wire.attach(fork))["snapshot"]["todos"] == SECOND
        await wire.prompt(fork, "plan", runId="forked")
        await wire.call("test/gates", wait="go")
        assert (await wire.attach(fork))["snapshot"]["todos"] == FIRST
        assert (await wire.attach(session))["snapshot"]["todos"] == SECOND
        await wire.call("session/cancel", sessionId=fork, wait=True)
        assert (await wire.attach(fork))["snapshot"]["todos"] == FIRST
    async with bench.serve(model=model) as running, bench.open(running) as (wire, _):
        assert (await wire.attach(session))["snapshot"]["todos"] == SECOND
        assert (await wire.attach(fork))["snapshot"]["todos"] == FIRST


@pytest.mark.parametrize(
    "entries",
    [
        [{"content": " \n", "status": "pending"}],
        [{"content": "x", "status": "later"}],
        [{"content": "x" * 1_001, "status": "pending"}],
        [{"content": "x", "status": "pending"}] * 101,
        [{"status": "pending"}],
        "look",
    ],
    ids=["blank", "status", "long", "many", "nothing", "text"],
)
async def test_a_bad_list_is_refused_and_the_old_one_stands(bench: Harness, entries: Any) -> None:
    good = bad("good", FIRST)
    async with (
        bench.serve(model=bench.script(good, bad("bad", entries), bad("none", []), PLAIN)) as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        for run_id in ("good", "bad"):
            await wire.prompt(session, run_id, runId=run_id)
            assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"
        results = [message["parts"][0] for message in await rows(wire, session) if message["role"] == "tool"]
        assert [result["isError"] for result in results] == [False, True]
        assert (await wire.attach(session))["snapshot"]["todos"] == FIRST
        await wire.prompt(session, "none", runId="none")
        await wire.completed(session, "none")
        assert (await wire.attach(session))["snapshot"]["todos"] == []
