"""Every accepted prompt ends exactly once, and its terminal tells all of it."""

import pytest

from wire.client import connect
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, STREAMING, new_session, rows, shape, terminals

FAIL_AT_ONCE = {"match": "^fail", "responses": [[{"fail": {"kind": "provider_auth", "message": "bad key"}}]]}
FAIL_MIDWAY = {
    "match": "^midway",
    "responses": [[{"say": "half "}, {"fail": {"kind": "provider_error", "message": "broke"}}]],
}
TOOL_THEN_TEXT = {
    "match": "^tool",
    "responses": [[{"say": "looking"}, {"tool": "ls", "input": {}}], [{"gate": "go"}, {"say": "seen"}]],
}


@pytest.mark.scenario("T1")
async def test_a_normal_turn_has_one_terminal_with_its_final_text(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        run = await wire.completed(session, "one")
        messages = await rows(wire, session)
        assert (run["stopReason"], run["text"], run["messageId"]) == ("end_turn", "hello", messages[-1]["messageId"])
        assert run["promptMessageId"] == messages[0]["messageId"] and run["finishedAt"] >= run["startedAt"]
        types = [event["type"] for event in wire.events[session] if event["type"] != "session.updated"]
        assert types == [
            "run.accepted",
            "run.started",
            "message.created",
            "message.completed",
            "message.created",
            "message.part",
            "message.delta",
            "message.completed",
            "run.completed",
        ]
        on_workspace = wire.of_type(workspace, "run.completed")
        assert len(on_workspace) == 1 and "text" not in on_workspace[0]["run"]


@pytest.mark.scenario("T2")
async def test_a_turn_with_a_tool_ends_only_after_its_last_step(bench: Harness) -> None:
    async with bench.serve(model=bench.script(TOOL_THEN_TEXT)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "tool", runId="one")
        await wire.call("test/gates", wait="go")
        assert not wire.of_type(session, "run.completed")
        messages = await rows(wire, session)
        assert shape(messages) == [("user", None), ("assistant", "tool_use"), ("tool", None)]
        assert messages[1]["parts"][1]["status"] == "completed"
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, "one")
        assert run["text"] == "seen" and terminals(wire, session) == [("one", "end_turn")]
        assert (
            wire.events[session][-2]["type"] == "run.completed" or wire.events[session][-1]["type"] == "run.completed"
        )


@pytest.mark.scenario("T3")
async def test_the_first_terminal_comes_before_the_next_turn_starts(bench: Harness) -> None:
    async with bench.serve(model=bench.script(STREAMING, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "stream", runId="main")
        await wire.prompt(session, "follow", runId="follow")
        await wire.call("test/gates", wait="go")
        await wire.call("test/release", gate="go")
        await wire.completed(session, "follow")
        order = [
            (event["type"], event["run"]["runId"]) for event in wire.of_type(session, "run.started", "run.completed")
        ]
        assert order == [
            ("run.started", "main"),
            ("run.completed", "main"),
            ("run.started", "follow"),
            ("run.completed", "follow"),
        ]
        states = [event["session"]["state"] for event in wire.of_type(session, "session.updated")]
        assert states.count("idle") == 1 and states[-1] == "idle"  # none between the two turns


@pytest.mark.scenario("T4")
async def test_a_run_cancelled_on_entry_has_one_terminal(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        sent = await wire.send("session/prompt", **wire.prompt_params(session, "x", runId="one"))
        cancel = await wire.send("session/cancel", sessionId=session)
        await wire.reply(sent)
        named = (await wire.reply(cancel))["cancelled"]
        run = await wire.completed(session, "one")
        assert named == ["one"] and run["stopReason"] == "cancelled"
        await wire.call("ping")
        assert terminals(wire, session) == [("one", "cancelled")]


@pytest.mark.scenario("T5")
async def test_a_failure_before_the_first_piece_is_one_error_terminal(bench: Harness) -> None:
    async with bench.serve(model=bench.script(FAIL_AT_ONCE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "fail", runId="one")
        run = await wire.completed(session, "one")
        assert run["stopReason"] == "error" and run["error"]["code"] == -32030
        assert run["error"]["data"]["kind"] == "provider_auth" and run["error"]["message"] == "bad key"
        assert terminals(wire, session) == [("one", "error")]
        messages = await rows(wire, session)
        assert shape(messages) == [("user", None), ("assistant", "error")]
        assert messages[-1]["finish"]["detail"] == "bad key"


@pytest.mark.scenario("T6")
async def test_a_failure_midway_keeps_the_partial_text(bench: Harness) -> None:
    async with bench.serve(model=bench.script(FAIL_MIDWAY)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "midway", runId="one")
        run = await wire.completed(session, "one")
        assert (run["stopReason"], run["text"]) == ("error", "half ")
        assert terminals(wire, session) == [("one", "error")]
        assert (await rows(wire, session))[-1]["parts"] == [{"type": "text", "text": "half "}]


@pytest.mark.scenario("T7")
async def test_a_cancelled_run_has_no_error(bench: Harness) -> None:
    async with bench.serve(model=bench.script(STREAMING)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "stream", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.call("session/cancel", sessionId=session)
        run = await wire.completed(session, "one")
        assert (run["stopReason"], run["text"]) == ("cancelled", "partial ") and "error" not in run
        stored = (await wire.call("run/get", runId="one"))["run"]
        assert {**stored} == {**run}


@pytest.mark.scenario("T8")
async def test_the_failure_of_a_queued_run_bears_its_own_id(bench: Harness) -> None:
    model = bench.script(GATED, FAIL_AT_ONCE, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="first")
        await wire.prompt(session, "fail", runId="bad")
        await wire.prompt(session, "fine", runId="last")
        await wire.call("test/gates", wait="go")
        await wire.call("test/release", gate="go")
        await wire.completed(session, "last")
        assert terminals(wire, session) == [("first", "end_turn"), ("bad", "error"), ("last", "end_turn")]
        assert [
            run["runId"] for run in (event["run"] for event in wire.of_type(session, "run.completed")) if "error" in run
        ] == ["bad"]


@pytest.mark.scenario("T9")
async def test_a_terminal_comes_after_its_text_is_stored(bench: Harness) -> None:
    many = {"responses": [[{"say": "tok ", "times": 500}]]}
    async with bench.serve(model=bench.script(many)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        for number in range(3):
            await wire.prompt(session, "go", runId=f"r{number}")
            run = await wire.completed(session, f"r{number}")
            last = (await rows(wire, session))[-1]
            assert run["text"] == "tok " * 500 == last["parts"][0]["text"]
            deltas = [e for e in wire.of_type(session, "message.delta") if e["messageId"] == last["messageId"]]
            assert "".join(event["text"] for event in deltas) == run["text"]


@pytest.mark.scenario("T10")
async def test_waiting_from_elsewhere_and_after_a_reconnect_gives_the_same_run(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        async with connect(running.ws, running.token) as other:
            as_it_stands = (await other.call("run/wait", runId="one", timeoutMs=0))["run"]
            assert as_it_stands["state"] == "running"
            await other.send("run/wait", runId="one")
        async with connect(running.ws, running.token) as again:
            waiting = await again.send("run/wait", runId="one")
            await wire.call("test/release", gate="go")
            waited = (await again.reply(waiting))["run"]
            assert waited == await wire.completed(session, "one")
            assert (await again.call("run/wait", runId="one"))["run"] == waited
