"""Commands that do not want to end, say too much or close their output; and what a killed server leaves of them."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio

from atrio_agent.tools.capture import MAX_FILE_BYTES
from atrio_agent.tools.leftovers import OWNER, new_life
from command_rig import STUBBORN, exists, marked
from mcp_rig import SERVER, noted
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.process import Process, spawn
from wire.questions import asking, shell
from wire.steps import PLAIN, new_session, rows

LIMIT_S = 90
MIB = 1024 * 1024

STUCK = asking("stuck", shell(STUBBORN))
BEHIND = asking("behind", shell("trap '' TERM; while :; do sleep 0.1; done", background=True), then="started")


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    for line in Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not say")


async def opened(wire: Wire, bench: Harness) -> str:
    """Open the workspace; returns its id."""
    workspace: str = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
    return workspace


async def result(wire: Wire, session: str) -> tuple[dict[str, Any], str]:
    """The only tool result of a session, and what it says."""
    parts = [part for row in await rows(wire, session) for part in row["parts"] if part["type"] == "tool_result"]
    return parts[0], "".join(block["text"] for block in parts[0]["content"])


def mcp_settings(bench: Harness, log: Path) -> dict[str, str]:
    """A user's settings with an MCP server that ignores requests to end."""
    home = bench.root / "config"
    (home / "atrio").mkdir(parents=True)
    lines = [
        "[mcp.servers.own]",
        f"command = {json.dumps(sys.executable)}",
        f"args = {json.dumps(['-S', '-E', SERVER, 'stubborn'])}",
        f"env = {{MCP_TEST_LOG = {json.dumps(str(log))}}}",
    ]
    (home / "atrio" / "config.toml").write_text("\n".join(lines))
    return {"XDG_CONFIG_HOME": str(home)}


