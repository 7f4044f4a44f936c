"""Commands as processes: what they get, what is kept of what they say, and that nothing outlives them."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from atrio_agent.tools import orphans, process
from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.capture import Capture
from atrio_agent.tools.leftovers import end_leftovers
from atrio_agent.tools.orphans import become_reaper, shows_processes
from atrio_agent.tools.process import Directory, Ended, child_environment, child_path, run_command
from command_rig import STUBBORN, Heard, exists, marked, mine, opener, unmarked

LIMIT_S = 60


class Rig:
    """Runs commands in the workspace."""

    def __init__(self, root: Path, file: Path) -> None:
        self.root = root
        self.file = file
        self.heard = Heard()
        self.threads = trio.CapacityLimiter(4)
        self.capture = Capture(file, self.heard, self.threads)

    async def __call__(
        self,
        command: str,
        *,
        run_id: str = "run",
        directory: Callable[[], Directory] | None = None,
        environment: Mapping[str, str] | None = None,
        by: float | None = None,
    ) -> Ended:
        with trio.fail_after(LIMIT_S):
            return await run_command(
                command,
                directory=directory or opener(self.root),
                environment=environment or child_environment(run_id),
                sink=self.capture,
                threads=self.threads,
                ends_by=lambda: by,
            )


@pytest.fixture
async def rig(root: Path, tmp_path: Path, whole_output: None) -> Rig:
    become_reaper()
    return Rig(root, tmp_path / "all.txt")


async def test_both_outputs_come_in_the_order_in_which_they_were_written(rig: Rig) -> None:
    ended = await rig("echo one; echo two >&2; echo three; exit 7")
    assert rig.capture.text() == "one\ntwo\nthree\n"
    assert ended == Ended(7, 0)


async def test_a_disk_that_stands_still_costs_a_command_that_ends_by_itself_none_of_its_output(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Capture.take

    async def take_late(capture: Capture, data: bytes) -> None:
        await trio.testing.wait_all_tasks_blocked(0.5)  # until nothing but this keeps the command from its end
        await real(capture, data)

    monkeypatch.setattr(Capture, "take", take_late)
    monkeypatch.setattr(process, "_DRAIN_S", 0.0)
    await rig("echo one; echo two")
    assert rig.capture.text() == "one\ntwo\n"


async def test_a_command_ended_by_a_signal_has_the_exit_status_of_a_shell(rig: Rig) -> None:
    assert (await rig("kill -KILL $$")).exit_code == 137


async def test_a_command_has_no_terminal_no_input_and_a_session_of_its_own(rig: Rig) -> None:
    await rig("cat; tty; ps -o pid=,sid=,pgid= $$ 2>/dev/null || cut -d' ' -f1,5,6 /proc/$$/stat; (: </dev/tty) 2>&1")
    said = rig.capture.text().splitlines()
    assert said[0] == "not a tty"
    assert len(set(said[1].split())) == 1
    assert "No such device" in said[2]


async def test_a_command_has_no_open_file_of_ours(rig: Rig, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        careless = fcntl.fcntl(file, fcntl.F_DUPFD, 63)  # to be inherited: as a library may open it
        try:
            await rig("for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; umask")
        finally:
            os.close(careless)
    *open_files, umask = rig.capture.text().splitlines()
    assert {int(fd) for fd in open_files} <= {0, 1, 2, 3, 255}  # two are the shell's own
    assert int(umask, 8) & 0o022 == 0o022


async def test_a_command_runs_where_it_is_told(rig: Rig) -> None:
    await rig("pwd; pwd -P; echo $PWD")
    assert rig.capture.text().splitlines() == [str(rig.root)] * 3


async def test_a_directory_that_is_replaced_by_a_link_after_it_was_opened_does_not_lead_out(
    rig: Rig, outside: Path
) -> None:
    (rig.root / "sub").mkdir()

    def swapped() -> Directory:
        opened = opener(rig.root / "sub")()
        (rig.root / "sub").rename(rig.root / "moved")
        (rig.root / "sub").symlink_to(outside)
        return opened

    await rig("pwd -P", directory=swapped)
    assert rig.capture.text() == f"{rig.root / 'moved'}\n"


async def test_a_directory_that_is_refused_starts_nothing(rig: Rig) -> None:
    def refuse() -> Directory:
        raise ToolFailed("not here")

    with pytest.raises(ToolFailed, match="not here"):
        await rig("touch made", directory=refuse)
    assert not (rig.root / "made").exists()


def test_the_environment_is_an_allow_list() -> None:
    ours = {
        "PATH": "/bin::.:rel/bin:/usr/bin",
        "HOME": "/home/x",
        "LC_TIME": "C",
        "OPENAI_API_KEY": "k",
        "ATRIO_TOKEN": "t",
        "BASH_ENV": "/evil",
        "BASH_FUNC_ls%%": "() { :; }",
        "LD_PRELOAD": "/evil.so",
        "TERM": "xterm",
        "GIT_DIR": "/elsewhere",
        "SSH_AUTH_SOCK": "/s",
    }
    assert child_environment("r1", ours) == {
        "PATH": "/bin:/usr/bin",
        "HOME": "/home/x",
        "LC_TIME": "C",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "ATRIO_RUN": "r1",
    }
    assert child_path({"PATH": "."}) == "/usr/local/bin:/usr/bin:/bin"


async def test_nothing_of_our_environment_reaches_a_command_unnamed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "very secret")
    monkeypatch.setenv("SOME_TOKEN", "very secret")
    await rig("env; cat /proc/self/environ")
    assert "secret" not in rig.capture.text()
    assert "ATRIO_RUN=run" in rig.capture.text()


async def test_short_output_makes_no_file(rig: Rig) -> None:
    await rig("echo short")
    assert not rig.capture.is_cut
    assert not rig.file.exists()


async def test_long_output_keeps_head_and_tail_and_all_of_it_in_a_private_file(rig: Rig) -> None:
    await rig("seq 1 50000")
    text = rig.capture.text()
    assert len(text) <= 30_000
    assert rig.capture.is_cut
    head, _, rest = text.partition("\n[… ")
    count, _, tail = rest.partition(f" characters left out; all is in {rig.file} …]\n")
    whole = "".join(f"{number}\n" for number in range(1, 50_001))
    assert whole.startswith(head) and whole.endswith(tail)
    assert len(head) + int(count.replace(",", "")) + len(tail) == len(whole)
    assert rig.file.read_text() == whole
    assert rig.file.stat().st_mode & 0o777 == 0o600


async def test_a_character_that_comes_in_pieces_is_whole_and_bad_bytes_are_replaced(rig: Rig) -> None:
    await rig(r"printf '\xe2\x82'; printf '\xac \xff \xf0\x9f\x98'")
    assert rig.capture.text() == "€ \ufffd \ufffd"


async def test_a_file_that_cannot_be_written_costs_only_the_file(rig: Rig) -> None:
    rig.file.mkdir()
    ended = await rig("seq 1 50000")
    assert ended.exit_code == 0
    assert rig.capture.text().endswith("\n50000\n")
    assert "all is in" not in rig.capture.text()


async def test_live_output_comes_while_the_command_runs(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig, "echo ready; while [ ! -e go ]; do sleep 0.01; done; echo done")
        with trio.fail_after(LIMIT_S):
            assert await rig.heard.until(lambda text: text.endswith("\n")) == "ready\n"
        (rig.root / "go").touch()
    assert rig.heard.text == "ready\ndone\n"


async def test_a_flood_is_bounded_in_memory_and_for_those_who_watch_and_holds_nobody_up(rig: Rig) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await rig("head -c 104857600 /dev/zero | tr '\\0' x")
        nursery.cancel_scope.cancel()
    assert len(rig.capture.text()) <= 30_000
    assert "the first 64 MiB are in" in rig.capture.text()
    assert rig.file.stat().st_size == 64 * 1024 * 1024
    assert sum(map(len, rig.heard.pieces)) < 50 * 1024 * 1024
    assert max(map(len, rig.heard.pieces)) <= 40_000
    assert "characters left out" in rig.heard.text
    assert turns > 1_000


async def test_what_a_command_leaves_running_ends_with_it(rig: Rig) -> None:
    ended = await rig(
        "sleep 1000 & setsid sleep 1000 & (setsid sleep 1000 &) & wait %3; echo done", run_id=mine("left-1")
    )
    assert ended.exit_code == 0
    assert ended.left_running >= 2
    assert rig.capture.text() == "done\n"
    assert marked(mine("left-1")) == []


async def test_a_cancel_ends_everything_however_it_resists(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig(STUBBORN, run_id=mine("stubborn-1")))
        with trio.fail_after(LIMIT_S):
            pids = await rig.heard.pids(4)
        assert len(set(pids)) == 4
        assert set(pids) <= set(marked(mine("stubborn-1")))
        nursery.cancel_scope.cancel()
    assert marked(mine("stubborn-1")) == []
    assert [pid for pid in pids if exists(pid)] == []  # reaped as well


async def test_a_process_that_hides_its_environment_is_found_by_its_parents(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig("env -i setsid bash -c 'echo pid $$; read -t 1000 <> <(:)' & wait"))
        with trio.fail_after(LIMIT_S):
            (pid,) = await rig.heard.pids(1)
        nursery.cancel_scope.cancel()
    assert not exists(pid)


async def test_a_stopped_process_is_ended_too(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig("sleep 1000 & echo pid $!; kill -STOP $!; wait", run_id=mine("stopped-1")))
        with trio.fail_after(LIMIT_S):
            await rig.heard.pids(1)
        nursery.cancel_scope.cancel()
    assert marked(mine("stopped-1")) == []


async def test_a_command_may_say_goodbye_when_it_is_asked_to_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_GRACE_S", LIMIT_S)  # its turn may come late
    async with trio.open_nursery() as nursery:
        goodbye = "trap 'echo bye; exit 0' TERM; echo pid $$; while :; do sleep 0.01; done"
        nursery.start_soon(lambda: rig(goodbye, by=trio.current_time() + LIMIT_S))
        with trio.fail_after(LIMIT_S):
            await rig.heard.pids(1)
        nursery.cancel_scope.cancel()
    assert rig.heard.text.endswith("bye\n")


async def test_when_the_time_is_over_everything_is_killed_and_not_waited_for(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig(STUBBORN, run_id=mine("deadline-1"), by=trio.current_time()))
        with trio.fail_after(LIMIT_S):
            await rig.heard.pids(4)
        nursery.cancel_scope.cancel()
    with trio.fail_after(LIMIT_S):
        await unmarked(mine("deadline-1"))


async def test_an_orphan_that_was_dead_before_anybody_looked_is_reaped(rig: Rig) -> None:
    await rig("""
        mkfifo go
        (setsid bash -c '(read _ <go) & echo $! >pid' &)
        until [ -s pid ]; do sleep 0.01; done
        state() { cut -d' ' -f"$1" "/proc/$(cat pid)/stat"; }
        until [ "$(state 4)" = "$PPID" ]; do sleep 0.01; done
        echo >go
        until [ "$(state 3)" = Z ]; do sleep 0.01; done
        echo pid $(cat pid)
    """)
    (pid,) = await rig.heard.pids(1)
    assert not exists(pid)


def ended_and_not_reaped(code: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sh", "-c", f"exit {code}"], env={**os.environ, "ATRIO_RUN": "run"})
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


async def test_nobody_elses_exit_status_is_taken(rig: Rig) -> None:
    processes = [ended_and_not_reaped(42), ended_and_not_reaped(43)]
    await rig("(setsid true &) & sleep 1000 &")
    assert [process.poll() for process in processes] == [42, 43]


async def test_without_proc_commands_run_and_no_leftover_is_looked_for(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shows_processes() and not shows_processes(tmp_path)
    monkeypatch.setattr(orphans, "_HAS_PROC", shows_processes(tmp_path))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is not there"))
    assert (await rig("echo said")).exit_code == 0
    assert await end_leftovers("nobody") == 0
