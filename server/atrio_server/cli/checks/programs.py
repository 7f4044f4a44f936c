"""What Atrio is made of, and the programs that it uses where they are there.

ripgrep and git are looked for exactly where the tools look for them. None of the
two is needed: without them searching is slower, and the model is told less.
"""

import os
import platform
import shutil
import subprocess
import sys
from typing import Final

import trio

from atrio_agent.tools.process import child_path
from atrio_agent.tools.ripgrep import installed_ripgreps, is_usable
from atrio_protocol.version import PROTOCOL_VERSION, VERSION
from atrio_server.cli.checks.finding import Finding, ok, problem, warning

__all__ = ["check_git", "check_grammar", "check_install", "check_ripgrep"]

VERSION_S: Final = 5.0
"""How long a program may take to say its version."""


def check_install() -> Finding:
    """What runs here; there is nothing wrong with that."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ok("atrio", f"{VERSION} (protocol {PROTOCOL_VERSION}), {python}, {platform.platform(terse=True)}")


def check_grammar() -> Finding:
    """Whether shell commands can be read, without which none runs unasked."""
    name = "shell grammar"
    try:
        # Loads a compiled library, which may be missing or of another machine.
        from atrio_agent.tools.commands import plain_commands

        good = plain_commands("git status") == (("git", "status"),)
        why = "it does not understand `git status`"
    except (ImportError, OSError, AttributeError, TypeError, ValueError) as exc:
        good, why = False, str(exc)
    if good:
        return ok(name, "tree-sitter reads shell commands")
    return problem(name, f"tree-sitter does not work: {why}", f"install Atrio again for {sys.executable}")


async def check_ripgrep() -> Finding:
    """Which ripgrep the search uses, if any."""
    name = "ripgrep"
    fix = "install ripgrep (the program rg), 13 or newer"
    programs = installed_ripgreps()
    for program in programs:
        with trio.move_on_after(VERSION_S):
            if await is_usable(program):
                return ok(name, f"{_bare(await _version(str(program)))} ({program})")
    if programs:
        return warning(name, f"{programs[0]} cannot be used, so that searching is slower", fix)
    return warning(name, "not found, so that searching is slower", fix)


async def check_git() -> Finding:
    """Which git the facts about a repository come from, if any."""
    git = shutil.which("git", path=child_path())
    if git is None:
        sentence = "not found, so that the model knows nothing of branches and changes"
        return warning("git", sentence, "install git, and see that it is on PATH")
    if version := await _version(git):
        return ok("git", f"{_bare(version)} ({git})")
    return warning("git", f"{git} does not say its version", "install git again, or put another one first on PATH")


async def _version(program: str) -> str:
    """The first line of what ``--version`` prints; empty if it fails."""
    try:
        with trio.fail_after(VERSION_S):
            done = await trio.run_process(
                [program, "--version"],
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                env={"PATH": child_path(), "HOME": os.environ.get("HOME", "/")},
            )
    except (OSError, subprocess.SubprocessError, trio.TooSlowError):
        return ""
    return next(iter(done.stdout.decode(errors="replace").splitlines()), "")


def _bare(version: str) -> str:
    """The version's number alone, where the line looks as expected."""
    return next((word for word in version.split() if word[:1].isdigit()), version)
