"""`session/shell`: a command of a person's, as a run that everybody sees and the model reads of."""

import os
from typing import Any

import pytest
import trio

from atrio_agent.lifetime import Deadlines
from atrio_protocol.limits import MAX_COMMAND_CHARS
from wire.client import Wire, connect
from wire.conftest import LIMIT_S, Harness
from wire.process import spawn
from wire.steps import GATED, PLAIN, new_session, rows, shape, terminals
from wire.test_permissions import answer, asked
from wire.tokens import make_token, post

Json = dict[str, Any]

STUBBORN = "trap '' TERM; echo $$; (sleep 1000 & sleep 1000); echo never"
TURNS = (GATED, PLAIN)


async def shell(wire: Wire, session: str, command: str, **params: Any) -> Json:
    return (await wire.call("session/shell", sessionId=session, command=command, **params))["run"]


def call_of(messages: list[Json]) -> Json:
    (part,) = messages[1]["parts"]
    return part


def said(messages: list[Json]) -> str:
    (result,) = messages[2]["parts"]
    return result["content"][0]["text"]


async def running_pid(wire: Wire, session: str) -> int:
    """Wait until the command has said who it is, in a line of its own."""

    def said() -> str:
        text = "".join(event["text"] for event in wire.of_type(session, "tool.output"))
        return text if text.endswith("\n") else ""

    return int(await wire.until(said))


def group_is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_command_runs_at_once_for_who_may_allow_it_and_the_model_reads_of_it(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running, name="A") as (wire, workspace):
        session = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
        await wire.attach(session)
        run = await shell(wire, session, "echo hello; exit 3", runId="sh")
        assert (run["kind"], run["promptText"], run["delivery"]) == ("shell", "echo hello; exit 3", "queue")
        done = await wire.completed(session, "sh")
        assert (done["stopReason"], done["text"]) == ("end_turn", "")
        assert terminals(wire, session) == [("sh", "end_turn")]
        said_rows = await rows(wire, session)
        assert shape(said_rows) == [("user", None), ("assistant", "end_turn"), ("tool", None)]
        assert done["messageId"] == said_rows[1]["messageId"] and done["promptMessageId"] == said_rows[0]["messageId"]
        assert said_rows[0]["author"]["name"] == "A"
        call, result = call_of(said_rows), said_rows[2]["parts"][0]
        assert (call["name"], call["kind"], call["status"]) == ("shell", "execute", "completed")
        assert call["input"] == {"command": "echo hello; exit 3"} and "output" not in call
        assert (call["permission"]["kind"], call["permission"]["by"]["name"]) == ("allow_once", "A")
        assert (result["toolCallId"], result["exitCode"], result["isError"]) == (call["toolCallId"], 3, False)
        assert "hello" in said(said_rows)
        assert not wire.of_type(session, "permission.requested")
        live = wire.of_type(session, "tool.output")
        assert "".join(event["text"] for event in live) == "hello\n"
        # Every message is created once and completed once, and the terminal is last.
        order = [event["type"] for event in wire.events[session] if event["type"].startswith(("message.", "run."))]
        assert order[0] == "run.accepted" and order[-1] == "run.completed"
        assert order.count("message.created") == order.count("message.completed") == 3
        about = (await wire.call("session/get", sessionId=session))["session"]
        assert (about["title"], about["messageCount"], about["state"]) == ("echo hello; exit 3", 3, "idle")
        assert "usage" not in done and about["usage"]["inputTokens"] == 0
        await wire.prompt(session, "what did it say?", runId="next")
        await wire.completed(session, "next")
        turns = (await wire.call("test/requests", sessionId=session))["requests"][-1]["turns"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "user"]
        assert turns[0]["content"][0]["text"] == "echo hello; exit 3"
        assert turns[1]["calls"][0]["input"] == {"command": "echo hello; exit 3"}
        assert "hello" in turns[2]["results"][0]["content"][0]["text"]


