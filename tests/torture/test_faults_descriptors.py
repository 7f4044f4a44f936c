"""No file can be opened any more, and then again: the door waits, those who are in go on, nothing is left half-open."""

import os
import resource
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio

from command_rig import marked
from fault_rig import limit
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.process import Process, spawn
from wire.questions import asking, shell
from wire.steps import PLAIN, new_session, rows

Json = dict[str, Any]

LIMIT_S = 90

READ = asking("read", {"tool": "read", "input": {"path": "a.txt"}})
GREP = asking("grep", {"tool": "grep", "input": {"pattern": "x"}})
WRITE = asking("write", {"tool": "write", "input": {"path": "b.txt", "content": "b"}})
SHELL = asking("shell", shell("echo hi"))
STUCK = asking("stuck", shell("trap '' TERM; echo up; (trap '' TERM; while :; do sleep 0.1; done) & wait"))
TURNS = (READ, GREP, WRITE, SHELL, STUCK, PLAIN)


def files_of(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path("/proc", str(pid), "fd").iterdir()))


def cpu_s(pid: int) -> float:
    """How much time of a processor a process has used."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def opened(wire: Wire, path: Path) -> str:
    """Open a workspace; returns its id."""
    workspace: str = (await wire.call("workspace/open", path=str(path)))["workspace"]["workspaceId"]
    return workspace


async def says(wire: Wire, workspace: str, prompt: str) -> tuple[Json, list[str]]:
    """Prompt in a session of its own; returns the run and what its tools gave."""
    session = await new_session(wire, workspace, title="titled")
    run_id = uuid4().hex
    await wire.prompt(session, prompt, runId=run_id)
    run = await wire.completed(session, run_id)
    parts = [part for row in await rows(wire, session) for part in row["parts"] if part["type"] == "tool_result"]
    return run, ["".join(block.get("text", "") for block in part["content"]) for part in parts]


@asynccontextmanager
async def exhausted(server: Process) -> AsyncGenerator[None]:
    """Let the server open nothing for the length of the block."""
    with limit(server.pid, resource.RLIMIT_NOFILE, 3):
        yield


async def test_without_descriptors_those_who_are_in_go_on_and_others_come_in_when_there_are_some_again(
    bench: Harness,
) -> None:
    (bench.directory / "a.txt").write_text("x marks the spot\n")
    other = bench.root / "other"
    other.mkdir()
    flags = ("--model", bench.script(*TURNS), "--permissions", "allow")
    log = bench.root / "log"
    stuck = uuid4().hex
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, *flags, log=log) as server, connect(server.ws, server.token) as wire:
            workspace = await opened(wire, bench.directory)
            for prompt in ("read", "grep", "write", "shell"):  # so that all that is loaded late is loaded
                run, _ = await says(wire, workspace, prompt)
                assert run["stopReason"] == "end_turn"
            session = await new_session(wire, workspace, title="titled")
            await wire.prompt(session, "stuck", runId=stuck)
            await wire.until(lambda: wire.of_type(session, "tool.output"))
            entered = trio.Event()

            async def knock() -> None:
                async with connect(server.ws, server.token) as late:
                    assert await late.call("ping") == {}
                    entered.set()

            async with trio.open_nursery() as nursery:
                async with exhausted(server):
                    nursery.start_soon(knock)
                    used = cpu_s(server.pid)
                    # Prompts are accepted, stored and answered; what a tool cannot open it says, and the turn goes on.
                    run, _ = await says(wire, workspace, "plain")
                    assert (run["stopReason"], run["text"]) == ("end_turn", "plain")
                    for prompt in ("read", "grep", "write", "shell"):
                        run, gave = await says(wire, workspace, prompt)
                        assert run["stopReason"] == "end_turn" and len(gave) == 1, (prompt, run)
                        if prompt != "grep":  # it may find another way
                            assert "Too many open files" in gave[0] or "too many open files" in gave[0], gave
                    assert not (bench.directory / "b.txt.tmp").exists()
                    refusal = await wire.refused("workspace/open", path=str(other))
                    assert (refusal.kind, refusal.data["retryable"]) == ("storage_unavailable", True)
                    assert "open files" in str(refusal)
                    # A command that is cancelled now is ended all the same.
                    assert (await wire.call("session/cancel", sessionId=session))["cancelled"] == [stuck]
                    await trio.sleep(2)
                    assert not entered.is_set()
                    assert cpu_s(server.pid) - used < 8, "the accept loop spins"
                await entered.wait()
                assert (await wire.completed(session, stuck))["stopReason"] == "cancelled"
            assert marked(stuck) == []
            await opened(wire, other)
            for prompt in ("read", "grep", "write", "shell"):
                run, gave = await says(wire, workspace, prompt)
                assert run["stopReason"] == "end_turn" and "open files" not in gave[0]
            # What was tried and failed has left nothing open: the same again costs nothing more.
            before = files_of(server.pid)
            async with exhausted(server):
                for prompt in ("read", "write", "shell"):
                    await says(wire, workspace, prompt)
            for prompt in ("read", "shell"):
                await says(wire, workspace, prompt)
            while files_of(server.pid) > before:  # noqa: ASYNC110  the system does not tell
                await trio.sleep(0.05)
    assert "Traceback" not in log.read_text()
