"""Make `.venv` what a lock file asks for. Run by scripts/environment.sh, when it is not.

Needs nothing but the Python that runs it and a package registry. Nothing is
built: every package comes as a wheel whose hash is in the lock, and Atrio itself
is not installed but pointed at, so that a change in the checkout is at once
what runs.

An environment with the file `made-from/unfinished` is never used; whoever finds
it begins anew. Two starts at once take turns, and the second finds the work done.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MADE = VENV / "made-from"
UNFINISHED = MADE / "unfinished"
RUNTIME_LOCK = "requirements.txt"
DEV_LOCK = "requirements-dev.txt"

UNREACHABLE = ("connection broken", "Could not fetch URL", "Temporary failure", "ConnectTimeout", "NewConnectionError")
PIP_CHATTER = ("Collecting ", "Ignoring ", "Looking in ", "WARNING: Retrying ", " ")
# What would send the packages elsewhere, or bring in others.
FOREIGN = ("PIP_PREFIX", "PIP_TARGET", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME", "PYTHONPATH")

# A shell finds the interpreter, as a first line of its own could not: paths may be long or hold spaces.
LAUNCHER = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
'''
import sys

from atrio_server.cli import main

sys.exit(main())
"""


class InstallFailed(Exception):
    """The environment could not be made. It is marked unfinished."""


def main(name: str, lock: str) -> int:
    """Make the environment and return the exit code; ``name`` begins every line that is printed."""

    def say(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)

    turn = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another start is installing already; waiting for it")
        fcntl.flock(turn, fcntl.LOCK_EX)
    if _holds(lock):
        return 0
    started = time.monotonic()
    try:
        _make(lock, say, turn)
    except InstallFailed as exc:
        say(str(exc))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next start begins anew")
        return 130
    say(f"installed in {time.monotonic() - started:.0f} s")
    return 0


def _holds(lock: str) -> bool:
    """Whether the environment is finished, belongs to this place and was made from this lock."""
    try:
        return (
            not UNFINISHED.exists()
            and (MADE / "root").read_text() == str(ROOT)
            and (MADE / lock).read_bytes() == (ROOT / lock).read_bytes()
            and os.access(VENV / "bin" / "python", os.X_OK)
        )
    except OSError:
        return False


def _make(lock: str, say: Callable[[str], None], turn: int) -> None:
    if not _holds(RUNTIME_LOCK):
        say(f"making {VENV} with Python {sys.version.split()[0]}; this happens once")
        if VENV.is_symlink() or VENV.is_file():
            raise InstallFailed(f"{VENV} is in the way: it is not a directory. Remove it and start again.")
        shutil.rmtree(VENV, ignore_errors=True)
        MADE.mkdir(parents=True)
    UNFINISHED.touch()
    if not (VENV / "bin" / "python").exists():
        venv.create(VENV, symlinks=True, with_pip=True)
    _install(lock, say, turn)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(VENV), "platbase": str(VENV)}))
    (site / "atrio.pth").write_text("".join(f"{ROOT / part}\n" for part in ("protocol", "agent", "server")))
    launcher = VENV / "bin" / "atrio"
    launcher.write_text(LAUNCHER.format(python=VENV / "bin" / "python"))
    launcher.chmod(0o755)
    for done in (RUNTIME_LOCK, lock):
        shutil.copyfile(ROOT / done, MADE / done)
    (MADE / "root").write_text(str(ROOT))
    UNFINISHED.unlink()


def _install(lock: str, say: Callable[[str], None], turn: int) -> None:
    """Install every package of the lock.

    Raises:
        InstallFailed: pip gave up. Its last lines have been said.
    """
    say(f"installing what {lock} lists")
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--retries=2", "-r", str(ROOT / lock)]
    # pip inherits our turn: should we be killed, the next start waits until it is gone too.
    with subprocess.Popen(
        command,
        env={name: value for name, value in os.environ.items() if name not in FOREIGN},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[turn],
        text=True,
    ) as pip:
        assert pip.stdout is not None
        fetched = 0
        lines: list[str] = []
        for line in pip.stdout:
            lines.append(line.rstrip())
            if line.startswith("Collecting "):
                fetched += 1
                if fetched % 10 == 0:
                    say(f"{fetched} packages fetched")
            elif line.startswith("Installing collected packages"):
                say(f"all {fetched} packages fetched; unpacking")
    if pip.returncode != 0:
        for line in [line for line in lines if not line.startswith(PIP_CHATTER)][-8:]:
            say(f"pip: {line}")
        if any(sign in line for line in lines for sign in UNREACHABLE):
            raise InstallFailed("the package registry could not be reached. Once there is a network, start again.")
        raise InstallFailed("the packages could not be installed.")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
