"""What a session is called when nobody has said so.

The first prompt gives a title at once, by rule; the model may give a better one
later, in the background. A title that a person chose is never replaced.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio

from atrio_agent.models.base import Model, ModelRequest, TextDelta, UsageReport, UserTurn
from atrio_protocol.content import ContentBlock, TextBlock, prompt_text
from atrio_protocol.errors import RunError

__all__ = ["NEW_SESSION", "fallback_title", "fork_title", "make_title"]

NEW_SESSION: Final = "New session"
MAX_CHARS: Final = 60
BUDGET_S: Final = 30.0
"""Seconds that a model may take for a title; after them the fallback stays."""

PROMPT_CHARS: Final = 2_000
MAX_ANSWER_CHARS: Final = 2_000
"""What is kept of a model's answer: one that rambles names nothing better."""

_FORK: Final = " (fork)"

_SYSTEM = (
    "Name the conversation that begins with the user's message: at most eight words, in the message's language, "
    "no quotes, no full stop. Answer with the title alone."
)


def fallback_title(prompt: tuple[ContentBlock, ...]) -> str:
    """A title made from the first line of a prompt."""
    return _one_line(prompt_text(prompt)) or NEW_SESSION


def fork_title(title: str, max_chars: int) -> str:
    """What the fork of a session is called that is called ``title``."""
    return title if title == NEW_SESSION else title[: max_chars - len(_FORK)].rstrip() + _FORK


async def make_title(
    models: Iterable[Model],
    *,
    session_id: str,
    run_id: str,
    prompt: tuple[ContentBlock, ...],
    used: Callable[[Model, UsageReport], None] = lambda _model, _report: None,
) -> str | None:
    """Ask for a title; None if there is none to be had, for whatever reason.

    Args:
        models: Whom to ask, one after the other, until one does not fail.
        session_id: For whom.
        run_id: For whom.
        prompt: The first prompt.
        used: Told what was used, where the provider counts it.
    """
    text = prompt_text(prompt)[:PROMPT_CHARS]
    if not text.strip():
        return None
    request = ModelRequest(
        session_id=session_id,
        run_id=run_id,
        purpose="title",
        step=0,
        system=_SYSTEM,
        prompt=text,
        turns=(UserTurn((TextBlock(text=text),)),),
        tools=(),
    )
    with trio.move_on_after(BUDGET_S):
        for model in models:
            with suppress(RunError):
                return _one_line(await _answer(model, request, used)) or None
    return None


async def _answer(model: Model, request: ModelRequest, used: Callable[[Model, UsageReport], None]) -> str:
    pieces: list[str] = []
    length = 0
    async with model.stream(request) as events:
        async for event in events:
            if isinstance(event, UsageReport):
                used(model, event)
            elif isinstance(event, TextDelta) and length < MAX_ANSWER_CHARS:
                pieces.append(event.text)
                length += len(event.text)
    return "".join(pieces)


def _one_line(text: str) -> str:
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split()).strip("\"'`# ")
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 1].rstrip() + "…"
