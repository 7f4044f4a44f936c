"""Permissions: who is asked, who answers, what an answer allows, and what nobody is asked about."""

from typing import Any

import pytest
import trio

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import WRITE, answer, asked, asking, rpc, shell, write
from wire.steps import PLAIN, new_session, rows, shape

Json = dict[str, Any]

BOB = "6f1c1f3e-0000-4000-8000-00000000000b"

THREE = asking("three", write("1.txt"), {"tool": "ls", "input": {}}, write("2.txt"), write("3.txt"))


def calls(messages: list[Json]) -> list[Json]:
    """The tool calls of all messages."""
    return [part for message in messages for part in message["parts"] if part["type"] == "tool_call"]


def results(messages: list[Json]) -> list[Json]:
    """The tool results of all messages."""
    return [part for message in messages for part in message["parts"] if part["type"] == "tool_result"]


async def run_to_end(wire: Wire, session: str, text: str) -> Json:
    """Prompt, and wait for the end."""
    run = (await wire.prompt(session, text, delivery="queue"))["run"]
    return await wire.completed(session, run["runId"])


@pytest.mark.scenario("P1")
async def test_the_first_answer_wins_and_everybody_learns_of_it(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(WRITE, PLAIN)) as running,
        bench.open(running, name="A") as (a, workspace),
    ):
        session = await new_session(a, workspace)
        async with bench.open(running, name="B") as (b, _):
            await b.attach(session)
            await a.prompt(session, "write", runId="r1")
            permission = await asked(a, session)
            assert permission["name"] == "write"
            assert permission["diffs"][0]["newText"] == "new\n"
            assert not (bench.directory / "a.txt").exists()
            assert (await a.call("session/get", sessionId=session))["session"]["state"] == "requires_action"
            assert (await answer(a, permission))["resolved"] is True
            event = await b.event(session, "permission.resolved")
            assert (event["by"]["name"], event["outcome"]["kind"]) == ("A", "allow_once")
            late = await answer(b, permission, "reject_once")
            assert (late["resolved"], late["by"]["name"], late["outcome"]["kind"]) == (False, "A", "allow_once")
            assert (await b.completed(session, "r1"))["stopReason"] == "end_turn"
    assert (bench.directory / "a.txt").read_text() == "new\n"


async def test_a_question_follows_its_complete_call_and_is_told_on_both_streams(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running, name="A") as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        await answer(wire, permission)
        await wire.completed(session, "r1")
        await wire.event(workspace, "run.completed")
        for stream in (session, workspace):
            told: list[Any] = []
            for event in wire.events[stream]:
                if event["type"] == "session.updated":
                    told.append(event["session"]["state"])
                elif event["type"].startswith(("permission.", "run.")):
                    told.append(event["type"])
            told = [one for index, one in enumerate(told) if index == 0 or one != told[index - 1]]
            expected = ["permission.requested", "requires_action", "permission.resolved", "running", "run.completed"]
            assert told[told.index("permission.requested") :][:5] == expected
            assert wire.of_type(stream, "permission.requested")[0]["permission"] == permission
            (resolved,) = wire.of_type(stream, "permission.resolved")
            assert resolved["permissionId"] == permission["permissionId"] and resolved["runId"] == "r1"
            assert (resolved["sessionId"], resolved["toolCallId"]) == (session, permission["toolCallId"])
            assert resolved["outcome"] == {"kind": "allow_once", "optionId": "allow_once"}
        types = [event["type"] for event in wire.events[session]]
        before = wire.events[session][: types.index("permission.requested")]
        part = next(e["value"] for e in reversed(before) if e["type"] == "message.part")
        assert (part["toolCallId"], part["status"]) == (permission["toolCallId"], "pending")
        assert part["input"] == permission["input"] == {"path": "a.txt", "content": "new\n"}
        assert permission["path"] == str(bench.directory / "a.txt") and "expiresAt" not in permission
        assert {option["kind"] for option in permission["options"]} >= {"allow_once", "allow_always", "reject_once"}
        (call,) = calls(await rows(wire, session))
        assert (call["status"], call["permission"]["kind"]) == ("completed", "allow_once")
        assert call["permission"]["by"]["name"] == "A"


