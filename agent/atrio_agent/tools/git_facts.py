"""What git says of a workspace: its repository, branch and status, for a model to read.

Nobody is asked before this, and a repository may have been made to be looked
at. So the branch is read from a file, and git itself is only started where the
repository's own configuration names no program (`programs.is_plain_git`), with
an environment in which git starts nothing, from a program outside of it.
"""

import math
import os
import re
import shlex
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

from atrio_agent.tools.output import counted, shown
from atrio_agent.tools.process import Directory, child_environment, child_path, run_command
from atrio_agent.tools.programs import CAREFUL_GIT, is_plain_git

__all__ = ["Repository", "find_repository", "git_status"]

_MAX_HEAD_BYTES: Final = 1_024
_MAX_BRANCH_CHARS: Final = 200
_MAX_STATUS_BYTES: Final = 64 * 1024
_MAX_STATUS_LINES: Final = 30
_MAX_LINE_CHARS: Final = 200
_BRANCH: Final = re.compile(r"ref: refs/heads/([^\s\x00-\x20\x7f]+)\n?")
_COMMIT: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\n?")
_POINTER: Final = re.compile(r"gitdir: ([^\n\x00]+)\n?")
_STATUS: Final = (
    "--literal-pathspecs -c color.ui=false -c color.status=false -c status.relativePaths=true"
    " status --short --no-branch --no-renames --untracked-files=normal --ignore-submodules=all"
)


class Repository(NamedTuple):
    """Where the nearest repository is. ``branch`` is empty where it is not known.

    ``is_plain``: nothing in it makes git start a program.
    """

    directory: Path
    branch: str
    is_plain: bool


def find_repository(start: Path) -> Repository | None:
    """Find the repository that a directory belongs to; None if there is none, or somebody else may have put it there.

    Parents are looked at up to the file system's or the home directory's edge.
    A parent's repository counts only if it belongs to us or to whom the
    directory belongs: in a directory such as ``/tmp`` anybody can make one.
    Blocks: call it in a worker thread.

    Args:
        start: A resolved directory.

    Raises:
        OSError: The directory cannot be looked at.
    """
    here = start.stat()
    edges = {Path("/"), *_home()}
    for directory in (start, *start.parents):
        if directory != start and (directory in edges or directory.stat().st_dev != here.st_dev):
            return None
        git = directory / ".git"
        try:
            found = git.lstat()
        except OSError:
            continue
        if directory != start and found.st_uid not in (os.geteuid(), here.st_uid):
            return None
        if stat.S_ISDIR(found.st_mode):
            return Repository(directory, _branch(git), is_plain_git(git))
        pointer = _POINTER.fullmatch(_text(git)) if stat.S_ISREG(found.st_mode) else None
        return Repository(directory, _branch(directory / pointer[1]) if pointer else "", is_plain=False)
    return None


async def git_status(repository: Repository, root: Path, *, threads: trio.CapacityLimiter, ends_at: float) -> str:
    """The short status of what is in a directory, bounded; a sentence in its place where there is none.

    Args:
        repository: What `find_repository` has found for ``root``.
        root: The directory.
        threads: For what blocks.
        ends_at: When, in Trio's time, ending git may take no longer. The caller
            cancels before.
    """
    path = await trio.to_thread.run_sync(_outside_path, repository.directory, limiter=threads, abandon_on_cancel=True)
    if not repository.is_plain or os.pathsep in str(repository.directory) or path is None:
        return "(not asked for: the repository has settings of its own, or there is no git)"
    head = _Head()
    directory, beneath = str(repository.directory), str(root.relative_to(repository.directory))
    try:
        ended = await run_command(
            f"exec git -C {shlex.quote(directory)} {_STATUS} -- {shlex.quote(beneath)}",
            # Not in the workspace: a disk that hangs would hold the start, which cannot be cancelled.
            directory=_system_root,
            environment=child_environment("")
            | CAREFUL_GIT
            | {"PATH": path, "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(repository.directory.parent)},
            sink=head,
            threads=threads,
            ends_by=lambda: ends_at,
        )
    except OSError:
        return "(git could not be started)"
    return "(git could not tell)" if ended.exit_code else head.summary()


class _Head:
    """Keeps the beginning of an output and passes over the rest."""

    live_due_at = math.inf

    def __init__(self) -> None:
        self._data = bytearray()

    def flush_live(self) -> None: ...

    async def take(self, data: bytes) -> None:
        self._data += data[: _MAX_STATUS_BYTES - len(self._data)]

    def finish(self) -> None: ...

    def summary(self) -> str:
        lines = self._data.decode(errors="replace").splitlines()
        if not lines:
            return "(nothing changed)"
        kept = [shown(line, max_chars=_MAX_LINE_CHARS) for line in lines[:_MAX_STATUS_LINES]]
        if len(lines) > len(kept):
            more = "at least " if len(self._data) >= _MAX_STATUS_BYTES else ""
            kept.append(f"[{more}{counted(len(lines) - len(kept), 'line')} left out]")
        return "\n".join(kept)


def _system_root() -> Directory:
    return Directory(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), Path("/"))


def _outside_path(directory: Path) -> str | None:
    """A ``PATH`` without what lies in a repository; None if there is no git on it."""
    entries = [entry for entry in child_path().split(os.pathsep) if not Path(entry).resolve().is_relative_to(directory)]
    path = os.pathsep.join(entries)
    git = shutil.which("git", path=path) if path else None
    return path if git is not None and not Path(git).resolve().is_relative_to(directory) else None


def _home() -> list[Path]:
    with suppress(RuntimeError):  # nobody knows where that is
        return [Path.home().resolve()]
    return []


def _branch(git: Path) -> str:
    text = _text(git / "HEAD")
    if (branch := _BRANCH.fullmatch(text)) is not None:
        return shown(branch[1], max_chars=_MAX_BRANCH_CHARS)
    return f"none, at commit {commit[1][:12]}" if (commit := _COMMIT.fullmatch(text)) else ""


def _text(file: Path) -> str:
    """A small plain file; empty if it is anything else."""
    with suppress(OSError, ValueError):
        if stat.S_ISREG(file.lstat().st_mode):
            with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
                return opened.read(_MAX_HEAD_BYTES).decode()
    return ""
