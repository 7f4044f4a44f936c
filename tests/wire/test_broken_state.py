"""What is damaged, gone or not ours any more in the state directory, and ids and paths that lead nowhere."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from atrio_agent.store.base import StoreFailed
from atrio_server.service import Running
from wire.client import Refused, connect
from wire.conftest import LIMIT_S, Harness
from wire.http import http
from wire.process import SOURCES, spawn
from wire.steps import GATED, PLAIN, new_session


async def close(running: Running) -> None:
    for one in running.server.workspaces.all():
        await one.closed.wait()


def _make_link(home: Path) -> None:
    home.rename(home.with_name("moved"))
    home.symlink_to(home.with_name("moved"))


def _damage(home: Path) -> None:
    (home / "atrio.db").write_bytes(b"garbage " * 1_000)


def _replace_by_directory(home: Path) -> None:
    (home / "atrio.db").unlink()
    (home / "atrio.db").mkdir()


def _replace_by_file(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("no directory")


def _cut(home: Path) -> None:
    with (home / "atrio.db").open("r+b") as database:
        database.truncate(8192)


def _empty(home: Path) -> None:
    (home / "atrio.db").write_bytes(b"")


def _make_newer(home: Path) -> None:
    with closing(sqlite3.connect(home / "atrio.db")) as database, database:
        table = "_sqlite_migrations"
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        kept = ", ".join(name for name in columns if name not in ("id", "name"))
        database.execute(f"INSERT INTO {table} ({kept}, name) SELECT {kept}, '9999_later' FROM {table} LIMIT 1")


def _damage_log(home: Path) -> None:
    (home / "atrio.db-wal").write_bytes(b"garbage " * 1_000)


def _take_log_of_another(home: Path) -> None:
    """Put the log of another workspace's database beside this one, as when a copy is put back the wrong way."""
    script = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('PRAGMA journal_mode = WAL')\n"
        "database.execute(\"UPDATE meta SET value = 'another' WHERE key = 'workspace_id'\")\n"
        "os._exit(0)\n"  # before the log is merged
    )
    copy = home.parent / "copy.db"
    shutil.copy(home / "atrio.db", copy)
    subprocess.run([sys.executable, "-c", script, str(copy)], check=True)
    shutil.copy(f"{copy}-wal", home / "atrio.db-wal")


BREAKS: list[tuple[Callable[[Path], None], str]] = [
    (_make_link, "link"),
    (_damage, "begins anew, without its sessions"),
    (_replace_by_directory, "atrio.db"),
    (_replace_by_file, "not a directory"),
    (_cut, "begins anew, without its sessions"),
    (_empty, "begins anew, without its sessions"),
    (_make_newer, "Use that version"),
    (_damage_log, "what was stored there last is lost"),
    (_take_log_of_another, "what was stored there last is lost"),
]


@pytest.mark.parametrize(("break_it", "says"), BREAKS)
async def test_a_workspace_that_cannot_be_opened_says_why_and_harms_no_other(
    bench: Harness, break_it: Callable[[Path], None], says: str
) -> None:
    other = bench.root / "other"
    other.mkdir()
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("workspace/close", workspaceId=workspace)
        await close(running)
        (home,) = (bench.state_dir / "workspaces").iterdir()
        break_it(home)
        left = {path.name: path.read_bytes() for path in home.glob("atrio.db*") if path.is_file()}
        for method, params in [
            ("workspace/open", {"path": str(bench.directory)}),
            ("session/get", {"sessionId": session}),
            ("session/prompt", wire.prompt_params(session, "hello")),
        ]:
            refusal = await wire.refused(method, **params)
            assert (refusal.kind, refusal.data["retryable"]) == ("storage_unavailable", True)
            assert says in str(refusal) and str(bench.state_dir) in str(refusal)
        # Nothing was repaired, merged or begun anew in silence.
        files = {path.name: path.read_bytes() for path in home.glob("atrio.db*") if path.is_file()}
        assert {name: files.get(name) for name in left if not name.endswith("-shm")} == {
            name: data for name, data in left.items() if not name.endswith("-shm")
        }
        assert (await wire.call("workspace/list"))["workspaces"] == []
        assert (await wire.call("workspace/open", path=str(other)))["workspace"]["state"] == "open"


