"""Keeps known secrets out of what tools give back.

A secret is an exact text: a token of ours, a provider's key. It is replaced in
a tool's result, and in what is asked about a call, before that is stored or sent,
so it reaches neither the model nor the transcript nor a reader. A long piece of a
long secret is taken for it: outputs are cut anywhere. What is merely *like* a secret
is left alone, and so is one that was encoded or spelled apart: this guards our own
against accidents, it is no search for others' and no wall against a clever command.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.tools.base import ToolOutcome
from atrio_protocol.content import ContentBlock, ResourceBlock, TextBlock
from atrio_protocol.parts import Diff
from atrio_protocol.struct import UNSET

__all__ = ["REDACTED", "LiveRedactor", "Redactor"]

REDACTED: Final = "[redacted]"

MIN_CHARS: Final = 8
"""A shorter secret would be found everywhere."""

_PIECE_CHARS: Final = 16
"""So much of a secret is as good as the secret; less may be the beginning that all keys of a provider share."""

_STEP_CHARS: Final = _PIECE_CHARS // 2
_HELD_CHARS: Final = 4
"""Live output is held back where so much of a secret may have begun; fewer characters would hold up every word."""


_LONG_CHARS: Final = 256
"""From this length on looking for each beginning by itself is faster than looking for all of them at once."""


class _Known(NamedTuple):
    """Secrets, the longest first, and what finds them."""

    secrets: tuple[str, ...]
    heads: re.Pattern[str] | None
    grams: frozenset[int]
    """All that stands in eight bytes of a secret that may be found by its pieces."""


class Redactor:
    """Knows the secrets of one server. Any thread may ask."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known = _known(secrets)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What it knows, the longest first."""
        return self._known.secrets

    def learn(self, secrets: Iterable[str]) -> None:
        """Know these as well from now on."""
        self._known = _known(secrets, self._known)

    def text(self, text: str) -> str:
        """The text without the secrets and without long pieces of them."""
        # This is done for every word that is said, and there may be a thousand secrets: each is looked for once in
        # the text, and none at each place of it.
        known = self._known
        if len(text) < _PIECE_CHARS and (known.heads is None or not known.heads.search(text)):
            return text
        for secret in known.secrets:
            text = text.replace(secret, REDACTED)
        # Wherever a piece stands, it fills one of the text's blocks whole: so only every eighth place is looked at.
        if known.grams and not known.grams.isdisjoint(_blocks(text)):
            text = self._without_pieces(text)
        return text

    def may_begin(self, text: str) -> bool:
        """Whether there is a place in the text where enough of a secret begins to be held back."""
        if len(text) >= _LONG_CHARS:
            return any(secret[:_HELD_CHARS] in text for secret in self._known.secrets)
        heads = self._known.heads
        return heads is not None and heads.search(text) is not None

    def value(self, value: Any) -> Any:
        """The same of all texts in what JSON can say."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {self.text(key): self.value(each) for key, each in cast("dict[str, Any]", value).items()}
        return value

    def live(self) -> "LiveRedactor":
        """Takes secrets out of a text that comes in pieces."""
        return LiveRedactor(self)

    def _without_pieces(self, text: str) -> str:
        for secret in self.secrets:
            for at, core in enumerate(_cores(secret)):
                # A text may be full of how all keys of a provider begin: only a real piece is worth a closer look.
                if core in text and any(piece in text for piece in _pieces_with(secret, at * _STEP_CHARS)):
                    text = _without(text, secret, at * _STEP_CHARS)
        return text

    def outcome(self, outcome: ToolOutcome) -> ToolOutcome:
        """A tool's outcome without the secrets. A secret may span two blocks: they are read as one then."""
        content = tuple(self._block(block) for block in outcome.content)
        texts = [block.text for block in content if isinstance(block, TextBlock)]
        whole = "".join(texts)
        if len(texts) > 1 and self.text(whole) != whole:
            others = tuple(block for block in content if not isinstance(block, TextBlock))
            content = (TextBlock(text=self.text(whole)), *others)
        return ToolOutcome(
            content=content,
            is_error=outcome.is_error,
            diffs=tuple(self._diff(diff) for diff in outcome.diffs),
            exit_code=outcome.exit_code,
            truncated=outcome.truncated,
        )

    def ask(self, ask: Ask) -> Ask:
        """A question without the secrets. What a grant goes by, and the path, are left as they are."""
        return replace(
            ask,
            title=self.text(ask.title),
            detail=None if ask.detail is None else self.text(ask.detail),
            diffs=tuple(self._diff(diff) for diff in ask.diffs),
        )

    def _diff(self, diff: Diff) -> Diff:
        return msgspec.structs.replace(
            diff,
            old_text=self.text(diff.old_text) if isinstance(diff.old_text, str) else diff.old_text,
            new_text=self.text(diff.new_text) if isinstance(diff.new_text, str) else diff.new_text,
            unified=self.text(diff.unified),
        )

    def _block(self, block: ContentBlock) -> ContentBlock:
        if isinstance(block, TextBlock):
            return msgspec.structs.replace(block, text=self.text(block.text))
        if isinstance(block, ResourceBlock) and block.resource.text is not UNSET:
            resource = msgspec.structs.replace(block.resource, text=self.text(block.resource.text))
            return msgspec.structs.replace(block, resource=resource)
        return block


