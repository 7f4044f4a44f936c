"""Reads what the tools returned, for the demo model.

Tools return text for models to read, not data. These functions know the shape
of that text and take no line on trust: what does not look as expected is left
out. Tests hold them against the real tools.
"""

import re
from typing import Any, Final, NamedTuple

from atrio_agent.models.base import AssistantTurn, ToolResults, Turn, UserTurn
from atrio_protocol.content import prompt_text

__all__ = ["Match", "Result", "Round", "file_lines", "listed_paths", "matches", "results_since_prompt"]

_NUMBERED: Final = re.compile(r"\s*(\d+)\t(.*)")
_MATCH: Final = re.compile(r"(.+?):(\d+): (.*)")


class Result(NamedTuple):
    """One call and what came of it."""

    name: str
    input: dict[str, Any]
    text: str
    is_error: bool


class Match(NamedTuple):
    """A line that `grep` found."""

    path: str
    line: int
    text: str


Round = tuple[Result, ...]
"""The results of the calls of one request."""


def results_since_prompt(turns: tuple[Turn, ...]) -> tuple[Round, ...]:
    """What the tools returned since the newest user turn, request by request."""
    newest = max((index for index, turn in enumerate(turns) if isinstance(turn, UserTurn)), default=-1)
    rounds: list[Round] = []
    inputs: dict[str, dict[str, Any]] = {}
    for turn in turns[newest + 1 :]:
        if isinstance(turn, AssistantTurn):
            inputs = {call.call_id: call.input for call in turn.calls}
        elif isinstance(turn, ToolResults):
            rounds.append(
                tuple(
                    Result(result.name, inputs.get(result.call_id, {}), prompt_text(result.content), result.is_error)
                    for result in turn.results
                )
            )
    return tuple(rounds)


def file_lines(text: str) -> list[str]:
    """The lines of a file as `read` shows it."""
    return [found[2] for line in text.split("\n") if (found := _NUMBERED.fullmatch(line))]


def listed_paths(text: str) -> list[str]:
    """The paths that `glob` found."""
    return [line for line in text.split("\n") if line and line != "No files match." and not _is_note(line)]


def matches(text: str) -> list[Match]:
    """The lines that `grep` found."""
    found = (_MATCH.fullmatch(line) for line in text.split("\n"))
    return [Match(match[1], int(match[2]), match[3]) for match in found if match]


def _is_note(line: str) -> bool:
    return line.startswith("[") and line.endswith("]")