async def test_a_workspace_whose_database_was_moved_away_begins_anew(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        await wire.completed(session, "one")
        await wire.call("workspace/close", workspaceId=workspace)
        await close(running)
        (home,) = (bench.state_dir / "workspaces").iterdir()
        (home / "atrio.db").rename(home / "away.db")
        await wire.call("workspace/open", path=str(bench.directory))
        assert (await wire.refused("session/get", sessionId=session)).kind == "session_not_found"
        await wire.prompt(await new_session(wire, workspace), "hello", runId="one")


def _break_index(index: Path, break_it: Callable[[Path], None], stand_in: Path) -> None:
    """Break the index as a workspace's database is broken."""
    stand_in.mkdir()
    names = {f"{index}{name}": stand_in / f"atrio.db{name}" for name in ("", "-wal")}
    for name, other in names.items():
        if Path(name).exists():
            Path(name).rename(other)
    break_it(stand_in)
    for name, other in names.items():
        if other.exists():
            other.rename(name)


async def sentence_of_start(bench: Harness) -> str:
    """What a server says that does not start."""
    command = [sys.executable, "-m", "atrio_server", "serve", "--port", "0", "--state-dir", str(bench.state_dir)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES)}
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environ)
    assert done.returncode == 1 and done.stdout == b""
    return done.stderr.decode()


@pytest.mark.parametrize("break_it", [_damage, _cut, _empty, _damage_log])
async def test_a_server_whose_index_is_damaged_says_what_to_do_and_nothing_is_lost_by_doing_it(
    bench: Harness, break_it: Callable[[Path], None]
) -> None:
    script = bench.script(PLAIN)
    async with bench.serve(model=script) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        await wire.completed(session, "one")
    index = bench.state_dir / "index.db"
    _break_index(index, break_it, bench.root / "stand-in")
    with trio.fail_after(LIMIT_S):
        said = await sentence_of_start(bench)
    assert "index.db" in said and "Traceback" not in said
    assert "nothing is lost" in said or break_it is _damage_log
    for path in bench.state_dir.glob("index.db*"):
        path.unlink()
    async with bench.serve(model=script) as running, connect(running.ws, running.token) as wire:
        # By its id alone: the index knows again whose it is.
        assert (await wire.call("run/get", runId="one"))["run"]["sessionId"] == session
        assert (await wire.call("session/get", sessionId=session))["session"]["workspaceId"] == workspace
        other = bench.root / "other"
        other.mkdir()
        opened = await wire.call("workspace/open", path=str(other))
        elsewhere = await new_session(wire, opened["workspace"]["workspaceId"])
        refusal = await wire.refused("session/prompt", **wire.prompt_params(elsewhere, "hello", runId="one"))
        assert refusal.kind == "idempotency_conflict"


async def test_an_index_that_was_not_made_again_to_its_end_is_made_by_the_next_start(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = bench.script(PLAIN)
    async with bench.serve(model=script) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        await wire.completed(session, "one")
    (bench.state_dir / "index.db").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("atrio_server.stores.rebuild_index", _cut_short)
        with pytest.raises(StoreFailed, match="cut short"):
            await bench.serve(model=script).__aenter__()
    async with bench.serve(model=script) as running, connect(running.ws, running.token) as wire:
        assert (await wire.call("run/get", runId="one"))["run"]["sessionId"] == session
        assert (await wire.call("session/get", sessionId=session))["session"]["workspaceId"] == workspace
    assert [path.name for path in bench.state_dir.glob("index.db*")] == ["index.db"]


async def _cut_short(*_: object) -> int:
    raise StoreFailed("cut short")


async def test_a_link_to_a_name_that_is_no_text_is_refused(bench: Harness) -> None:
    odd = os.fsencode(bench.root) + b"/caf\xe9"
    os.mkdir(odd)  # noqa: PTH102  a Path takes no bytes
    (bench.root / "link").symlink_to(os.fsdecode(odd))
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, _):
        assert (await wire.refused("workspace/open", path=str(bench.root / "link"))).kind == "path_not_found"
        assert len((await wire.call("workspace/list"))["workspaces"]) == 1


async def test_an_id_opens_nothing_that_may_not_be_opened_any_more(bench: Harness) -> None:
    allowed = bench.root / "allowed"
    allowed.mkdir()
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        message = (await wire.completed(session, "one"))["messageId"]
    async with bench.serve(model=bench.script(PLAIN), allow_paths=(allowed,)) as running:
        async with connect(running.ws, running.token) as wire:
            for method, params in [
                ("session/get", {"sessionId": session}),
                ("session/attach", {"sessionId": session}),
                ("run/get", {"runId": "one"}),
                ("message/get", {"messageId": message}),
            ]:
                assert (await wire.refused(method, **params)).kind == "path_not_allowed", method


