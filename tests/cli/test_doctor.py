"""`atrio doctor`: each thing that can be wrong is found, with a way out, and nothing else is."""

import json
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_process import COMMAND, Atrio
from atrio_server.statedir import open_state_dir
from atrio_server.token_store import create_token
from pty_rig import on_terminal

KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENROUTER_API_KEY")


@pytest.fixture
def atrio(atrio: Atrio, tmp_path: Path) -> Atrio:
    """Commands of somebody with no keys and no configuration, beside whom any port is free."""
    for name in KEYS:
        atrio.environ.pop(name, None)
    atrio.environ |= {"XDG_CONFIG_HOME": str(tmp_path / "conf"), "ATRIO_LOCAL_MODELS": "0", "ATRIO_PORT": "0"}
    return atrio


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


async def looked(atrio: Atrio, *words: str, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what was found by name."""
    done = await atrio("doctor", "--json", *words, stdin=None, within_s=60, **environ)
    found = {row["name"]: row for row in map(json.loads, done.out.splitlines())}
    assert all(("fix" in row) == (row["state"] != "ok") for row in found.values())
    return done.code, found


async def problem_in(atrio: Atrio, name: str, **environ: str) -> dict[str, Any]:
    code, found = await looked(atrio, **environ)
    assert (code, found[name]["state"]) == (1, "problem")
    return found[name]


async def test_where_all_is_well_there_is_nothing_to_do(atrio: Atrio) -> None:
    done = await atrio("doctor", ATRIO_MODEL="demo")
    assert done.code == 0
    assert all(line.startswith("ok  ") for line in done.out.splitlines())
    assert done.err == "no problems, no warnings\n"
    assert not atrio.state_dir.exists()


async def test_without_a_key_the_fix_is_below_the_line(atrio: Atrio) -> None:
    done = await atrio("doctor")
    lines = done.out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("!   model "))
    assert lines[at + 1].startswith("    fix: set OPENAI_API_KEY")
    assert (done.code, done.err) == (0, "no problems, 1 warning\n")


async def test_a_state_directory_that_is_a_file_is_a_problem(atrio: Atrio) -> None:
    written(atrio.state_dir, "")
    assert "not a directory" in (await problem_in(atrio, "state directory"))["detail"]


async def test_modes_that_let_others_in_are_problems(atrio: Atrio) -> None:
    assert (await atrio("token", "show")).code == 0
    code, found = await looked(atrio)
    assert (code, found["token"]["state"], found["state directory"]["state"]) == (0, "ok", "ok")
    (atrio.state_dir / "token").chmod(0o644)
    assert (await problem_in(atrio, "token"))["fix"].startswith("chmod 600 ")
    atrio.state_dir.chmod(0o755)
    assert (await problem_in(atrio, "state directory"))["fix"].startswith("chmod 700 ")
    assert sorted(path.name for path in atrio.state_dir.iterdir()) == ["token"]


async def test_tokens_that_cannot_be_believed_are_a_problem(atrio: Atrio) -> None:
    assert (await atrio("token", "show")).code == 0
    _, found = await looked(atrio)
    assert found["tokens"]["detail"] == "none but the one above"
    create_token(atrio.state_dir, scopes=("observe",), name="one")
    soon = datetime.now(UTC) + timedelta(milliseconds=50)  # a command takes longer than that to start
    create_token(atrio.state_dir, scopes=("prompt",), name="two", expires_at=soon)
    _, found = await looked(atrio)
    assert found["tokens"]["detail"].startswith("2 in ")
    assert found["tokens"]["detail"].endswith(", 1 of them expired")
    (atrio.state_dir / "tokens.json").chmod(0o644)
    refused = await problem_in(atrio, "tokens")
    assert refused["detail"].startswith("none of them opens anything: ")
    assert refused["fix"].startswith("chmod 600 ")


async def test_a_mistake_in_the_configuration_is_a_problem(atrio: Atrio, tmp_path: Path) -> None:
    file = written(tmp_path / "conf/atrio/config.toml", 'permision = "ask"\n')
    assert "did you mean 'permissions'?" in (await problem_in(atrio, "configuration"))["detail"]
    file.unlink()
    assert "ATRIO_PORT" in (await problem_in(atrio, "settings", ATRIO_PORT="many"))["detail"]


async def test_keys_that_others_can_read_are_a_warning_and_never_shown(atrio: Atrio, tmp_path: Path) -> None:
    written(tmp_path / "conf/atrio/config.toml", '[providers.openai]\napi_key = "sk-of-the-user"\n', 0o644)
    done = await atrio("doctor", "--offline", "--json", ANTHROPIC_API_KEY="sk-of-the-variable")
    found = {row["name"]: row for row in map(json.loads, done.out.splitlines())}
    assert (done.code, found["configuration"]["state"]) == (0, "warning")
    assert found["configuration"]["fix"].startswith("chmod 600 ")
    assert "ANTHROPIC_API_KEY" in found["keys"]["detail"]
    assert "not asked" in found["provider openai"]["detail"]
    assert "sk-of" not in done.out + done.err


async def test_a_project_without_trust_is_a_warning_and_a_mistake_in_it_a_problem(atrio: Atrio) -> None:
    file = written(atrio.directory / ".atrio/config.toml", '[mcp.servers.x]\ncommand = "no-such-program"\n')
    code, found = await looked(atrio)
    assert (code, found["project"]["state"]) == (0, "warning")
    assert f"atrio config trust {atrio.directory}" in found["project"]["fix"]
    assert "mcp x" not in found
    await atrio("config", "trust", "--yes")
    assert "no-such-program is not found" in (await problem_in(atrio, "mcp x"))["detail"]
    file.write_text("nonsense = 1\n")
    assert "nonsense" in (await problem_in(atrio, "project"))["detail"]


async def test_a_running_server_is_asked_and_one_of_another_version_is_a_warning(atrio: Atrio) -> None:
    async with atrio.started("serve", "--model", "demo") as server:
        await server.read_out("ready")
        code, found = await looked(atrio)
        assert (code, found["server"]["state"], "port" in found) == (0, "ok", False)
        assert f"pid {server.process.pid}" in found["server"]["detail"]
        assert "the running server's" in found["model"]["detail"]
        record = atrio.state_dir / "server.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"version": "0.0.1"}))
        code, found = await looked(atrio)
        assert (code, found["server"]["state"]) == (0, "warning")
        assert "0.0.1" in found["server"]["detail"]


async def test_a_locked_directory_without_a_server_is_a_problem_that_names_the_process(atrio: Atrio) -> None:
    async with open_state_dir(atrio.state_dir):
        found = await problem_in(atrio, "server")
    assert f"process {os.getpid()}" in found["detail"]


async def test_a_server_that_is_named_and_not_there_is_a_problem(atrio: Atrio) -> None:
    await problem_in(atrio, "server", ATRIO_SERVER="ws://127.0.0.1:9", ATRIO_TOKEN="none")


async def test_a_port_that_is_taken_is_a_warning_that_names_the_program(atrio: Atrio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _, found = await looked(atrio, ATRIO_PORT=str(taken.getsockname()[1]))
    assert found["port"]["state"] == "warning"
    assert f"pid {os.getpid()}" in found["port"]["detail"]


async def test_a_provider_that_cannot_be_reached_is_a_problem_unless_nobody_is_asked(atrio: Atrio) -> None:
    address = {"OPENAI_BASE_URL": "http://user:secret@127.0.0.1:9/v1"}
    found = await problem_in(atrio, "provider openai", **address)
    assert "127.0.0.1:9 cannot be reached" in found["detail"]
    assert "secret" not in str(found)
    assert (await looked(atrio, "--offline", **address))[0] == 0


async def test_a_model_that_cannot_be_used_is_a_problem_also_where_a_server_runs(atrio: Atrio) -> None:
    wanted = {"ATRIO_MODEL": "anthropic/any", "OPENAI_API_KEY": "sk-123"}
    code, found = await looked(atrio, "--offline", **wanted)
    assert (code, found["model"]["state"], found["keys"]["detail"]) == (1, "problem", "OPENAI_API_KEY")
    async with atrio.started("serve", **wanted) as server:
        await server.read_out("ready")
        found = await problem_in(atrio, "model", ATRIO_MODEL="demo")
    assert "set ANTHROPIC_API_KEY" in found["detail"]


@pytest.mark.parametrize(("status", "state"), [("200 OK", "ok"), ("404 No", "ok"), ("401 No", "problem")])
async def test_a_provider_is_asked_once_with_the_key(atrio: Atrio, status: str, state: str) -> None:
    heads: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some())
        body = b'{"error": {"message": "the key sk-123 is wrong"}}'
        await stream.send_all(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        _, found = await looked(atrio, OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1", OPENAI_API_KEY="sk-123")
        nursery.cancel_scope.cancel()
    assert found["provider openai"]["state"] == state
    assert "sk-123" not in str(found)
    (head,) = heads
    assert head.startswith(b"GET /v1/models ")
    assert b"authorization: bearer sk-123\r\n" in head.lower()


async def test_missing_programs_are_warnings(atrio: Atrio, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    code, found = await looked(atrio, PATH=str(tmp_path / "bin"))
    assert (code, found["git"]["state"]) == (0, "warning")
    # The one that is installed with us is found without PATH.
    beside_us = shutil.which("rg", path=str(Path(COMMAND[0]).parent))
    assert found["ripgrep"]["state"] == ("ok" if beside_us else "warning")


async def test_a_grammar_that_does_not_load_is_a_problem(atrio: Atrio, tmp_path: Path) -> None:
    written(tmp_path / "broken/tree_sitter_bash.py", 'raise ImportError("of another machine")\n')
    path = f"{tmp_path / 'broken'}{os.pathsep}{atrio.environ['PYTHONPATH']}"
    assert "of another machine" in (await problem_in(atrio, "shell grammar", PYTHONPATH=path))["detail"]


async def test_what_the_store_relies_on_is_tried_and_nothing_of_it_is_left(atrio: Atrio) -> None:
    assert (await atrio("token", "show")).code == 0
    _, found = await looked(atrio)
    assert found["storage"]["detail"].startswith("locks hold, and a commit that is synced takes ")
    assert sorted(path.name for path in atrio.state_dir.iterdir()) == ["token"]


async def test_on_a_terminal_what_is_long_is_folded_beside_its_name(atrio: Atrio) -> None:
    async with on_terminal(atrio, "doctor", columns=80, lines=60) as seat:
        await seat.end()
        lines = seat.shown.text.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("!   model "))
    assert all(len(line) <= 80 for line in lines)
    assert lines[at + 1].startswith(" " * 21)
    fix = next(line for line in lines[at:] if "fix: " in line)
    assert fix.startswith(" " * 16 + "fix: set OPENAI_API_KEY")
