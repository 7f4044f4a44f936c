"""What the server writes is for its user alone, and nobody leads it to write elsewhere.

The state directory is used by a real session with tools, under a umask that takes
nothing away. Then each thing in it is replaced, while no server runs, by what
somebody might plant there: a link, a pipe, a device, a file of another user.
"""

import json
import os
import signal
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.store.base import StoreFailed
from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import read_project_file
from atrio_server.statedir import StateDirUnsafe, StateDirUnusable
from atrio_server.token_files import TokenFileUnsafe
from wire.client import Refused, Wire, connect
from wire.conftest import Harness
from wire.process import spawn
from wire.steps import new_session

CALLS: tuple[dict[str, Any], ...] = (
    {"tool": "write", "input": {"path": "made.txt", "content": "made"}},
    {"tool": "edit", "input": {"path": "made.txt", "old": "made", "new": "changed"}},
    {"tool": "shell", "input": {"command": "seq 1 40000"}},
    {"tool": "shell", "input": {"command": "seq 1 40000; sleep 0.1", "background": True}},
    {"tool": "todos", "input": {"todos": [{"content": "x", "status": "pending"}]}},
    {"tool": "task", "input": {"prompt": "child"}},
)
TURNS: tuple[dict[str, Any], ...] = (
    {"match": "^child", "responses": [[{"say": "done"}]]},
    {"match": "^work", "responses": [*([call] for call in CALLS), [{"say": "done"}]]},
    {"responses": [[{"say": "{{prompt}}"}]]},
)
LIMIT_S = 60


@pytest.fixture
def open_umask() -> Generator[None]:
    """A umask that takes nothing away, for this process and the servers that it starts."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """What in a directory is not for its owner alone: 0700 for directories, 0600 for files."""
    found: list[str] = []
    for path in [directory, *directory.rglob("*")]:
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue  # it was there for a moment only
        wanted = 0o700 if stat.S_ISDIR(info.st_mode) else 0o600
        if stat.S_IMODE(info.st_mode) != wanted:
            found.append(f"{path.relative_to(directory)}: {stat.filemode(info.st_mode)}")
    return found


async def work(wire: Wire, workspace: str) -> None:
    """A session in which all is done that writes files."""
    session = await new_session(wire, workspace)
    run_id = (await wire.prompt(session, "work"))["run"]["runId"]
    assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"
    forked = (await wire.call("session/fork", sessionId=session))["session"]["sessionId"]
    await wire.call("session/export", sessionId=forked, format="markdown")


@pytest.mark.scenario("E4")
@pytest.mark.usefixtures("open_umask")
async def test_whatever_a_session_leaves_is_for_its_user_alone(bench: Harness) -> None:
    state = bench.root / "deep" / "state"
    script = bench.root / "script.json"
    script.write_text(json.dumps({"name": "worker", "turns": TURNS}))
    config = bench.directory / ".atrio"
    config.mkdir()
    (config / "config.toml").write_text("model = 'demo'\n")
    flags = ("--model", f"script:{script}", "--permissions", "allow")
    with trio.fail_after(LIMIT_S):
        for number in (signal.SIGTERM, signal.SIGKILL):
            async with spawn(state, *flags, log=bench.root / "log") as server:
                async with connect(server.ws, server.token) as wire:
                    opened = await wire.call("workspace/open", path=str(bench.root))
                    await work(wire, opened["workspace"]["workspaceId"])
                    root = bench.directory.resolve()
                    TrustStore(state).add(root, read_project_file(root).digest)
                    assert open_to_others(state) == []
                server.signal(number)
                await server.ended()
            assert open_to_others(state) == []
    assert {"index.db", "token", "workspaces"} <= {path.name for path in state.iterdir()}
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700


def a_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def a_link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "not-there")


def a_link_to_a_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "room")


def a_pipe(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path, _victim: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def a_file_of_another_user(path: Path, _victim: Path) -> None:
    path.write_text("theirs")
    try:
        os.chown(path, 12_345, 12_345)
    except PermissionError:
        pytest.skip("only root gives files away")


PLANTED: tuple[Callable[[Path, Path], None], ...] = (
    a_link,
    a_link_to_nothing,
    a_link_to_a_directory,
    a_pipe,
    a_device,
    a_file_of_another_user,
)
NAMES = (
    "token",
    "server.lock",
    "server.json",
    "index.db",
    "index.db-wal",
    "workspaces",
    "workspaces/*",
    "workspaces/*/atrio.db",
    "workspaces/*/atrio.db-wal",
    "workspaces/*/output",
    ".",
)
REFUSALS = (StateDirUnsafe, StateDirUnusable, TokenFileUnsafe, StoreFailed, OSError, Refused)


@pytest.mark.scenario("E4")
@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("name", NAMES)
async def test_what_is_planted_leads_nowhere(bench: Harness, name: str, plant: Callable[[Path, Path], None]) -> None:
    elsewhere = bench.root / "elsewhere"
    (elsewhere / "room").mkdir(parents=True)
    (elsewhere / "room").chmod(0o755)
    model = bench.script(*TURNS)
    async with bench.serve(model=model, permissions="allow") as running, bench.open(running) as (wire, _):
        await wire.call("ping")
    (home,) = bench.state_dir.glob("workspaces/*")
    path = bench.state_dir / name.replace("*", home.name)
    if path.is_dir():
        path.rename(elsewhere / "moved")
        victim = elsewhere / "moved"
    else:
        path.unlink(missing_ok=True)
        victim = elsewhere / "precious"
        victim.write_text("precious")
        victim.chmod(0o644)
    plant(path, victim)
    before = _everything_in(elsewhere)

    refused: list[BaseException] = []
    try:
        async with bench.serve(model=model, permissions="allow", limit_s=LIMIT_S) as running:
            async with bench.open(running) as (wire, workspace):
                await work(wire, workspace)
    except* REFUSALS as group:
        refused.extend(group.exceptions)
    for one in refused:
        assert not isinstance(one, Refused) or one.kind in {"storage_unavailable", "path_not_allowed"}, one
    assert _everything_in(elsewhere) == before


def _everything_in(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of all that is in a directory."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    }