@pytest.mark.scenario("P2")
async def test_of_ten_answers_at_once_one_counts_and_all_are_told_the_same(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        told: list[Json] = []
        ready = trio.Event()

        async def respond(number: int, connected: trio.Event) -> None:
            async with connect(running.ws, running.token, name=f"client {number}") as one:
                connected.set()
                await ready.wait()
                told.append(await answer(one, permission, "reject_once" if number % 2 else "allow_once"))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(respond, number, connected := trio.Event())
                await connected.wait()
            ready.set()
        assert sorted(one["resolved"] for one in told) == [False] * 9 + [True]
        (winner,) = [one for one in told if one["resolved"]]
        assert all((one["outcome"], one["by"]) == (winner["outcome"], winner["by"]) for one in told)
        await wire.completed(session, "r1")
        await wire.event(workspace, "run.completed")
        for stream in (session, workspace):
            (event,) = wire.of_type(stream, "permission.resolved")
            assert (event["outcome"], event["by"]) == (winner["outcome"], winner["by"])
        assert (bench.directory / "a.txt").exists() == (winner["outcome"]["kind"] == "allow_once")


@pytest.mark.scenario("P3")
async def test_a_rejected_call_gets_an_error_result_and_ends_the_turn(bench: Harness) -> None:
    model = bench.script(WRITE, THREE, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running, name="A") as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        assert (await answer(wire, await asked(wire, session), "reject_once"))["resolved"]
        run = await wire.completed(session, "r1")
        assert run["stopReason"] == "end_turn" and "error" not in run
        assert not (bench.directory / "a.txt").exists()
        messages = await rows(wire, session)
        assert shape(messages) == [("user", None), ("assistant", "tool_use"), ("tool", None), ("assistant", "end_turn")]
        assert run["messageId"] == messages[-1]["messageId"]
        (call,), (result,) = calls(messages), results(messages)
        assert (call["status"], call["permission"]["kind"]) == ("failed", "reject_once")
        assert result["isError"] and "rejected by A" in result["content"][0]["text"]
        # The session goes on, and the model is told.
        assert (await run_to_end(wire, session, "next"))["text"] == "next"
        asked_of_model = (await wire.call("test/requests", sessionId=session))["requests"]
        assert len(asked_of_model) == 2 and "rejected" in str(asked_of_model[-1]["turns"])


async def test_calls_of_one_message_are_asked_for_one_after_the_other(bench: Harness) -> None:
    async with bench.serve(model=bench.script(THREE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "three", runId="r1")
        await answer(wire, await asked(wire, session))
        second = await asked(wire, session, 2)
        assert second["input"]["path"] == "2.txt"
        assert (bench.directory / "1.txt").exists() and not (bench.directory / "2.txt").exists()
        assert (await wire.call("permission/list", sessionId=session))["permissions"] == [second]
        await answer(wire, second, "reject_once")
        assert (await wire.completed(session, "r1"))["stopReason"] == "end_turn"
        # What came behind the rejected call was neither asked for nor run.
        assert len(wire.of_type(session, "permission.requested")) == 2
        assert not (bench.directory / "2.txt").exists() and not (bench.directory / "3.txt").exists()
        messages = await rows(wire, session)
        assert [call["status"] for call in calls(messages)] == ["completed", "completed", "failed", "cancelled"]
        assert [result["isError"] for result in results(messages)] == [False, False, True, True]
        assert [result["toolCallId"] for result in results(messages)] == [
            call["toolCallId"] for call in calls(messages)
        ]


@pytest.mark.scenario("P4")
async def test_what_was_allowed_for_good_holds_for_its_session_tool_action_and_directory(bench: Harness) -> None:
    (bench.directory / "sub").mkdir()
    model = bench.script(
        asking("first", write("a.txt")),
        asking("again", write("b.txt")),
        asking("spelled", write("./sub/../c.txt")),
        asking("below", write("sub/d.txt")),
        asking("tool", {"tool": "edit", "input": {"path": "e.txt", "old": "", "new": "x"}}),
        asking("shell", shell("touch f.txt")),
        asking("fresh", write("g.txt")),
    )
    async with bench.serve(model=model) as running, bench.open(running, name="A") as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "first", runId="first")
        await answer(wire, await asked(wire, session), "allow_always")
        await wire.completed(session, "first")
        for text, name in (("again", "b.txt"), ("spelled", "c.txt")):
            assert (await run_to_end(wire, session, text))["text"] == "done"
            assert (bench.directory / name).exists()
        assert len(wire.of_type(session, "permission.requested")) == 1
        call = calls(await rows(wire, session))[-1]
        assert (call["permission"]["kind"], call["permission"]["by"]["name"]) == ("allow_always", "A")
        other = await new_session(wire, workspace)
        fork = (await wire.call("session/fork", sessionId=session))["session"]["sessionId"]
        await wire.attach(fork)
        for where, text in [
            (session, "below"),
            (session, "tool"),
            (session, "shell"),
            (other, "fresh"),
            (fork, "fresh"),
        ]:
            before = len(wire.of_type(where, "permission.requested"))
            run = (await wire.prompt(where, text, delivery="queue"))["run"]
            await answer(wire, await asked(wire, where, before + 1), "reject_once")
            await wire.completed(where, run["runId"])
        assert sorted(path.name for path in bench.directory.iterdir()) == ["a.txt", "b.txt", "c.txt", "sub"]
        assert [grant["name"] for grant in (await wire.call("permission/grants", sessionId=session))["grants"]] == [
            "write"
        ]
        for one in (other, fork):
            assert (await wire.call("permission/grants", sessionId=one))["grants"] == []


@pytest.mark.scenario("P5")
async def test_a_bad_option_and_an_unknown_permission_are_refused_by_kind(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        known = permission["permissionId"]
        for option in ("", "allow", "ALLOW_ONCE", "reject_always"):
            refusal = await wire.refused("permission/respond", permissionId=known, optionId=option)
            assert (refusal.kind, refusal.code) == ("invalid_option", -32602)
        for unknown in ("", "nothing", known[:-1] + ("b" if known[-1] == "a" else "a"), session, "r1"):
            refusal = await wire.refused("permission/respond", permissionId=unknown, optionId="allow_once")
            assert (refusal.kind, refusal.code) == ("permission_not_found", -32002)
        assert (await wire.refused("permission/respond", permissionId=known)).kind == "invalid_params"
        assert (await wire.refused("permission/revoke", grantId="nothing")).kind == "permission_not_found"
        assert (await wire.refused("permission/list")).kind == "invalid_params"
        assert (await wire.call("permission/list", workspaceId=workspace))["permissions"] == [permission]
        await answer(wire, permission)
        refusal = await wire.refused("permission/respond", permissionId=known, optionId="other")
        assert refusal.kind == "invalid_option"
        await wire.completed(session, "r1")


@pytest.mark.scenario("P9")
async def test_an_answer_cannot_change_what_was_asked(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        forged = {
            **permission,
            "input": {"path": "evil.txt", "content": "evil"},
            "name": "shell",
            "path": "/etc/passwd",
            "runId": "another",
            "sessionId": "another",
            "outcome": {"kind": "allow_always"},
            "options": [{"optionId": "mine", "kind": "allow_always", "name": "x"}],
        }
        refusal = await wire.refused("permission/respond", **(forged | {"optionId": "mine"}))
        assert refusal.kind == "invalid_option"
        told = await wire.call("permission/respond", **(forged | {"optionId": "allow_once"}))
        assert (told["resolved"], told["outcome"]["kind"]) == (True, "allow_once")
        await wire.completed(session, "r1")
        assert [path.name for path in bench.directory.iterdir()] == ["a.txt"]
        assert (bench.directory / "a.txt").read_text() == "new\n"
        assert (await wire.call("permission/grants", sessionId=session))["grants"] == []


@pytest.mark.scenario("P10")
async def test_with_policy_deny_a_call_is_denied_at_once_though_nobody_is_there(bench: Harness) -> None:
    model = bench.script(THREE)
    async with bench.serve(model=model, permissions="deny", detach_grace_s=0.0) as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "three", runId="watched")
            assert (await wire.completed(session, "watched"))["stopReason"] == "end_turn"
            await wire.event(workspace, "run.completed")
            for stream in (session, workspace):
                types = [e["type"] for e in wire.events[stream] if e["type"].startswith("permission.")]
                assert types == ["permission.requested", "permission.resolved"]
            (resolved,) = wire.of_type(session, "permission.resolved")
            assert resolved["outcome"]["kind"] == "policy" and "by" not in resolved
            late = await answer(wire, await asked(wire, session))
            assert (late["resolved"], late["outcome"]["kind"]) == (False, "policy")
            messages = await rows(wire, session)
            assert [call["status"] for call in calls(messages)] == ["failed", "cancelled", "cancelled", "cancelled"]
            assert calls(messages)[0]["permission"] == {"kind": "policy"}
            assert all(result["isError"] for result in results(messages))
            await wire.prompt(session, "three", runId="alone")
        got = await rpc(running, "run/wait", runId="alone")
        while got.get("error", {}).get("data", {}).get("kind") == "workspace_closing":  # nobody holds it: try again
            got = await rpc(running, "run/wait", runId="alone")
        assert (got["result"]["run"]["state"], got["result"]["run"]["stopReason"]) == ("completed", "end_turn")
    assert list(bench.directory.iterdir()) == []


async def test_with_policy_allow_every_call_runs_and_every_question_is_told(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(THREE), permissions="allow") as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "three", runId="r1")
        assert (await wire.completed(session, "r1"))["text"] == "done"
        types = [e["type"] for e in wire.events[session] if e["type"].startswith("permission.")]
        assert types == ["permission.requested", "permission.resolved"] * 3
        assert {e["outcome"]["kind"] for e in wire.of_type(session, "permission.resolved")} == {"policy"}
        assert sorted(path.name for path in bench.directory.iterdir()) == ["1.txt", "2.txt", "3.txt"]


async def test_a_question_that_nobody_answers_in_time_expires_like_a_rejection(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(WRITE), permission_timeout_s=0.2) as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        assert permission["requestedAt"] < permission["expiresAt"]
        run = await wire.completed(session, "r1")
        assert run["stopReason"] == "end_turn"
        await wire.event(workspace, "run.completed")
        for stream in (session, workspace):
            (resolved,) = wire.of_type(stream, "permission.resolved")
            assert resolved["outcome"] == {"kind": "expired"} and "by" not in resolved
        late = await answer(wire, permission)
        assert (late["resolved"], late["outcome"]) == (False, {"kind": "expired"})
        (call,), (result,) = calls(await rows(wire, session)), results(await rows(wire, session))
        assert (call["status"], call["permission"]["kind"], result["isError"]) == ("failed", "expired", True)
        assert not (bench.directory / "a.txt").exists()


async def test_an_answer_by_http_counts_and_has_its_author(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WRITE)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        permission = await asked(wire, session)
        listed = await rpc(running, "permission/list", sessionId=session)
        assert listed["result"]["permissions"] == [permission]
        params = {"permissionId": permission["permissionId"], "optionId": "allow_once"}
        got = await rpc(running, "permission/respond", client_id=BOB, **params)
        assert got["result"]["resolved"] and got["result"]["by"]["clientId"] == BOB
        assert (await wire.event(session, "permission.resolved"))["by"]["clientId"] == BOB
        await wire.completed(session, "r1")
        (call,) = calls(await rows(wire, session))
        assert call["permission"]["by"]["clientId"] == BOB
        late = await rpc(running, "permission/respond", **params)
        assert (late["result"]["resolved"], late["result"]["by"]["clientId"]) == (False, BOB)
