"""Which projects' files are trusted: a directory, and the digest of the one text that somebody looked at.

Another text of that file is another file, and asks again. The store is
``trust.json`` in the state directory: ours alone, replaced whole, and never
reached through a link. One that cannot be read trusts nothing.

What a trusted file may do is no business of this module.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from atrio_server.statedir import StateDirUnsafe, make_state_dir, open_private

__all__ = ["TRUST_FILE", "TrustStore"]

TRUST_FILE: Final = "trust.json"
"""Its name in the state directory."""

_LOCK_FILE: Final = "trust.lock"
_MAX_BYTES: Final = 4 * 1024 * 1024


class _Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says: the digest that is trusted, by the directory."""

    directories: dict[str, str]


class TrustStore:
    """The trusted files of one state directory. Reads it anew each time. Blocks."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.path = state_dir / TRUST_FILE

    def holds(self, directory: Path, digest: str) -> bool:
        """Whether a file with this digest is trusted in this directory (resolved)."""
        return bool(digest) and self._read().get(_name(directory)) == digest

    def add(self, directory: Path, digest: str) -> None:
        """Trust this file, instead of whatever was trusted there.

        Raises:
            StateDirUnsafe, StateDirUnusable, OSError: Nothing was changed.
        """

        def put(directories: dict[str, str]) -> None:
            directories[_name(directory)] = digest

        self._change(put)

    def remove(self, directory: Path) -> bool:
        """Trust no file there any more; returns whether one was.

        Raises:
            StateDirUnsafe, StateDirUnusable, OSError: Nothing was changed.
        """
        was_there = False

        def drop(directories: dict[str, str]) -> None:
            nonlocal was_there
            was_there = directories.pop(_name(directory), None) is not None

        self._change(drop)
        return was_there

    def _read(self) -> dict[str, str]:
        try:
            file = open_private(self.path, os.O_RDONLY)
        except (OSError, StateDirUnsafe):
            return {}
        with os.fdopen(file, "rb") as opened:
            try:
                return msgspec.json.decode(opened.read(_MAX_BYTES), type=_Trusted).directories
            except (msgspec.DecodeError, UnicodeDecodeError, OSError):
                return {}

    def _change(self, change: Callable[[dict[str, str]], None]) -> None:
        make_state_dir(self._state_dir)
        with self._held():
            directories = self._read()
            change(directories)
            data = msgspec.json.format(msgspec.json.encode(_Trusted(directories=directories), order="sorted"))
            draft = self._state_dir / f".{TRUST_FILE}.{secrets.token_hex(8)}"
            file = open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(data + b"\n")
                    opened.flush()
                    os.fsync(file)
                draft.rename(self.path)  # replaces a link of that name instead of following it
            except BaseException:
                with suppress(FileNotFoundError):
                    draft.unlink()
                raise

    @contextmanager
    def _held(self) -> Generator[None]:
        """Two commands at once must not lose what the other one wrote."""
        lock = open_private(self._state_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _name(directory: Path) -> str:
    return os.fsencode(directory).decode(errors="backslashreplace")
