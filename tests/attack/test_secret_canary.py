"""A secret of every kind goes in, is echoed by everything that can echo, and comes out nowhere.

The server's own keys and token are tried in `wire/test_secrets.py` as well. Here a
trusted project brings secrets too: its provider's key, and what its MCP servers are
given. A provider and MCP servers repeat them, tools read them, commands show what
they inherit, and at the end the server is stopped, or crashes. Then all that was
written, told or shown is searched for any piece of them.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_process import COMMAND
from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import read_project_file
from mcp_rig import SERVER
from wire.client import Wire, connect
from wire.http import http
from wire.process import Process, spawn
from wire.steps import new_session
from wire.test_secrets import command_lines, pieces_in

Json = dict[str, Any]

SERVERS_OWN = {
    "OPENAI_API_KEY": "sk-proj-7canary1ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
    "OPENROUTER_API_KEY": "sk-or-v1-7canary2-0123456789abcdef0123456789",
}
PASSWORD = "pw-7canary3-0123456789abcdefghijklmnop"
PROJECT_KEY = "sk-ant-api03-7canary4abcdefghijklmnopqrstuvw"
MCP_ENV = "mcp-env-7canary5-0123456789abcdefghijkl"
MCP_HEADER = "mcp-header-7canary6-0123456789abcdefgh"
MCP_ARG = "mcp-arg-7canary7-0123456789abcdefghijkl"
THEIRS = (PROJECT_KEY, MCP_ENV, MCP_HEADER, MCP_ARG)
COMMANDS = ("doctor --offline --json", "config show --origin", "token list", "models")
LIMIT_S = 120


async def _repeat_all(stream: trio.SocketStream) -> None:
    """Answer any request by what stands in its headers: a provider, or an MCP server, that tells all it was told."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    told = " ".join(
        line for line in head.decode().splitlines() if line.lower().startswith(("authorization:", "x-api-key:"))
    )
    body = json.dumps({"type": "error", "error": {"type": "authentication_error", "message": f"no: {told} {told}"}})
    lines = ["HTTP/1.1 401 No", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    await stream.send_all("\r\n".join([*lines, "", body]).encode())


def script() -> Json:
    """A model that looks at everything."""
    calls: list[Json] = [
        {"tool": "read", "input": {"path": "all.env"}},
        {
            "tool": "shell",
            "input": {"command": "cat all.env; env; cat /proc/$PPID/environ; fold -w 20 all.env"},
        },
        {"tool": "shell", "input": {"command": "cat all.env all.env; exit 3", "background": True}},
        {"tool": "mcp_docs_echo", "input": {"text": " ".join(THEIRS)}},
        {"tool": "mcp_docs_die", "input": {}},
    ]
    return {"name": "teller", "turns": [{"responses": [*([call] for call in calls), [{"say": "told"}]]}]}


def configure(project: Path, state: Path, port: int) -> None:
    """A project's file with secrets, which is trusted."""
    args = ["-S", "-E", SERVER, "--token", MCP_ARG]
    text = f"""
[providers.anthropic]
api_key = "{PROJECT_KEY}"
base_url = "http://127.0.0.1:{port}"

[mcp.servers.docs]
command = {json.dumps(sys.executable)}
args = {json.dumps(args)}
env = {{SECRET_KEY = "{MCP_ENV}"}}

[mcp.servers.web]
url = "http://127.0.0.1:{port}/mcp"
headers = {{Authorization = "Bearer {MCP_HEADER}"}}
"""
    (project / ".atrio").mkdir(parents=True)
    (project / ".atrio/config.toml").write_text(text)
    state.mkdir(mode=0o700)
    TrustStore(state).add(project.resolve(), read_project_file(project.resolve()).digest)


def environments_of_children(pid: int) -> str:
    """What the processes below a server were given, but for what is meant for them alone."""
    found: list[str] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            environ = (stat.parent / "environ").read_bytes().decode(errors="replace") if parent == pid else ""
        except OSError:
            continue
        found.append(environ.replace(f"SECRET_KEY={MCP_ENV}", ""))
    return "\n".join(found)


def files_in(directory: Path, *, but: tuple[Path, ...]) -> dict[str, str]:
    """The bytes of all files below a directory."""
    return {
        f"the file {path.relative_to(directory)}": path.read_bytes().decode("latin-1")
        for path in directory.rglob("*")
        if path.is_file() and path not in but
    }


async def command(state: Path, project: Path, environ: dict[str, str], *words: str) -> str:
    """All that a command prints, with the server's own secrets in its environment."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = await trio.run_process(
        [*COMMAND, *words],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=project,
        env={**os.environ, **environ, "ATRIO_STATE_DIR": str(state), "PYTHONPATH": path},
    )
    return f"{done.stdout.decode()}\n{done.stderr.decode()}"


@asynccontextmanager
async def telling() -> AsyncGenerator[int]:
    """Run what repeats all that it is told; gives its port."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, _repeat_all, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ready(wire: Wire, workspace: str) -> Json:
    """Wait until the one MCP server can be asked and the other has been given up or is tried again."""
    while True:
        shown = await wire.call("workspace/get", workspaceId=workspace)
        states = {one["name"]: one for one in shown.get("mcp", [])}
        if states.get("docs", {}).get("state") == "ready" and "detail" in states.get("web", {}):
            return shown
        await trio.sleep(0.02)


async def tell_all(server: Process, project: Path) -> dict[str, str]:
    """Have everything told that can be; what was seen, by where."""
    seen: dict[str, str] = {}
    async with connect(server.ws, server.token) as wire, connect(server.ws, server.token) as other:
        opened = await wire.call("workspace/open", path=str(project))
        workspace = opened["workspace"]["workspaceId"]
        await ready(wire, workspace)
        session = await new_session(wire, workspace)
        await other.call("workspace/open", path=str(project))
        await other.attach(session)
        await wire.prompt(session, "tell", runId="told")
        assert (await wire.completed(session, "told"))["stopReason"] == "end_turn"
        for model in ("anthropic/claude-sonnet-5", "openai/gpt-4o"):
            run = (await wire.prompt(session, "ask", model=model))["run"]["runId"]
            error = (await other.completed(session, run))["error"]
            assert error["data"]["kind"] == "provider_auth", error
        seen["the process list"] = command_lines().replace(MCP_ARG, "")  # what a program is started with is seen
        seen["what children are given"] = environments_of_children(server.pid)
        seen["the state of MCP servers"] = repr(await wire.call("workspace/get", workspaceId=workspace))
        for form in ("json", "markdown"):
            exported = await wire.call("session/export", sessionId=session, format=form)
            seen[f"the export as {form}"] = exported["content"]
        assert "[redacted]" in seen["the export as json"]
        headers = {"Authorization": f"Bearer {server.token}"}
        seen["metrics"] = repr(await http(server.http, "GET", "/metrics", headers=headers))
        seen["requests to the model"] = repr(await wire.call("test/requests", sessionId=session))
        seen["frames of both clients"] = repr([wire.frames, other.frames])
    return seen


@pytest.mark.scenario("E5")
@pytest.mark.parametrize(("form", "end"), [("text", signal.SIGTERM), ("json", signal.SIGABRT)])
async def test_no_secret_of_any_kind_comes_out_anywhere(tmp_path: Path, form: str, end: signal.Signals) -> None:
    state, log, project = tmp_path / "state", tmp_path / "log", tmp_path / "project"
    project.mkdir()
    model = tmp_path / "script.json"
    model.write_text(json.dumps(script()))
    flags = ("--test-hooks", "--permissions", "allow", "--model", f"script:{model}", "--log-format", form)
    with trio.fail_after(LIMIT_S):
        async with telling() as port:
            configure(project, state, port)
            environ = {**SERVERS_OWN, "OPENAI_BASE_URL": f"http://me:{PASSWORD}@127.0.0.1:{port}/v1"}
            async with spawn(state, *flags, log=log, environ=environ) as server:
                secrets = [*SERVERS_OWN.values(), PASSWORD, *THEIRS, server.token]
                (project / "all.env").write_text("\n".join(f"S{at}={secret}" for at, secret in enumerate(secrets)))
                seen = await tell_all(server, project)
                if form == "text":  # what commands print does not depend on the log
                    for words in COMMANDS:
                        seen[f"atrio {words}"] = await command(state, project, environ, *words.split())
                server.signal(end)
                code = await server.ended()
                assert code == (0 if end is signal.SIGTERM else -end)
    seen["the log"] = log.read_text()
    seen |= files_in(tmp_path, but=(state / "token", model, project / "all.env", project / ".atrio/config.toml", log))
    found = {place: pieces for place, text in seen.items() if (pieces := pieces_in(text, secrets))}
    assert found == {}
    assert "the file state/index.db" in seen
