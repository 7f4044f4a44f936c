"""Which words of a configuration are secrets, where no setting says so.

What is configured for an MCP server is anybody's choice of names and places: a
variable, a header, an argument, a piece of an address. A word is taken for a secret
by the name that stands with it, or because nobody would make it up.

Nothing is read or changed here.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qsl, urlsplit

__all__ = ["secret_words"]

_NAME: Final = re.compile(r"auth|cookie|credential|key|pass|secret|session|sig|token", re.IGNORECASE)
_OPTION: Final = re.compile(r"--?([a-z]+[-_])*(api[-_]?key|password|secret|token)$", re.IGNORECASE)
_VALUE: Final = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_+=-]{20,}")


def secret_words(
    *, args: Iterable[str] = (), url: str | None = None, named: Iterable[Mapping[str, str]] = ()
) -> Iterable[str]:
    """The secrets among arguments, in an address, and among values that have names."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        parts = urlsplit("")  # it is none, which others tell
    pairs = [*(pair for values in named for pair in values.items()), *parse_qsl(parts.query)]
    pairs += [("password", parts.password or ""), *(("", piece) for piece in parts.path.split("/"))]
    words = ("", *args)
    pairs += [(_option_name(name), value) for name, _, value in (word.partition("=") for word in words)]
    pairs += [(_option_name(option), word) for option, word in pairwise(words)]
    for name, value in pairs:
        # Such as "Bearer" before it.
        bare = value.rpartition(" ")[2]
        if bare and (_NAME.search(name) or _VALUE.fullmatch(bare)):
            yield from {value, bare}


def _option_name(word: str) -> str:
    """The name of an option whose value is a secret, or nothing: many an option is about keys and sessions."""
    return word if _OPTION.match(word) else ""
