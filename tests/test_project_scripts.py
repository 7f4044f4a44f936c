"""The scripts that make the environment, on a machine that is not as it should be.

Each test has a checkout of its own with nothing in it but the scripts, and a
PATH with nothing on it but what the test puts there. What a real installation
does is seen by CI, which begins without an environment.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = "trio==0.35.0 --hash=sha256:00\n"


class Checkout:
    """A directory with Atrio's scripts, and the machine that it lies on."""

    def __init__(self, path: Path) -> None:
        self.root = path / "check out"  # the space is meant
        self.programs = path / "bin"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "requirements.txt").write_text(LOCK)
        self.programs.mkdir()
        for name in ("bash", "cmp", "readlink"):
            found = shutil.which(name)
            assert found
            (self.programs / name).symlink_to(found)

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def make_environment(self, *, lock: str = LOCK) -> None:
        """What a finished installation leaves behind, with an `atrio` that says how it was called."""
        made = self.root / ".venv/made-from"
        made.mkdir(parents=True)
        (made / "root").write_text(str(self.root))
        (made / "requirements.txt").write_text(lock)
        self.program(str(self.root / ".venv/bin/python"), "exit 9")
        self.program(str(self.root / ".venv/bin/atrio"), 'echo "$PWD|$*"')

    def start(
        self, *arguments: str, cwd: Path | None = None, script: Path | None = None, env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run `scripts/atrio`; its exit code and all that it printed."""
        done = subprocess.run(
            [script or self.root / "scripts/atrio", *arguments],
            cwd=cwd or self.root,
            env={"PATH": str(self.programs), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_finished_environment_is_used_without_another_step(checkout: Checkout, tmp_path: Path) -> None:
    checkout.make_environment()
    assert checkout.start("run", "map this project", cwd=tmp_path) == (0, f"{tmp_path}|run map this project\n")


def test_the_script_works_through_a_link(checkout: Checkout, tmp_path: Path) -> None:
    checkout.make_environment()
    link = tmp_path / "atrio"
    link.symlink_to(checkout.root / "scripts/atrio")
    assert checkout.start("version", cwd=tmp_path, script=link) == (0, f"{tmp_path}|version\n")


@pytest.mark.parametrize("change", ["lock", "place", "unfinished"])
def test_an_environment_that_does_not_fit_is_made_anew(checkout: Checkout, change: str) -> None:
    checkout.make_environment(lock="trio==0.34.0\n" if change == "lock" else LOCK)
    if change == "place":
        (checkout.root / ".venv/made-from/root").write_text("/elsewhere")
    if change == "unfinished":
        (checkout.root / ".venv/made-from/unfinished").touch()
    checkout.program("python3", 'case "$1" in -c) echo "$0" ;; *) echo "making: ${1##*/} $2 $3"; exit 7 ;; esac')
    assert checkout.start("version") == (7, "making: environment.py atrio requirements.txt\n")


def test_a_machine_without_python_is_told_what_is_missing(checkout: Checkout) -> None:
    code, said = checkout.start("version")
    assert (code, said) == (1, "atrio: Python 3.11 or newer is needed, and there is none on the PATH.\n")


def test_an_old_python_is_named(checkout: Checkout) -> None:
    checkout.program("python3", "echo False")
    assert checkout.start("version") == (1, "atrio: Python 3.11 or newer is needed, and python3 is older.\n")


def test_a_python_that_cannot_make_environments_is_named_with_the_way_out(checkout: Checkout) -> None:
    checkout.program("python3", 'case "$2" in *venv*) exit 1 ;; *) echo "$0" ;; esac')
    code, said = checkout.start("version")
    assert code == 1
    assert "apt install python3-venv" in said


def test_a_python_without_environments_is_passed_over_for_one_that_can(checkout: Checkout) -> None:
    checkout.program("python3.13", 'case "$2" in *venv*) exit 1 ;; *) echo "$0" ;; esac')
    checkout.program("python3", 'case "$1" in -c) echo "$0" ;; *) echo "making with ${0##*/}"; exit 7 ;; esac')
    assert checkout.start("version") == (7, "making with python3\n")


def test_an_unreachable_registry_is_one_sentence_and_leaves_nothing_that_looks_finished(checkout: Checkout) -> None:
    checkout.program("python3", f'exec "{sys.executable}" "$@"')
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    code, said = checkout.start("version", env=nowhere)
    assert code == 1
    assert said.splitlines()[-1] == (
        "atrio: the package registry could not be reached. Once there is a network, start again."
    )
    assert (checkout.root / ".venv/made-from/unfinished").exists()
