"""Answers as their makers sent them, found again by what they answered.

Some providers sign or encrypt what their models think, and want it back word
for word while a turn goes on. The rest of the agent knows nothing of that: it
keeps text, reasoning and calls. So the answer is kept here as it came, under a
digest of the whole request that it answered, and is found only if the same
words stand before it again. A thought is bound to what came before it, so this
is also when the provider accepts it.

Lost with the process, and the oldest go first when there is no room. Invariant:
a request without what was lost is complete; it is only less well remembered.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["Asked", "Json", "Prefix", "Recall"]

Json = dict[str, Any]

_MAX_BYTES: Final = 32 * 1024 * 1024


class Asked(NamedTuple):
    """A request as it is sent, and the key under which to keep its answer.

    ``recalls`` tells whether it holds anything that was kept.
    """

    body: Json
    key: bytes
    recalls: bool


class Prefix:
    """A digest that grows with a request, so that each place in it has its own."""

    def __init__(self, *start: object) -> None:
        self._digest = blake2b(msgspec.json.encode(start), digest_size=20)
        self._seen = 0

    def key(self, messages: Sequence[Json]) -> bytes:
        """The digest up to the end of ``messages``, which only grow from call to call."""
        for message in messages[self._seen :]:
            self._digest.update(msgspec.json.encode(message))
        self._seen = len(messages)
        return self._digest.digest()


class Recall:
    """What was answered lately, by the request's digest. One per connection."""

    def __init__(self, *, max_bytes: int = _MAX_BYTES) -> None:
        self._max = max_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def keep(self, key: bytes, answer: list[Json]) -> None:
        """Remember an answer; one that was given to the same request before is forgotten."""
        self._size -= len(self._kept.pop(key, b""))
        # As bytes: a quarter of the memory, and the size is known.
        encoded = self._kept[key] = msgspec.json.encode(answer)
        self._size += len(encoded)
        while self._size > self._max:
            self._size -= len(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything: the provider refuses what it once sent."""
        self._kept.clear()
        self._size = 0

    def find(self, key: bytes) -> list[Json] | None:
        """The answer that was given to this request, if it is still known."""
        encoded = self._kept.get(key)
        if encoded is None:
            return None
        self._kept.move_to_end(key)
        return msgspec.json.decode(encoded, type=list[Json])
