"""Keeps known secrets out of what tools give back.

A secret is an exact text: a token of ours, a provider's key. It is replaced in
a tool's result, and in what is asked about a call, before that is stored or sent,
so it reaches neither the model nor the transcript nor a reader. What is merely *like* a secret is left alone: this
guards our own, it is no search for others'.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.tools.base import ToolOutcome
from atrio_protocol.content import ContentBlock, ResourceBlock, TextBlock
from atrio_protocol.parts import Diff
from atrio_protocol.struct import UNSET

__all__ = ["REDACTED", "Redactor"]

REDACTED: Final = "[redacted]"

MIN_CHARS: Final = 8
"""A shorter secret would be found everywhere."""


class Redactor:
    """Knows the secrets of one server."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first, so that one secret inside another leaves nothing of it.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= MIN_CHARS}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    def live(self) -> Callable[[str], str]:
        """Takes secrets out of a text that comes in pieces.

        The end of what has come is held back while it may be the beginning of a secret.
        """
        held = ""

        def feed(piece: str) -> str:
            nonlocal held
            text = self.text(held + piece)
            kept = max((_overlap(text, secret) for secret in self._secrets), default=0)
            held = text[len(text) - kept :]
            return text[: len(text) - kept]

        return feed

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


def _overlap(text: str, secret: str) -> int:
    """How many characters at the end of the text the secret begins with."""
    return next((size for size in range(min(len(text), len(secret) - 1), 0, -1) if text.endswith(secret[:size])), 0)
