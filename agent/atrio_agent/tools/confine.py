"""Paths stay beneath the workspace, or where somebody allowed a call to go.

Finding out where a path leads and opening it are two steps, and a link may be
swapped between them. So the second step follows no link at all: it walks from
the base directory's descriptor, one name at a time, and where it meets a link
that the first step had not seen, both are done again. What `open_beneath`
yields was therefore beneath its base when it was opened, whatever others do.

Neither ``~`` nor variables are expanded. A second hard link to an outside file
cannot be told from a file of the workspace, and is treated as one. Everything
here blocks: call it in a worker thread.
"""

import errno
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.output import shown

__all__ = [
    "TRIES",
    "Inside",
    "LinkMet",
    "Opened",
    "Outside",
    "apparent_path",
    "ask_to_read",
    "classify",
    "closed_beneath",
    "failure_of",
    "find",
    "open_beneath",
    "open_exactly",
    "open_parent",
    "refuse_special",
]

_NEVER: Final = ("/proc", "/sys", "/dev")
"""The system's own trees: what lies there is no file of anybody's, and reading it may block or tell secrets."""

TRIES: Final = 10
"""How often a path is looked at again because a link was met on the way."""

_MAX_PATH_BYTES: Final = 4_095
_MAX_LINKS: Final = 40
_ON_THE_WAY: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, so that a pipe without a writer does not hold the thread before it is recognised.
_AT_THE_END: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LinkMet(Exception):
    """A link stands where none was seen before. Nothing is open."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The path leads to ``resolved``, beneath ``base``. The file need not exist."""

    resolved: Path
    base: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """The names that lead from ``base`` to the file; none, if it is the base itself."""
        return self.resolved.relative_to(self.base).parts


@dataclass(frozen=True, slots=True)
class Outside:
    """The path leads to ``resolved``, which is beneath no directory that is open to us."""

    resolved: Path


@dataclass(frozen=True, slots=True)
class Opened:
    """A file or directory that is open for reading. The descriptor belongs to who opened it."""

    fd: int
    at: Inside
    status: os.stat_result

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def apparent_path(path: str, root: Path) -> str:
    """Where a path seems to lead: absolute, links not followed, nothing looked at. For showing only."""
    return shown(os.path.normpath(root / path))


def closed_beneath(start: Path, closed: Sequence[Path] = ()) -> frozenset[tuple[str, ...]]:
    """The trees below a directory that are closed to tools, whatever was allowed, by the names that lead there.

    Args:
        start: A resolved directory that a tool may enter.
        closed: Closed directories beside those of the system, resolved.
    """
    trees = (*map(Path, _NEVER), *closed)
    return frozenset(tree.relative_to(start).parts for tree in trees if tree != start and tree.is_relative_to(start))


def ask_to_read(path: str, place: Place, title: str) -> Ask | None:
    """What must be allowed before this path is read: nothing in the workspace, its directory outside.

    Raises:
        ToolFailed: As `classify`.
    """
    at = classify(path, place.root, place.allowed, place.closed)
    if isinstance(at, Inside):
        return None
    where = at.resolved if at.resolved.is_dir() else at.resolved.parent
    return Ask(action="read", title=title, where=str(where), path=str(at.resolved))


def find(path: str, place: Place) -> Inside:
    """Where a path leads, as things stand now, if this call may go there.

    Raises:
        ToolFailed: As `classify`; or it is outside, and that was not permitted.
    """
    at = classify(path, place.root, place.allowed, place.closed)
    if isinstance(at, Inside):
        return at
    if not place.permitted:
        raise ToolFailed(
            f"'{shown(path)}' is outside the workspace {shown(str(place.root))}, and nobody has permitted that."
            " Work with paths inside the workspace, or ask the user to copy the file into it."
        )
    if place.permitted_where is not None and not at.resolved.is_relative_to(place.permitted_where):
        raise ToolFailed(
            f"'{shown(path)}' is outside the workspace and leads to another place now than the one that was"
            " permitted. Try again."
        )
    return Inside(at.resolved, Path("/"))


