"""The process that searches: how it is started, and that it never outlives its search."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from atrio_agent.tools import ripgrep as ripgrep_module
from atrio_agent.tools.ripgrep import installed_ripgreps, is_usable, open_search, ripgrep_command, scan_command


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_ripgrep_that_is_installed_with_us_will_do(ripgrep: Path) -> None:
    assert ripgrep.parent == Path(sys.executable).parent
    with trio.fail_after(60):
        assert await is_usable(ripgrep)


def test_a_relative_directory_on_the_path_is_no_place_for_a_program(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "rg").write_text("#!/bin/sh\n")
    (root / "rg").chmod(0o755)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PATH", f".:{os.pathsep}{os.environ['PATH']}")
    assert all(program.is_absolute() and program.parent != root for program in installed_ripgreps())
    monkeypatch.setenv("PATH", str(root))
    assert installed_ripgreps()[-1] == root / "rg"


@pytest.mark.parametrize("how", ["cancelled", "left early", "left by an error"])
async def test_a_running_ripgrep_is_gone_when_its_search_is_left(
    how: str, ripgrep: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ripgrep_module, "_ENDING_S", 60)  # it may be long before it has the turn to end
    os.mkfifo(root / "pipe")  # named outright, it makes ripgrep wait for a writer
    command = ripgrep_command(ripgrep, "x", "pipe", literal=False, max_lines=1)
    pid = 0
    with trio.fail_after(60):
        with suppress(ZeroDivisionError), trio.CancelScope() as scope:
            async with open_search(command, cwd=root) as search:
                pid = search._process.pid
                assert is_alive(pid)
                if how == "cancelled":
                    scope.cancel()
                    await search.next_found()
                if how == "left by an error":
                    raise ZeroDivisionError
    assert not is_alive(pid)


async def test_a_search_knows_nothing_of_our_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", "/etc/x")
    program = root / "say"
    program.write_text('#!/bin/sh\nenv > "$1"\nexit 1\n')
    program.chmod(0o755)
    with trio.fail_after(60):
        async with open_search([str(program), str(root / "environment")], cwd=root) as search:
            assert await search.next_found() is None
    told = {line.partition("=")[0] for line in (root / "environment").read_text().splitlines()}
    # A shell adds the last ones by itself.
    assert told <= {*ripgrep_module._ENVIRONMENT, "PWD", "OLDPWD", "SHLVL", "_"}


async def test_a_program_that_cannot_be_started_leaves_nothing_behind(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_search([str(root / "rg")], cwd=root):
            pass


def scan(root: Path, names: bytes, *, pattern: str = "x", max_lines: int = 10) -> subprocess.CompletedProcess[bytes]:
    command = scan_command(pattern, literal=False, max_lines=max_lines)
    return subprocess.run(command, input=names, cwd=root, capture_output=True, timeout=60, check=False)


def test_our_own_scan_passes_over_what_is_no_file_any_more(root: Path) -> None:
    (root / "a").write_text("x\n")
    (root / "link").symlink_to("a")
    (root / "dir").mkdir()
    os.mkfifo(root / "pipe")
    done = scan(root, b"gone\0link\0dir\0pipe\0a\0")
    assert done.returncode == 0
    assert done.stdout.count(b'"match"') == 1
    assert done.stderr == b""


def test_our_own_scan_takes_names_that_are_no_utf8(root: Path) -> None:
    (root / os.fsdecode(b"\xff\n")).write_text("x\n")
    done = scan(root, b"\xff\n\0")
    assert done.returncode == 0
    assert b'"path": {"bytes": "/wo="}' in done.stdout


def test_our_own_scan_uses_nothing_from_where_it_is_started(root: Path) -> None:
    (root / "json.py").write_text("raise SystemExit(9)")
    (root / "re.py").write_text("raise SystemExit(9)")
    assert scan(root, b"").returncode == 0