async def test_live_output_is_shown_while_it_runs_and_gone_when_the_result_is_there(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await shell(wire, session, "echo early; while [ ! -e go ]; do sleep 0.01; done; echo late", runId="sh")
        await wire.event(session, "tool.output")
        async with connect(running.ws, running.token) as other:
            snapshot = (await other.attach(session))["snapshot"]
            call = call_of(snapshot["messages"])
            assert (call["status"], call["output"]) == ("in_progress", "early\n")
            assert "finish" not in snapshot["messages"][1]
            (bench.directory / "go").touch()
            await other.completed(session, "sh")
            parts = [event for event in other.of_type(session, "message.part") if event["value"]["type"] == "tool_call"]
            assert parts[-1]["value"]["status"] == "completed" and "output" not in parts[-1]["value"]
        assert said(await rows(wire, session)).startswith("early\nlate")


async def test_without_the_scope_it_asks_and_whoever_may_answers(bench: Harness) -> None:
    without_approve = make_token(bench, "prompt")
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running, name="B") as (b, workspace):
        session = await new_session(b, workspace)
        async with connect(running.ws, without_approve, name="A") as a:
            await a.attach(session)
            await shell(a, session, "touch made", runId="one")
            permission = await asked(a, session)
            assert permission["input"] == {"command": "touch made"} and permission["detail"] == "touch made"
            assert not (bench.directory / "made").exists()
            assert (
                await a.refused("permission/respond", permissionId=permission["permissionId"], optionId="allow_once")
            ).kind == "forbidden"
            await answer(b, permission)
            assert (await a.completed(session, "one"))["stopReason"] == "end_turn"
            assert (bench.directory / "made").exists()
            await shell(a, session, "touch other", runId="two")
            await answer(b, await asked(b, session, 2), "reject_once")
            assert (await a.completed(session, "two"))["stopReason"] == "end_turn"
            assert not (bench.directory / "other").exists()
            messages = (await rows(a, session))[3:]
            assert call_of(messages)["status"] == "failed" and messages[2]["parts"][0]["isError"]
            assert "rejected by B" in said(messages)
            # Cancelled while it waits, and a harmless one that needs nobody.
            await shell(a, session, "touch third", runId="three")
            await asked(b, session, 3)
            cancelled = await a.call("session/cancel", sessionId=session, wait=True)
            assert cancelled["cancelled"] == ["three"]
            assert b.of_type(session, "permission.resolved")[-1]["outcome"]["kind"] == "cancelled"
            await shell(a, session, "ls", runId="four")
            await a.completed(session, "four")
            assert "made" in said((await rows(a, session))[9:])
        # By HTTP too: who may not allow is asked.
        sent = await post(running.http, without_approve, "session/shell", sessionId=session, command="touch fifth")
        await asked(b, session, 4)
        await b.call("session/cancel", sessionId=session, wait=True)
        assert sent.json()["result"]["run"]["kind"] == "shell" and not (bench.directory / "fifth").exists()


