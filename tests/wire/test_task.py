"""`task`: a sub-agent in a child session, on behalf of a tool call of its root session."""

from typing import Any

import pytest

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.steps import CANCELLED_AT_A_CALL, PLAIN, new_session, rows, shape, terminals
from wire.test_permissions import answer, asked

Json = dict[str, Any]


def tokens(count_in: int, count_out: int) -> Json:
    return {"usage": {"input": count_in, "output": count_out}}


def delegating(prompt: str) -> Json:
    """A turn that has a sub-agent do something and then is done; its prompt names that of the sub-agent."""
    first = [{"tool": "task", "input": {"prompt": prompt}}, tokens(100, 10)]
    return {"match": f"^have {prompt}", "responses": [first, [{"say": "all done"}, tokens(120, 5)]]}


LOOK = {
    "match": "^look",
    "responses": [[{"tool": "ls", "input": {}}, tokens(1000, 20)], [{"say": "found it"}, tokens(1100, 30)]],
}
WAIT = {"match": "^wait", "responses": [[{"say": "half "}, tokens(50, 1), {"gate": "child"}, {"say": "whole"}]]}
FAIL = {"match": "^fail", "responses": [[{"say": "so far"}, {"fail": {"kind": "provider_error", "message": "broken"}}]]}
NEST = {"match": "^nest", "responses": [[{"tool": "task", "input": {"prompt": "look"}}], [{"say": "alone then"}]]}
TURNS = (*map(delegating, ("look", "wait", "fail", "nest", "peek")), LOOK, WAIT, FAIL, NEST)


async def child_of(wire: Wire, session: str) -> str:
    """Wait until a call of the session says which session works on it."""

    def found() -> str | None:
        for event in wire.of_type(session, "message.part"):
            if child := event["value"].get("childSessionId"):
                return child
        return None

    return await wire.until(found)


async def result_of(wire: Wire, session: str) -> Json:
    """The result of the last call of the session."""
    return [message for message in await rows(wire, session) if message["role"] == "tool"][-1]["parts"][-1]


async def test_its_last_words_are_the_result_and_its_cost_is_that_of_the_root(bench: Harness) -> None:
    model = bench.script(*TURNS, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running, name="A") as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "have look", runId="root")
        done = await wire.completed(session, "root")
        assert (done["stopReason"], done["text"]) == ("end_turn", "all done")
        child = await child_of(wire, session)
        result = await result_of(wire, session)
        assert result["content"] == [{"type": "text", "text": "found it"}] and not result["isError"]
        assert shape(await rows(wire, session)) == [
            ("user", None),
            ("assistant", "tool_use"),
            ("tool", None),
            ("assistant", "end_turn"),
        ]
        call = (await rows(wire, session))[1]["parts"][0]
        assert (call["status"], call["kind"], call["childSessionId"]) == ("completed", "think", child)
        assert "permission" not in call

        # The child is a session that anybody can read, and has what changes nothing.
        about = (await wire.call("session/get", sessionId=child))["session"]
        assert (about["parentSessionId"], about["rootSessionId"]) == (session, session)
        assert (about["title"], about["state"]) == ("look", "idle")
        messages = await rows(wire, child)
        assert shape(messages) == [("user", None), ("assistant", "tool_use"), ("tool", None), ("assistant", "end_turn")]
        assert messages[0]["parts"][0]["text"] == "look" and messages[0]["author"]["name"] == "A"
        (run,) = (await wire.call("run/list", sessionId=child))["runs"]
        assert (run["stopReason"], run["text"], run["usage"]["inputTokens"]) == ("end_turn", "found it", 2100)
        asked_child = (await wire.call("test/requests", sessionId=child))["requests"]
        assert {tool["name"] for tool in asked_child[0]["tools"]} == {"read", "ls", "glob", "grep"}
        assert [turn["role"] for turn in asked_child[0]["turns"]] == ["user"]

        # What it used is counted with the root's run and session, but takes no room there.
        assert (done["usage"]["inputTokens"], done["usage"]["outputTokens"]) == (2320, 65)
        root = (await wire.call("session/get", sessionId=session))["session"]
        assert (root["usage"]["inputTokens"], root["usage"]["outputTokens"]) == (2320, 65)
        assert root["usage"]["contextTokens"] == 125 == done["usage"]["contextTokens"]

        listed = (await wire.call("session/list", workspaceId=workspace))["sessions"]
        assert [each["sessionId"] for each in listed] == [session]
        listed = (await wire.call("session/list", workspaceId=workspace, children=True))["sessions"]
        assert {each["sessionId"] for each in listed} == {session, child}
        created = [event["session"] for event in wire.of_type(workspace, "session.created")]
        assert created[-1]["sessionId"] == child and created[-1]["parentSessionId"] == session
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        about = (await wire.call("session/get", sessionId=child))["session"]
        assert about["rootSessionId"] == session
        await wire.attach(child)
        await wire.prompt(child, "and you?", runId="person")  # a person may talk to it
        assert (await wire.completed(child, "person"))["text"] == "and you?"
        await wire.call("session/delete", sessionId=session)
        assert (await wire.refused("session/get", sessionId=child)).kind == "session_not_found"
        left = (await wire.call("session/list", workspaceId=workspace, children=True))["sessions"]
        assert left == []


