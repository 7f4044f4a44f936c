"""The token of a state directory: made once, kept in a file that only its owner reads.

The file appears whole or not at all: it is written under another name, synced
and then linked, so that a reader, a crash and a second maker see either no
token or a complete one. Everything happens relative to the opened directory,
and never through a link that somebody planted there.

Nothing here prints or logs a token. The invariant: what is returned was read
from, or written to, a regular file of ours with mode 0600.
"""

import os
import re
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["TOKEN_FILE", "TokenFileUnsafe", "load_or_make_token", "rotate_token"]

TOKEN_FILE: Final = "token"  # noqa: S105  the name of its file
"""Its name in the state directory."""

TOKEN_BYTES: Final = 32
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class TokenFileUnsafe(Exception):
    """The token cannot be trusted, or the place where it should be. The sentence says what to do."""


def load_or_make_token(state_dir: Path) -> str:
    """Return the token of a state directory; make it if there is none yet.

    Two makers at once end up with the same token.

    Raises:
        TokenFileUnsafe: The directory or the file may be in other hands. Nothing was changed.
        OSError: The file could not be read or written. There is a complete token or none.
    """
    with _opened(state_dir) as directory:
        try:
            return _read(directory, state_dir)
        except FileNotFoundError:
            pass
        draft = _write_draft(directory)
        try:
            # A link fails where the name is taken, and so the first maker wins.
            with suppress(FileExistsError):
                os.link(draft, TOKEN_FILE, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.unlink(draft, dir_fd=directory)
        os.fsync(directory)
        return _read(directory, state_dir)


def rotate_token(state_dir: Path) -> str:
    """Replace the token by a fresh one and return it. A link of that name is replaced, not followed.

    Raises:
        TokenFileUnsafe: The directory may be in other hands. Nothing was changed.
        OSError: It could not be written. The old token or the new one is there, whole.
    """
    with _opened(state_dir) as directory:
        draft = _write_draft(directory)
        try:
            os.rename(draft, TOKEN_FILE, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(draft, dir_fd=directory)
            raise
        os.fsync(directory)
        return _read(directory, state_dir)


@contextmanager
def _opened(state_dir: Path) -> Generator[int]:
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


def _read(directory: int, state_dir: Path) -> str:
    path = state_dir / TOKEN_FILE
    try:
        # Without O_NONBLOCK a pipe of that name would hold us here for ever.
        file = os.open(TOKEN_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise TokenFileUnsafe(f"{path} cannot be read as a plain file ({exc.strerror}); delete it") from exc
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise TokenFileUnsafe(f"{path} is not a plain file of yours; delete it and look for who put it there")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise TokenFileUnsafe(
                f"{path} can be read by others; delete it, and the next start makes another (chmod 600 keeps this one)"
            )
        text = os.read(file, 1024).decode("ascii", "replace").removesuffix("\n")
    finally:
        os.close(file)
    if not TOKEN.fullmatch(text):
        raise TokenFileUnsafe(f"{path} holds no token; delete it, and the next start makes one")
    return text


def _write_draft(directory: int) -> str:
    """Write a fresh token under a name that nobody can know beforehand, and return that name."""
    name = f".{TOKEN_FILE}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, mode=0o600, dir_fd=directory)
    try:
        os.fchmod(file, 0o600)  # a umask can also take away too much
        os.write(file, secrets.token_urlsafe(TOKEN_BYTES).encode("ascii") + b"\n")
        os.fsync(file)
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(file)
    return name
