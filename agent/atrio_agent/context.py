"""Builds what the model is asked from what was said.

History may hold anything that a crash, a cancel or a careless provider left
behind. The request never does: every tool call has exactly one result, results
follow their calls, user messages in a row are one, and nothing is empty. So a
session is never poisoned by its past.
"""

from collections.abc import Iterable, Sequence

from atrio_agent.models.base import AssistantTurn, ToolCall, ToolOutput, ToolResults, Turn, UserTurn
from atrio_protocol.content import ContentBlock, TextBlock
from atrio_protocol.parts import ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.things import Message

__all__ = ["newest_user_text", "turns_of"]

_MISSING_RESULT = "This call has no result: it was cancelled or interrupted before it could finish."


def turns_of(messages: Iterable[Message]) -> tuple[Turn, ...]:
    """Turn stored messages into a request's turns, repaired."""
    turns: list[Turn] = []
    for message in messages:
        if message.role == "user":
            _add_user(turns, tuple(part for part in message.parts if isinstance(part, ContentBlock)))
        elif message.role == "assistant":
            _add_assistant(turns, message)
        else:
            _add_results(turns, message)
    return _with_all_results(turns)


def newest_user_text(messages: Sequence[Message]) -> str:
    """The text of the newest user message, or nothing."""
    for message in reversed(messages):
        if message.role == "user":
            return "\n\n".join(part.text for part in message.parts if isinstance(part, TextBlock))
    return ""


def _add_user(turns: list[Turn], content: tuple[ContentBlock, ...]) -> None:
    if not content:
        return
    last = turns[-1] if turns else None
    if isinstance(last, UserTurn):
        turns[-1] = UserTurn(last.content + content)
    else:
        turns.append(UserTurn(content))


def _add_assistant(turns: list[Turn], message: Message) -> None:
    calls = tuple(
        ToolCall(part.tool_call_id, part.name, part.input or {})
        for part in message.parts
        if isinstance(part, ToolCallPart)
    )
    text = "".join(part.text for part in message.parts if isinstance(part, TextBlock))
    reasoning = "".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
    if text or calls:
        turns.append(AssistantTurn(text, reasoning, calls))


def _add_results(turns: list[Turn], message: Message) -> None:
    """Keep the results whose calls are in the assistant turn before; the others are orphans."""
    last = turns[-1] if turns else None
    if not isinstance(last, AssistantTurn):
        return
    known = {call.call_id for call in last.calls}
    found = {
        part.tool_call_id: ToolOutput(part.tool_call_id, part.name, part.content, part.is_error)
        for part in message.parts
        if isinstance(part, ToolResultPart) and part.tool_call_id in known
    }
    if found:
        turns.append(ToolResults(tuple(found.values())))


def _with_all_results(turns: list[Turn]) -> tuple[Turn, ...]:
    """Give every call its result, in the order of the calls, directly after them."""
    whole: list[Turn] = []
    for index, turn in enumerate(turns):
        if isinstance(turn, ToolResults):
            continue
        whole.append(turn)
        if isinstance(turn, AssistantTurn) and turn.calls:
            after = turns[index + 1] if index + 1 < len(turns) else None
            found = {result.call_id: result for result in after.results} if isinstance(after, ToolResults) else {}
            whole.append(ToolResults(tuple(found.get(call.call_id) or _missing(call) for call in turn.calls)))
    return tuple(whole)


def _missing(call: ToolCall) -> ToolOutput:
    return ToolOutput(call.call_id, call.name, (TextBlock(text=_MISSING_RESULT),), True)
