"""The state directory: ours alone, held by one server at a time, and telling commands where that one is.

`open_state_dir` makes the directory (0700 under any umask, never through a link
that somebody planted), takes its lock and, at the end, gives it back. The lock
is the kernel's: it is free the moment its owner is gone, however it went. What
the lock file *says* only names the owner for people.

`running_server` is the other side: which server has this directory now. It is
read from ``server.json`` and believed only while the lock is held by the process
that it names, so that what a killed server left behind misleads nobody.
"""

import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import shlex
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from atrio_protocol.version import VERSION

__all__ = [
    "LOCK_FILE",
    "SERVER_FILE",
    "LockHolder",
    "RunningServer",
    "StateDir",
    "StateDirLocked",
    "StateDirUnsafe",
    "StateDirUnusable",
    "lock_holder",
    "make_state_dir",
    "open_private",
    "open_state_dir",
    "running_server",
]

LOCK_FILE: Final = "server.lock"
SERVER_FILE: Final = "server.json"

LOCK_TRIES: Final = 10
LOOKED_AT_TRIES: Final = 250
LOCK_PAUSE_S: Final = 0.02
"""A command that looks whether the lock is free shares it for an instant; that must not stop a server, which tries
longer while nobody has the lock for himself."""


class StateDirUnsafe(Exception):
    """The directory may be in other hands. Nothing was changed; the sentence says what to do."""


class StateDirUnusable(Exception):
    """The directory cannot be made or opened. The sentence says why and what to do."""

    def __init__(self, path: Path, error: OSError) -> None:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
        way_out = "make room on its disk, or name another directory" if full else "name another directory"
        way_out = f"{way_out} with --state-dir"
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            way_out = "try again in a moment, or raise the server's limit of open files (ulimit -n)"
        super().__init__(f"cannot use {path} for state: {error.strerror}; {way_out}")


class StateDirLocked(Exception):
    """Another server has the directory. ``owner_pid`` is None where the lock file does not say."""

    kind = "data_dir_locked"

    def __init__(self, path: Path, owner_pid: int | None, http: str | None) -> None:
        owner = f"the Atrio server with pid {owner_pid}" if owner_pid else "another Atrio server"
        way_out = f"stop it (`atrio stop --state-dir {shlex.quote(str(path))}`)"
        super().__init__(
            f"data_dir_locked: {path} is in use by {owner}{f' at {http}' if http else ''}; "
            f"{way_out}, or choose another --state-dir"
        )
        self.owner_pid = owner_pid


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """What ``server.json`` says."""

    pid: int
    http: str
    ws: str
    version: str


class _Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says."""

    pid: int
    http: str | None = None


class LockHolder(NamedTuple):
    """Who has a state directory, ready or not. ``pid`` is None where the lock file does not say."""

    pid: int | None


class StateDir:
    """A state directory that this process holds. Made by `open_state_dir`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def publish_address(self, *, http: str, ws: str) -> None:
        """Tell commands where this server is, and people who look at the lock who has it.

        Raises:
            StateDirUnusable: It cannot be written.
        """
        record = RunningServer(pid=os.getpid(), http=http, ws=ws, version=VERSION)
        draft = self.path / f".{SERVER_FILE}.{secrets.token_hex(8)}"
        try:
            self._name_owner(http)
            file = open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                os.write(file, msgspec.json.encode(record) + b"\n")
            finally:
                os.close(file)
            # Replaces a link of that name instead of following it.
            draft.rename(self.path / SERVER_FILE)
        except OSError as exc:
            draft.unlink(missing_ok=True)
            raise StateDirUnusable(self.path, exc) from exc

    @property
    def identity(self) -> str:
        """What tells this directory from every other on the machine, also one of the same name in another container."""
        info = self.path.stat()
        name = f"{self.path.resolve()}\0{info.st_dev}:{info.st_ino}"
        return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]

    def _name_owner(self, http: str | None) -> None:
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, msgspec.json.encode(_Owner(pid=os.getpid(), http=http)) + b"\n", 0)

    def take_over(self) -> None:
        """Forget what an earlier owner left. `open_state_dir` does it."""
        with suppress(FileNotFoundError):
            (self.path / SERVER_FILE).unlink()
        try:
            self._name_owner(None)
        except OSError as exc:
            raise StateDirUnusable(self.path, exc) from exc

    def close(self) -> None:
        """Give the directory back: no server is here any more. Safe to call twice."""
        if self._lock >= 0:
            with suppress(FileNotFoundError):
                (self.path / SERVER_FILE).unlink()
            os.close(self._lock)
            self._lock = -1


