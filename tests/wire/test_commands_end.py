"""Whatever a command has become, it ends with what it belongs to: its run, its workspace, its server.

The command here ignores TERM, and so does what it forked twice into a session
of its own. Each process of it has the run's id in its environment, by which
it is looked for in the system's process table.
"""

import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.process import spawn
from wire.questions import answer, asked, asking, shell
from wire.steps import CANCELLED_AT_A_CALL, PLAIN, new_session, rows, shape, terminals

Json = dict[str, Any]

STAY = "sleep 60; true"  # ended sooner; but should a test fail, nothing stays for long
STUBBORN = (
    "trap '' TERM HUP INT; "
    f"( ( setsid sh -c \"trap '' TERM HUP INT; echo deep up; {STAY}\" & ) & ); "
    f"echo top up; {STAY}"
)
PROCESSES = 2
"""How many shells it keeps running, each with a sleep."""

STUCK = asking("stuck", shell(STUBBORN))
BACK = asking("back", shell(STUBBORN, background=True), then="started")


def marked(run_id: str) -> list[int]:
    """The processes that have the run's mark."""
    mark = f"ATRIO_RUN={run_id}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(int(entry.name))
    return found


async def all_up(run_id: str) -> None:
    """Wait until the whole command is up: nobody tells of what a background job does."""
    while len(marked(run_id)) < 2 * PROCESSES:  # noqa: ASYNC110  the process table has no events
        await trio.sleep(0.01)


async def all_gone(*run_ids: str) -> None:
    """Wait until nothing of these runs is left: what a shutdown had to kill at its deadline may still be dying."""
    while any(marked(run_id) for run_id in run_ids):  # noqa: ASYNC110  the process table has no events
        await trio.sleep(0.01)


async def start_stuck(wire: Wire, session: str) -> str:
    """Have a session run the command until all of it is up; returns the run's id, which no other test uses."""
    run_id = uuid4().hex
    await wire.prompt(session, "stuck", runId=run_id)

    def up() -> bool:
        said = "".join(event["text"] for event in wire.of_type(session, "tool.output"))
        return "deep up" in said and "top up" in said

    await wire.until(up)
    assert len(marked(run_id)) >= PROCESSES
    return run_id


@pytest.mark.scenario("A35")
async def test_the_answer_to_a_cancel_that_waits_comes_when_every_process_is_gone(bench: Harness) -> None:
    async with bench.serve(model=bench.script(STUCK, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        async with bench.open(running, name="other") as (other, _):

            async def allow() -> None:
                await answer(other, await asked(other, workspace))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(allow)
                run_id = await start_stuck(wire, session)
            told = await other.call("session/cancel", sessionId=session, wait=True)
            assert marked(run_id) == []
            assert told["cancelled"] == [run_id]
        assert (await wire.completed(session, run_id))["stopReason"] == "cancelled"
        messages = await rows(wire, session)
        call, result = messages[1]["parts"][0], messages[2]["parts"][0]
        assert (call["status"], call["input"]["command"]) == ("cancelled", STUBBORN)
        assert "output" not in call and result["isError"] and "cancelled" in result["content"][0]["text"]
        await wire.prompt(session, "and now", runId="next")
        assert (await wire.completed(session, "next"))["text"] == "and now"


@pytest.mark.scenario("S1")
async def test_a_closing_workspace_refuses_cancels_waits_saves_and_closes_in_this_order(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_agent.lifetime.CLOSE_S", 60.0)  # a held run is not to be given up meanwhile
    settings: Json = {"model": bench.script(STUCK), "permissions": "allow", "keep_alive": "clients"}
    async with bench.serve(**settings) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.finish")
        run_id = await start_stuck(wire, session)
        closed = running.server.workspaces.get(workspace).closed
        waiting = await wire.send("run/wait", runId=run_id)
        await wire.call("workspace/close", workspaceId=workspace)
        # Refuse: at once, while the command still runs.
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "late", runId="late"))
        assert refusal.kind == "workspace_closing"
        assert (await wire.refused("session/new", workspaceId=workspace)).kind == "workspace_closing"
        # Cancel, wait: nothing is saved before all that the command started has ended.
        await wire.call("test/gates", wait="run.finish")
        assert marked(run_id) == []
        run = (await wire.call("run/get", runId=run_id))["run"]
        assert run["state"] == "running" and not closed.is_set()
        # The store is there as long as anything is to be saved.
        assert shape(await rows(wire, session)) == [("user", None), ("assistant", "tool_use")]
        await wire.call("test/release", gate="run.finish")
        run = (await wire.reply(waiting))["run"]
        assert (run["state"], run["stopReason"]) == ("completed", "cancelled")
        await closed.wait()
        # Saved: what the next opening reads.
        await wire.call("workspace/open", path=str(bench.directory))
        messages = await rows(wire, session)
        assert shape(messages) == CANCELLED_AT_A_CALL
        call, result = messages[1]["parts"][0], messages[2]["parts"][0]
        assert (call["status"], call["permission"]) == ("cancelled", {"kind": "policy"})
        assert result["isError"] and result["toolCallId"] == call["toolCallId"]
        assert (await wire.refused("run/get", runId="late")).kind == "run_not_found"


async def test_a_background_job_outlives_its_run_and_a_cancel_but_not_its_workspace(bench: Harness) -> None:
    other_directory = bench.root / "other"
    other_directory.mkdir()
    settings: Json = {"model": bench.script(BACK), "permissions": "allow", "detach_grace_s": 0.0}
    async with bench.serve(**settings) as running, bench.open(running) as (wire, workspace):
        opened = await wire.call("workspace/open", path=str(other_directory))
        elsewhere = opened["workspace"]["workspaceId"]
        mine, other = uuid4().hex, uuid4().hex
        for place, run_id in ((workspace, mine), (elsewhere, other)):
            session = await new_session(wire, place)
            await wire.prompt(session, "back", runId=run_id)
            assert (await wire.completed(session, run_id))["text"] == "started"
            assert (await wire.call("session/cancel", sessionId=session, wait=True))["cancelled"] == []
            await all_up(run_id)
        closed = running.server.workspaces.get(workspace).closed
        await wire.call("workspace/close", workspaceId=workspace)
        await closed.wait()
        assert marked(mine) == [] and marked(other)
        closed = running.server.workspaces.get(elsewhere).closed
        await wire.call("workspace/close", workspaceId=elsewhere)
        await closed.wait()
        assert marked(other) == []


@pytest.mark.scenario("S13")
async def test_a_signal_to_the_server_leaves_no_process_of_any_command(bench: Harness) -> None:
    model = bench.script(STUCK, BACK)
    with trio.fail_after(60):
        async with spawn(bench.state_dir, "--model", model, "--permissions", "allow") as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                session, other = await new_session(wire, workspace), await new_session(wire, workspace)
                behind = uuid4().hex
                await wire.prompt(other, "back", runId=behind)
                await wire.completed(other, behind)
                await all_up(behind)
                run_id = await start_stuck(wire, session)
                server.signal(signal.SIGTERM)
                await wire.completed(session, run_id)
                assert await wire.closing() == 1001
                assert await server.ended() == 0  # so it kept its own deadlines, whatever the machine did
                assert terminals(wire, session) == [(run_id, "cancelled")]
                await all_gone(run_id, behind)