class LiveRedactor:
    """Takes secrets out of a text that comes in pieces. Made by `Redactor.live`, not by hand.

    The end of what has come is held back while it may be the beginning of a secret.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._given: str = ""
        """The last that was passed on, too short to have been held back."""
        self._held: str = ""

    def __call__(self, piece: str) -> str:
        """What of the text so far may be passed on now."""
        text = self._given + self._held + piece
        done = len(self._given)
        if not self._redactor.may_begin(text):
            self._given, self._held = text[-_HELD_CHARS + 1 :], ""
            return self._redactor.text(text[done:])
        out: list[str] = []
        while found := self._first(text, done):
            start, end = found
            out += (text[done:start], REDACTED)  # what comes before the end of what was given is nothing
            done = end
        begun = max((_overlap(text, secret) for secret in self._redactor.secrets), default=0)
        upto = max(done, len(text) - begun) if begun >= _HELD_CHARS else len(text)
        out.append(text[done:upto])
        self._given, self._held = text[max(0, upto - _HELD_CHARS + 1) : upto], text[upto:]
        return self._redactor.text("".join(out))

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held, self._given = self._held, "", ""
        return self._redactor.text(held)

    def _first(self, text: str, done: int) -> tuple[int, int] | None:
        """Where the first secret is that does not end in what is done."""
        found: list[tuple[int, int]] = []
        for secret in self._redactor.secrets:
            start = text.find(secret, max(0, done - len(secret) + 1))
            if start >= 0:
                found.append((start, start + len(secret)))
        return min(found, default=None)


def _known(secrets: Iterable[str], before: _Known | None = None) -> _Known:
    """These, and what was known before."""
    more = {secret for secret in secrets if len(secret) >= MIN_CHARS}
    grams = frozenset(gram for secret in more if _cores(secret) for gram in _grams(secret))
    if before is not None:
        more.update(before.secrets)
        grams |= before.grams
    # The longest first, so that one secret inside another leaves nothing of it.
    known = sorted(sorted(more), key=len, reverse=True)
    # Nearly no word holds anything of a secret: one search says so.
    return _Known(secrets=tuple(known), heads=_any_of(secret[:_HELD_CHARS] for secret in known), grams=grams)


def _pieces_with(secret: str, at: int) -> Iterable[str]:
    """The shortest pieces of a secret that are as good as it and hold the core that stands in it at a place."""
    first, last = max(0, at + _STEP_CHARS - _PIECE_CHARS), min(at, len(secret) - _PIECE_CHARS)
    return (secret[start : start + _PIECE_CHARS] for start in range(first, last + 1))


def _grams(secret: str) -> Iterable[int]:
    data = secret.encode("utf-8", "surrogatepass")
    return (int.from_bytes(data[at : at + 8], sys.byteorder) for at in range(len(data) - 7))


def _blocks(text: str) -> Iterable[int]:
    """The text in blocks of eight bytes. A piece of 16 characters, at whatever place, holds one of them whole."""
    data = text.encode("utf-8", "surrogatepass")
    return memoryview(data + bytes(-len(data) % 8)).cast("Q")


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of the words; None if there are none."""
    alternatives = "|".join(sorted({re.escape(word) for word in words}))
    return re.compile(alternatives) if alternatives else None


def _cores(secret: str) -> list[str]:
    """What a piece of a secret that is long enough holds one of, whole. A short secret has no such pieces."""
    if len(secret) < 2 * _PIECE_CHARS:
        return []
    return [secret[at : at + _STEP_CHARS] for at in range(0, len(secret) - _STEP_CHARS + 1, _STEP_CHARS)]


def _without(text: str, secret: str, at: int) -> str:
    """The text without the pieces of a secret that hold what stands in it at a place."""
    core = secret[at : at + _STEP_CHARS]
    out: list[str] = []
    done = 0
    start = text.find(core)
    while start >= 0:
        first, last = start, start + len(core)
        while first > done and at - (start - first) > 0 and text[first - 1] == secret[at - (start - first) - 1]:
            first -= 1
        while last < len(text) and at + last - start < len(secret) and text[last] == secret[at + last - start]:
            last += 1
        if last - first >= _PIECE_CHARS:
            out += (text[done:first], REDACTED)
            done = last
        start = text.find(core, last)
    return "".join([*out, text[done:]])


def _overlap(text: str, secret: str) -> int:
    """How many characters at the end of the text the secret begins with."""
    return next((size for size in range(min(len(text), len(secret) - 1), 0, -1) if text.endswith(secret[:size])), 0)
