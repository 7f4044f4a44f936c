"""One file's content replaced by another, whole or not at all.

What is to be written is worked out from what the file holds, twice: when
somebody is asked, and again when it is done. The second time it is written
beside the file, kept as a version, and takes the file's name in one step, all
relative to a directory that was reached without following a link. So a reader
finds the old or the new content, and a link that was swapped in meanwhile is
replaced at worst, never written through.

Invariant: nothing is replaced that the session has not seen as it is. Blocks:
call it in a worker thread.
"""

import codecs
import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import trio

from atrio_agent.tools.base import FileSeen, FileVersion, Place, ToolFailed
from atrio_agent.tools.confine import TRIES, Inside, LinkMet, failure_of, find, open_parent, refuse_special
from atrio_agent.tools.linediff import changes, lines_of, unified
from atrio_agent.tools.output import counted, shown, shown_path
from atrio_agent.tools.sight import MAX_CHANGED_BYTES, content_of, seen_as
from atrio_agent.tools.threads import Chance
from atrio_protocol.limits import INLINE_DIFF_BYTES
from atrio_protocol.parts import Diff
from atrio_protocol.struct import UNSET

__all__ = ["Change", "Rewrite", "Rewritten", "make_change", "plan_change"]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHER_MARKS: Final = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Rewritten(NamedTuple):
    """What a file is to hold, and what is to be said about it beside that."""

    text: str
    notes: tuple[str, ...] = ()


Rewrite = Callable[[str | None], Rewritten]
"""Makes the new text of the old one; None where there is no file. Pure; raises `ToolFailed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be done to one file. ``status`` is that of the file as it was; None where there was none."""

    at: Inside
    status: os.stat_result | None
    before: bytes | None
    after: bytes
    diff: Diff
    added: int
    removed: int
    notes: tuple[str, ...]

    def summary(self, root: Path, *, done: bool) -> str:
        """Such as ``Changed src/a.py: 2 lines added, 1 removed.``, or ``Changes …`` while it is only planned."""
        verb = ("Made" if done else "Makes") if self.before is None else ("Changed" if done else "Changes")
        counts = f"{counted(self.added, 'line')} added" + (f", {self.removed:,} removed" if self.before else "")
        return " ".join([f"{verb} {shown_path(self.at.resolved, root)}: {counts}.", *self.notes])


def plan_change(path: str, place: Place, rewrite: Rewrite) -> Change:
    """Work out a change, and touch nothing.

    Raises:
        ToolFailed: It cannot be made.
    """
    try:
        for _ in range(TRIES):
            at = find(path, place)
            try:
                found = _look(path, at, place)
            except LinkMet:
                continue
            return _planned(path, at, found, place, rewrite)
    except OSError as exc:
        raise failure_of(path, place.root, exc) from exc
    raise ToolFailed(f"'{shown(path)}' is being replaced all the time and could not be opened. Try again.")


def make_change(path: str, place: Place, rewrite: Rewrite, chance: Chance) -> tuple[Change, FileSeen]:
    """Work out a change and make it; also what the file is from then on.

    Directories that are not there are made, beneath the workspace only.

    Raises:
        ToolFailed: It cannot be made. The file is as it was.
    """
    for _ in range(TRIES):
        change = plan_change(path, place, rewrite)
        if place.permitted_where not in {None, str(change.at.resolved.parent)}:
            raise ToolFailed(f"'{shown(path)}' leads to another place now than the one that was permitted. Try again.")
        try:
            return change, _done(path, change, place, chance)
        except LinkMet:
            continue
        except OSError as exc:
            raise _refusal(path, exc) from exc
    raise ToolFailed(f"'{shown(path)}' is being replaced all the time and could not be changed. Try again.")


class _Found(NamedTuple):
    status: os.stat_result
    content: bytes


