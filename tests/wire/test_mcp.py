"""MCP servers of a workspace, over the wire."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from command_rig import exists
from mcp_rig import naughty, noted
from wire.conftest import Harness


async def test_servers_are_shown_and_end_with_their_workspace(bench: Harness, tmp_path: Path) -> None:
    log = tmp_path / "mcp-log"
    async with bench.serve() as running:
        workspaces = running.server.workspaces
        servers = (naughty(log=log), naughty("dies-at-start", name="bad"), naughty(name="off", enabled=False))
        workspaces._means = replace(workspaces._means, mcp_servers=lambda _root: servers)
        async with bench.open(running) as (wire, workspace_id):
            mcp: list[dict[str, Any]] = []
            while not mcp or mcp[0]["state"] != "ready" or "detail" not in mcp[1]:
                mcp = (await wire.call("workspace/get", workspaceId=workspace_id))["mcp"]
                await trio.lowlevel.checkpoint()
            assert [(one["name"], one["state"], one["tools"]) for one in mcp] == [
                ("n", "ready", 12),
                ("bad", "starting", 0),
                ("off", "disabled", 0),
            ]
            assert "exit status 4" in mcp[1]["detail"]
    (pid,) = {int(line.split()[1]) for line in await noted(log, "pid ") if line.startswith("pid ")}
    assert not exists(pid)


async def test_a_workspace_without_servers_says_nothing_of_them(bench: Harness) -> None:
    async with bench.serve() as running, bench.open(running) as (wire, workspace_id):
        assert "mcp" not in await wire.call("workspace/get", workspaceId=workspace_id)
