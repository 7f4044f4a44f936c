"""What the models without a mind say when they are asked for a title or a summary.

Made from the request alone, so it is the same every time, takes no response of
a script and stops at no gate.
"""

from typing import Final

from atrio_agent.models.base import AssistantTurn, ModelRequest, UserTurn
from atrio_protocol.content import prompt_text

__all__ = ["rule_answer"]

_TITLE_WORDS: Final = 8
_SUMMARY_LINES: Final = 40
_LINE_CHARS: Final = 120


def rule_answer(request: ModelRequest) -> str:
    """The title (first words of the prompt) or the summary (first words of every message)."""
    if request.purpose == "title":
        return " ".join(_first_line(request.prompt).split()[:_TITLE_WORDS])
    said: list[str] = []
    for turn in request.turns:
        if isinstance(turn, UserTurn):
            text = prompt_text(turn.content)
            if text != request.prompt or len(request.turns) == 1:  # else it is what asks for the summary
                said.append(f"User: {_first_line(text)}")
        elif isinstance(turn, AssistantTurn) and turn.text:
            said.append(f"Assistant: {_first_line(turn.text)}")
    return "\n".join(["What was said so far, each message by its first line:", *said[-_SUMMARY_LINES:]])


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _LINE_CHARS else line[: _LINE_CHARS - 1] + "…"
