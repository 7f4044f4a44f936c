"""A question that waits: it is state, whoever comes and goes, and every end of its run is its end too."""

import json
import signal
from typing import Any

import pytest
import trio

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.process import spawn
from wire.questions import WRITE, answer, asked, asking, rpc, write
from wire.steps import PLAIN, new_session, rows, shape, terminals

Json = dict[str, Any]

TWICE = {
    "match": "^twice$",
    "responses": [[write("1.txt")], [{"say": "more"}, write("2.txt")], [{"say": "done: {{prompt}}"}]],
}


async def resolved_once(wire: Wire, session: str, workspace: str, run_id: str, kind: str) -> None:
    """Both streams have told once what became of the only question, before the end of its run."""
    await wire.event(workspace, "run.completed", runId=run_id)
    for stream in (session, workspace):
        (event,) = wire.of_type(stream, "permission.resolved")
        assert event["outcome"]["kind"] == kind
        ends = [e for e in wire.of_type(stream, "run.completed") if e["run"]["runId"] == run_id]
        assert event["seq"] < ends[0]["seq"]


@pytest.mark.scenario("P6")
async def test_cancelling_the_run_resolves_its_question(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        await wire.prompt(session, "queued", runId="r2")
        assert (await wire.call("session/cancel", sessionId=session, runId="r1", wait=True))["cancelled"] == ["r1"]
        assert (await wire.completed(session, "r1"))["stopReason"] == "cancelled"
        await resolved_once(wire, session, workspace, "r1", "cancelled")
        late = await answer(wire, permission)
        assert (late["resolved"], late["outcome"]) == (False, {"kind": "cancelled"})
        assert (await wire.call("permission/list", workspaceId=workspace))["permissions"] == []
        assert (await wire.completed(session, "r2"))["text"] == "queued"
        messages = await rows(wire, session)
        assert shape(messages)[:4] == [
            ("user", None),
            ("assistant", "tool_use"),
            ("tool", None),
            ("assistant", "cancelled"),
        ]
        call, result = messages[1]["parts"][0], messages[2]["parts"][0]
        assert (call["status"], call["input"]) == ("cancelled", permission["input"]) and result["isError"]
        assert not (bench.directory / "a.txt").exists()


@pytest.mark.scenario("P7")
async def test_who_comes_later_sees_the_question_and_can_answer_it(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        other = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        async with connect(running.ws, running.token, name="late") as late:
            opened = await late.call("workspace/open", path=str(bench.directory))
            assert opened["snapshot"]["permissions"] == [permission]
            states = {one["sessionId"]: one["state"] for one in opened["snapshot"]["sessions"]}
            assert states == {session: "requires_action", other: "idle"}
            attached = (await late.attach(session))["snapshot"]
            assert attached["permissions"] == [permission]
            assert attached["session"]["state"] == "requires_action"
            assert [run["runId"] for run in attached["runs"]] == ["r1"]
            assert attached["messages"][-1]["parts"][0]["toolCallId"] == permission["toolCallId"]
            assert (await late.attach(other))["snapshot"]["permissions"] == []
            for name, thing, expected in [
                ("sessionId", session, [permission]),
                ("sessionId", other, []),
                ("workspaceId", workspace, [permission]),
            ]:
                assert (await late.call("permission/list", **{name: thing}))["permissions"] == expected
            listed = (await late.call("session/list", workspaceId=workspace))["sessions"]
            assert {one["sessionId"]: one["state"] for one in listed} == states
            assert (await answer(late, permission))["resolved"]
            assert (await late.completed(session, "r1"))["text"] == "written"
            assert (await late.attach(session))["snapshot"]["permissions"] == []
        assert (await wire.event(session, "permission.resolved"))["by"]["name"] == "late"


@pytest.mark.scenario("P8")
async def test_questions_of_two_sessions_are_answered_in_any_order(bench: Harness) -> None:
    model = bench.script(asking("one", write("1.txt")), asking("two", write("2.txt")))
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        one, two = await new_session(wire, workspace), await new_session(wire, workspace)
        await wire.prompt(one, "one", runId="one")
        first = await asked(wire, one)
        await wire.prompt(two, "two", runId="two")
        second = await asked(wire, two)
        assert (await wire.call("permission/list", workspaceId=workspace))["permissions"] == [first, second]
        assert (await wire.call("permission/list", sessionId=two))["permissions"] == [second]
        await answer(wire, second)
        assert (await wire.completed(two, "two"))["text"] == "done"
        assert (bench.directory / "2.txt").exists() and not (bench.directory / "1.txt").exists()
        assert (await wire.call("session/get", sessionId=one))["session"]["state"] == "requires_action"
        await answer(wire, first)
        assert (await wire.completed(one, "one"))["text"] == "done"
        assert (bench.directory / "1.txt").exists()


@pytest.mark.scenario("P11")
async def test_a_question_stays_when_the_only_one_who_could_answer_goes(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE), detach_grace_s=0.0) as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "write", runId="r1")
            permission = await asked(wire, session)
            await wire.ws._stream.aclose()
            await wire.closing()
        listed = await rpc(running, "permission/list", workspaceId=workspace)
        assert listed["result"]["permissions"] == [permission]
        async with bench.open(running, name="next") as (wire, again):
            assert again == workspace
            assert (await wire.attach(session))["snapshot"]["permissions"] == [permission]
            assert (await answer(wire, permission))["resolved"]
            assert (await wire.completed(session, "r1"))["text"] == "written"


