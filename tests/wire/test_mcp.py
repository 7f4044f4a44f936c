"""MCP servers of a workspace, over the wire: configured, asked for, lost, and gone with it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.lifetime import Deadlines
from atrio_server.config import McpServer
from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import read_project_file
from command_rig import exists
from mcp_rig import SERVER, noted
from wire.client import Wire
from wire.conftest import Harness
from wire.steps import PLAIN, new_session
from wire.test_permissions import answer, asked

Json = dict[str, Any]


def naughty(*words: str, name: str = "n", log: Path | None = None, **more: Any) -> McpServer:
    """A server of `mcp_server` as it is configured, told by words what to do."""
    env = {"MCP_TEST_LOG": str(log)} if log else {}
    return McpServer(name=name, command=sys.executable, args=("-S", "-E", SERVER, *words), env=env, **more)


def calling(tool: str, *, match: str = "call", **given: Any) -> Json:
    """A turn that calls a tool and then says so."""
    return {"match": f"^{match}", "responses": [[{"tool": tool, "input": given}], [{"say": "called"}]]}


async def ready(wire: Wire, workspace: str, *states: str) -> list[Json]:
    """Wait until the servers are in these states, in order."""
    mcp: list[Json] = []
    while [one["state"] for one in mcp] != list(states):
        mcp = (await wire.call("workspace/get", workspaceId=workspace)).get("mcp", [])
        await trio.lowlevel.checkpoint()
    return mcp


def project_with(bench: Harness, log: Path) -> None:
    """A project's file with a server of its own."""
    args = json.dumps(["-S", "-E", SERVER])
    lines = ["[mcp.servers.own]", f"command = {json.dumps(sys.executable)}", f"args = {args}"]
    text = "\n".join([*lines, f"env = {{MCP_TEST_LOG = {json.dumps(str(log))}}}"])
    (bench.directory / ".atrio").mkdir()
    (bench.directory / ".atrio/config.toml").write_text(text)


async def result_of(wire: Wire, session: str) -> Json:
    """What the last tool call of a session gave."""
    messages = (await wire.call("session/messages", sessionId=session))["messages"]
    parts = [part for message in messages for part in message["parts"] if part["type"] == "tool_result"]
    return parts[-1]