def classify(path: str, root: Path, allowed: Sequence[Path] = (), closed: Sequence[Path] = ()) -> Inside | Outside:
    """Follow all links and say where a path leads, as things stand now.

    The answer may be old in the next instant: use it to ask for permission or
    to explain, and `open_beneath` to read.

    Args:
        path: As the model gave it; relative ones begin at ``root``.
        root: The workspace's directory, resolved.
        allowed: Further directories that are open to this call, resolved.
        closed: Directories that no permission opens, resolved, beside those of
            the system. The workspace and what is allowed stay open where one of them holds it.

    Raises:
        ToolFailed: It is not a path, its links go round in circles, or it leads
            into a directory that no permission opens.
    """
    try:
        size_bytes = len(str(root / path).encode())
    except UnicodeEncodeError:
        raise ToolFailed(f"'{shown(path, max_chars=80)}' is not a path: it is not valid text.") from None
    if "\0" in path:
        raise ToolFailed(f"'{shown(path)}' is not a path: it has a NUL character.")
    if size_bytes > _MAX_PATH_BYTES:
        raise ToolFailed(f"'{shown(path, max_chars=80)}' is not a path: it is {size_bytes:,} bytes long.")
    resolved = _resolve(path, root, allowed, closed)
    try:
        str(resolved).encode()
    except UnicodeEncodeError:
        if not resolved.is_relative_to(root):  # nobody can be asked about a place that cannot be named
            raise ToolFailed(f"'{shown(path)}' leads to a place whose name is not valid text.") from None
    for base in (root, *allowed):
        if resolved.is_relative_to(base):
            return Inside(resolved, base)
    return Outside(resolved)


@contextmanager
def open_beneath(path: str, place: Place) -> Generator[Opened]:
    """Open a file or directory for reading, and close it on the way out.

    An `OSError` of the body becomes a `ToolFailed` as well: it is about this file.

    Args:
        path: As the model gave it; relative ones begin at the workspace.
        place: Where and for whom.

    Raises:
        ToolFailed: It is outside and that was not permitted, is not there, may not be read, is neither file
            nor directory, or changes faster than it can be opened. Nothing stays open.
    """
    try:
        fd, at = _open_checked(path, place)
        try:
            yield Opened(fd, at, os.fstat(fd))
        finally:
            os.close(fd)
    except OSError as exc:
        raise failure_of(path, place.root, exc) from exc


def open_exactly(base: Path, parts: Sequence[str]) -> int:
    """Open what these names lead to from ``base``, following no link; the descriptor is the caller's.

    Raises:
        LinkMet: One of the names is a link, or no name but a way up.
        ToolFailed: It is a device, pipe or socket.
        OSError: It cannot be opened.
    """
    if any(name in {"", ".", ".."} or "/" in name for name in parts):
        raise LinkMet("/".join(parts))
    if not parts:
        return os.open(base, _AT_THE_END | os.O_DIRECTORY)
    fd = os.open(base, _ON_THE_WAY)
    try:
        for name in parts[:-1]:
            below = _open_unlinked(name, _ON_THE_WAY, fd)
            os.close(fd)
            fd = below
        # Looked at before it is opened: opening a device can already do something.
        refuse_special(os.stat(parts[-1], dir_fd=fd, follow_symlinks=False), parts[-1])
        found = _open_unlinked(parts[-1], _AT_THE_END, fd)
    finally:
        os.close(fd)
    try:
        refuse_special(os.fstat(found), parts[-1])
    except BaseException:
        os.close(found)
        raise
    return found


