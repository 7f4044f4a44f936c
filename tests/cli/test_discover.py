"""Commands that find no server: who starts one, how many there are, and when it ends."""

import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from atrio_process import Atrio, Done
from atrio_server.statedir import lock_holder, running_server


@asynccontextmanager
async def cleared(atrio: Atrio) -> AsyncGenerator[None]:
    """End the server that a command of the block started, and wait for its end."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            if server := running_server(atrio.state_dir):
                os.kill(server.pid, signal.SIGTERM)
            for _ in range(200):
                if running_server(atrio.state_dir) is None:
                    break
                await trio.sleep(0.05)


async def killed(atrio: Atrio, pid: int) -> None:
    """Kill a server that is nobody's child here, and wait until the system has let go of its directory."""
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(60):
        while lock_holder(atrio.state_dir) is not None:  # noqa: ASYNC110  told to nobody
            await trio.sleep(0.01)


def modes_in(directory: Path) -> dict[str, int]:
    """What others may do with each file. One that was there for a moment only counts for nothing."""
    modes: dict[str, int] = {}
    for entry in directory.iterdir():
        with suppress(FileNotFoundError):
            modes[entry.name] = entry.stat().st_mode & 0o077
    return modes


async def test_the_first_command_starts_a_server_and_the_next_one_finds_it(atrio: Atrio) -> None:
    async with cleared(atrio):
        first = await atrio("run", "help")
        assert first.code == 0
        server = running_server(atrio.state_dir)
        assert server is not None
        second = await atrio("run", "-q", "help")
        assert second.code == 0
        assert running_server(atrio.state_dir) == server
        modes = modes_in(atrio.state_dir)
        assert set(modes.values()) == {0}
        assert {"token", "server.json", "server.lock", "server.log"} <= set(modes)
        # It is nobody's child and in nobody's terminal.
        assert os.getsid(server.pid) == server.pid
        processes = await trio.run_process(["ps", "-eo", "args"], capture_stdout=True)
        assert (atrio.state_dir / "token").read_bytes().strip() not in processes.stdout


async def test_sixteen_commands_at_once_start_one_server(atrio: Atrio) -> None:
    done: list[Done] = []

    async def run() -> None:
        done.append(await atrio("run", "-q", "help", within_s=120))

    async with cleared(atrio):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(run)
        assert [each.code for each in done] == [0] * 16
        log = (atrio.state_dir / "server.log").read_text()
        assert log.count("ready ") == 1
        assert "data_dir_locked" not in log


async def test_a_command_waits_for_a_server_that_somebody_else_is_starting(atrio: Atrio) -> None:
    async with atrio.started("serve", "--port", "0") as server:
        while lock_holder(atrio.state_dir) is None:  # noqa: ASYNC110  told to nobody
            await trio.sleep(0.01)
        done = await atrio("run", "-q", "help")
        assert done.code == 0
        await server.read_out("ready")
        found = running_server(atrio.state_dir)
        assert found is not None
        assert found.pid == server.process.pid


async def test_a_server_that_cannot_start_is_told_with_its_last_words(atrio: Atrio) -> None:
    done = await atrio("run", "help", ATRIO_DETACH_GRACE="soon")
    assert (done.code, done.out) == (6, "")
    assert "the server did not start" in done.err
    assert "ATRIO_DETACH_GRACE takes seconds" in done.err


async def test_a_killed_server_is_replaced_by_the_next_command(atrio: Atrio) -> None:
    async with cleared(atrio):
        assert (await atrio("run", "help")).code == 0
        server = running_server(atrio.state_dir)
        assert server is not None
        await killed(atrio, server.pid)
        assert (await atrio("run", "-c", "help")).code == 0
        another = running_server(atrio.state_dir)
        assert another is not None
        assert another.pid != server.pid
        assert len((await atrio("runs")).out.splitlines()) == 2


@pytest.mark.scenario("E8")
async def test_a_server_that_is_killed_and_comes_back_elsewhere_tells_the_end_of_the_run(atrio: Atrio) -> None:
    async with cleared(atrio), atrio.started("run", "slow 500") as command:
        await command.read_out(" ")
        server = running_server(atrio.state_dir)
        assert server is not None
        await killed(atrio, server.pid)
        await command.read_err("the connection is lost")
        assert (await atrio("sessions", "list")).code == 0
        done = await command.end()
    assert done.code == 1
    assert "the server died during the run" in done.err


async def test_a_standalone_run_leaves_nothing_behind(atrio: Atrio, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = await atrio("run", "-q", "help", "--standalone", TMPDIR=str(temporary))
    assert done.code == 0
    assert list(temporary.iterdir()) == []
    assert not atrio.state_dir.exists()


async def test_a_standalone_run_may_keep_its_state(atrio: Atrio, tmp_path: Path) -> None:
    script = atrio.directory / "script.json"
    script.write_text(json.dumps({"turns": [{"responses": [[{"say": "from the script"}]]}]}))
    kept = tmp_path / "kept"
    words = ("run", "-q", "x", "--standalone", "--state-dir", str(kept), "-m", "script:script.json")
    assert await atrio(*words) == Done(0, "from the script\n", "")
    assert running_server(kept) is None
    assert (kept / "workspaces").is_dir()


async def test_a_standalone_run_that_is_terminated_takes_its_server_with_it(atrio: Atrio, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    async with atrio.started("run", "slow 500", "--standalone", "--state-dir", str(kept)) as command:
        await command.read_out(" ")
        server = running_server(kept)
        assert server is not None
        command.process.terminate()
        done = await command.end()
    assert done.code == 128 + signal.SIGTERM
    assert running_server(kept) is None


async def test_an_idle_server_ends_by_itself(atrio: Atrio) -> None:
    async with atrio.started("serve", "--port", "0", "--exit-idle", "0.5") as server:
        await server.read_out("ready")
        done = await server.end()
    assert done.code == 0


async def test_a_module_in_the_directory_is_not_taken_for_ours(atrio: Atrio) -> None:
    (atrio.directory / "trio.py").write_text("raise SystemExit('hijacked')")
    (atrio.directory / "msgspec.py").write_text("raise SystemExit('hijacked')")
    async with cleared(atrio):
        done = await atrio("run", "-q", "help")
    assert done.code == 0


async def test_a_planted_link_is_not_followed(atrio: Atrio, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    atrio.state_dir.symlink_to(tmp_path / "elsewhere")
    done = await atrio("run", "help")
    assert done.code == 6
    assert "is a link" in done.err
    assert list((tmp_path / "elsewhere").iterdir()) == []