async def test_a_cancel_of_the_root_ends_the_child_first(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "have wait", runId="root")
        child = await child_of(wire, session)
        await wire.attach(child)
        await wire.call("test/gates", wait="child")
        cancelled = await wire.call("session/cancel", sessionId=session, wait=True)
        assert cancelled["cancelled"] == ["root"]
        (run,) = (await wire.call("run/list", sessionId=child))["runs"]
        assert (run["state"], run["stopReason"], run["text"]) == ("completed", "cancelled", "half ")
        assert run["cancelledBy"]["clientId"] == wire.client_id
        ends = [event["run"]["runId"] for event in wire.of_type(workspace, "run.completed")]
        assert ends == [run["runId"], "root"]
        assert (await wire.call("test/gates"))["waiting"] == []
        messages = await rows(wire, session)
        assert shape(messages) == CANCELLED_AT_A_CALL
        assert messages[1]["parts"][0]["status"] == "cancelled" and messages[2]["parts"][0]["isError"]
        await wire.prompt(session, "next", runId="next")
        assert (await wire.completed(session, "next"))["text"] == "next"

        # The child alone: its call has an error for a result, and the root goes on.
        await wire.prompt(session, "have wait", runId="again")
        await wire.call("test/gates", wait="child")
        listed = (await wire.call("session/list", workspaceId=workspace, children=True))["sessions"]
        (second,) = [each["sessionId"] for each in listed if each["sessionId"] not in (session, child)]
        await wire.call("session/cancel", sessionId=second, wait=True)
        assert (await wire.completed(session, "again"))["stopReason"] == "end_turn"
        result = await result_of(wire, session)
        assert result["isError"] and "cancelled" in result["content"][0]["text"]
        assert "half" in result["content"][0]["text"]


