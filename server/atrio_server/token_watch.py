"""Notices in a running server which tokens were made, revoked and replaced, and which have expired.

Commands change the files and know nothing of the server; here both files are
looked at a few times a second, by their inode and times, and read when those are
others. Looking is done in a thread, because a disk may not answer; expiry is a
matter of the clock alone and waits for no disk.

Whoever came in with a token that has ended is sent away: sockets with 1008, HTTP
requests with 401. The runs that they began go on. The invariant: a file that
cannot be believed takes away the tokens that were in it, but for the token of
the token file, which stays what it was until there is another.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from atrio_server.identity import Identity, Keyring
from atrio_server.socket import Connection
from atrio_server.token import TOKEN_FILE, load_token
from atrio_server.token_files import TokenFileUnsafe
from atrio_server.token_store import TOKENS_FILE, TokenRecord, identities_of, list_tokens
from atrio_server.web import TokenEnded

__all__ = ["POLICY", "POLL_S", "UNREADABLE", "Guests", "TokenWatch"]

POLL_S: Final = 0.25
"""How often the files are looked at, and those whose token has expired are sent away."""

LOOK_S: Final = 1.0
"""How long somebody with an unknown token waits for a disk that does not answer."""

SETTLED_NS: Final = 100_000_000
"""A file that changed so recently may change again without looking different: its times have no finer steps."""

POLICY: Final = 1008
"""Close code for sockets whose token has ended."""

UNREADABLE: Final = "the server cannot read which tokens there are"
"""Why a socket is closed whose token was in a file that cannot be believed any more."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.tokens")


class Guests:
    """Everybody who was let in and is still here.

    Args:
        keyring: The tokens that open the server.
        connections: The open sockets, by id.
    """

    def __init__(self, keyring: Keyring, connections: dict[str, Connection]) -> None:
        self.keyring = keyring
        self._connections = connections
        self._requests: dict[trio.CancelScope, Identity] = {}
        self._seen: object = None

    @contextmanager
    def request(self, identity: Identity) -> Generator[None]:
        """Serve a request over HTTP within this. It is cancelled, and the block left, when its token ends.

        Raises:
            TokenEnded: That has happened already, since the request was let in.
        """
        if self.keyring.why_not(identity) is not None:
            raise TokenEnded
        with trio.CancelScope() as scope:
            self._requests[scope] = identity
            try:
                yield
            finally:
                del self._requests[scope]

    def send_away(self) -> None:
        """Let those go whose token has ended. Does not wait."""
        state = self.keyring.state()
        if state == self._seen:
            return
        self._seen = state
        why_not = self.keyring.why_not
        for connection in list(self._connections.values()):
            identity = connection.caller.identity
            if (reason := why_not(identity)) is not None and connection.close_soon(POLICY, reason):
                log.info("sent away", connection=connection.caller.connection_id, token=identity.token_name, why=reason)
        for scope, identity in list(self._requests.items()):
            if not scope.cancel_called and why_not(identity) is not None:
                scope.cancel()


class _Look(NamedTuple):
    """What a thread saw of one file; ``stamp`` is None where it is to be read again whatever it looks like."""

    stamp: tuple[int, ...] | None
    found: str | tuple[TokenRecord, ...] | None = None
    problem: str | None = None


class TokenWatch:
    """Keeps a server's keyring true to the files. Its `serve` runs as a task of the service."""

    def __init__(self, state_dir: Path, guests: Guests) -> None:
        self._state_dir = state_dir
        self.guests = guests
        self._stamps: dict[str, tuple[int, ...] | None] = {TOKEN_FILE: None, TOKENS_FILE: None}
        self._problems: dict[str, str | None] = dict.fromkeys(self._stamps)
        self._looking = trio.Lock()
        self._reading = trio.CapacityLimiter(1)

    def load(self) -> None:
        """Read which tokens there are besides that of the token file. Blocks; for the start, before anybody comes."""
        self._learn(_look(self._state_dir, dict(self._stamps)))

    async def serve(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                await self._look()
                await trio.sleep(POLL_S)

    async def look_again(self) -> None:
        """Look at the files at once: somebody brings a token that is not known. Gives up where the disk is silent."""
        with trio.move_on_after(LOOK_S):
            await self._look()

    async def _look(self) -> None:
        # One after the other: what was seen earlier must not be learnt later.
        async with self._looking:
            looks = await trio.to_thread.run_sync(
                _look, self._state_dir, dict(self._stamps), limiter=self._reading, abandon_on_cancel=True
            )
            self._learn(looks)
        self.guests.send_away()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(POLL_S)
            self.guests.send_away()

    def _learn(self, looks: dict[str, _Look]) -> None:
        keyring = self.guests.keyring
        for name, look in looks.items():
            self._stamps[name] = look.stamp
            if look.problem is not None and look.problem != self._problems[name]:
                log.error("token file", problem=look.problem)
            elif look.problem is None and self._problems[name] is not None:
                log.info("token file is good again", file=name)
            self._problems[name] = look.problem
            if isinstance(look.found, str):
                keyring.replace_file_token(look.found)
            elif look.found is not None:
                keyring.replace_others(identities_of(look.found))
            elif name == TOKENS_FILE:
                keyring.replace_others((), why_not_there=UNREADABLE)


_READERS: Final[dict[str, Callable[[Path], str | tuple[TokenRecord, ...]]]] = {
    TOKEN_FILE: load_token,
    TOKENS_FILE: list_tokens,
}


def _look(state_dir: Path, stamps: dict[str, tuple[int, ...] | None]) -> dict[str, _Look]:
    """What has changed since these stamps were taken. Runs in a worker thread."""
    looks: dict[str, _Look] = {}
    for name, stamp in stamps.items():
        # Taken before the file is read: what changes in between is seen at the next look.
        now = _stamp(state_dir / name)
        if now is not None and now == stamp:
            continue
        try:
            looks[name] = _Look(now, found=_READERS[name](state_dir))
        except TokenFileUnsafe as exc:
            looks[name] = _Look(now, problem=str(exc))
        except FileNotFoundError:
            # Where there are no other tokens there is no file, which is no problem; a directory that is gone is one.
            said = "the token that was in it goes on working" if name == TOKEN_FILE else "no token in it works"
            looks[name] = _Look(now, problem=f"{state_dir / name} is gone; {said}")
        except OSError as exc:
            looks[name] = _Look(None, problem=f"{state_dir / name} cannot be read: {exc.strerror}")
    return looks


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells one state of a file from another; None where nothing does yet, and empty where there is no file."""
    try:
        info = path.lstat()
        around = path.parent.stat()
    except FileNotFoundError:
        return ()
    except OSError:
        return None
    if abs(time.time_ns() - info.st_ctime_ns) < SETTLED_NS:
        return None
    return info.st_ino, info.st_mode, info.st_uid, info.st_size, info.st_mtime_ns, info.st_ctime_ns, around.st_mode