async def test_servers_are_shown_and_end_with_their_workspace(
    bench: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is there after two seconds of a shutdown is killed and not waited for; the machine may stand still in them.
    monkeypatch.setattr(Deadlines, "for_shutdown", Deadlines.for_one_workspace)
    log = tmp_path / "mcp-log"
    servers = (naughty(log=log), naughty("dies-at-start", name="bad"), naughty(name="off", enabled=False))
    async with bench.serve(mcp_servers=servers) as running, bench.open(running) as (wire, workspace_id):
        mcp: list[Json] = []
        # It may be seen to have ended before it can be seen how; then the next try tells.
        while not mcp or mcp[1]["state"] != "ready" or "exit status 4" not in mcp[0].get("detail", ""):
            mcp = (await wire.call("workspace/get", workspaceId=workspace_id))["mcp"]
            await trio.lowlevel.checkpoint()
        assert [(one["name"], one["state"], one["tools"]) for one in mcp] == [
            ("bad", "starting", 0),
            ("n", "ready", 12),
            ("off", "disabled", 0),
        ]
    (pid,) = {int(line.split()[1]) for line in await noted(log, "pid ") if line.startswith("pid ")}
    assert not exists(pid)


async def test_a_workspace_without_servers_says_nothing_of_them(bench: Harness) -> None:
    async with bench.serve() as running, bench.open(running) as (wire, workspace_id):
        got = await wire.call("workspace/get", workspaceId=workspace_id)
        assert "mcp" not in got
        assert "problems" not in got


async def test_a_call_asks_and_is_made_once_it_is_allowed(bench: Harness) -> None:
    script = bench.script(calling("mcp_n_echo", text="hello"), PLAIN)
    async with (
        bench.serve(model=script, mcp_servers=(naughty(),)) as running,
        bench.open(running) as (wire, workspace),
    ):
        await ready(wire, workspace, "ready")
        session = await new_session(wire, workspace)
        await wire.prompt(session, "call", runId="r1")
        permission = await asked(wire, session)
        assert permission["name"] == "mcp_n_echo"
        await answer(wire, permission)
        assert (await wire.completed(session, "r1"))["stopReason"] == "end_turn"
        assert (await result_of(wire, session))["content"][0]["text"].startswith("hello")


async def test_always_holds_for_that_tool_of_that_server(bench: Harness) -> None:
    turns = (
        calling("mcp_n_echo", text="x"),
        calling("mcp_n_many", match="other"),
        calling("mcp_m_echo", match="elsewhere", text="y"),
        PLAIN,
    )
    servers = (naughty(), naughty(name="m"))
    async with (
        bench.serve(model=bench.script(*turns), mcp_servers=servers) as running,
        bench.open(running) as (wire, workspace),
    ):
        await ready(wire, workspace, "ready", "ready")
        session = await new_session(wire, workspace)
        await wire.prompt(session, "call", runId="r1")
        await answer(wire, await asked(wire, session), "allow_always")
        await wire.completed(session, "r1")
        await wire.prompt(session, "call", runId="r2")
        await wire.completed(session, "r2")
        assert len(wire.of_type(session, "permission.requested")) == 1
        for count, (text, name) in enumerate((("other", "mcp_n_many"), ("elsewhere", "mcp_m_echo")), 2):
            await wire.prompt(session, text, runId=text)
            permission = await asked(wire, session, count)
            assert permission["name"] == name
            await answer(wire, permission, "reject_once")
            await wire.completed(session, text)


async def test_a_server_that_dies_is_told_and_holds_up_no_prompt(bench: Harness, tmp_path: Path) -> None:
    script = bench.script(calling("mcp_n_die"), PLAIN)
    async with (
        bench.serve(model=script, permissions="allow", mcp_servers=(naughty(log=tmp_path / "log"),)) as running,
        bench.open(running) as (wire, workspace),
    ):
        await ready(wire, workspace, "ready")
        session = await new_session(wire, workspace)
        await wire.prompt(session, "call", runId="r1")
        assert (await wire.completed(session, "r1"))["stopReason"] == "end_turn"
        assert (await result_of(wire, session))["isError"] is True
        (lost, *_) = await wire.until(lambda: wire.of_type(session, "notice"))
        assert (lost["severity"], lost["title"]) == ("warning", "The MCP server n is not there; trying again")
        await wire.prompt(session, "hello", runId="r2")
        assert (await wire.completed(session, "r2"))["stopReason"] == "end_turn"
        await wire.until(lambda: wire.of_type(session, "notice")[1:])
        assert [one["title"] for one in wire.of_type(session, "notice")][1:] == ["The MCP server n is back"]


async def test_a_session_that_comes_later_is_told_once_of_a_server_that_is_not_there(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(PLAIN), mcp_servers=(naughty("dies-at-start", name="bad"),)) as running,
        bench.open(running) as (wire, workspace),
    ):
        mcp: list[Json] = []
        while not mcp or "detail" not in mcp[0]:
            mcp = (await wire.call("workspace/get", workspaceId=workspace))["mcp"]
            await trio.lowlevel.checkpoint()
        session = await new_session(wire, workspace)
        for run in ("r1", "r2"):
            await wire.prompt(session, "hello", runId=run)
            await wire.completed(session, run)
        titles = [notice["title"] for notice in wire.of_type(session, "notice")]
        assert titles.count("The MCP server bad is not there; trying again") == 1


async def test_a_projects_server_is_started_only_once_the_project_is_trusted(bench: Harness, tmp_path: Path) -> None:
    log = tmp_path / "mcp-log"
    project_with(bench, log)
    script = bench.script(calling("mcp_own_echo", text="from the project"), PLAIN)
    async with bench.serve(model=script) as running:
        async with bench.open(running) as (wire, workspace):
            got = await wire.call("workspace/get", workspaceId=workspace)
            assert "mcp" not in got
            (problem,) = got["problems"]
            assert "mcp.servers.own" in problem
            assert "atrio config trust" in problem
            session = await new_session(wire, workspace)
            for run in ("r1", "r2"):
                await wire.prompt(session, "hello", runId=run)
                await wire.completed(session, run)
            (notice,) = wire.of_type(session, "notice")
            assert notice["detail"] == problem
            await wire.call("workspace/close", workspaceId=workspace)
        assert not log.exists()
        TrustStore(bench.state_dir).add(bench.directory.resolve(), read_project_file(bench.directory.resolve()).digest)
        async with bench.open(running) as (wire, workspace):
            await ready(wire, workspace, "ready")
            session = await new_session(wire, workspace)
            await wire.prompt(session, "call", runId="r3")
            permission = await asked(wire, session)
            assert permission["name"] == "mcp_own_echo"
            await answer(wire, permission)
            await wire.completed(session, "r3")
            assert (await result_of(wire, session))["content"][0]["text"].startswith("from the project")
            await wire.call("workspace/close", workspaceId=workspace)
            while await wire_lists(wire):
                await trio.lowlevel.checkpoint()
            pids = {int(line.split()[1]) for line in await noted(log, "pid ") if line.startswith("pid ")}
            assert not any(exists(pid) for pid in pids)


async def wire_lists(wire: Wire) -> list[Json]:
    """The workspaces that are open or closing."""
    return (await wire.call("workspace/list"))["workspaces"]