@asynccontextmanager
async def open_state_dir(path: Path) -> AsyncGenerator[StateDir]:
    """Make the directory if need be and hold it until the block is left.

    Raises:
        StateDirUnsafe: It may be in other hands.
        StateDirLocked: Another server has it.
        StateDirUnusable: It could not be made, opened or written.
    """
    make_state_dir(path)
    lock = open_private(path / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        await _own(lock, path)
    except BaseException:
        os.close(lock)
        raise
    state = StateDir(path, lock)
    try:
        state.take_over()
        yield state
    finally:
        state.close()


def running_server(path: Path) -> RunningServer | None:
    """The server that has this state directory now and is ready, or None.

    Raises:
        StateDirUnsafe: The directory may be in other hands, and so may be what it says.
    """
    try:
        with _checked(path):
            owner = _holder(path)
            if owner is None:
                return None
            file = open_private(path / SERVER_FILE, os.O_RDONLY)
            try:
                record = msgspec.json.decode(os.read(file, 65_536), type=RunningServer)
            finally:
                os.close(file)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return record if owner.pid == record.pid else None


def lock_holder(path: Path) -> LockHolder | None:
    """Who has this state directory now, ready or not; None if nobody has.

    Raises:
        StateDirUnsafe: The directory may be in other hands, and so may be what it says.
        OSError: It cannot be opened.
    """
    try:
        with _checked(path):
            return _holder(path)
    except FileNotFoundError:
        return None


def _holder(path: Path) -> LockHolder | None:
    lock = open_private(path / LOCK_FILE, os.O_RDWR)
    try:
        if not _is_owned(lock):
            return None
        owner = _read_owner(lock)
    finally:
        os.close(lock)
    return LockHolder(owner.pid if owner else None)


async def _own(lock: int, path: Path) -> None:
    for attempt in itertools.count(1):
        if _flocked(lock, fcntl.LOCK_EX):
            return
        if attempt >= LOCK_TRIES and (attempt == LOOKED_AT_TRIES or _is_owned(lock)):
            owner = _read_owner(lock)
            raise StateDirLocked(path, owner and owner.pid, owner and owner.http)
        await trio.sleep(LOCK_PAUSE_S)


def _flocked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_owned(lock: int) -> bool:
    """Whether somebody has the lock for himself, and is not just looking, as we do here for an instant."""
    if not _flocked(lock, fcntl.LOCK_SH):
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def make_state_dir(path: Path) -> None:
    """Make the directory, and whatever of its parents is missing, for this user alone.

    Raises:
        StateDirUnsafe: There is something of that name that is not a directory of ours.
        StateDirUnusable: It could not be made or opened.
    """
    try:
        missing = [part for part in (path, *path.parents) if not os.path.lexists(part)]
        for part in reversed(missing):
            with suppress(FileExistsError):
                part.mkdir(mode=0o700)
                part.chmod(0o700)  # a umask can also take away too much
        with _checked(path) as directory:
            os.fchmod(directory, 0o700)
    except OSError as exc:
        raise StateDirUnusable(path, exc) from exc


@contextmanager
def _checked(path: Path) -> Generator[int]:
    """Open the directory, and refuse it where another user or a link could lead us astray."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        what = "a link" if path.is_symlink() else "not a directory"
        raise StateDirUnsafe(f"{path} is {what}; name a directory of yours with --state-dir") from None
    try:
        if os.fstat(directory).st_uid != os.geteuid():
            raise StateDirUnsafe(f"{path} belongs to another user; name a directory of yours with --state-dir")
        yield directory
    finally:
        os.close(directory)


def open_private(path: Path, flags: int) -> int:
    """Open a file of ours (0600 when it is made), never through a link, and return its descriptor.

    Raises:
        StateDirUnsafe: It is a link, not a plain file, or another user's.
        OSError: It cannot be opened.
    """
    try:
        # Without O_NONBLOCK a pipe of that name would hold us here for ever.
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode=0o600)
    except OSError as exc:
        if path.is_symlink():
            raise StateDirUnsafe(f"{path} is a link; delete it and look for who put it there") from None
        if exc.errno == errno.EISDIR:
            raise StateDirUnsafe(f"{path} is a directory; move it away and look for who put it there") from None
        raise exc from None
    info = os.fstat(file)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
        os.close(file)
        raise StateDirUnsafe(f"{path} is not a plain file of yours; delete it and look for who put it there")
    if flags & os.O_CREAT:
        os.fchmod(file, 0o600)
    return file


def _read_owner(lock: int) -> _Owner | None:
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(os.pread(lock, 4_096, 0), type=_Owner)
    return None