def _look(path: str, at: Inside, place: Place) -> _Found | None:
    """The file as it is, if it may be changed; None if there is none."""
    name = shown(path, max_chars=200)
    if not at.parts:
        raise ToolFailed(f"'{name}' is a directory, not a file.")
    try:
        directory = open_parent(at.base, at.parts, make=False)
    except FileNotFoundError:
        if at.base != place.root or not place.root.is_dir():
            raise
        return None
    try:
        try:
            status = os.stat(at.parts[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        refuse_special(status, at.parts[-1])
        if stat.S_ISDIR(status.st_mode):
            raise ToolFailed(f"'{name}' is a directory, not a file.")
        if status.st_mode & 0o222 == 0 or not os.access(at.parts[-1], os.W_OK, dir_fd=directory):
            raise ToolFailed(f"'{name}' is read-only. Ask the user whether it may be changed.")
        if status.st_size > MAX_CHANGED_BYTES:
            raise ToolFailed(f"'{name}' has {status.st_size:,} bytes; the limit for a change is {MAX_CHANGED_BYTES:,}.")
        if str(at.resolved) not in place.seen:
            raise ToolFailed(f"'{name}' has not been read in this session. Read it, then change it.")
        return _opened(at.parts[-1], directory, place.seen[str(at.resolved)], name)
    finally:
        os.close(directory)


def _opened(entry: str, directory: int, seen: FileSeen, name: str) -> _Found:
    try:
        fd = os.open(entry, _READ, dir_fd=directory)
    except OSError as exc:
        if exc.errno in {errno.ELOOP, errno.EMLINK}:
            raise LinkMet(entry) from exc
        raise
    try:
        status = os.fstat(fd)
        refuse_special(status, entry)
        content = content_of(fd)
    finally:
        os.close(fd)
    if seen_as(status, content) != seen:
        raise ToolFailed(f"'{name}' has changed since it was read. Read it again, then change it.")
    return _Found(status, content)


def _planned(path: str, at: Inside, found: _Found | None, place: Place, rewrite: Rewrite) -> Change:
    name = shown(path, max_chars=200)
    try:
        str(at.resolved).encode()
    except UnicodeEncodeError:
        raise ToolFailed(f"'{name}' has a name that is not valid text; such a file is not changed.") from None
    content = None if found is None else found.content
    has_mark = content is not None and content.startswith(codecs.BOM_UTF8)
    old = None if content is None else _text_of(content, name)
    new, notes = rewrite(old)
    after = (codecs.BOM_UTF8 + new.removeprefix("\ufeff").encode()) if has_mark else new.encode()
    if len(after) > MAX_CHANGED_BYTES:
        raise ToolFailed(f"'{name}' would have {len(after):,} bytes; the limit is {MAX_CHANGED_BYTES:,}.")
    if found is not None and found.status.st_nlink > 1:
        notes += ("It had other hard links; they keep the old content.",)
    lines = changes(lines_of(old or ""), lines_of(new))
    is_large = max(len(content or b""), len(after)) > INLINE_DIFF_BYTES
    return Change(
        at=at,
        status=None if found is None else found.status,
        before=content,
        after=after,
        diff=Diff(
            path=str(at.resolved),
            old_text=UNSET if is_large else old,
            new_text=UNSET if is_large else new,
            unified=unified(shown_path(at.resolved, place.root).lstrip("/"), old, new),
        ),
        added=sum(each.new_end - each.new_start for each in lines),
        removed=sum(each.old_end - each.old_start for each in lines),
        notes=notes,
    )


def _text_of(content: bytes, name: str) -> str:
    if content.startswith(_OTHER_MARKS):
        raise ToolFailed(f"'{name}' is UTF-16 or UTF-32 text. Only UTF-8 text can be changed.")
    if b"\0" in content:
        raise ToolFailed(f"'{name}' is a binary file. Only UTF-8 text can be changed.")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as exc:
        raise ToolFailed(f"'{name}' is not UTF-8 text (byte {exc.start:,}). Only UTF-8 text can be changed.") from exc


def _done(path: str, change: Change, place: Place, chance: Chance) -> FileSeen:
    directory = open_parent(change.at.base, change.at.parts, make=change.at.base == place.root)
    try:
        return _replaced(path, change, place, chance, directory)
    finally:
        os.close(directory)


def _replaced(path: str, change: Change, place: Place, chance: Chance, directory: int) -> FileSeen:
    entry = change.at.parts[-1]
    beside = f".{secrets.token_hex(8)}.atrio"
    # With the usual mode for a new file; closed to others until it has its own, where that is to be kept.
    fd = os.open(beside, _MAKE, 0o666 if change.status is None else 0o600, dir_fd=directory)
    try:
        try:
            _fill(fd, change, path)
            seen = seen_as(os.fstat(fd), change.after)
        finally:
            os.close(fd)
        _check_unchanged(path, change, directory)
        if not chance.take():
            raise ToolFailed("It was given up.")
        version = FileVersion(path=str(change.at.resolved), before=change.before, after=change.after)
        trio.from_thread.run_sync(place.keep_version, version)
        _check_unchanged(path, change, directory)
        if change.status is not None or not _linked(beside, entry, directory):
            os.rename(beside, entry, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)
    with suppress(OSError):  # it is done; that it also survives a loss of power is all that is missing
        _sync_directory(directory)
    return seen


def _fill(fd: int, change: Change, path: str) -> None:
    rest = memoryview(change.after)
    while rest:
        rest = rest[os.write(fd, rest) :]
    if change.status is not None:
        mine = os.fstat(fd)
        if (mine.st_uid, mine.st_gid) != (change.status.st_uid, change.status.st_gid):
            try:
                os.fchown(fd, change.status.st_uid, change.status.st_gid)
            except PermissionError as exc:
                raise ToolFailed(
                    f"'{shown(path, max_chars=200)}' belongs to another user or group, which a change would not keep."
                ) from exc
        os.fchmod(fd, stat.S_IMODE(change.status.st_mode) & 0o777)
    os.fsync(fd)


def _check_unchanged(path: str, change: Change, directory: int) -> None:
    try:
        now = os.stat(change.at.parts[-1], dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        now = None
    if _identity(now) != _identity(change.status):
        raise ToolFailed(f"'{shown(path, max_chars=200)}' has just been changed by somebody else. Read it again.")


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    if status is None:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


def _linked(beside: str, entry: str, directory: int) -> bool:
    """Give the new file its name, unless something has that name by now; False where there are no hard links."""
    try:
        os.link(beside, entry, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError as exc:
        raise ToolFailed("Somebody else has just made a file of that name. Read it first.") from exc
    except OSError as exc:
        if exc.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            return False
        raise
    return True


def _sync_directory(directory: int) -> None:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refusal(path: str, exc: OSError) -> ToolFailed:
    name = shown(path, max_chars=200)
    match exc.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ToolFailed(f"'{name}' may not be written: {exc.strerror}. Nothing was changed.")
        case errno.ENOTDIR:
            return ToolFailed(f"'{name}' cannot be made: a part of it is a file, not a directory.")
        case errno.ENAMETOOLONG:
            return ToolFailed(f"'{name}' cannot be made: a name in it is too long.")
        case _:
            return ToolFailed(f"'{name}' cannot be written: {exc.strerror or exc}. Nothing was changed.")
