"""Questions of the real server, answered by real commands: on a terminal, from another one, and without any."""

import json
import re
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_process import COMMAND, Atrio, Started
from pty_rig import on_terminal

OLD, NEW = 'def greet(name):\n    return "hi"\n', 'def greet(name):\n    return f"hi {name}"\n'
READ = {"tool": "read", "input": {"path": "greet.py"}}
EDIT = {"tool": "edit", "input": {"path": "greet.py", "old": '"hi"', "new": 'f"hi {name}"'}}

SCRIPT: dict[str, Any] = {
    "name": "changes",
    "turns": [
        {"match": "^change", "responses": [[{"say": "Reading it."}, READ], [EDIT], [{"say": "changed"}]]},
        {
            "match": "^job",
            "responses": [
                [{"tool": "todos", "input": {"todos": [{"content": "fix it", "status": "in_progress"}]}}, READ],
                [EDIT],
                [{"tool": "shell", "input": {"command": "cat greet.py; exit 3"}}],
                [{"say": "done"}],
            ],
        },
        {"match": "^delegate", "responses": [[{"tool": "task", "input": {"prompt": "outside"}}], [{"say": "told"}]]},
        {"match": "^outside", "responses": [[{"tool": "ls", "input": {"path": "/usr/share"}}], [{"say": "looked"}]]},
        {"responses": [[{"say": "you said: {{prompt}}"}]]},
    ],
}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of all models here."""
    made = tmp_path_factory.mktemp("script") / "script.json"
    made.write_text(json.dumps(SCRIPT))
    return made


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory, script: Path) -> Generator[Path]:
    """The state directory of a server that asks; all tests of this module share it."""
    first = Atrio(tmp_path_factory.mktemp("server"))
    words = ("serve", "--port", "0", "--model", f"script:{script}", "--test-hooks")
    with subprocess.Popen([*COMMAND, *words], env=first.environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert json.loads(server.stdout.readline())["event"] == "ready"
        yield first.state_dir
        server.terminate()
        assert server.wait(timeout=60) == 0


@pytest.fixture
def atrio(tmp_path: Path, state_dir: Path) -> Atrio:
    """Commands in a directory of this test with one file, and the shared server."""
    made = Atrio(tmp_path)
    made.environ |= {"ATRIO_STATE_DIR": str(state_dir), "USER": "Ann"}
    (made.directory / "greet.py").write_text(OLD)
    return made


def text(atrio: Atrio) -> str:
    return (atrio.directory / "greet.py").read_text()


async def asked_for(atrio: Atrio, count: int = 1) -> list[list[str]]:
    """The questions that wait in the directory, as soon as there are so many: id, time, title."""
    with trio.fail_after(30):
        while True:
            done = await atrio("permissions")
            assert done.code == 0
            rows = [line.split("\t") for line in done.out.splitlines()]
            if len(rows) >= count:
                return rows


@pytest.mark.parametrize(("key", "after"), [("y", NEW), ("n", OLD)])
async def test_a_person_sees_the_change_and_decides(atrio: Atrio, key: str, after: str) -> None:
    async with on_terminal(atrio, "run", "change") as seat:
        shown = await seat.see("allow? ")
        assert "? Edit greet.py  needs permission\n  greet.py +1 -1\n" in shown
        assert '     2 -     return "hi"\n     2 +     return f"hi {name}"\n' in shown
        assert "always: any edit in this directory, in this session" in shown
        assert text(atrio) == OLD
        seat.type(key)
        assert await seat.end() == 0
    assert text(atrio) == after


async def test_always_is_for_the_session_and_can_be_taken_back(atrio: Atrio) -> None:
    async with on_terminal(atrio, "run", "change") as seat:
        await seat.see("allow? ")
        seat.type("a")
        assert await seat.end() == 0
    (atrio.directory / "greet.py").write_text(OLD)
    done = await atrio("run", "-c", "change")  # nobody is there to be asked, and nothing is
    assert (done.code, text(atrio)) == (0, NEW)
    grant_id, _, by, *what = (await atrio("permissions", "grants")).out.rstrip("\n").split("\t")
    assert (by, what) == ("Ann", ["edit", "write", str(atrio.directory.resolve())])
    assert (await atrio("permissions", "revoke", grant_id)).code == 0
    assert (await atrio("permissions", "grants")).out == ""
    gone = await atrio("permissions", "revoke", grant_id)
    assert (gone.code, "there is no grant" in gone.err) == (4, True)
    (atrio.directory / "greet.py").write_text(OLD)
    assert (await atrio("run", "-c", "change")).code == 5
    assert text(atrio) == OLD


@pytest.mark.parametrize(
    ("words", "prompt", "code", "after"),
    [
        ((), "change", 5, OLD),
        (("--approve", "none"), "change", 5, OLD),
        (("--approve", "ask"), "change", 5, OLD),
        (("--approve", "reads"), "change", 5, OLD),
        (("--approve", "all"), "change", 0, NEW),
        (("--approve", "reads"), "outside", 0, OLD),
        (("--approve", "reads"), "delegate", 0, OLD),
        (("--approve", "none"), "outside", 5, OLD),
    ],
)
async def test_without_a_terminal_the_policy_of_the_command_answers(
    atrio: Atrio, words: tuple[str, ...], prompt: str, code: int, after: str
) -> None:
    done = await atrio("run", *words, prompt)
    assert (done.code, text(atrio)) == (code, after)
    assert ("denied by policy" in done.err) is (code == 5)


async def test_a_whole_job_is_told_line_by_line(atrio: Atrio) -> None:
    done = await atrio("run", "--approve", "all", "job")
    assert (done.code, done.out) == (0, "done\n")
    told = re.sub(r"  \d+\.\d s$", "", done.err, flags=re.MULTILINE).split("configuration\n", 1)[1].splitlines()
    assert "✗ $ cat greet.py; exit 3  exit 3" in [re.sub(r" · .*", "", line) for line in told]
    assert told.count("  ▸ fix it") == 1 and "Kept:" not in done.err and "[Exit status" not in done.err
    assert '  def greet(name):\n      return f"hi {name}"\n' in done.err


async def test_somebody_else_answers_from_another_terminal(atrio: Atrio) -> None:
    async with on_terminal(atrio, "run", "change") as seat:
        await seat.see("allow? ")
        ((permission_id, _, title),) = await asked_for(atrio)
        assert title == "Edit greet.py"
        whole = await atrio("permissions", "show", permission_id)
        assert 'return f"hi {name}"' in whole.out
        answered = await atrio("permissions", "allow", permission_id, USER="Mara")
        assert answered.code == 0
        assert await seat.end() == 0
    assert "(answered by Mara)" in seat.shown.text and "allow? " not in seat.shown.text
    late = await atrio("permissions", "reject", permission_id)
    assert (late.code, "by Mara" in late.err) == (1, True)
    assert text(atrio) == NEW


async def test_two_terminals_talk_to_one_session_and_one_answers(atrio: Atrio) -> None:
    async with on_terminal(atrio, columns=100, lines=40) as ann:
        await ann.see("/help lists")
        ann.type("change\r")
        await ann.see("allow? ")
        async with on_terminal(atrio, "attach", columns=60, lines=40, USER="Mara") as mara:
            await mara.see("allow? ")
            assert "> Ann: change" in mara.shown.text and "2 here" in await mara.see("2 here")
            mara.type("y\r")
            await ann.see("(answered by Mara)")
            await mara.see(lambda shown: "changed" in shown and "allow? " not in shown)
            mara.type("\x04")
            assert await mara.end() == 0
        await ann.see(lambda shown: "changed" in shown and "allow? " not in shown)
        ann.type("\x04")
        assert await ann.end() == 0
    assert text(atrio) == NEW


async def test_ctrl_c_at_a_question_cancels_and_nothing_is_changed(atrio: Atrio) -> None:
    async with on_terminal(atrio, "run", "change") as seat:
        await seat.see("allow? ")
        seat.type("\x03")
        assert await seat.end() == 130
        assert seat.mode() == seat.usual_mode
    assert "no longer asked: the run was cancelled" in seat.shown.text.replace("\n  ", " ")
    assert text(atrio) == OLD and (await atrio("permissions")).out == ""


async def test_only_the_questions_of_the_own_run_are_answered(atrio: Atrio) -> None:
    left = (await atrio("run", "--no-wait", "delegate")).out.strip()
    ((permission_id, *_),) = await asked_for(atrio)
    assert (await atrio("run", "--approve", "all", "delegate")).code == 0
    assert [row[0] for row in await asked_for(atrio)] == [permission_id]
    assert (await atrio("permissions", "reject", permission_id)).code == 0
    assert (await atrio("wait", left)).code == 0


async def test_a_session_is_forked_exported_and_summed_up(atrio: Atrio) -> None:
    assert (await atrio("run", "--approve", "all", "change")).code == 0
    forked = (await atrio("sessions", "fork", "last")).out.strip()
    assert (await atrio("run", "-s", forked, "and then")).out == "you said: and then\n"
    exported = await atrio("export", forked)
    assert "## User (Ann)" in exported.out and "and then" in exported.out
    assert "```diff\n" in exported.out and '\n+    return f"hi {name}"\n' in exported.out
    whole = json.loads((await atrio("export", forked, "--format", "json")).out)
    assert whole["session"]["sessionId"] == forked
    summed = await atrio("summarize", forked)
    assert summed.code == 0 and summed.out.strip()


async def test_a_command_of_ones_own_is_not_asked_about_and_its_output_is_told_once(atrio: Atrio) -> None:
    assert (await atrio("run", "hello")).code == 0
    done = await atrio("shell", "last", "cat greet.py; exit 3")
    assert (done.code, done.out, done.err) == (0, f"{OLD}[Exit status 3.]\n", "")
    async with on_terminal(atrio, "shell", "last", "echo once") as seat:
        assert await seat.end() == 0
    assert seat.shown.text.count("  once") == 1


@asynccontextmanager
async def serving(atrio: Atrio, script: Path, *words: str) -> AsyncGenerator[Started]:
    async with atrio.started("serve", "--port", "0", "--model", f"script:{script}", *words) as server:
        await server.read_out("\n")
        yield server


@pytest.fixture
def alone(tmp_path: Path) -> Atrio:
    """Commands with a state directory of this test."""
    made = Atrio(tmp_path)
    (made.directory / "greet.py").write_text(OLD)
    return made


async def test_a_server_that_denies_gives_the_exit_code_of_a_policy(alone: Atrio, script: Path) -> None:
    async with serving(alone, script, "--permissions", "deny"):
        done = await alone("run", "--approve", "all", "change")
    assert (done.code, text(alone)) == (5, OLD)
    assert "rejected by the server's policy" in done.err


async def test_a_server_that_dies_at_a_question_comes_back_without_it(alone: Atrio, script: Path) -> None:
    async with serving(alone, script) as first, on_terminal(alone, "run", "change") as seat:
        await seat.see("allow? ")
        first.process.send_signal(signal.SIGKILL)
        await first.process.wait()
        await seat.see("the connection is lost")
        async with serving(alone, script):
            assert await seat.end() == 1
            assert "the server died during the run" in seat.shown.text.replace("\n", " ")
            assert "allow? " not in seat.shown.text
            assert (await alone("permissions")).out == ""
    assert text(alone) == OLD


async def test_the_demo_model_shows_a_question_without_any_key(alone: Atrio) -> None:
    async with on_terminal(alone, "run", "--standalone", "-m", "demo", "write hello.txt good day") as seat:
        shown = await seat.see("allow? ")
        assert "  hello.txt +1  new file\n     1 + good day\n" in shown
        seat.type("y")
        assert await seat.end() == 0
    assert (alone.directory / "hello.txt").read_text() == "good day\n"
    done = await alone("run", "--standalone", "-m", "demo", "--approve", "all", "run cat hello.txt; exit 2")
    assert done.code == 0 and "The command ended with status 2." in done.out and "  good day\n" in done.err
