"""What a server knows to be secret: its own for everybody, each workspace's for the log, in all spellings of a line."""

import json
import os
from pathlib import Path
from typing import Literal

import pytest
import structlog
import trio

from atrio_agent.gates import Gates
from atrio_agent.mcp.server import McpServer
from atrio_agent.models.choose import open_models
from atrio_server import logs
from atrio_server.config import Settings
from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import read_project_file
from atrio_server.known_secrets import KnownSecrets
from atrio_server.logs import LogSink, configure_logs
from atrio_server.outfit import OutfitMaker, keys_in, secrets_of

TOKEN = "tok-0canary1-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
PASSWORD = 'pä"ss\\wörd-0canary2'


pytestmark = pytest.mark.usefixtures("logging_as_found")


def test_what_a_workspace_adds_is_known_but_is_not_the_servers_own() -> None:
    known = KnownSecrets([TOKEN])
    known.add([PASSWORD])

    assert known.own == (TOKEN,)
    assert known.text(f"{TOKEN} {PASSWORD} word") == "[redacted] [redacted] word"


def test_nothing_that_was_known_is_forgotten() -> None:
    known = KnownSecrets([TOKEN])
    known.add_own(["another-token-0canary3"])
    known.add([PASSWORD])
    known.add([])

    assert known.own == (TOKEN, "another-token-0canary3")
    assert known.text(f"{TOKEN} another-token-0canary3 {PASSWORD}") == "[redacted] [redacted] [redacted]"


async def test_the_log_learns_what_a_trusted_project_holds_and_other_workspaces_tools_do_not(tmp_path: Path) -> None:
    project, other, state = tmp_path / "project", tmp_path / "other", tmp_path / "state"
    for directory in (project / ".atrio", other, state):
        directory.mkdir(parents=True, mode=0o700)
    mcp = "command = 'docs'\nenv = {DOCS_TOKEN = 'docs-0canary7'}\nargs = ['--token', 'args-0canary8']\n"
    text = f"[providers.anthropic]\napi_key = 'sk-0canary6-of-the-project'\n\n[mcp.servers.docs]\n{mcp}"
    (project / ".atrio/config.toml").write_text(text)
    TrustStore(state).add(project.resolve(), read_project_file(project.resolve()).digest)
    settings, known = Settings(state_dir=state), KnownSecrets([TOKEN])
    theirs = "sk-0canary6-of-the-project docs-0canary7 args-0canary8"
    async with open_models({}, default=None, gates=Gates(), allow_scripts=False) as models:
        maker = OutfitMaker(settings=settings, environ={}, models=models, known=known)
        assert known.text(theirs) == theirs
        async with maker.open(project.resolve()) as outfit:
            assert outfit.child_tools.redacted(f"{TOKEN} {theirs}") == " ".join(["[redacted]"] * 4)
            assert set(theirs.split()) <= set(outfit.secrets)
        async with maker.open(other.resolve()) as outfit:
            assert outfit.child_tools.redacted(f"{TOKEN} {theirs}") == f"[redacted] {theirs}"
    assert known.text(theirs) == "[redacted] [redacted] [redacted]"


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_line_of_the_log_spells_no_secret_in_any_way(
    tmp_path: Path, form: Literal["text", "json"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FLUSH_S", 30)  # the line is written even where the machine stands still
    known = KnownSecrets([TOKEN])
    known.add([PASSWORD])
    sink = LogSink()
    sink.redact = known.text
    configure_logs(sink, form)
    log = structlog.get_logger("atrio.test")
    file = os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT)
    kept = os.dup(2)
    os.dup2(file, 2)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.serve)
            await trio.lowlevel.checkpoint()
            error = RuntimeError(f"refused {PASSWORD} and {TOKEN}")
            log.error("it failed", said=PASSWORD, shown=[PASSWORD, TOKEN], exc_info=error)
            nursery.cancel_scope.cancel()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(file)
    written = (tmp_path / "stderr").read_text()

    assert "it failed" in written
    assert "[redacted]" in written
    assert "canary" not in written
    if form == "json":
        assert json.loads(written)["said"] == "[redacted]"


def test_a_password_in_a_providers_address_is_a_secret() -> None:
    environ = {
        "OPENAI_BASE_URL": "http://me:p-0canary4@127.0.0.1/v1",
        "OLLAMA_HOST": "http://[",
        "OPENAI_API_KEY": "",
    }

    assert [secret for secret in keys_in(environ) if secret] == ["p-0canary4"]


@pytest.mark.parametrize(
    "server",
    [
        McpServer(name="a", command="x", env={"API_KEY": PASSWORD}),
        McpServer(name="a", command="x", args=("--token", PASSWORD)),
        McpServer(name="a", command="x", args=("--verbose", f"--api-key={PASSWORD}")),
        McpServer(name="a", url="https://localhost/mcp", headers={"Authorization": f"Bearer {PASSWORD}"}),
    ],
)
def test_what_is_named_like_a_secret_in_a_servers_configuration_is_one(server: McpServer) -> None:
    assert PASSWORD in set(secrets_of(server))


def test_what_nobody_would_make_up_is_a_secret_wherever_it_stands() -> None:
    made_up = "0canary5ABCDEFGHIJKLMNOPQRST"

    assert made_up in set(secrets_of(McpServer(name="a", url=f"https://localhost/s/{made_up}/mcp")))
    assert made_up in set(secrets_of(McpServer(name="a", command="x", args=(made_up,))))
    assert set(secrets_of(McpServer(name="a", command="x", args=("--root", "/home/me/project")))) == set()
