"""The state directory: whose it is, who holds it, and what a killed owner leaves behind."""

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atrio_server.statedir import (
    LOCK_FILE,
    SERVER_FILE,
    StateDirLocked,
    StateDirUnsafe,
    open_state_dir,
    running_server,
)

HOLDER = """
import sys, trio
from pathlib import Path
from atrio_server.statedir import open_state_dir

async def main():
    async with open_state_dir(Path(sys.argv[1])) as state:
        state.publish_address(http="http://127.0.0.1:1", ws="ws://127.0.0.1:1/v1/ws")
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, limiter=trio.CapacityLimiter(1))

trio.run(main)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=["umask000", "umask022", "umask777"])
def umask(request: pytest.FixtureRequest) -> Generator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def holder(tmp_path: Path) -> Generator["subprocess.Popen[str]"]:
    """Another process that holds ``tmp_path / "state"``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "state")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


async def test_the_directory_is_ours_alone_under_any_umask(tmp_path: Path, umask: None) -> None:
    path = tmp_path / "deep" / "state"
    async with open_state_dir(path) as state:
        state.publish_address(http="http://x", ws="ws://x")
        assert mode(path) == 0o700
        assert mode(path.parent) == 0o700
        assert {entry.name: mode(entry) for entry in path.iterdir()} == {LOCK_FILE: 0o600, SERVER_FILE: 0o600}


async def test_a_directory_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)  # noqa: PTH101 - the other rule asks for a thread round a Path method
    async with open_state_dir(tmp_path):
        assert mode(tmp_path) == 0o700


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StateDirUnsafe, match="is a link"):
        async with open_state_dir(tmp_path / "link"):
            pass
    assert list((tmp_path / "real").iterdir()) == []
    with pytest.raises(StateDirUnsafe):
        running_server(tmp_path / "link")


async def test_a_file_in_the_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateDirUnsafe, match="not a directory"):
        async with open_state_dir(tmp_path / "state"):
            pass


@pytest.mark.parametrize("planted", [LOCK_FILE, SERVER_FILE])
async def test_a_link_planted_inside_harms_no_file_elsewhere(tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / planted).symlink_to(victim)
    try:
        async with open_state_dir(state_dir) as state:
            state.publish_address(http="http://x", ws="ws://x")
    except StateDirUnsafe:
        assert planted == LOCK_FILE
    assert victim.read_text() == "precious"


async def test_a_pipe_in_the_place_of_the_lock_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK_FILE)
    with pytest.raises(StateDirUnsafe), trio.fail_after(30):
        async with open_state_dir(tmp_path):
            pass


async def test_a_directory_in_the_place_of_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(StateDirUnsafe, match="is a directory; move it away"):
        async with open_state_dir(tmp_path):
            pass


async def test_commands_find_a_server_exactly_while_it_is_ready(tmp_path: Path) -> None:
    assert running_server(tmp_path / "nothing") is None
    async with open_state_dir(tmp_path) as state:
        assert running_server(tmp_path) is None
        state.publish_address(http="http://127.0.0.1:9", ws="ws://127.0.0.1:9/v1/ws")
        found = running_server(tmp_path)
        assert found is not None
        assert (found.pid, found.http, found.ws) == (os.getpid(), "http://127.0.0.1:9", "ws://127.0.0.1:9/v1/ws")
    assert running_server(tmp_path) is None
    assert not (tmp_path / SERVER_FILE).exists()


async def test_a_second_owner_is_refused_and_told_who_the_first_is(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(StateDirLocked) as refused:
        async with open_state_dir(tmp_path / "state"):
            pass
    assert refused.value.owner_pid == holder.pid
    assert "data_dir_locked" in str(refused.value)
    assert f"pid {holder.pid} at http://127.0.0.1:1" in str(refused.value)


async def test_the_directory_is_free_after_its_owner_was_killed(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    assert running_server(tmp_path / "state") is not None
    holder.kill()
    holder.wait(timeout=10)
    assert (tmp_path / "state" / SERVER_FILE).exists()
    assert running_server(tmp_path / "state") is None
    async with open_state_dir(tmp_path / "state"):
        # What the dead one left says nothing about the new one.
        assert running_server(tmp_path / "state") is None


async def test_a_record_that_names_another_process_is_not_believed(tmp_path: Path) -> None:
    async with open_state_dir(tmp_path):
        record = {"pid": 1, "http": "http://x", "ws": "ws://x", "version": "0"}
        (tmp_path / SERVER_FILE).write_text(json.dumps(record))
        assert running_server(tmp_path) is None
        (tmp_path / SERVER_FILE).write_text("no json")
        assert running_server(tmp_path) is None


@pytest.mark.parametrize("looks_s", [0.0, 3.0])
async def test_a_command_that_looks_does_not_stop_a_server_that_starts(
    tmp_path: Path, looks_s: float, autojump_clock: MockClock
) -> None:
    async with open_state_dir(tmp_path):
        pass
    lock = os.open(tmp_path / LOCK_FILE, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)

    async def look_away() -> None:
        await trio.sleep(looks_s)
        os.close(lock)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_away)
            async with open_state_dir(tmp_path):
                pass


async def test_a_lock_that_somebody_shares_for_good_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_state_dir(tmp_path):
        pass
    lock = os.open(tmp_path / LOCK_FILE, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with trio.fail_after(30), pytest.raises(StateDirLocked):
            async with open_state_dir(tmp_path):
                pass
    finally:
        os.close(lock)
