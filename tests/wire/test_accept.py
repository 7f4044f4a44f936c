"""Accepting a prompt: when the answer comes, what is refused, and what a refusal leaves behind."""

import pytest

from wire.client import connect
from wire.conftest import Harness, say
from wire.steps import GATED, PLAIN, new_session


@pytest.mark.scenario("A1")
async def test_the_answer_to_a_prompt_comes_before_the_model_is_asked(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script({**GATED, "match": ""})) as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await wire.attach(session)
        await wire.call("test/hold", sessionId=session, point="run.start")
        accepted = await wire.prompt(session, "hello")
        assert accepted["run"]["state"] == "queued" and not accepted["duplicate"] and accepted["position"] == 0
        await wire.call("test/gates", wait="run.start")
        assert (await wire.call("test/requests", sessionId=session))["requests"] == []
        assert (await wire.call("session/get", sessionId=session))["session"]["state"] == "running"
        await wire.call("test/release", gate="run.start")
        await wire.call("test/gates", wait="go")
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, accepted["run"]["runId"])
        assert run["text"] == "done: hello"
        await wire.until(lambda: wire.of_type(session, "session.updated")[-1]["session"]["state"] == "idle")


@pytest.mark.scenario("A2")
async def test_an_unknown_session_is_not_found_and_nothing_is_dispatched(bench: Harness) -> None:
    async with bench.serve(model=bench.script(say("x"))) as running, bench.open(running) as (wire, workspace):
        for unknown in (f"{workspace}-sabcdefghijklmnop", "wabcdefghijklm2-sabcdefghijklmnop", "nonsense", "../../etc"):
            refusal = await wire.refused("session/prompt", **wire.prompt_params(unknown, "hello"))
            assert (refusal.kind, refusal.code) == ("session_not_found", -32002)
        assert (await wire.call("session/list", workspaceId=workspace))["sessions"] == []
        refusal = await wire.refused("session/new", workspaceId="wabcdefghijklm2")
        assert refusal.kind == "workspace_not_found"


@pytest.mark.scenario("A3")
async def test_without_a_usable_model_a_prompt_is_refused_and_leaves_no_rows(bench: Harness) -> None:
    async with bench.serve(model="openai/gpt-5") as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "hello"))
        assert (refusal.kind, refusal.code) == ("agent_not_initialized", -32010)
        assert (await wire.call("session/messages", sessionId=session))["messages"] == []
        assert (await wire.call("run/list", sessionId=session))["runs"] == []
        # The way out works at once: another model.
        accepted = await wire.prompt(session, "help", model="demo")
        assert (await wire.call("run/wait", runId=accepted["run"]["runId"]))["run"]["stopReason"] == "end_turn"


@pytest.mark.scenario("A4")
@pytest.mark.parametrize("prompt", [[], [{"type": "text", "text": ""}], [{"type": "text", "text": " \n\t"}]])
async def test_a_blank_prompt_is_refused_and_leaves_no_rows(bench: Harness, prompt: list) -> None:
    async with bench.serve(model=bench.script(say("x"))) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        refusal = await wire.refused("session/prompt", sessionId=session, prompt=prompt)
        assert (refusal.kind, refusal.code) == ("empty_prompt", -32602)
        assert (await wire.call("run/list", sessionId=session))["runs"] == []
        assert (await wire.call("session/messages", sessionId=session))["messages"] == []


@pytest.mark.scenario("A5")
async def test_a_blank_text_with_a_resource_is_accepted(bench: Harness) -> None:
    async with bench.serve(model=bench.script(say("read it"))) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        resource = {"type": "resource", "resource": {"uri": "file:///a.txt", "text": "content"}}
        accepted = await wire.call(
            "session/prompt", sessionId=session, prompt=[{"type": "text", "text": " "}, resource]
        )
        assert accepted["run"]["attachments"] == [{"type": "resource", "uri": "file:///a.txt"}]
        run = (await wire.call("run/wait", runId=accepted["run"]["runId"]))["run"]
        assert run["stopReason"] == "end_turn"


@pytest.mark.scenario("A6")
@pytest.mark.parametrize("missing", [{}, {"sessionId": None}, {"sessionId": ""}])
async def test_a_prompt_without_a_session_says_so(bench: Harness, missing: dict) -> None:
    async with bench.serve(model=bench.script(say("x"))) as running, bench.open(running) as (wire, _workspace):
        refusal = await wire.refused("session/prompt", prompt=[{"type": "text", "text": "hello"}], **missing)
        assert (refusal.kind, refusal.code) == ("session_missing", -32602)


@pytest.mark.scenario("A7")
async def test_a_closing_workspace_refuses_prompts_and_keeps_nothing_of_them(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_agent.lifetime.CLOSE_S", 60.0)  # a held run is not to be given up meanwhile
    model = bench.script({**GATED, "match": ""})
    async with bench.serve(model=model, keep_alive="clients") as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        first = await wire.prompt(session, "one", runId="first")
        await wire.call("test/gates", wait="go")
        # The end of the run is held, so the workspace stays in its closing for as long as we look at it.
        await wire.attach(session)
        await wire.call("test/hold", sessionId=session, point="run.finish")
        async with connect(running.ws, running.token) as other:
            await wire.call("workspace/close", workspaceId=workspace)
            await other.call("test/gates", wait="run.finish")  # the closing has cancelled the run
            refusal = await other.refused("session/prompt", **wire.prompt_params(session, "late", runId="late"))
            assert (refusal.kind, refusal.code) == ("workspace_closing", -32010)
            known = await other.prompt(session, "one", runId="first")
            assert known["duplicate"] and known["run"]["state"] == "running"
            await other.call("test/release", gate="run.finish")
            await other.call("workspace/open", path=str(bench.directory))
            runs = (await other.call("run/list", sessionId=session))["runs"]
            assert [run["runId"] for run in runs] == [first["run"]["runId"]]
            assert runs[0]["stopReason"] == "cancelled"


async def test_a_prompt_held_before_its_commit_is_not_there_for_anybody(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="accept.commit")
        prompt = await wire.send("session/prompt", **wire.prompt_params(session, "hello", runId="held"))
        await wire.call("test/gates", wait="accept.commit")
        assert (await wire.refused("run/get", runId="held")).kind == "run_not_found"
        assert (await wire.refused("run/wait", runId="held", timeoutMs=1)).kind == "run_not_found"
        assert (await wire.call("run/list", sessionId=session))["runs"] == []
        await wire.call("test/release", gate="accept.commit")
        assert (await wire.reply(prompt))["run"]["runId"] == "held"
        assert (await wire.completed(session, "held"))["text"] == "hello"