async def test_what_a_peer_sent_is_repeated_to_it_only_so_far(bench: Harness) -> None:
    huge = "x" * 3_000_000
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        for method, params, kind in [
            ("session/get", {"sessionId": huge}, "session_not_found"),
            ("run/get", {"runId": huge}, "run_not_found"),
            ("message/get", {"messageId": huge}, "message_not_found"),
            ("workspace/get", {"workspaceId": huge}, "workspace_not_found"),
            ("session/view", {"workspaceId": workspace, "sessionId": huge}, "session_not_found"),
            ("session/new", {"workspaceId": workspace, "model": huge}, "model_not_found"),
            ("workspace/open", {"path": f"/{huge}"}, "path_not_found"),
            (huge, {}, "method_not_found"),
        ]:
            assert (await wire.refused(method, **params)).kind == kind
        assert max(len(json.dumps(frame)) for frame in wire.frames) < 20_000


@pytest.mark.parametrize(
    "foreign", ["../../etc/passwd", "a\0b", "w" + "a" * 13, "w" + "a" * 13 + "-s" + "a" * 16, "é", " "]
)
async def test_an_id_that_is_not_ours_is_just_not_found(bench: Harness, foreign: str) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, _):
        for method, name, kind in [
            ("session/get", "sessionId", "session_not_found"),
            ("run/wait", "runId", "run_not_found"),
            ("message/get", "messageId", "message_not_found"),
            ("workspace/close", "workspaceId", "workspace_not_found"),
        ]:
            assert (await wire.refused(method, **{name: foreign})).kind == kind
        assert len(list((bench.state_dir / "workspaces").iterdir())) == 1


async def test_a_closing_server_makes_no_session(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.finish")
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.call("server/shutdown", ifIdle=False)
        await wire.event(workspace, "workspace.closing")
        for method, params in [
            ("session/new", {"workspaceId": workspace}),
            ("session/prompt", wire.prompt_params(session, "more")),
            ("workspace/open", {"path": str(bench.directory)}),
        ]:
            assert (await wire.refused(method, **params)).kind == "server_closing", method
        await wire.call("test/release", gate="run.finish")
        assert await wire.closing() == 1001


async def test_the_first_signal_lets_a_shutdown_that_a_client_began_go_on(bench: Harness) -> None:
    model = bench.script(GATED)
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as server:
            async with connect(server.ws, server.token) as wire:
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                session = await new_session(wire, workspace)
                await wire.call("test/hold", sessionId=session, point="run.finish")
                await wire.prompt(session, "gated", runId="one")
                await wire.call("test/gates", wait="go")
                await wire.call("server/shutdown", ifIdle=False)
                await wire.event(workspace, "workspace.closing")
                server.signal(signal.SIGTERM)
                await wire.call("test/gates", wait="run.finish")
                await wire.call("test/release", gate="run.finish")
                assert (await wire.completed(session, "one"))["stopReason"] == "cancelled"
                assert await wire.closing() == 1001
            assert await server.ended() == 0


async def test_the_answer_to_a_shutdown_over_http_arrives(bench: Harness) -> None:
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir) as server:
            answer = await http(
                server.http,
                "POST",
                "/v1/rpc",
                headers={"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"},
                body=b'{"jsonrpc": "2.0", "id": 1, "method": "server/shutdown", "params": {"ifIdle": true}}',
            )
            assert (answer.status, answer.json()["result"]) == (200, {})
            assert await server.ended() == 0


async def test_who_connects_while_the_sockets_drain_is_told_to_go_as_well(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, _):
        (first,) = running.server.connections.values()
        drain, draining, may_drain = first.drain_and_close, trio.Event(), trio.Event()

        async def drain_when_allowed(code: int, deadline: float) -> None:
            draining.set()
            await may_drain.wait()
            await drain(code, deadline)

        first.drain_and_close = drain_when_allowed
        await wire.call("server/shutdown", ifIdle=True)
        await draining.wait()
        async with connect(running.ws, running.token) as late:
            may_drain.set()
            assert await wire.closing() == 1001
            assert await late.closing() == 1001


async def test_nothing_is_accepted_behind_a_shutdown_of_an_idle_server(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        stop = await wire.send("server/shutdown", ifIdle=True)
        late = await wire.send("session/prompt", **wire.prompt_params(session, "late"))
        assert await wire.reply(stop) == {}
        with pytest.raises(Refused) as refusal:
            await wire.reply(late)
        assert refusal.value.kind == "server_closing"
        assert await wire.closing() == 1001
