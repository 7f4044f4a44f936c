"""What a real process does on real signals: SIGTERM, SIGINT, kill -9, and a second server."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from wire.client import connect
from wire.conftest import Harness
from wire.process import SOURCES, spawn
from wire.steps import new_session, rows, shape, terminals

LIMIT_S = 60

SLOW = {"match": "^slow", "responses": [[{"say": "tok ", "times": 2000, "delayMs": 10}]]}
GATED = {"match": "^gated", "responses": [[{"say": "half"}, {"gate": "go"}]]}
TOOL = {"match": "^tool", "responses": [[{"say": "look"}, {"tool": "ls", "input": {}}], [{"say": "done"}]]}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}


def raw_socket(url: str, token: str) -> socket.socket:
    """A WebSocket that is opened by hand and never read again."""
    host, port = url.removeprefix("ws://").split("/")[0].split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((host, int(port)))
    raw.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    assert raw.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 101"
    return raw


def masked(message: dict) -> bytes:
    """A client's text frame, masked with zeros."""
    data = json.dumps(message).encode()
    assert len(data) < 65_536
    return b"\x81\xfe" + len(data).to_bytes(2, "big") + b"\0\0\0\0" + data


@pytest.mark.scenario("S13")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_every_run_and_tells_every_reader(bench: Harness, number: signal.Signals) -> None:
    model = bench.script(SLOW, GATED, PLAIN)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire, connect(server.ws, server.token) as watcher:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                session = await new_session(wire, workspace)
                other = await new_session(wire, workspace)
                await watcher.attach(session)
                stalled = raw_socket(server.ws, server.token)
                hello = {"protocolVersion": 1, "clientInfo": {"name": "stalled", "version": "0"}}
                stalled.sendall(masked({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}))
                attach = {"sessionId": session}
                stalled.sendall(masked({"jsonrpc": "2.0", "id": 2, "method": "session/attach", "params": attach}))
                await wire.prompt(session, "slow", runId="running")
                await wire.prompt(session, "next", runId="queued")
                await wire.prompt(other, "gated", runId="gated")
                await wire.call("test/gates", wait="go")
                accepted = await wire.send("session/prompt", **wire.prompt_params(other, "x", runId="accepted"))
                await wire.reply(accepted)
                server.signal(number)
                with trio.fail_after(12):  # ten seconds is the promise; the rest is the machine's
                    assert await wire.closing() == 1001
                    assert await watcher.closing() == 1001
                    assert await server.ended() == 0
                stalled.close()
                assert dict(terminals(wire, session)) == {"running": "cancelled", "queued": "cancelled"}
                assert dict(terminals(watcher, session)) == {"running": "cancelled", "queued": "cancelled"}
                assert dict(terminals(wire, other)) == {"gated": "cancelled", "accepted": "cancelled"}
        assert not (bench.state_dir / "server.json").exists()
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                for run_id in ("running", "queued", "gated", "accepted"):
                    assert (await wire.call("run/get", runId=run_id))["run"]["stopReason"] == "cancelled"


