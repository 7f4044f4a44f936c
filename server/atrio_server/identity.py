"""Who holds which token: what a token vouches for, and which tokens open the server now.

A token is random, 256 bits of it, and is known here by its digest alone. Every
one that is presented is hashed and compared with all that there are, so that the
time it takes tells nothing of any of them. What a client says of itself changes
nothing: scopes and workspace are the token's.

No I/O. The invariant: whoever was let in by a token that has ended since does
not `work` any more, from the very step in which the ring was told.
"""

import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final

from atrio_protocol.methods import SCOPES, Scope

__all__ = ["FILE_TOKEN", "OWNER", "Identity", "Keyring", "digest_of"]

FILE_TOKEN: Final = "file"  # noqa: S105  what it is called
"""The id and name of the token that lies in the state directory's file."""

REVOKED: Final = "this token was revoked"
REPLACED: Final = "this token was replaced by another (atrio token rotate)"
EXPIRED: Final = "this token has expired"
CHANGED: Final = "what this token may do was changed; connect again"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token vouches for, and what for. ``token_name`` is for people and logs; it is not the token."""

    scopes: frozenset[Scope]
    token_name: str
    workspace: Path | None = None
    """The one directory (resolved) that the token is for; None where it is for all that the server has."""
    token_id: str = FILE_TOKEN
    expires_at: float = inf
    """When it ends, in seconds of the wall clock since 1970."""
    digest: bytes = field(default=b"", repr=False)


OWNER: Final = Identity(frozenset(SCOPES), FILE_TOKEN)
"""Who holds the token of the state directory."""


class Keyring:
    """The tokens of one server.

    Args:
        file_token: The token of the state directory. It has all scopes.
        others: Whom the other tokens vouch for.
    """

    def __init__(self, file_token: str, others: Iterable[Identity] = ()) -> None:
        self._owner = _owner(file_token)
        self._others: dict[bytes, Identity] = {}
        self._why_not_there = REVOKED
        self._changes = 0
        self.on_presented: Callable[[str], None] = lambda _: None
        """Called with every good token that is presented: so it can be kept out of what is said."""
        self.replace_others(others)

    def replace_file_token(self, token: str) -> None:
        """From now on ``token`` is the token of the state directory, and the old one is nobody's."""
        self._owner = _owner(token)
        self._changes += 1

    def replace_others(self, others: Iterable[Identity], *, why_not_there: str = REVOKED) -> None:
        """From now on these are the other tokens. Whose token is not there any more is told why."""
        self._others = {identity.digest: identity for identity in others}
        self._why_not_there = why_not_there
        self._changes += 1

    def identify(self, token: bytes) -> Identity | None:
        """Whom this token vouches for, in a time that does not tell how much of it was right."""
        digest = digest_of(token)
        found: Identity | None = None
        for identity in (self._owner, *self._others.values()):
            if hmac.compare_digest(digest, identity.digest):
                found = identity
        if found is None or self.why_not(found) is not None:
            return None
        self.on_presented(token.decode("ascii"))
        return found

    def why_not(self, identity: Identity) -> str | None:
        """Why the token that somebody was let in by opens nothing any more; None while it does."""
        if identity.token_id == FILE_TOKEN:
            return None if identity.digest == self._owner.digest else REPLACED
        known = self._others.get(identity.digest)
        if known is None:
            return self._why_not_there
        if known != identity:
            return CHANGED
        return EXPIRED if time.time() >= identity.expires_at else None

    def state(self) -> object:
        """Something that is another when a token may have ended since."""
        now = time.time()
        return self._changes, [each.token_id for each in self._others.values() if each.expires_at <= now]


def digest_of(token: bytes) -> bytes:
    """What is known of a token where the token itself is not."""
    return sha256(token).digest()


def _owner(token: str) -> Identity:
    return replace(OWNER, digest=digest_of(token.encode("ascii")))