def open_parent(base: Path, parts: Sequence[str], *, make: bool) -> int:
    """Open the directory that holds the last of these names, following no link; the descriptor is the caller's.

    Args:
        base: Where to begin.
        parts: The names that lead to a file; at least one.
        make: Whether to make the directories that are not there.

    Raises:
        LinkMet: One of the names before the last is a link.
        OSError: It cannot be opened or made; what was made until then stays.
    """
    fd = os.open(base, _ON_THE_WAY)
    try:
        for name in parts[:-1]:
            try:
                below = _open_unlinked(name, _ON_THE_WAY, fd)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
                below = _open_unlinked(name, _ON_THE_WAY, fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_checked(path: str, place: Place) -> tuple[int, Inside]:
    for _ in range(TRIES):
        at = find(path, place)
        try:
            return open_exactly(at.base, at.parts), at
        except LinkMet:
            continue
    raise ToolFailed(f"'{shown(path)}' is being replaced all the time and could not be opened. Try again.")


def _resolve(path: str, root: Path, allowed: Sequence[Path], closed: Sequence[Path]) -> Path:
    # What is open to us may lie in what is closed, and is open there then; nothing else is.
    opened = (root, *(base for base in allowed if base not in closed))
    trees = (*map(Path, _NEVER), *closed)
    barred = {tree for tree in trees if not any(base.is_relative_to(tree) for base in opened)}
    resolved, links = Path("/"), 0
    todo = list(reversed((root / path).parts))
    while todo:
        name = todo.pop()
        if name.startswith("/"):  # an absolute path, or an absolute link: begin anew
            resolved = Path("/")
            continue
        if name == "..":
            resolved = resolved.parent
            continue
        here = resolved / name
        if here in barred:
            raise ToolFailed(f"'{shown(path)}' leads into {shown(str(here))}, which is closed to tools.")
        try:
            target = here.readlink()
        except OSError as exc:
            if exc.errno == errno.ENAMETOOLONG:
                raise ToolFailed(f"'{shown(path, max_chars=80)}' is not a path: a name in it is too long.") from exc
            resolved = here  # no link, not there, or not ours to see: opening it will tell
            continue
        links += 1
        if links > _MAX_LINKS:
            raise ToolFailed(f"'{shown(path)}' goes through links that go round in circles.")
        todo.extend(reversed(target.parts))
    innermost = max((base for base in opened if resolved.is_relative_to(base)), key=_depth, default=None)
    for tree in closed:
        if resolved.is_relative_to(tree) and (innermost is None or not innermost.is_relative_to(tree)):
            raise ToolFailed(f"'{shown(path)}' leads into {shown(str(tree))}, which is closed to tools.")
    return resolved


def _depth(path: Path) -> int:
    return len(path.parts)


def _open_unlinked(name: str, flags: int, dir_fd: int) -> int:
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except OSError as exc:
        # A link is ENOTDIR or ELOOP, depending on the flags and the system.
        if exc.errno in {errno.ENOTDIR, errno.ELOOP, errno.EMLINK} and _is_link(name, dir_fd):
            raise LinkMet(name) from exc
        raise


def _is_link(name: str, dir_fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)


def refuse_special(status: os.stat_result, name: str) -> None:
    """Refuse what is neither file nor directory.

    Raises:
        LinkMet: It is a link.
        ToolFailed: It is a device, pipe or socket.
    """
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        raise LinkMet(name)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ToolFailed(f"'{shown(name)}' is {kind}, not a file. It was not opened.")


def failure_of(path: str, root: Path, exc: OSError) -> ToolFailed:
    """What to tell the model of an operation on this path that the system refused."""
    name = shown(path, max_chars=200)
    match exc.errno:
        case errno.ENOENT if not root.is_dir():
            return ToolFailed(f"The workspace {shown(str(root))} is gone.")
        case errno.ENOENT:
            hint = " '~' and variables are not expanded." if path.startswith("~") or "$" in path else ""
            return ToolFailed(f"'{name}' does not exist.{hint} See what is there with ls or glob.")
        case errno.ENOTDIR:
            return ToolFailed(f"'{name}' does not exist: a part of it is a file, not a directory.")
        case errno.EACCES | errno.EPERM:
            return ToolFailed(f"'{name}' may not be read: permission denied by the operating system.")
        case _:
            return ToolFailed(f"'{name}' cannot be read: {exc.strerror or exc}.")
