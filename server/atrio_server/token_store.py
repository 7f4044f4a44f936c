"""Tokens that do less than the one of the token file: made, listed and revoked.

They are in ``tokens.json`` in the state directory, each with its scopes, and by
its digest alone: a token is told once, when it is made. Commands change the file
under a lock and replace it whole, whether a server runs or not; the server reads
it (`atrio_server.token_watch`).

A file that cannot be believed in whole holds no token at all: better nobody gets
in than somebody with the rights of another. The invariant: what was read is
ours alone, and every record in it is one that this version understands.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from atrio_protocol.methods import SCOPES, Scope
from atrio_server.identity import FILE_TOKEN, Identity, digest_of
from atrio_server.token import fresh_token
from atrio_server.token_files import TokenFileUnsafe, opened_state_dir, put_file, read_file, says_no_plain_file

__all__ = [
    "MAX_TOKENS",
    "NAME",
    "TOKENS_FILE",
    "NewToken",
    "NoSuchToken",
    "TokenRecord",
    "TokenRefused",
    "create_token",
    "identities_of",
    "list_tokens",
    "revoke_token",
]

TOKENS_FILE: Final = "tokens.json"
"""Its name in the state directory."""

MAX_TOKENS: Final = 1_000
"""Every token that is presented is compared with each of them."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""What a token may be called: it stands in logs and lists."""

_LOCK_FILE: Final = "tokens.lock"
_VERSION: Final = 1
_MAX_BYTES: Final = 4 * 1024 * 1024
_ID: Final = re.compile(r"t-[0-9a-f]{8}")

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class TokenRefused(Exception):
    """A token cannot be made as it was asked for. The sentence says why."""


class NoSuchToken(Exception):
    """Nothing has that id or name."""


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A token as it is kept. A field that is not known here could be a restriction, so none is ignored."""

    token_id: Annotated[str, msgspec.Meta(pattern=f"^{_ID.pattern}$")]
    name: Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")] | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    workspace: str | None = None
    created_at: Moment
    expires_at: Moment | None = None

    @property
    def called(self) -> str:
        """Its name, or its id where it has none."""
        return self.name or self.token_id

    def identity(self) -> Identity:
        """Whom it vouches for."""
        return Identity(
            scopes=frozenset(self.scopes),
            token_name=self.called,
            workspace=None if self.workspace is None else Path(self.workspace),
            token_id=self.token_id,
            expires_at=inf if self.expires_at is None else self.expires_at.timestamp(),
            digest=bytes.fromhex(self.sha256),
        )


class NewToken(NamedTuple):
    """A token, and what is kept of it."""

    token: str
    record: TokenRecord


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says."""

    version: int
    tokens: tuple[TokenRecord, ...]


def identities_of(records: Iterable[TokenRecord]) -> tuple[Identity, ...]:
    """Whom these tokens vouch for."""
    return tuple(record.identity() for record in records)


def list_tokens(state_dir: Path) -> tuple[TokenRecord, ...]:
    """Every token that there is, the oldest first, expired ones too.

    Raises:
        TokenFileUnsafe: The file cannot be believed.
        OSError: It cannot be read.
    """
    with opened_state_dir(state_dir) as directory:
        return _read(directory, state_dir)