@pytest.mark.parametrize("how", ["cancel", "delete", "close", "shutdown"])
async def test_when_it_is_ended_every_process_of_it_is_gone_before_its_terminal(
    bench: Harness, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A command that will not end takes half of the two seconds that a shutdown has for it. What is left after them is
    # killed and not waited for, which a machine that stands still for the other half must not bring about here.
    monkeypatch.setattr(Deadlines, "for_shutdown", Deadlines.for_one_workspace)
    async with (
        bench.serve(model=bench.script(*TURNS), keep_alive="clients") as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await shell(wire, session, STUBBORN, runId="sh")
        pid = await running_pid(wire, session)
        if how == "cancel":
            assert (await wire.call("session/cancel", sessionId=session, wait=True))["cancelled"] == ["sh"]
        elif how == "delete":
            await wire.call("session/delete", sessionId=session)
        elif how == "shutdown":
            await wire.call("server/shutdown", ifIdle=False)
        else:
            await wire.call("workspace/close", workspaceId=workspace)
        if how == "close":  # which ends the attachment too
            done = (await wire.call("run/wait", runId="sh"))["run"]
        else:
            done = await wire.completed(session, "sh")
        assert group_is_gone(pid)
        assert (done["stopReason"], done["text"]) == ("cancelled", "")
        if how == "cancel":
            messages = await rows(wire, session)
            assert shape(messages) == [("user", None), ("assistant", "cancelled"), ("tool", None)]
            assert call_of(messages)["status"] == "cancelled" and "output" not in call_of(messages)
            assert messages[2]["parts"][0]["isError"] and "cancelled" in said(messages)
            await wire.prompt(session, "still there?", runId="next")
            assert (await wire.completed(session, "next"))["text"] == "still there?"


async def test_it_queues_takes_no_steers_and_leaves_nothing_if_it_never_began(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await shell(wire, session, "while [ ! -e go ]; do sleep 0.01; done", runId="two")
        await shell(wire, session, "touch never", runId="never")
        await wire.call("session/cancel", sessionId=session, runId="never", wait=True)
        never = await wire.completed(session, "never")
        assert never["stopReason"] == "cancelled" and "messageId" not in never and "promptMessageId" not in never
        await wire.call("test/release", gate="go")
        await wire.event(session, "run.started", runId="two")
        steer = await wire.prompt(session, "steered", delivery="steer")
        (bench.directory / "go").touch()
        await wire.completed(session, steer["run"]["runId"])
        assert [run for run, _ in terminals(wire, session)] == ["never", "one", "two", steer["run"]["runId"]]
        assert not wire.of_type(session, "run.folded")
        assert shape(await rows(wire, session))[2:] == [
            ("user", None),
            ("assistant", "end_turn"),
            ("tool", None),
            ("user", None),
            ("assistant", "end_turn"),
        ]
        # Stopped just before it begins, and just before its tool starts.
        await wire.call("test/hold", sessionId=session, point="run.start")
        await shell(wire, session, "touch never", runId="held")
        await wire.call("test/gates", wait="run.start")
        await wire.call("session/cancel", sessionId=session, wait=True)
        assert "messageId" not in await wire.completed(session, "held")
        await wire.call("test/hold", sessionId=session, point="tool.start")
        await shell(wire, session, "touch never", runId="begun")
        await wire.call("test/gates", wait="tool.start")
        await wire.call("session/cancel", sessionId=session, wait=True)
        assert shape(await rows(wire, session))[7:] == [("user", None), ("assistant", "cancelled"), ("tool", None)]
        assert not (bench.directory / "never").exists()


async def test_the_same_run_id_is_the_same_command(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        assert "shell" in (await _capabilities(running))
        await shell(wire, session, "echo x >> log", runId="sh")
        await wire.completed(session, "sh")
        again = await shell(wire, session, "echo x >> log", runId="sh")
        assert (again["state"], again["stopReason"]) == ("completed", "end_turn")
        assert (bench.directory / "log").read_text() == "x\n"
        for method, params in [
            ("session/shell", {"command": "echo y >> log"}),
            ("session/prompt", wire.prompt_params(session, "echo x >> log")),
            ("session/summarize", {}),
        ]:
            refusal = await wire.refused(method, **{"sessionId": session, **params, "runId": "sh"})
            assert refusal.kind == "idempotency_conflict"
        for params, kind, path in [
            ({"command": " \n"}, "empty_prompt", "/command"),
            ({"command": ""}, "empty_prompt", "/command"),
            ({"command": "x" * (MAX_COMMAND_CHARS + 1)}, "prompt_too_large", "/command"),
            ({}, "invalid_params", "/command"),
            ({"command": 5}, "invalid_params", "/command"),
            ({"command": "ls", "runId": ""}, "invalid_params", "/runId"),
            ({"command": "ls", "runId": "r" * 129}, "invalid_params", "/runId"),
        ]:
            refusal = await wire.refused("session/shell", sessionId=session, **params)
            assert (refusal.kind, refusal.data["path"]) == (kind, path)
        assert (await wire.refused("session/shell", command="ls")).kind == "session_missing"
        assert (await wire.refused("session/shell", sessionId="none", command="ls")).kind == "session_not_found"
        # What no program can be given is a result, and the session goes on.
        await shell(wire, session, "echo a\0b", runId="nul")
        assert (await wire.completed(session, "nul"))["stopReason"] == "end_turn"
        messages = (await rows(wire, session))[-3:]
        assert call_of(messages)["status"] == "failed" and messages[2]["parts"][0]["isError"]


async def _capabilities(running: Any) -> Json:
    async with connect(running.ws, running.token, initialize=False) as wire:
        info = {"name": "test", "version": "0"}
        return (await wire.call("initialize", protocolVersion=1, clientInfo=info))["capabilities"]


async def test_no_usable_model_is_needed(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
    async with bench.serve(model=str(bench.root / "gone.json")) as running, bench.open(running) as (wire, _):
        await wire.attach(session)
        assert (await wire.refused("session/prompt", **wire.prompt_params(session, "x"))).kind == (
            "agent_not_initialized"
        )
        await shell(wire, session, "echo works", runId="sh")
        assert (await wire.completed(session, "sh"))["stopReason"] == "end_turn"
        assert "works" in said(await rows(wire, session))


async def test_killed_meanwhile_it_is_interrupted_and_its_call_repaired(bench: Harness) -> None:
    model = bench.script(*TURNS)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                session = await new_session(wire, opened["workspace"]["workspaceId"])
                await shell(wire, session, "echo $$; sleep 1000", runId="sh")
                pid = await running_pid(wire, session)
                # Once this is stored, so is all that was written before.
                await shell(wire, session, "touch never", runId="queued")
                server.process.kill()
                await server.ended()
        os.killpg(pid, 9)  # nobody was left to end it
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                for run_id in ("sh", "queued"):
                    run = (await wire.call("run/get", runId=run_id))["run"]
                    assert (run["state"], run["stopReason"]) == ("completed", "interrupted")
                    assert ("messageId" in run) == (run_id == "sh")
                messages = await rows(wire, session)
                assert shape(messages) == [("user", None), ("assistant", "interrupted"), ("tool", None)]
                assert call_of(messages)["status"] == "cancelled" and messages[2]["parts"][0]["isError"]
                await wire.attach(session)
                await wire.prompt(session, "and now", runId="after")
                assert (await wire.completed(session, "after"))["text"] == "and now"
                turns = (await wire.call("test/requests", sessionId=session))["requests"][-1]["turns"]
                assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "user"]
        assert not (bench.directory / "never").exists()
