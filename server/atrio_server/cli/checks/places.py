"""The files that Atrio lives on: its state directory, the token in it, and the configuration.

The state directory is looked at, not made; whether it can be written is found
out by writing. What is wrong in a project's file does not keep its workspace
from opening, but whoever wrote it wants to know.
"""

import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from atrio_server.cli.checks.finding import Finding, ok, problem, warning
from atrio_server.config.file import ConfigFile
from atrio_server.config.table import setting_of
from atrio_server.config.workspace import Project
from atrio_server.token import TOKEN_FILE, TokenFileUnsafe, load_or_make_token

__all__ = [
    "check_project_file",
    "check_space",
    "check_state_dir",
    "check_token",
    "check_user_file",
]

FULL_BYTES: Final = 50 * 1000 * 1000
SCARCE_BYTES: Final = 1000 * 1000 * 1000
_ANOTHER: Final = "name a directory of yours with --state-dir or ATRIO_STATE_DIR"


def check_state_dir(path: Path) -> Finding:
    """Whether it is ours alone and can be written, or can be made."""
    name = "state directory"
    if not os.path.lexists(path):
        parent = _nearest(path)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return ok(name, f"{path} is not there yet; it is made when it is needed")
        return problem(name, f"{path} cannot be made: {parent} cannot be written", _ANOTHER)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        what = "a link" if stat.S_ISLNK(info.st_mode) else "not a directory"
        return problem(name, f"{path} is {what}", _ANOTHER)
    if info.st_uid != os.geteuid():
        return problem(name, f"{path} belongs to the user with id {info.st_uid}", _ANOTHER)
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077 or mode & 0o700 != 0o700:
        sentence = f"{path} has mode {mode:04o}, and should be yours alone"
        return problem(name, sentence, f"chmod 700 {shlex.quote(str(path))}")
    try:
        _write_probe(path)
    except OSError as exc:
        return problem(
            name, f"{path} cannot be written: {exc.strerror}", f"make room and look at the disk, or {_ANOTHER}"
        )
    return ok(name, f"{path}, yours alone and writable")


def check_space(path: Path) -> Finding:
    """Whether there is room for what is stored."""
    name = "free space"
    status = os.statvfs(_nearest(path))
    free_bytes = status.f_bavail * status.f_frsize
    detail = f"{free_bytes / 1e9:.1f} GB where the state directory is"
    fix = "make room, or move the state directory (--state-dir, ATRIO_STATE_DIR)"
    if free_bytes < FULL_BYTES:
        return problem(name, detail, fix)
    return warning(name, detail, fix) if free_bytes < SCARCE_BYTES else ok(name, detail)


def check_token(state_dir: Path) -> Finding:
    """Whether the token is one, and for its owner's eyes only."""
    name, path = "token", state_dir / TOKEN_FILE
    if not os.path.lexists(path):
        return ok(name, "there is none yet; it is made when it is needed")
    quoted = shlex.quote(str(path))
    info = path.lstat()
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISREG(info.st_mode) and mode & 0o077:
        fix = f"chmod 600 {quoted}; if others may have read it, atrio token rotate"
        return problem(name, f"{path} has mode {mode:04o}, so that others can use your server", fix)
    try:
        load_or_make_token(state_dir)
    except TokenFileUnsafe as exc:
        return problem(name, str(exc), f"rm {quoted}; the next start makes another")
    return ok(name, f"{path}, mode {mode:04o}")


def check_user_file(file: ConfigFile) -> Finding:
    """Whether the user's own file can be used, and keeps its keys to itself."""
    name = "configuration"
    if file.problems:
        return problem(name, _first(file.problems), f"edit {file.path}; a server does not start with it as it is")
    if not file.digest:
        return ok(name, f"{file.path} is not there; the defaults hold")
    mode = stat.S_IMODE(file.path.stat().st_mode)
    if mode & 0o077 and any(_is_secret(key) for key in file.values):
        sentence = f"{file.path} has mode {mode:04o}, so that others could read the keys in it"
        return warning(name, sentence, f"chmod 600 {shlex.quote(str(file.path))}")
    return ok(name, str(file.path))


def check_project_file(project: Project, root: Path) -> Finding:
    """Whether the project's file can be used, and whether all of it counts."""
    name, path = "project", project.file.path
    untrusted = bool(project.guarded) and not project.trusted
    # What needs trust is told last.
    mistakes = project.problems[:-1] if untrusted else project.problems
    if mistakes:
        return problem(name, _first(mistakes), f"edit {path}; what is wrong in it is ignored")
    if untrusted:
        sentence = project.problems[-1].partition(";")[0]
        return warning(name, sentence, f"look at it, and then: atrio config trust {shlex.quote(str(root))}")
    if not project.file.digest:
        return ok(name, f"{root} has no configuration of its own")
    return ok(name, f"{path}, trusted" if project.guarded else str(path))


def _nearest(path: Path) -> Path:
    """The directory itself, or the nearest above it that is there."""
    return next((part for part in (path, *path.parents) if os.path.lexists(part)), path)


def _write_probe(directory: Path) -> None:
    """Write, sync and rename a file, as the store and the token do."""
    draft, final = directory / f".doctor.{os.getpid()}.new", directory / f".doctor.{os.getpid()}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        draft.rename(final)
    finally:
        for left in (draft, final):
            left.unlink(missing_ok=True)


def _is_secret(key: str) -> bool:
    return setting_of(key).secret or key.endswith((".env", ".headers"))


def _first(problems: Iterable[str]) -> str:
    first, *others = problems
    return f"{first} (and {len(others)} more; see `atrio config show`)" if others else first
