"""How files with tokens are read and written in a state directory.

Everything happens relative to the opened directory, which must be ours, and never
through a link that somebody planted there. A file appears whole: it is written
under a name that nobody can know, synced, and then given its own.

What is in the files is not known here. The invariant: what is returned was read
from, and what is written goes into, a regular file of ours that nobody else may open.
"""

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["TokenFileUnsafe", "opened_state_dir", "put_file", "read_file", "says_no_plain_file", "write_draft"]

_NO_PLAIN_FILE: Final = {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENXIO, errno.EPERM}


class TokenFileUnsafe(Exception):
    """A token cannot be trusted, or the place where it should be. The sentence says what to do."""


def says_no_plain_file(error: OSError) -> bool:
    """Whether a file that cannot be opened is at fault itself. A full disk or too many open files say nothing of it."""
    return error.errno in _NO_PLAIN_FILE


@contextmanager
def opened_state_dir(state_dir: Path) -> Generator[int]:
    """Open the directory, which is to be ours alone.

    Raises:
        TokenFileUnsafe: Others can write into it.
        OSError: It cannot be opened.
    """
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        info = os.fstat(directory)
        if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise TokenFileUnsafe(
                f"{state_dir} can be written by others; make it yours alone (chmod 700) or choose another --state-dir"
            )
        yield directory
    finally:
        os.close(directory)


def read_file(directory: int, path: Path, *, if_open_to_others: str, max_bytes: int) -> bytes:
    """Read the file of a path's last name in a directory.

    Args:
        directory: The opened state directory.
        path: The whole path, for sentences.
        if_open_to_others: What to do where others may open it, for the sentence.
        max_bytes: More is not read.

    Raises:
        FileNotFoundError: There is none.
        TokenFileUnsafe: It is not a plain file of ours, or others may open it.
        OSError: It cannot be read now, which says nothing of the file.
    """
    try:
        # Without O_NONBLOCK a pipe of that name would hold us here for ever.
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as exc:
        if not says_no_plain_file(exc):
            raise
        raise TokenFileUnsafe(f"{path} cannot be read as a plain file ({exc.strerror}); delete it") from exc
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise TokenFileUnsafe(f"{path} is not a plain file of yours; delete it and look for who put it there")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise TokenFileUnsafe(f"{path} can be read by others; {if_open_to_others}")
        with os.fdopen(file, "rb", closefd=False) as opened:
            return opened.read(max_bytes)
    finally:
        os.close(file)


def write_draft(directory: int, name: str, data: bytes) -> str:
    """Write what is to become the file ``name``, under another name, and return that.

    Raises:
        OSError: It could not be written. Nothing is left of it.
    """
    draft = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(draft, flags, mode=0o600, dir_fd=directory)
    try:
        with os.fdopen(file, "wb") as opened:
            os.fchmod(file, 0o600)  # a umask can also take away too much
            opened.write(data)
            opened.flush()
            os.fsync(file)
    except BaseException:
        os.unlink(draft, dir_fd=directory)
        raise
    return draft


def put_file(directory: int, name: str, data: bytes) -> None:
    """Write the file ``name``, in the place of whatever had that name. A link is replaced, not followed.

    Raises:
        OSError: It could not be written. What was there before is there, or the new one, whole.
    """
    draft = write_draft(directory, name, data)
    try:
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(draft, dir_fd=directory)
        raise
    os.fsync(directory)
