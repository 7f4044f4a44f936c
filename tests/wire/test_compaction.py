"""Long conversations: a run makes room and goes on, and a summary by hand is a run like any other."""

from typing import Any

import pytest

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, new_session, rows, shape, terminals

LONG = {
    "match": "^long",
    "responses": [
        [{"say": "step one"}, {"tool": "ls", "input": {}}, {"usage": {"input": 950, "output": 10}}],
        [{"say": "all done"}, {"usage": {"input": 200, "output": 10}}],
    ],
}
FEW = [{"say": "{{prompt}}"}, {"usage": {"input": 100, "output": 10}}]


async def summarize(wire: Wire, session: str, **params: Any) -> dict[str, Any]:
    return (await wire.call("session/summarize", sessionId=session, **params))["run"]


@pytest.mark.scenario("T11")
async def test_a_run_whose_context_is_full_goes_on_after_a_summary_and_ends_once(bench: Harness) -> None:
    model = bench.script(LONG, {"responses": [FEW]}, contextSize=1000)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "before", runId="before")
        await wire.completed(session, "before")
        await wire.prompt(session, "long task", runId="long")
        run = await wire.completed(session, "long")
        assert (run["stopReason"], run["text"]) == ("end_turn", "all done")
        assert terminals(wire, session) == [("before", "end_turn"), ("long", "end_turn")]
        (notice,) = wire.of_type(session, "notice")
        assert (notice["severity"], notice["runId"]) == ("info", "long")
        said = await rows(wire, session)
        assert [message["summary"] for message in said] == [False] * 5 + [True, False]
        assert shape(said)[-2:] == [("assistant", "tool_use"), ("assistant", "end_turn")]
        assert {message["runId"] for message in said[2:]} == {"long"}
        summary = said[5]["parts"][0]["text"]
        assert "before" in summary and "step one" in summary
        asked = (await wire.call("test/requests", sessionId=session))["requests"]
        assert [request["purpose"] for request in asked] == ["turn", "turn", "summary", "turn"]
        first = asked[-1]["turns"][0]["content"]
        assert summary in first[0]["text"]
        usage = (await wire.call("session/get", sessionId=session))["session"]["usage"]
        assert usage["contextSize"] == 1000 and usage["contextTokens"] == 210
        # The next run begins with the summary, over a restart too.
    async with bench.serve(model=model) as running, bench.open(running) as (wire, _):
        await wire.prompt(session, "after", runId="after")
        assert (await wire.call("run/wait", runId="after"))["run"]["text"] == "after"
        asked = (await wire.call("test/requests", sessionId=session))["requests"]
        assert [turn["role"] for turn in asked[-1]["turns"]] == ["user", "assistant", "user"]
        assert summary in asked[-1]["turns"][0]["content"][0]["text"]
        assert len(await rows(wire, session)) == 9


async def test_a_summary_by_hand_is_a_run_that_everybody_sees(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "what was said", runId="one")
        await wire.completed(session, "one")
        async with connect(running.ws, running.token) as other:
            run = await summarize(other, session, runId="sum")
            assert (run["kind"], run["promptText"], run["delivery"]) == ("summarize", "", "queue")
            done = await wire.completed(session, "sum")
            assert done["stopReason"] == "end_turn" and "what was said" in done["text"]
            assert done["author"]["clientId"] == other.client_id
            # The same again is the same run; another kind under its id is not.
            assert (await summarize(other, session, runId="sum"))["state"] == "completed"
            refusal = await other.refused("session/prompt", **other.prompt_params(session, "x", runId="sum"))
            assert refusal.kind == "idempotency_conflict"
            refusal = await other.refused("session/summarize", sessionId=session, runId="one")
            assert refusal.kind == "idempotency_conflict"
        said = await rows(wire, session)
        assert shape(said) == [("user", None), ("assistant", "end_turn"), ("assistant", "end_turn")]
        assert said[2]["summary"] and said[2]["messageId"] == done["messageId"]
        created = [event["message"]["summary"] for event in wire.of_type(session, "message.created")]
        assert created == [False, False, True]
        again = await summarize(wire, session)
        done = await wire.completed(session, again["runId"])
        assert (done["stopReason"], done["text"]) == ("end_turn", "")
        assert wire.of_type(session, "notice")[-1]["severity"] == "info"
        await wire.prompt(session, "more", runId="more")
        await wire.completed(session, "more")
        asked = (await wire.call("test/requests", sessionId=session))["requests"][-1]["turns"]
        assert [turn["role"] for turn in asked] == ["user"] and "what was said" in asked[0]["content"][0]["text"]
        assert (await wire.refused("session/summarize", sessionId="nonsense")).kind == "session_not_found"
        assert (await wire.refused("session/summarize", sessionId=session, runId="r" * 129)).data["path"] == "/runId"


async def test_a_summary_waits_for_its_turn_and_leaves_nothing_if_it_never_has_one(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        first = await summarize(wire, session)
        await summarize(wire, session, runId="later")
        queue = (await wire.call("session/queue", sessionId=session))["runs"]
        assert [run["runId"] for run in queue] == ["one", first["runId"], "later"]
        cancelled = await wire.call("session/cancel", sessionId=session, runId="later", wait=True)
        assert cancelled["cancelled"] == ["later"]
        assert "messageId" not in await wire.completed(session, "later")
        await wire.call("test/release", gate="go")
        assert "done: gated" in (await wire.completed(session, first["runId"]))["text"]
        assert [message["summary"] for message in await rows(wire, session)] == [False, False, True]
        # Neither does one that is stopped just before it begins.
        await wire.prompt(session, "x", runId="x")
        await wire.completed(session, "x")
        await wire.call("test/hold", sessionId=session, point="run.start")
        held = (await summarize(wire, session))["runId"]
        await wire.call("test/gates", wait="run.start")
        await wire.call("session/cancel", sessionId=session)
        await wire.call("test/release", gate="run.start")
        assert (await wire.completed(session, held))["stopReason"] == "cancelled"
        assert len(await rows(wire, session)) == 5


async def test_an_empty_session_has_nothing_to_sum_up(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        run = await summarize(wire, session)
        done = await wire.completed(session, run["runId"])
        assert (done["stopReason"], done["text"]) == ("end_turn", "")
        (notice,) = wire.of_type(session, "notice")
        assert notice["runId"] == run["runId"] and "nothing" in notice["title"]
        await wire.prompt(session, "hi", runId="hi")
        assert (await wire.completed(session, "hi"))["text"] == "hi"
        asked = (await wire.call("test/requests", sessionId=session))["requests"]
        assert [[turn["role"] for turn in request["turns"]] for request in asked] == [["user"]]
