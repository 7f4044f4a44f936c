"""A conversation as text that fits: what a model is shown when it is to sum it up.

No tools, no images, no reasoning: calls and results are told in words, so that
every provider takes it whatever tools there were. What is too long is shortened
in steps, what tools gave back first; the oldest goes last and only if it must.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from atrio_agent.models.base import AssistantTurn, ToolResults, Turn, UserTurn
from atrio_agent.models.estimate import estimate_turns
from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceLink, TextBlock
from atrio_protocol.struct import given

__all__ = ["transcript_of"]


class _Limits(NamedTuple):
    """How many characters of each kind of thing are shown."""

    said: int
    tools: int


_STEPS: Final = (_Limits(100_000, 4_000), _Limits(20_000, 1_000), _Limits(4_000, 200), _Limits(1_000, 80))


def transcript_of(turns: tuple[Turn, ...], *, ask: str, budget_tokens: int) -> tuple[Turn, ...]:
    """The conversation as user and assistant texts, followed by ``ask``, within a budget if at all possible.

    The first and the newest turn are always there.
    """
    told: list[Turn] = []
    for limits in _STEPS:
        told = _told(turns, limits)
        if estimate_turns(told) <= budget_tokens:
            break
    # The first is what it is all about: the first prompt, or the summary of what came before.
    too_many = estimate_turns(told) - budget_tokens
    dropped = 0
    while too_many > 0 and dropped < len(told) - 2:
        dropped += 1
        too_many -= estimate_turns((told[dropped],))
    return _merged((*told[:1], *told[dropped + 1 :], _user(ask)))


def _merged(told: Iterable[Turn]) -> tuple[Turn, ...]:
    """With users' turns in a row as one."""
    merged: list[Turn] = []
    for turn in told:
        last = merged[-1] if merged else None
        if isinstance(turn, UserTurn) and isinstance(last, UserTurn):
            merged[-1] = UserTurn(last.content + turn.content)
        else:
            merged.append(turn)
    return tuple(merged)


def _told(turns: tuple[Turn, ...], limits: _Limits) -> list[Turn]:
    told: list[Turn] = []
    for turn in turns:
        match turn:
            case UserTurn(content=content):
                told.append(_user(_shortened(_text_of(content, limits), limits.said)))
            case AssistantTurn():
                called = (
                    f"[called {call.name} with {_shortened(msgspec.json.encode(call.input).decode(), limits.tools)}]"
                    for call in turn.calls
                )
                text = "\n".join(part for part in (_shortened(turn.text, limits.said), *called) if part)
                told.append(AssistantTurn(text))
            case ToolResults(results=results):
                lines = (
                    f"[{result.name} {'failed' if result.is_error else 'gave back'}: "
                    f"{_shortened(_text_of(result.content, limits), limits.tools)}]"
                    for result in results
                )
                told.append(_user("\n".join(lines)))
    return told


def _user(text: str) -> UserTurn:
    return UserTurn((TextBlock(text=text),))


def _text_of(content: Iterable[ContentBlock], limits: _Limits) -> str:
    return "\n\n".join(_block(block, limits) for block in content)


def _block(block: ContentBlock, limits: _Limits) -> str:
    match block:
        case TextBlock(text=text):
            return text
        case ImageBlock():
            return "[an image]"
        case ResourceBlock(resource=resource):
            return f"[{resource.uri}: {_shortened(given(resource.text, 'binary'), limits.tools)}]"
        case ResourceLink():
            return f"[{block.uri}]"


def _shortened(text: str, chars: int) -> str:
    """The beginning and the end of a text that is too long, with what was left out between."""
    if len(text) <= chars:
        return text
    head = chars * 2 // 3
    return f"{text[:head]} [… {len(text) - chars} characters left out …] {text[head - chars :]}"
