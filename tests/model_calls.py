"""Asks models in tests: the least of a request, and an answer as a list of events.

Every call is bounded, so that a model that hangs fails its test and no other.
"""

from typing import Any

import trio

from atrio_agent.models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
    ToolSpec,
    UserTurn,
)
from atrio_protocol.content import TextBlock

__all__ = ["A_TOOL", "ask", "calls_of", "request", "text_of"]

A_TOOL = ToolSpec(name="read", description="Read a file.", schema={"type": "object"})
_MOST_S = 1_000
"""Longer than any script here takes on a clock that jumps, and than a test may take on a real one."""


def request(prompt: str = "hi", **changes: Any) -> ModelRequest:
    """A first request of a run, changed as asked."""
    fields: dict[str, Any] = {
        "session_id": "s",
        "run_id": "r",
        "purpose": "turn",
        "step": 0,
        "system": "Be brief.",
        "prompt": prompt,
        "turns": (UserTurn((TextBlock(text=prompt),)),),
        "tools": (),
    }
    return ModelRequest(**fields | changes)


async def ask(
    model: Model, asked: ModelRequest | None = None, *, into: list[ModelEvent] | None = None, most_s: float = _MOST_S
) -> list[ModelEvent]:
    """Ask, and return the answer; with ``into`` it grows there, so that it outlives an error."""
    events: list[ModelEvent] = [] if into is None else into
    with trio.fail_after(most_s):
        async with model.stream(asked or request()) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - an error must leave what came before
    return events


def text_of(events: list[ModelEvent]) -> str:
    """All text of an answer."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: list[ModelEvent]) -> list[tuple[str, str]]:
    """The calls of an answer, as names and inputs.

    Each begins once, has some input and ends, or this fails.
    """
    names = {event.call_id: event.name for event in events if isinstance(event, ToolCallStart)}
    inputs = dict.fromkeys(names, "")
    ended: list[str] = []
    for event in events:
        if isinstance(event, ToolCallArgs):
            inputs[event.call_id] += event.text
        elif isinstance(event, ToolCallEnd):
            ended.append(event.call_id)
    assert sorted(ended) == sorted(names)
    assert all(inputs.values())
    return [(names[call_id], inputs[call_id]) for call_id in names]
