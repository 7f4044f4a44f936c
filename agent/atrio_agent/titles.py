"""What a session is called when nobody has said so.

The first prompt gives a title at once, by rule; the model may give a better one
later, in the background. A title that a person chose is never replaced.
"""

from contextlib import suppress
from typing import Final

import trio

from atrio_agent.models.base import Model, ModelRequest, TextDelta, UserTurn
from atrio_protocol.content import ContentBlock, TextBlock, prompt_text
from atrio_protocol.errors import RunError

__all__ = ["NEW_SESSION", "fallback_title", "fork_title", "make_title"]

NEW_SESSION: Final = "New session"
MAX_CHARS: Final = 60
BUDGET_S: Final = 30.0
"""Seconds that a model may take for a title; after them the fallback stays."""

PROMPT_CHARS: Final = 2_000

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


async def make_title(model: Model, *, session_id: str, run_id: str, prompt: tuple[ContentBlock, ...]) -> str | None:
    """Ask the model for a title; None if it has none to give, for whatever reason."""
    text = prompt_text(prompt)[:PROMPT_CHARS]
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
    pieces: list[str] = []
    with trio.move_on_after(BUDGET_S) as budget, suppress(RunError):
        async with model.stream(request) as events:
            pieces += [event.text async for event in events if isinstance(event, TextDelta)]
    return None if budget.cancelled_caught else _one_line("".join(pieces)) or None


def _one_line(text: str) -> str:
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split()).strip("\"'`# ")
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 1].rstrip() + "…"
