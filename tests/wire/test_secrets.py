"""The server's token and the providers' keys come out nowhere, whatever a model and a provider do with them.

The server is a process of its own with keys in its environment, a workspace has a
file with all of them, and the model even knows them. Then everything is searched:
what two clients got, the answers over HTTP, the log, the state directory and the
process list. Kept as they were are the versions of changed files, and the token in its file.
"""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from wire.client import connect
from wire.http import http
from wire.process import spawn
from wire.steps import new_session

Json = dict[str, Any]

KEYS = {
    "OPENAI_API_KEY": "sk-proj-0canary1openai2ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "ANTHROPIC_API_KEY": "sk-ant-api03-1canary2anthropic3abcdefghijklmnopq",
    "OPENROUTER_API_KEY": "sk-or-v1-2canary3openrouter4-0123456789abcdef012",
}


async def rpc(base: str, token: str, method: str, **params: Any) -> bytes:
    """One call over HTTP; the whole answer."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return (await http(base, "POST", "/v1/rpc", headers=headers, body=body)).body


async def _repeat_the_key(stream: trio.SocketStream) -> None:
    """Answer a request like a provider that repeats the key that it refuses."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    said = next(line for line in head.decode().splitlines() if line.lower().startswith("authorization:"))
    body = json.dumps({"error": {"message": f"not accepted: {said} {said[-30:]}", "code": "invalid_api_key"}})
    lines = ["HTTP/1.1 401 No", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    await stream.send_all("\r\n".join([*lines, "", body]).encode())


def script(token_file: Path, secrets: list[str]) -> Json:
    """A model that does all it can to tell what it should not."""
    known = " ".join(secrets)
    escaped = "".join(f"\\u{ord(char):04x}" for char in secrets[0])
    calls: list[Json] = [
        {"tool": "read", "input": {"path": "keys.env"}},
        {"tool": "grep", "input": {"pattern": "KEY|TOKEN"}},
        {"tool": "read", "input": {"path": secrets[0]}},
        {
            "tool": "shell",
            "input": {"command": f"cat keys.env {token_file}; fold -w 20 keys.env; head -c 99 keys.env"},
        },
        {"tool": "shell", "input": {"command": f"cut -c 1-40 keys.env; for f in 1 2; do printf %s {secrets[1]}; done"}},
        {"tool": "shell", "input": {"command": "echo leaked=$(env | grep -c canary)"}},
        {"tool": "shell", "input": {"command": "cat keys.env; exit 3", "background": True}},
        {"tool": "shell", "input": {"command": "sleep 0.2"}},
        {"tool": "jobs", "input": {"action": "output", "jobId": "job-4"}},
        {"tool": "jobs", "input": {"action": "list"}},
        {"tool": "edit", "input": {"path": "keys.env", "old": "first", "new": "second"}},
        {"tool": "edit", "input": {"path": "keys.env", "old": known, "new": "x"}},
        {"tool": "write", "input": {"path": "copy.env", "content": known}},
        {"tool": "write", "rawInput": f'{{"path": "raw.env", "content": "{escaped}"}}'},
        {"tool": "fetch", "input": {"url": f"http://127.0.0.1:1/?key={secrets[0]}"}},
        {"tool": "todos", "input": {"todos": [{"content": known, "status": "pending"}]}},
    ]
    steps = [[{"think": known, "chunk": 7}, {"say": f"It is {known}.", "chunk": 5}, call] for call in calls]
    return {"name": "teller", "turns": [{"responses": [*steps, [{"say": known, "chunk": 1}]]}]}


def pieces_in(text: str, secrets: list[str]) -> list[str]:
    """Long pieces of secrets that are in a text."""
    return [
        secret[at : at + 16] for secret in secrets for at in range(len(secret) - 15) if secret[at : at + 16] in text
    ]


def texts_of(database: Path) -> str:
    """All that a database holds, but the contents of files."""
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [repr(connection.execute(f'SELECT * FROM "{name}"').fetchall()) for name in tables if name != "contents"]
    connection.close()
    return "\n".join(rows)


def command_lines() -> str:
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.scenario("E5")
async def test_no_secret_comes_out_anywhere(tmp_path: Path) -> None:
    state, log, project = tmp_path / "state", tmp_path / "log", tmp_path / "project"
    project.mkdir()
    flags = ("--test-hooks", "--permissions", "allow", "--model", f"script:{tmp_path / 'script.json'}")
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, _repeat_the_key, 0)
            port = listeners[0].socket.getsockname()[1]
            environ = {**KEYS, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
            async with spawn(state, *flags, log=log, environ=environ) as server:
                secrets = [*KEYS.values(), server.token]
                (tmp_path / "script.json").write_text(json.dumps(script(Path(server.ready["tokenFile"]), secrets)))
                lines = [f"{name}={key}" for name, key in KEYS.items()]
                (project / "keys.env").write_text("\n".join(["first", *lines, f"TOKEN={server.token}", ""]))
                async with connect(server.ws, server.token) as wire, connect(server.ws, server.token) as other:
                    opened = await wire.call("workspace/open", path=str(project))
                    workspace = opened["workspace"]["workspaceId"]
                    session = await new_session(wire, workspace)
                    await other.call("workspace/open", path=str(project))
                    await other.attach(session)
                    await wire.prompt(session, "tell me all", runId="told")
                    run = await wire.completed(session, "told")
                    assert run["stopReason"] == "end_turn", run
                    seen_while_it_ran = command_lines()
                    await wire.prompt(session, "ask the provider", runId="refused", model="openai/gpt-4o")
                    refused = await other.completed(session, "refused")
                    assert refused["error"]["data"]["kind"] == "provider_auth", refused
                    assert "not accepted" in refused["error"]["message"]
                    answers = [
                        await rpc(server.http, server.token, "session/messages", sessionId=session),
                        await rpc(server.http, server.token, "session/export", sessionId=session, format="markdown"),
                        await rpc(server.http, server.token, "session/export", sessionId=session, format="json"),
                        await rpc(server.http, server.token, "server/info"),
                        await rpc(server.http, server.token, "test/requests", sessionId=session),
                    ]
                    assert all(b'"result"' in answer for answer in answers[:3]), answers
                    received = repr([wire.frames, other.frames])
                    assert "leaked=0" in received
                    assert "[redacted]" in received
                server.signal(signal.SIGTERM)
                assert await server.ended() == 0
            nursery.cancel_scope.cancel()
    assert (project / "keys.env").read_text().startswith("second\n")
    assert (project / "copy.env").read_text() == "[redacted] [redacted] [redacted] [redacted]"
    assert (project / "raw.env").read_text() == "[redacted]"
    kept = {path: path.read_bytes() for path in state.rglob("*") if path.is_file() and path.name != "token"}
    places = {
        "what clients got": received,
        "answers over HTTP": repr(answers),
        "the log": log.read_text(),
        "the process list": seen_while_it_ran,
        **{f"the file {path}": content.decode("latin-1") for path, content in kept.items()},
        **{f"the rows of {path}": texts_of(path) for path in kept if path.suffix == ".db"},
    }
    assert {place: found for place, text in places.items() if (found := pieces_in(text, secrets))} == {}


def test_a_hidden_process_cannot_be_dumped() -> None:
    program = (
        "import ctypes; from atrio_server.hiding import hide_process; "
        "print(hide_process(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    if sys.platform != "linux":
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True 0\n"
