"""Builds what the model is asked from what was said.

History may hold anything that a crash, a cancel or a careless provider left
behind. The request never does: it begins with a user turn, roles take turns,
every tool call has exactly one result, results follow their calls, no two calls
have the same id, names are such as providers accept, and nothing is empty. So a
session is never poisoned by its past.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from atrio_agent.models.base import AssistantTurn, ToolCall, ToolOutput, ToolResults, Turn, UserTurn
from atrio_agent.store.paging import stands_for_history
from atrio_agent.store.search import message_text
from atrio_protocol.content import ContentBlock, TextBlock
from atrio_protocol.parts import ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.things import Message

__all__ = ["newest_user_text", "turns_of"]

_SUMMARY: Final = "This is a summary of what was said and done so far, in place of the conversation itself:\n\n"
_MISSING_RESULT: Final = "This call has no result: it was cancelled or interrupted before it could finish."
_NO_BEGINNING: Final = "(What was said before is not here.)"
_NOTHING: Final = "(an empty message)"
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME_CHARS: Final = 64
"""What all providers accept as the name of a tool; a model may have made up another one."""


def turns_of(messages: Iterable[Message]) -> tuple[Turn, ...]:
    """Turn stored messages into a request's turns, repaired."""
    turns: list[Turn] = []
    for message in messages:
        if message.summary:
            if stands_for_history(message):
                _add_user(turns, (TextBlock(text=_SUMMARY + message_text(message)),))
        elif message.role == "user":
            _add_user(turns, tuple(part for part in message.parts if isinstance(part, ContentBlock)))
        elif message.role == "assistant":
            _add_assistant(turns, message)
        else:
            _add_results(turns, message)
    return _whole(turns)


def newest_user_text(messages: Sequence[Message]) -> str:
    """The text of the newest user message, or nothing."""
    for message in reversed(messages):
        if message.role == "user":
            return "\n\n".join(part.text for part in message.parts if isinstance(part, TextBlock))
    return ""


def _add_user(turns: list[Turn], content: tuple[ContentBlock, ...]) -> None:
    if not content:
        return
    # Some providers refuse a request for one blank text in it.
    said = tuple(block for block in content if not isinstance(block, TextBlock) or block.text.strip())
    last = turns[-1] if turns else None
    if isinstance(last, UserTurn):
        turns[-1] = UserTurn(last.content + said)
    else:
        turns.append(UserTurn(said or (TextBlock(text=_NOTHING),)))


def _add_assistant(turns: list[Turn], message: Message) -> None:
    calls = tuple(
        ToolCall(part.tool_call_id, _name(part.name), part.input or {})
        for part in message.parts
        if isinstance(part, ToolCallPart)
    )
    text = "".join(part.text for part in message.parts if isinstance(part, TextBlock))
    text = text if text.strip() else ""
    reasoning = "".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
    if not text and not calls:
        return
    last = turns[-1] if turns else None
    if isinstance(last, AssistantTurn) and not last.calls:
        texts = [each for each in (last.text, text) if each]
        turns[-1] = AssistantTurn("\n\n".join(texts), last.reasoning + reasoning, calls)
    else:
        turns.append(AssistantTurn(text, reasoning, calls))


def _add_results(turns: list[Turn], message: Message) -> None:
    """Keep the results whose calls are in the assistant turn before; the others are orphans."""
    last = turns[-1] if turns else None
    held = last.results if isinstance(last, ToolResults) else ()
    asking = turns[-2] if held else last
    if not isinstance(asking, AssistantTurn):
        return
    known = {call.call_id for call in asking.calls} - {result.call_id for result in held}
    found = {
        part.tool_call_id: ToolOutput(part.tool_call_id, _name(part.name), part.content, part.is_error)
        for part in message.parts
        if isinstance(part, ToolResultPart) and part.tool_call_id in known
    }
    if held:
        turns.pop()
    if held or found:
        turns.append(ToolResults((*held, *found.values())))


def _whole(turns: list[Turn]) -> tuple[Turn, ...]:
    """Give every call an id of its own and its result, in the order of the calls, directly after them."""
    whole: list[Turn] = []
    taken: set[str] = set()
    if turns and not isinstance(turns[0], UserTurn):
        whole.append(UserTurn((TextBlock(text=_NO_BEGINNING),)))
    for index, turn in enumerate(turns):
        if isinstance(turn, ToolResults):
            continue
        if not isinstance(turn, AssistantTurn) or not turn.calls:
            whole.append(turn)
            continue
        after = turns[index + 1] if index + 1 < len(turns) else None
        found = {result.call_id: result for result in after.results} if isinstance(after, ToolResults) else {}
        calls: list[ToolCall] = []
        results: list[ToolOutput] = []
        for call in turn.calls:
            result = found.pop(call.call_id, None) or _missing(call)
            call_id = _unique(call.call_id, taken)
            calls.append(msgspec.structs.replace(call, call_id=call_id))
            results.append(msgspec.structs.replace(result, call_id=call_id, name=call.name))
        whole += [AssistantTurn(turn.text, turn.reasoning, tuple(calls)), ToolResults(tuple(results))]
    return tuple(whole)


def _unique(call_id: str, taken: set[str]) -> str:
    call_id = call_id or "call"
    unique, count = call_id, 1
    while unique in taken:
        count += 1
        unique = f"{call_id}-{count}"
    taken.add(unique)
    return unique


def _name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:_MAX_NAME_CHARS] or "unnamed"


def _missing(call: ToolCall) -> ToolOutput:
    return ToolOutput(call.call_id, call.name, (TextBlock(text=_MISSING_RESULT),), True)
