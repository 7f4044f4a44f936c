"""What the server knows that nobody else is to read, in one set that only grows.

Its own are the token, the providers' keys and every other token that somebody has
come in with (before that it is known by its digest alone); a workspace adds what its
configuration holds when it opens. None is ever taken out again: a key that was
replaced may still be good, and may still stand in what a library says.

The log is written through `KnownSecrets.text`, as late as can be. What a tool may
give back is for the workspace to decide, by the server's own secrets and its own:
a word that one project holds for secret may be any word in another.
"""

import json
from collections.abc import Iterable
from weakref import WeakSet

from atrio_agent.tools.redact import Redactor

__all__ = ["KnownSecrets"]


class KnownSecrets:
    """The secrets of one server. Any thread may ask; only the event loop adds."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own: tuple[str, ...] = ()
        self._all: frozenset[str] = frozenset()
        self._redactor = Redactor()
        self._redactors: WeakSet[Redactor] = WeakSet()
        self.add_own(own)

    @property
    def own(self) -> tuple[str, ...]:
        """Those of the server itself, which no tool of any workspace may give back."""
        return self._own

    def add_own(self, secrets: Iterable[str]) -> None:
        """Know these from now on, for everybody."""
        more = [secret for secret in dict.fromkeys(secrets) if secret not in self._own]
        if more:
            self._own = (*self._own, *more)
            self.add(more)
            for redactor in self._redactors:
                redactor.learn(more)

    def redactor(self, secrets: Iterable[str]) -> Redactor:
        """Keeps these and the server's own out of what tools give back; it learns what is added to those."""
        redactor = Redactor((*self._own, *secrets))
        self._redactors.add(redactor)
        return redactor

    def add(self, secrets: Iterable[str]) -> None:
        """Know these from now on, wherever nobody says whose they are."""
        more = {spelling for secret in secrets for spelling in _spellings(secret)} - self._all
        if more:
            self._all |= more
            self._redactor.learn(more)

    def text(self, text: str) -> str:
        """The text without any of them."""
        return self._redactor.text(text)


def _spellings(secret: str) -> set[str]:
    """How a line of a log may spell a secret: as it is, in JSON, or as Python shows it."""
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