def bearing(beginning: str) -> list[int]:
    """The processes with a variable that begins so in their environment."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if any(part.startswith(beginning.encode()) for part in environment.split(b"\0")):
            found.append(int(entry.name))
    return found


def owned_by(state_dir: Path) -> list[int]:
    """The processes that any server of this state directory has started."""
    return bearing(f"{OWNER}={name_of(state_dir)}.")


def name_of(state_dir: Path) -> str:
    """What the state directory is called in the environment of its processes."""
    from atrio_server.statedir import StateDir  # noqa: PLC0415

    return StateDir(state_dir, -1).identity


async def test_what_a_killed_server_left_running_is_ended_by_the_next_one_and_nothing_else(bench: Harness) -> None:
    log, mcp_log = bench.root / "log", bench.root / "mcp-log"
    flags = ("--model", bench.script(STUCK, BEHIND, PLAIN), "--permissions", "allow")
    settings = mcp_settings(bench, mcp_log)
    stuck, behind = uuid4().hex, uuid4().hex
    stranger = await trio.lowlevel.open_process(
        ["sleep", "600"], env={OWNER: new_life("0" * 16), "PATH": os.environ["PATH"]}, start_new_session=True
    )
    try:
        with trio.fail_after(LIMIT_S):
            async with spawn(bench.state_dir, *flags, log=log, environ=settings) as server:
                async with connect(server.ws, server.token) as wire:
                    workspace = await opened(wire, bench)
                    session, other = await new_session(wire, workspace), await new_session(wire, workspace)
                    await wire.prompt(other, "behind", runId=behind)
                    await wire.completed(other, behind)
                    await wire.prompt(session, "stuck", runId=stuck)

                    def up() -> bool:
                        said = "".join(event["text"] for event in wire.of_type(session, "tool.output"))
                        return said.count("pid ") == 4 and said.endswith("\n")

                    await wire.until(up)
                    await noted(mcp_log, "pid")
                    server.signal(signal.SIGKILL)
                    await server.ended()
            assert len(marked(stuck)) >= 4 and marked(behind)
            mcp: set[int] = set()
            while len(mcp) != 2:  # the MCP server and its child; who made the child may be about to end
                await trio.sleep(0.01)
                mcp = set(bearing(f"MCP_TEST_LOG={mcp_log}")) & set(owned_by(bench.state_dir))

            # Whoever uses another state directory has nothing to do with them.
            async with spawn(bench.root / "other", "--model", "demo"):
                assert len(marked(stuck)) >= 4 and marked(behind) and all(map(exists, mcp))

            async with spawn(bench.state_dir, *flags, log=log) as server:
                assert owned_by(bench.state_dir) == []  # when it is ready, they are gone
                async with connect(server.ws, server.token) as wire:
                    await opened(wire, bench)
                    run = (await wire.call("run/get", runId=stuck))["run"]
                    assert run["stopReason"] == "interrupted"
                    await wire.attach(session)
                    await wire.prompt(session, "and now", runId="next")
                    assert (await wire.completed(session, "next"))["text"] == "and now"
        assert stranger.returncode is None
        assert "had left running" in log.read_text()
    finally:
        stranger.kill()
        with trio.move_on_after(LIMIT_S, shield=True):
            await stranger.wait()
        for pid in {*marked(stuck), *marked(behind)}:
            with suppress(ProcessLookupError):  # the sleeps of a loop come and go
                os.kill(pid, signal.SIGKILL)


async def test_a_server_that_ends_by_itself_leaves_nothing_to_be_found(bench: Harness) -> None:
    log = bench.root / "log"
    flags = ("--model", bench.script(BEHIND), "--permissions", "allow")
    behind = uuid4().hex
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, *flags, log=log) as server:
            async with connect(server.ws, server.token) as wire:
                session = await new_session(wire, await opened(wire, bench))
                await wire.prompt(session, "behind", runId=behind)
                await wire.completed(session, behind)
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
        async with spawn(bench.state_dir, *flags, log=log):
            assert marked(behind) == []
    assert "had left running" not in log.read_text()


async def test_a_server_that_one_of_its_own_commands_starts_again_spares_itself_and_those_above_it(
    bench: Harness,
) -> None:
    # As when an agent restarts the server that it lives in: the new one bears the mark of the old one.
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--model", "demo") as server:
            server.signal(signal.SIGKILL)
            await server.ended()
        life = new_life(name_of(bench.state_dir))
        async with spawn(bench.state_dir, "--model", "demo", environ={OWNER: life}) as server:
            async with connect(server.ws, server.token) as wire:
                assert (await wire.call("server/info"))["pid"] == server.pid


async def flood(server: Process, bench: Harness, run_id: str) -> tuple[dict[str, Any], str, int]:
    """Have a command say 100 MiB; returns its result, what that says, and what it cost the server in memory."""
    async with connect(server.ws, server.token) as wire:
        workspace = await opened(wire, bench)
        session = await new_session(wire, workspace)
        await wire.prompt(session, "warm up", runId=f"{run_id}-warm")
        await wire.completed(session, f"{run_id}-warm")
        before = peak_bytes(server.pid)
        await wire.prompt(session, "flood", runId=run_id)
        assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"
        cost = peak_bytes(server.pid) - before
        return (*await result(wire, session), cost)


async def test_of_100_mib_a_reader_gets_the_ends_the_file_64_mib_and_the_server_no_more_memory(bench: Harness) -> None:
    command = "yes 0123456789abcdef0123456789abcde | head -c 104857600; echo the end"
    turns = (asking("flood", shell(command)), PLAIN)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--model", bench.script(*turns), "--permissions", "allow") as server:
            part, said, cost = await flood(server, bench, uuid4().hex)
            (file,) = bench.state_dir.glob("workspaces/*/output/job-*.txt")
            assert file.stat().st_size == MAX_FILE_BYTES
    assert part["truncated"] and part["exitCode"] == 0
    assert len(said) < 40_000 and said.rstrip().endswith("the end")
    assert f"the first {MAX_FILE_BYTES // MIB} MiB are in {file}" in said
    assert cost < 48 * MIB, f"it took {cost / MIB:.0f} MiB"


async def test_a_command_that_closes_its_output_and_lives_on_is_waited_for_and_ends_with_a_cancel(
    bench: Harness,
) -> None:
    turns = (
        asking("quiet", shell("echo before; exec >&- 2>&-; sleep 0.3; exit 3")),
        asking("stays", shell("echo up; exec >&- 2>&-; trap '' TERM; while :; do sleep 0.1; done")),
        asking("leaves", shell("(exec >&- 2>&-; trap '' TERM; while :; do sleep 0.1; done) & echo left")),
    )
    quiet, stays, leaves = uuid4().hex, uuid4().hex, uuid4().hex
    settings: dict[str, Any] = {"model": bench.script(*turns), "permissions": "allow", "limit_s": LIMIT_S}
    async with bench.serve(**settings) as running, bench.open(running) as (wire, workspace):
        first, second, third = [await new_session(wire, workspace) for _ in range(3)]
        await wire.prompt(first, "quiet", runId=quiet)
        await wire.completed(first, quiet)
        part, said = await result(wire, first)
        assert part["exitCode"] == 3 and said.startswith("before")

        await wire.prompt(second, "stays", runId=stays)
        await wire.until(lambda: wire.of_type(second, "tool.output"))
        assert (await wire.call("session/cancel", sessionId=second, wait=True))["cancelled"] == [stays]
        assert marked(stays) == []

        await wire.prompt(third, "leaves", runId=leaves)
        await wire.completed(third, leaves)
        _, said = await result(wire, third)
        assert "was ended" in said and marked(leaves) == []
    assert not any(exists(pid) for run_id in (quiet, stays, leaves) for pid in marked(run_id))