@pytest.mark.parametrize(("prompt", "words"), [("fail", ["broken", "so far"]), ("nest", ["alone then"])])
async def test_what_it_comes_to_is_told_to_the_root(bench: Harness, prompt: str, words: list[str]) -> None:
    async with bench.serve(model=bench.script(*TURNS, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, f"have {prompt}", runId="root")
        done = await wire.completed(session, "root")
        assert (done["stopReason"], done["text"]) == ("end_turn", "all done")
        result = await result_of(wire, session)
        assert result["isError"] == (prompt == "fail")
        assert all(word in result["content"][0]["text"] for word in words)
        if prompt == "nest":  # it has no sub-agents of its own
            inner = await result_of(wire, await child_of(wire, session))
            assert inner["isError"] and "no tool 'task'" in inner["content"][0]["text"]
        assert len((await wire.call("session/list", workspaceId=workspace, children=True))["sessions"]) == 2


async def test_what_it_must_ask_is_asked_in_the_root_too(bench: Harness) -> None:
    outside = bench.root / "outside.txt"
    outside.write_text("secret plans\n")
    peek = {
        "match": "^peek",
        "responses": [[{"tool": "read", "input": {"path": str(outside)}}], [{"say": "seen"}]],
    }
    model = bench.script(*TURNS, peek, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running, name="A") as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "have peek", runId="root")
        permission = await asked(wire, session)
        child = await child_of(wire, session)
        assert (permission["sessionId"], permission["rootSessionId"]) == (child, session)
        assert (permission["name"], permission["path"]) == ("read", str(outside))
        # Whoever reads the root knew the child before its question.
        types = [
            "child" if event["type"] == "message.part" and "childSessionId" in event["value"] else event["type"]
            for event in wire.events[session]
        ]
        assert types.index("child") < types.index("permission.requested")
        assert (await wire.call("session/get", sessionId=session))["session"]["state"] == "requires_action"
        async with connect(running.ws, running.token, name="B") as other:
            for seen in (session, child):
                snapshot = (await other.attach(seen))["snapshot"]
                assert snapshot["permissions"] == [permission]
                assert snapshot["session"]["state"] == "requires_action"
                listed = await other.call("permission/list", sessionId=seen)
                assert listed["permissions"] == [permission]
            assert (await other.call("permission/list", workspaceId=workspace))["permissions"] == [permission]
            assert (await answer(other, permission))["resolved"]
            for seen in (session, child):
                event = await other.event(seen, "permission.resolved")
                assert (event["sessionId"], event["by"]["name"]) == (child, "B")
        assert (await wire.completed(session, "root"))["stopReason"] == "end_turn"
        assert "secret plans" in (await result_of(wire, child))["content"][0]["text"]
        assert (await result_of(wire, session))["content"][0]["text"] == "seen"
        assert (await wire.call("session/get", sessionId=session))["session"]["state"] == "idle"
        workspace_events = [event["type"] for event in wire.of_type(workspace, "permission.requested")]
        assert len(workspace_events) == 1

        # Cancelled while it waits.
        await wire.prompt(session, "have peek", runId="second")
        await asked(wire, session, 2)
        await wire.call("session/cancel", sessionId=session, wait=True)
        assert wire.of_type(session, "permission.resolved")[-1]["outcome"]["kind"] == "cancelled"
        assert (await wire.call("permission/list", workspaceId=workspace))["permissions"] == []


@pytest.mark.parametrize("how", ["delete", "close", "shutdown"])
async def test_whatever_ends_the_root_ends_the_child(bench: Harness, how: str) -> None:
    model = bench.script(*TURNS, PLAIN)
    async with bench.serve(model=model, keep_alive="clients") as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "have wait", runId="root")
        child = await child_of(wire, session)
        await wire.attach(child)
        await wire.call("test/gates", wait="child")
        (run,) = (await wire.call("run/list", sessionId=child))["runs"]
        ended = {"root": "cancelled", run["runId"]: "cancelled"}
        if how == "delete":
            await wire.call("session/delete", sessionId=session)
            assert dict(terminals(wire, session) + terminals(wire, child)) == ended
            for gone in (session, child):
                assert wire.of_type(gone, "session.deleted")
                assert (await wire.refused("session/get", sessionId=gone)).kind == "session_not_found"
            told = {event["sessionId"] for event in wire.of_type(workspace, "session.deleted")}
            assert told == {session, child}
        elif how == "close":
            await wire.call("workspace/close", workspaceId=workspace)
            for run_id in ended:
                assert (await wire.call("run/wait", runId=run_id))["run"]["stopReason"] == "cancelled"
        else:
            await wire.call("server/shutdown", ifIdle=False)
            await wire.closing()
            assert dict(terminals(wire, session) + terminals(wire, child)) == ended
    if how != "delete":
        async with bench.serve(model=model) as running, bench.open(running) as (wire, _):
            for run_id in ended:
                found = (await wire.call("run/get", runId=run_id))["run"]
                assert (found["state"], found["stopReason"]) == ("completed", "cancelled")


async def test_a_reader_that_comes_back_misses_nothing_of_either(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        async with connect(running.ws, running.token) as other:
            await other.attach(session)
            await wire.prompt(session, "have wait", runId="root")
            child = await child_of(other, session)
            assert (await other.attach(child))["stream"]["epoch"]
            await wire.call("test/gates", wait="child")
            places = {each: other.place(each) for each in (session, child)}
        await wire.call("test/release", gate="child")
        await wire.completed(session, "root")
        async with connect(running.ws, running.token) as back:
            for each in (session, child):
                resumed = await back.attach(each, after=places[each])
                assert resumed["stream"]["recovered"]
            await back.event(child, "run.completed")
            await back.event(session, "run.completed")
            for each in (session, child):
                first = back.events[each][0]
                assert first.get("firstSeq", first["seq"]) == places[each]["seq"] + 1
        assert (await result_of(wire, session))["content"][0]["text"] == "half whole"
