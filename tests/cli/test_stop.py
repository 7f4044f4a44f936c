"""`atrio stop`: what it ends, what it leaves, and what it says."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from atrio_process import Atrio, Started, serving
from atrio_server.cli import stop as stopping
from atrio_server.cli.failure import Exit, Failure
from atrio_server.cli.options import Target
from atrio_server.cli.stop import stop_command
from atrio_server.client import open_client
from atrio_server.discover import find_server
from atrio_server.statedir import make_state_dir
from atrio_server.token_store import create_token
from fake_server import TOKEN, FakeServer

SCRIPT = {
    "turns": [{"match": "^wait", "responses": [[{"say": "before "}, {"gate": "go"}]]}, {"responses": [[{"say": "hi"}]]}]
}


@pytest.fixture
def script(tmp_path: Path) -> str:
    file = tmp_path / "script.json"
    file.write_text(json.dumps(SCRIPT))
    return str(file)


@asynccontextmanager
async def server_of(atrio: Atrio, script: str) -> AsyncGenerator[tuple[Started, str]]:
    """A server of this test, and where it is."""
    words = ("serve", "--port", "0", "--model", f"script:{script}", "--test-hooks")
    async with atrio.started(*words) as started:
        await started.read_out("\n")
        yield started, json.loads(started.out)["ws"]


async def test_the_server_that_a_command_started_is_ended(atrio: Atrio) -> None:
    await atrio("sessions", "list")
    found = find_server(atrio.state_dir)
    assert found is not None
    done = await atrio("stop")
    assert (done.code, done.out) == (0, f"the server with pid {found.pid} has ended\n")
    assert find_server(atrio.state_dir) is None
    again = await atrio("stop")
    assert (again.code, again.out) == (6, "")
    assert f"there is nothing to stop: no server runs on {atrio.state_dir}" in again.err


async def test_what_runs_is_left_alone_if_idle_is_asked_for_and_else_cancelled_and_saved(
    atrio: Atrio, script: str
) -> None:
    async with server_of(atrio, script) as (server, _):
        sent = await atrio("run", "--no-wait", "wait")
        run_id = sent.out.strip()
        kept = await atrio("stop", "--if-idle")
        assert kept.code == 1
        assert "was not stopped: 1 run" in kept.err
        done = await atrio("stop")
        assert done.code == 0
        assert "1 run is cancelled and saved" in done.err
        assert (await server.end()).code == 0
    async with server_of(atrio, script):
        waited = await atrio("wait", run_id)
        assert waited.code == 130


async def test_a_server_that_is_named_is_ended_and_its_clients_are_counted(atrio: Atrio, script: str) -> None:
    async with server_of(atrio, script) as (server, url):
        token = (atrio.state_dir / "token").read_text().strip()
        async with open_client(url, token, client_name="guest", give_up_s=1):
            done = await atrio("stop", "--server", url, ATRIO_TOKEN=token)
        assert (done.code, done.out) == (0, f"the server at {url} has ended\n")
        assert "1 other client is told" in done.err
        assert (await server.end()).code == 0


async def test_a_server_that_agrees_and_stays_is_not_waited_for_for_ever(
    atrio: Atrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeServer()
    info = {"version": "1", "pid": 4242, "uptimeMs": 1, "workspaces": 0, "connections": 1, "runsActive": 0}
    fake.answers["server/info"] = lambda _: info
    fake.answers["server/shutdown"] = lambda _: {}
    monkeypatch.setattr(stopping, "STOP_S", 0.2)
    async with serving(atrio, fake):
        monkeypatch.setenv("ATRIO_TOKEN", TOKEN)
        with pytest.raises(Failure, match="`kill -9 4242` on its machine ends it at once") as failure:
            await stopping.stop_server(Target(server=atrio.environ["ATRIO_SERVER"]), if_idle=False)
    assert failure.value.code == Exit.TIMEOUT


async def test_without_the_right_token_nothing_is_stopped(atrio: Atrio, script: str) -> None:
    make_state_dir(atrio.state_dir)
    watching = create_token(atrio.state_dir, scopes=("observe",)).token
    async with server_of(atrio, script) as (_, url):
        wrong = await atrio("stop", "--server", url, ATRIO_TOKEN="wrong")
        assert wrong.code == 6
        assert "does not take this from us" in wrong.err
        weak = await atrio("stop", "--server", url, ATRIO_TOKEN=watching)
        assert weak.code == 5
        assert "'admin'" in weak.err
        assert find_server(atrio.state_dir) is not None


async def test_four_at_once_agree_on_one_end(atrio: Atrio, script: str) -> None:
    codes: list[int] = []

    async def stop() -> None:
        codes.append((await atrio("stop", within_s=60)).code)

    async with server_of(atrio, script) as (server, _):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(stop)
        assert (await server.end()).code == 0
    assert 0 in codes
    assert set(codes) <= {0, 6}


def test_the_command_that_stops_it_names_its_directory_where_that_is_not_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATRIO_STATE_DIR", str(tmp_path))
    assert stop_command(tmp_path) == "`atrio stop`"
    assert stop_command(tmp_path / "a b") == f"`atrio stop --state-dir '{tmp_path}/a b'`"