async def test_with_keep_alive_clients_the_question_ends_with_its_workspace(bench: Harness) -> None:
    model = bench.script(WRITE)
    async with bench.serve(model=model, detach_grace_s=0.0, keep_alive="clients") as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "write", runId="r1")
            permission = await asked(wire, session)
            closed = running.server.workspaces.get(workspace).closed
            await wire.call("workspace/close", workspaceId=workspace)
            await closed.wait()
            # The answer to a question of a workspace that is closed opens it again, and finds none.
            params = {"permissionId": permission["permissionId"], "optionId": "allow_once"}
            assert (await wire.refused("permission/respond", **params)).kind == "permission_not_found"
            assert (await wire.call("run/get", runId="r1"))["run"]["stopReason"] == "cancelled"
            assert not (bench.directory / "a.txt").exists()


async def test_a_prompt_that_steers_a_waiting_turn_folds_at_its_next_step(bench: Harness) -> None:
    async with bench.serve(model=bench.script(TWICE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "twice", runId="r1")
        first = await asked(wire, session)
        await wire.prompt(session, "steered", runId="r2", delivery="steer")
        assert not wire.of_type(session, "run.folded")
        assert (await wire.call("permission/list", sessionId=session))["permissions"] == [first]
        await answer(wire, first)
        await asked(wire, session, 2)
        assert (await wire.event(session, "run.folded"))["foldedInto"] == "r1"
        requested = wire.of_type(session, "permission.requested")
        assert requested[0]["seq"] < wire.of_type(session, "run.folded")[0]["seq"] < requested[1]["seq"]
        # This turn ends with a rejection; so does what was folded into it.
        await answer(wire, requested[1]["permission"], "reject_once")
        await wire.completed(session, "r1")
        assert terminals(wire, session) == [("r2", "end_turn"), ("r1", "end_turn")]


async def test_a_prompt_that_steers_a_turn_which_is_rejected_gets_its_own_turn(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        first = await asked(wire, session)
        await wire.prompt(session, "steered", runId="r2", delivery="steer")
        await answer(wire, first, "reject_once")
        assert (await wire.completed(session, "r2"))["text"] == "steered"
        assert terminals(wire, session) == [("r1", "end_turn"), ("r2", "end_turn")]
        assert not wire.of_type(session, "run.folded")


async def test_an_interrupt_resolves_the_question_of_the_run_that_it_ends(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        await asked(wire, session)
        await wire.prompt(session, "instead", runId="r2", delivery="interrupt")
        assert (await wire.completed(session, "r2"))["text"] == "instead"
        assert terminals(wire, session) == [("r1", "cancelled"), ("r2", "end_turn")]
        await resolved_once(wire, session, workspace, "r1", "cancelled")
        assert not (bench.directory / "a.txt").exists()


async def test_deleting_the_session_resolves_its_question_first(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        await wire.call("session/delete", sessionId=session)
        types = [event["type"] for event in wire.events[session]]
        assert types.index("permission.resolved") < types.index("run.completed") < types.index("session.deleted")
        await resolved_once(wire, session, workspace, "r1", "cancelled")
        assert (await wire.refused("permission/list", sessionId=session)).kind == "session_not_found"
        assert (await wire.refused("permission/grants", sessionId=session)).kind == "session_not_found"
        assert (await wire.call("permission/list", workspaceId=workspace))["permissions"] == []
        late = await answer(wire, permission, "allow_always")
        assert (late["resolved"], late["outcome"]["kind"]) == (False, "cancelled")
        assert not (bench.directory / "a.txt").exists()


async def test_a_shutdown_resolves_every_question_before_the_sockets_close(bench: Harness) -> None:
    model = bench.script(WRITE)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        await asked(wire, session)
        async with connect(running.ws, running.token) as admin:
            await admin.call("server/shutdown", ifIdle=False)
            assert await wire.closing() == 1001
        await resolved_once(wire, session, workspace, "r1", "cancelled")
        assert terminals(wire, session) == [("r1", "cancelled")]


async def test_a_question_does_not_outlive_a_killed_server_and_its_run_is_interrupted(bench: Harness) -> None:
    model = bench.script(WRITE)
    with trio.fail_after(60):
        async with spawn(bench.state_dir, "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                session = await new_session(wire, workspace)
                await wire.prompt(session, "write", runId="r1")
                permission = await asked(wire, session)
                # Writes are made in their order: with this one, what the run has said is stored.
                await wire.call("session/new", workspaceId=workspace)
                server.signal(signal.SIGKILL)
                await server.ended()
        async with spawn(bench.state_dir, "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                params = {"permissionId": permission["permissionId"], "optionId": "allow_once"}
                assert (await wire.refused("permission/respond", **params)).kind == "permission_not_found"
                assert (await wire.call("run/get", runId="r1"))["run"]["stopReason"] == "interrupted"
                attached = (await wire.attach(session))["snapshot"]
                assert (attached["permissions"], attached["session"]["state"]) == ([], "idle")
                call, result = (message["parts"][0] for message in attached["messages"][1:3])
                assert (call["status"], call["input"]) == ("cancelled", permission["input"]) and result["isError"]
                # It works on, and asks anew.
                await wire.prompt(session, "write", runId="r2")
                assert (await asked(wire, session))["permissionId"] != permission["permissionId"]
                await wire.call("session/cancel", sessionId=session, wait=True)
    assert not (bench.directory / "a.txt").exists()


async def test_the_question_of_a_sub_agent_is_shown_and_answered_in_its_root(bench: Harness) -> None:
    outside = bench.root / "secret.txt"
    outside.write_text("outside\n")
    model = bench.script(
        asking("delegate", {"tool": "task", "input": {"prompt": "child"}}),
        asking("child", {"tool": "read", "input": {"path": str(outside)}}, then="read it"),
    )
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "delegate", runId="r1")
        permission = await asked(wire, session)
        child = permission["sessionId"]
        assert child != session and permission["rootSessionId"] == session
        for thing in (session, child):
            assert (await wire.call("session/get", sessionId=thing))["session"]["state"] == "requires_action"
            assert (await wire.call("permission/list", sessionId=thing))["permissions"] == [permission]
            assert (await wire.attach(thing))["snapshot"]["permissions"] == [permission]
        assert len(wire.of_type(workspace, "permission.requested")) == 1
        await answer(wire, permission)
        assert (await wire.completed(session, "r1"))["stopReason"] == "end_turn"
        await wire.event(workspace, "run.completed", runId="r1")
        for thing in (session, child, workspace):
            assert len(wire.of_type(thing, "permission.resolved")) == 1


async def test_large_questions_make_no_large_frames(bench: Harness) -> None:
    """Any number may wait, each with a whole file; some clients take no message over 1 MiB."""
    turns = [asking(f"t{number}", write(f"{number}.txt", f"{number}" * 250_000)) for number in range(4)]
    async with bench.serve(model=bench.script(*turns)) as running, bench.open(running) as (wire, workspace):
        session = ""
        for number in range(4):
            session = await new_session(wire, workspace)
            await wire.prompt(session, f"t{number}", runId=f"r{number}")
            await asked(wire, session)
        listed = await rpc(running, "permission/list", workspaceId=workspace)
        opened = await rpc(running, "workspace/open", path=str(bench.directory))
        async with connect(running.ws, running.token) as late:
            attached = await late.call("session/attach", sessionId=session)
        for answered in (listed, opened, attached):
            assert len(json.dumps(answered)) < 1024 * 1024
        questions = listed["result"]["permissions"]
        assert [question["input"]["path"] for question in questions] == [f"{number}.txt" for number in range(4)]
        assert opened["result"]["snapshot"]["permissions"] == questions
        assert attached["snapshot"]["permissions"] == questions[-1:]
        assert questions[-1]["input"]["content"] == "3" * 250_000
