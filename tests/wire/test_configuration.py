"""What a project's own file changes in its workspace, over the wire: and in no other."""

from pathlib import Path
from typing import Any

from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import read_project_file
from wire.conftest import Harness
from wire.steps import PLAIN, new_session
from wire.test_permissions import WRITE

Json = dict[str, Any]
KEY = "sk-of-the-project-0123456789"


def configure(bench: Harness, text: str, *, trusted: bool = False) -> None:
    """Write the project's file."""
    (bench.directory / ".atrio").mkdir()
    (bench.directory / ".atrio/config.toml").write_text(text)
    if trusted:
        root = bench.directory.resolve()
        TrustStore(bench.state_dir).add(root, read_project_file(root).digest)


def default_of(listed: Json) -> tuple[str, str]:
    """The default model of a list, and why."""
    (found,) = [model for model in listed["models"] if model["default"]]
    return found["modelId"], found["reason"]


async def test_a_projects_model_is_the_default_of_its_workspace_only(bench: Harness, tmp_path: Path) -> None:
    configure(bench, "model = 'demo'\n")
    script = bench.script(PLAIN)
    other = tmp_path / "other"
    other.mkdir()
    async with bench.serve(model=script) as running, bench.open(running) as (wire, workspace):
        assert default_of(await wire.call("model/list"))[0] == script
        name, why = default_of(await wire.call("model/list", workspaceId=workspace))
        assert name == "demo"
        assert str(bench.directory / ".atrio/config.toml") in why
        opened = await wire.call("workspace/open", path=str(other))
        elsewhere = opened["workspace"]["workspaceId"]
        assert default_of(await wire.call("model/list", workspaceId=elsewhere))[0] == script
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="r1")
        assert "echo" not in (await wire.completed(session, "r1"))["text"]
        assert (await wire.completed(session, "r1"))["text"] != "hello"
        away = await new_session(wire, elsewhere)
        await wire.prompt(away, "hello", runId="r2")
        assert (await wire.completed(away, "r2"))["text"] == "hello"


async def test_a_projects_stricter_permissions_hold(bench: Harness) -> None:
    configure(bench, "permissions = 'deny'\n")
    async with (
        bench.serve(model=bench.script(WRITE, PLAIN), permissions="allow") as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "write", runId="r1")
        await wire.completed(session, "r1")
        assert not (bench.directory / "a.txt").exists()


async def test_a_trusted_project_has_its_own_key_which_no_tool_gives_back(bench: Harness) -> None:
    configure(bench, f"[providers.anthropic]\napi_key = '{KEY}'\n", trusted=True)
    (bench.directory / "leak.txt").write_text(f"the key is {KEY}\n")
    script = bench.script(
        {"responses": [[{"tool": "read", "input": {"path": "leak.txt"}}], [{"say": "read"}]]},
    )
    async with bench.serve(model=None) as running, bench.open(running) as (wire, workspace):
        assert default_of(await wire.call("model/list"))[0] == "demo"
        name, why = default_of(await wire.call("model/list", workspaceId=workspace))
        assert name.startswith("anthropic/")
        assert why.startswith("providers.anthropic.api_key (")
        session = await new_session(wire, workspace, model=script)
        await wire.prompt(session, "read it", runId="r1")
        await wire.completed(session, "r1")
        messages = await wire.call("session/messages", sessionId=session)
        assert KEY not in str(messages)
        assert "the key is [redacted]" in str(messages)


async def test_commands_that_the_user_allows_run_without_a_question(bench: Harness) -> None:
    turn = {"responses": [[{"tool": "shell", "input": {"command": "touch made"}}], [{"say": "done"}]]}
    async with (
        bench.serve(model=bench.script(turn), shell_allow=("touch made",)) as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "go", runId="r1")
        await wire.until(lambda: wire.of_type(session, "run.completed", "permission.requested"))
        assert wire.of_type(session, "permission.requested") == []
        assert (bench.directory / "made").exists()


async def test_a_broken_project_file_is_told_and_keeps_no_workspace_closed(bench: Harness) -> None:
    configure(bench, "modle = 'demo'\n")
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        (problem,) = (await wire.call("workspace/get", workspaceId=workspace))["problems"]
        assert "did you mean 'model'?" in problem