@pytest.mark.scenario("S14")
async def test_what_kill_dash_nine_leaves_is_repaired_at_the_next_start(bench: Harness) -> None:
    model = bench.script(SLOW, TOOL, PLAIN)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                streaming, tooling = await new_session(wire, workspace), await new_session(wire, workspace)
                await wire.call("test/hold", sessionId=tooling, point="tool.start")
                await wire.prompt(tooling, "tool", runId="tool")
                await wire.prompt(tooling, "never begun", runId="queued")
                await wire.call("test/gates", wait="tool.start")
                await wire.prompt(streaming, "slow", runId="slow")
                await wire.until(lambda: len(wire.of_type(streaming, "message.delta")) > 30)
                before = wire.place(streaming)
                epoch_rev = (await wire.call("session/get", sessionId=streaming))["session"]["rev"]
                seen = "".join(event["text"] for event in wire.of_type(streaming, "message.delta"))
                # Writes are made in their order: with this one, all that was told before is stored, even on a disk that
                # takes a second for it. What a kill costs of what was told later, the torture tests measure.
                await wire.call("session/new", workspaceId=workspace)
                server.signal(signal.SIGKILL)
                await server.ended()
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                for run_id in ("slow", "tool", "queued"):
                    run = (await wire.call("run/get", runId=run_id))["run"]
                    assert (run["state"], run["stopReason"]) == ("completed", "interrupted")
                    assert run["messageId"] and "prompt" not in run
                attached = await wire.attach(streaming, after=before, watch=["slow"])
                assert not attached["stream"]["recovered"]
                assert attached["snapshot"]["session"]["rev"] > epoch_rev
                assert attached["snapshot"]["session"]["state"] == "idle"
                assert [run["runId"] for run in attached["snapshot"]["runs"]] == ["slow"]
                messages = attached["snapshot"]["messages"]
                assert shape(messages) == [("user", None), ("assistant", "interrupted")]
                kept = messages[1]["parts"][0]["text"]
                assert len(kept) >= len(seen) and kept == "tok " * (len(kept) // 4)
                messages = await rows(wire, tooling)
                assert shape(messages) == [
                    ("user", None),
                    ("assistant", "tool_use"),
                    ("tool", None),
                    ("assistant", "interrupted"),
                    ("user", None),
                    ("assistant", "interrupted"),
                ]
                assert messages[1]["parts"][1]["status"] == "cancelled" and messages[2]["parts"][0]["isError"]
                await wire.attach(tooling)
                await wire.prompt(tooling, "and now", runId="after")
                assert (await wire.completed(tooling, "after"))["text"] == "and now"
                again = await wire.prompt(tooling, "tool", runId="tool")
                assert again["duplicate"] and again["run"]["stopReason"] == "interrupted"


@pytest.mark.scenario("S15")
async def test_a_second_server_names_the_first_and_kill_dash_nine_frees_the_directory(bench: Harness) -> None:
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir) as server:
            second = await trio.run_process(
                [sys.executable, "-m", "atrio_server", "serve", "--port", "0", "--state-dir", str(bench.state_dir)],
                check=False,
                capture_stdout=True,
                capture_stderr=True,
                env={"PYTHONPATH": ":".join(SOURCES), "PATH": "/usr/bin:/bin"},
            )
            assert second.returncode == 6 and second.stdout == b""
            said = second.stderr.decode()
            assert "data_dir_locked" in said and str(server.pid) in said and "Traceback" not in said
            server.signal(signal.SIGKILL)
            await server.ended()
        async with spawn(bench.state_dir) as server:
            record = json.loads((bench.state_dir / "server.json").read_text())
            assert record["pid"] == server.pid and record["ws"] == server.ws


@pytest.mark.scenario("S3")
async def test_a_store_that_hangs_at_shutdown_is_given_up_and_the_process_ends(bench: Harness) -> None:
    model = bench.script(GATED)
    log = bench.root / "log"
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model, log=log) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                session = await new_session(wire, opened["workspace"]["workspaceId"])
                await wire.prompt(session, "gated", runId="one")
                await wire.call("test/gates", wait="go")
                # Another process that holds the database's write lock is a disk that does not answer.
                database = next((bench.state_dir / "workspaces").glob("*/atrio.db"))
                holder = await trio.lowlevel.open_process(
                    [sys.executable, "-c", HOLD_LOCK, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                assert holder.stdin is not None and holder.stdout is not None
                assert (await holder.stdout.receive_some()).startswith(b"h")  # the line may come in two pieces
                server.signal(signal.SIGTERM)
                with trio.fail_after(15):
                    await server.ended()
                await holder.stdin.aclose()
                await holder.wait()
                await holder.stdout.aclose()
        assert "given up" in log.read_text() or "left behind" in log.read_text()
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                assert (await wire.call("run/get", runId="one"))["run"]["stopReason"] == "interrupted"


HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


async def test_a_second_signal_ends_the_process_at_once(bench: Harness) -> None:
    model = bench.script(GATED)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                session = await new_session(wire, opened["workspace"]["workspaceId"])
                await wire.call("test/hold", sessionId=session, point="run.finish")
                await wire.prompt(session, "gated", runId="one")
                await wire.call("test/gates", wait="go")
                server.signal(signal.SIGTERM)
                await wire.event(opened["workspace"]["workspaceId"], "workspace.closing")
                server.signal(signal.SIGTERM)
                assert await server.ended() == 128 + signal.SIGTERM


def open_to_others(directory: Path) -> list[Path]:
    """What in a directory somebody else may read or write."""
    return [path for path in [directory, *directory.rglob("*")] if path.stat().st_mode & 0o077]


async def test_files_of_the_state_directory_are_for_their_owner_alone(bench: Harness) -> None:
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir) as server, connect(server.ws, server.token) as wire:
            opened = await wire.call("workspace/open", path=str(bench.directory))
            await wire.call("session/new", workspaceId=opened["workspace"]["workspaceId"])
            assert open_to_others(bench.state_dir) == []