def create_token(
    state_dir: Path,
    *,
    scopes: Iterable[Scope],
    name: str | None = None,
    workspace: Path | None = None,
    expires_at: datetime | None = None,
) -> NewToken:
    """Make a token. What is returned is the only place where it stands.

    Args:
        state_dir: The state directory, which is there.
        scopes: What it is for. `observe` comes with each of the others: without it not even `initialize` is answered.
        name: What it is called; nothing else is called that.
        workspace: The one directory that it is for, resolved.
        expires_at: When it ends, with a time zone.

    Raises:
        TokenRefused: There is one of that name, or there are too many. Nothing was changed.
        TokenFileUnsafe, OSError: It could not be stored. Nothing was changed.
    """
    token = fresh_token()
    wanted = {"observe", *scopes}
    made: list[TokenRecord] = []

    def add(records: tuple[TokenRecord, ...]) -> tuple[TokenRecord, ...]:
        taken = {record.token_id for record in records}
        if name is not None and (name == FILE_TOKEN or _ID.fullmatch(name)):
            raise TokenRefused(f"a token cannot be named {name!r}, which means something else; choose another name")
        if name is not None and any(record.name == name for record in records):
            raise TokenRefused(f"there is a token named {name!r} already; revoke it, or choose another name")
        if len(records) >= MAX_TOKENS:
            raise TokenRefused(f"there are {MAX_TOKENS} tokens, and no more are kept; revoke some")
        record = TokenRecord(
            token_id=next(each for each in _ids() if each not in taken),
            name=name,
            sha256=digest_of(token.encode("ascii")).hex(),
            scopes=tuple(scope for scope in SCOPES if scope in wanted),
            workspace=None if workspace is None else str(workspace),
            created_at=datetime.now(UTC).replace(microsecond=0),
            expires_at=expires_at,
        )
        made.append(record)
        return (*records, record)

    _change(state_dir, add)
    return NewToken(token, made[-1])


def revoke_token(state_dir: Path, name: str) -> TokenRecord:
    """Take a token away, by its id or its name, and return what it was.

    Raises:
        NoSuchToken: Nothing is called that.
        TokenFileUnsafe, OSError: It could not be stored. Nothing was changed.
    """
    gone: list[TokenRecord] = []

    def drop(records: tuple[TokenRecord, ...]) -> tuple[TokenRecord, ...]:
        gone[:] = [record for record in records if name in {record.token_id, record.name}]
        if not gone:
            raise NoSuchToken(name)
        return tuple(record for record in records if record not in gone)

    _change(state_dir, drop)
    return gone[0]


def _change(state_dir: Path, change: Callable[[tuple[TokenRecord, ...]], tuple[TokenRecord, ...]]) -> None:
    with opened_state_dir(state_dir) as directory, _held(directory, state_dir):
        records = change(_read(directory, state_dir))
        data = msgspec.json.format(msgspec.json.encode(_Kept(version=_VERSION, tokens=records)))
        put_file(directory, TOKENS_FILE, data + b"\n")


def _read(directory: int, state_dir: Path) -> tuple[TokenRecord, ...]:
    path = state_dir / TOKENS_FILE
    way_out = "look at what is in it, and then chmod 600"
    try:
        data = read_file(directory, path, if_open_to_others=way_out, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return ()
    try:
        kept = msgspec.json.decode(data, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise TokenFileUnsafe(_broken(path, str(exc))) from exc
    names = [each for record in kept.tokens for each in {record.token_id, record.called}]
    if kept.version != _VERSION:
        raise TokenFileUnsafe(_broken(path, f"it is of version {kept.version}, and {_VERSION} is known"))
    if len({record.sha256 for record in kept.tokens}) < len(kept.tokens) or len(set(names)) < len(names):
        raise TokenFileUnsafe(_broken(path, "two tokens in it are the same, or have one name"))
    return kept.tokens


def _broken(path: Path, why: str) -> str:
    return f"{path} cannot be read ({why}), so that no token in it works; mend it, or delete it and make them anew"


@contextmanager
def _held(directory: int, state_dir: Path) -> Generator[None]:
    """Two commands at once must not lose what the other one wrote."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        lock = os.open(_LOCK_FILE, flags, mode=0o600, dir_fd=directory)
    except OSError as exc:
        if not says_no_plain_file(exc):
            raise
        raise TokenFileUnsafe(f"{state_dir / _LOCK_FILE} is not a plain file ({exc.strerror}); delete it") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _ids() -> Generator[str]:
    while True:
        yield f"t-{secrets.token_hex(4)}"
