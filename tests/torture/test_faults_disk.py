"""A disk that is full, and has room again: what is refused, what is kept, and that nothing acknowledged is lost."""

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_server.workspace import NOT_STORED, STORED_AGAIN
from fault_rig import FILE_LIMITED, Disk, LimitedDisk, limit, small_disk
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.http import http
from wire.process import SOURCES, Process, spawn
from wire.questions import asking, shell
from wire.steps import GATED, PLAIN, new_session, rows, terminals

Json = dict[str, Any]

LIMIT_S = 90

LONG = {"match": "^long", "responses": [[{"say": "before "}, {"gate": "go"}, {"say": "after ", "times": 50}]]}


@pytest.fixture(params=["limit", "file system"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Disk]:
    if request.param == "limit":
        yield LimitedDisk(tmp_path / "disk")
        return
    with small_disk(tmp_path / "disk") as small:
        if small is None:
            pytest.skip("no file system can be mounted here")
        yield small


async def opened(wire: Wire, path: Path) -> str:
    """Open a workspace; returns its id."""
    workspace: str = (await wire.call("workspace/open", path=str(path)))["workspace"]["workspaceId"]
    return workspace


def titles(wire: Wire, session: str) -> list[str]:
    """The notices of a session, in order."""
    return [event["title"] for event in wire.of_type(session, "notice")]


async def notice(wire: Wire, session: str, title: str) -> Json:
    """Wait for a notice."""
    return await wire.until(
        lambda: next((event for event in wire.of_type(session, "notice") if event["title"] == title), None)
    )


async def text_of(wire: Wire, session: str, run_id: str) -> str:
    """What a run's assistant said, as lists show it."""
    found = [row for row in await rows(wire, session) if row.get("runId") == run_id and row["role"] == "assistant"]
    return "".join(part["text"] for row in found for part in row["parts"] if part["type"] == "text")


async def lines_lost(server: Process) -> bool:
    """Whether the server knows of lines that the system has not written: its thread may be late."""
    answer = await http(server.http, "GET", "/metrics", headers={"Authorization": f"Bearer {server.token}"})
    found = re.search(rb'^atrio_log_lines_dropped_total\{reason="unwritten"\} (\S+)', answer.body, re.MULTILINE)
    assert found, answer
    return float(found[1]) > 0


@pytest.mark.scenario("D13")
async def test_a_full_disk_refuses_prompts_keeps_running_text_and_loses_nothing(bench: Harness, disk: Disk) -> None:
    state, other = disk.path / "state", bench.root / "other"
    other.mkdir()
    flags = ("--test-hooks", "--model", bench.script(LONG, GATED, PLAIN), "--log-format", "json")
    log = bench.root / "log"
    whole = "before " + "after " * 50
    with trio.fail_after(LIMIT_S):
        async with spawn(state, *flags, log=log) as server:
            async with connect(server.ws, server.token) as wire, connect(server.ws, server.token) as watcher:
                workspace = await opened(wire, bench.directory)
                await opened(watcher, bench.directory)
                session, idle = await new_session(wire, workspace), await new_session(wire, workspace)
                await watcher.attach(session)
                await wire.prompt(session, "long", runId="long")
                await wire.prompt(session, "waits", runId="waits")
                await wire.call("test/gates", wait="go")
                disk.fill(server.pid)
                await wire.call("test/release", gate="go")

                # Told once to everybody who looks, and nothing is claimed that is not so.
                for reader in (wire, watcher):
                    told = await notice(reader, session, NOT_STORED)
                    assert told["severity"] == "error" and str(state) in told["detail"]
                ending = await wire.until(
                    lambda: [title for title in titles(wire, session) if title.startswith("The end of the run")]
                )
                assert len(ending) == 1 and terminals(wire, session) == []
                got = await wire.call("workspace/get", workspaceId=workspace)
                assert got["problems"][0].startswith(NOT_STORED)
                # What runs can be seen by whoever comes now.
                async with connect(server.ws, server.token) as late:
                    snapshot = (await late.attach(session))["snapshot"]
                    said = [part["text"] for row in snapshot["messages"] for part in row["parts"]]
                    assert said == ["long", whole]

                # Refused, each with its reason, and nothing reserved.
                for method, params in [
                    ("session/prompt", wire.prompt_params(session, "refused", runId="refused")),
                    ("session/prompt", wire.prompt_params(idle, "refused, too")),
                    ("session/new", {"workspaceId": workspace}),
                    ("session/rename", {"sessionId": idle, "title": "other"}),
                    ("session/fork", {"sessionId": idle}),
                    ("workspace/open", {"path": str(other)}),
                ]:
                    refusal = await wire.refused(method, **params)
                    assert (refusal.kind, refusal.data["retryable"]) == ("storage_unavailable", True), method
                    assert "disk" in str(refusal), method
                assert (await wire.refused("run/get", runId="refused")).kind == "run_not_found"
                queue = (await wire.call("session/queue", sessionId=session))["runs"]
                assert [run["runId"] for run in queue] == ["long", "waits"]
                assert (await wire.call("session/get", sessionId=idle))["session"]["title"] != "other"

                disk.free(server.pid)
                assert (await wire.completed(session, "long"))["text"] == whole
                assert (await wire.completed(session, "waits"))["text"] == "waits"
                for reader in (wire, watcher):
                    assert (await notice(reader, session, STORED_AGAIN))["severity"] == "info"
                    assert [titles(reader, session).count(title) for title in (NOT_STORED, STORED_AGAIN)] == [1, 1]
                assert "problems" not in await wire.call("workspace/get", workspaceId=workspace)
                again = await wire.prompt(session, "refused", runId="refused")
                assert not again["duplicate"]
                await wire.completed(session, "refused")
                assert terminals(wire, session) == [(name, "end_turn") for name in ("long", "waits", "refused")]
                await opened(wire, other)
            server.signal(signal.SIGKILL)
            await server.ended()
        async with spawn(state, *flags, log=log) as server, connect(server.ws, server.token) as wire:
            for run_id, text in (("long", whole), ("waits", "waits"), ("refused", "refused")):
                run = (await wire.call("run/get", runId=run_id))["run"]
                assert (run["stopReason"], run["text"]) == ("end_turn", text)
                assert await text_of(wire, session, run_id) == text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert not [line for line in lines if "exception" in line]


async def test_a_server_that_is_killed_while_its_disk_is_full_has_what_it_acknowledged(bench: Harness) -> None:
    disk = LimitedDisk(bench.root / "disk")
    flags = ("--test-hooks", "--model", bench.script(LONG, PLAIN))
    with trio.fail_after(LIMIT_S):
        async with spawn(disk.path / "state", *flags) as server, connect(server.ws, server.token) as wire:
            session = await new_session(wire, await opened(wire, bench.directory))
            await wire.prompt(session, "long", runId="long")
            await wire.prompt(session, "waits", runId="waits")
            await wire.call("test/gates", wait="go")
            disk.fill(server.pid)
            await wire.call("test/release", gate="go")
            await notice(wire, session, NOT_STORED)
            server.signal(signal.SIGKILL)
            await server.ended()
        async with spawn(disk.path / "state", *flags) as server, connect(server.ws, server.token) as wire:
            for run_id in ("long", "waits"):
                assert (await wire.call("run/get", runId=run_id))["run"]["stopReason"] == "interrupted"
            # What was said while the disk was full is what the notice says: lost.
            assert await text_of(wire, session, "long") in ("", "before ")


async def test_a_server_that_is_told_to_stop_while_its_disk_is_full_stops_in_time(bench: Harness) -> None:
    disk = LimitedDisk(bench.root / "disk")
    flags = ("--test-hooks", "--model", bench.script(GATED))
    with trio.fail_after(LIMIT_S):
        async with spawn(disk.path / "state", *flags) as server, connect(server.ws, server.token) as wire:
            session = await new_session(wire, await opened(wire, bench.directory))
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            disk.fill(server.pid)
            server.signal(signal.SIGTERM)
            # A terminal that cannot be stored is not sent.
            assert await wire.closing() == 1001
            assert terminals(wire, session) == []
            assert await server.ended() == 0
        async with spawn(disk.path / "state", *flags) as server, connect(server.ws, server.token) as wire:
            assert (await wire.call("run/get", runId="one"))["run"]["stopReason"] == "interrupted"


async def test_an_index_that_is_full_refuses_run_ids_of_clients_and_nothing_else(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        connection = running.server.workspaces._index._connection  # type: ignore[attr-defined]  # the real one
        connection.execute("PRAGMA max_page_count = 1")  # it holds what it has, and cannot grow
        refusal, made = None, 0
        while refusal is None:
            answer = await wire.send("session/prompt", **wire.prompt_params(session, "hi", runId=f"{made:0>128}"))
            await wire.until(lambda answer=answer: answer in wire._replies)
            error = wire._replies.pop(answer).get("error")
            refusal, made = error, made + 1
        assert refusal["data"]["kind"] == "storage_unavailable" and "index.db" in refusal["message"]
        run = (await wire.prompt(session, "without an id"))["run"]
        assert (await wire.completed(session, run["runId"]))["stopReason"] == "end_turn"
        connection.execute("PRAGMA max_page_count = 1000000")
        await wire.prompt(session, "with one", runId="again")
        await wire.completed(session, "again")


async def test_of_a_command_whose_output_file_cannot_grow_the_ends_are_shown_and_what_the_file_has_is_said(
    bench: Harness,
) -> None:
    turns = (asking("flood", shell("head -c 3000000 /dev/zero | tr '\\0' x; echo the end")), PLAIN)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--model", bench.script(*turns), "--permissions", "allow") as server:
            async with connect(server.ws, server.token) as wire:
                session = await new_session(wire, await opened(wire, bench.directory))
                with limit(server.pid, resource.RLIMIT_FSIZE, 1024 * 1024):
                    await wire.prompt(session, "flood", runId="flood")
                    assert (await wire.completed(session, "flood"))["stopReason"] == "end_turn"
                parts = [part for row in await rows(wire, session) for part in row["parts"]]
                (result,) = [part for part in parts if part["type"] == "tool_result"]
                said = result["content"][0]["text"]
                assert result["exitCode"] == 0 and said.rstrip().endswith("the end")
                assert "which could not be written further" in said
                await wire.prompt(session, "and on", runId="on")
                assert (await wire.completed(session, "on"))["text"] == "and on"


async def test_a_log_that_cannot_be_written_costs_lines_and_says_so_later(bench: Harness) -> None:
    log = bench.root / "log"
    log.write_bytes(b"\n" * (64 * 1024 * 1024))  # longer than anything else: only its growth is forbidden
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--model", "demo", log=log) as server:
            with limit(server.pid, resource.RLIMIT_FSIZE, log.stat().st_size // 2):
                for _ in range(3):
                    async with connect(server.ws, server.token) as wire:
                        session = await new_session(wire, await opened(wire, bench.directory))
                        await wire.prompt(session, "hi", runId=session)
                        await wire.completed(session, session)
                while not await lines_lost(server):  # noqa: ASYNC110  nobody is told
                    await trio.sleep(0.05)
            async with connect(server.ws, server.token):
                pass
            while b"log lines dropped" not in log.read_bytes()[-4096:]:  # noqa: ASYNC110  a file has no events
                await trio.sleep(0.05)


async def test_a_server_that_cannot_write_its_state_directory_says_so_and_leaves_nothing_half_made(
    bench: Harness,
) -> None:
    command = [sys.executable, "-c", FILE_LIMITED, "serve", "--port", "0", "--state-dir", str(bench.state_dir)]
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=False,
            check=False,
            env={"PYTHONPATH": ":".join(SOURCES)},
            stderr=subprocess.STDOUT,
        )
        assert (done.returncode, done.stdout.count(b"\n")) == (6, 1)
        assert b"make room" in done.stdout and b"Traceback" not in done.stdout
        async with spawn(bench.state_dir, "--model", "demo") as server, connect(server.ws, server.token) as wire:
            await opened(wire, bench.directory)
            assert sorted(path.name for path in bench.state_dir.iterdir() if path.name.startswith(".")) == []
