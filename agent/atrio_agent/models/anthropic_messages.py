"""Our request as a body for Anthropic's messages.

Nothing is sent here and nothing is refused: whatever a request holds has a
form. What a model thought goes back only where everything before it is as it
was when it thought so; the API refuses it anywhere else, and takes a history
without thoughts from models that think adaptively, the only ones asked to.

Up to four marks say what is worth caching: the tools, the system prompt and
the two newest user messages, so that each request of a turn reads what the one
before it wrote.
"""

from collections.abc import Iterable
from typing import Any, Final

from atrio_agent.models.base import AssistantTurn, ModelRequest, ToolOutput, ToolResults, UserTurn
from atrio_agent.models.catalog import thinks_adaptively
from atrio_agent.models.recall import Asked, Json, Prefix, Recall
from atrio_agent.models.words import has_image, in_words
from atrio_protocol.content import ContentBlock, ImageBlock

__all__ = ["request_body"]

_MAX_TOKENS: Final = 64_000
"""What one answer may take, thoughts included; every current Claude can give that much."""
_MAX_TOKENS_ELSEWHERE: Final = 8_192
_MARK: Final[Json] = {"cache_control": {"type": "ephemeral"}}
_MARKED_MESSAGES: Final = 2


def request_body(request: ModelRequest, name: str, recall: Recall) -> Asked:
    """The body but for how the answer is to be sent."""
    adaptive = thinks_adaptively(name)
    thinks = adaptive and request.purpose == "turn"
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in request.tools
    ]
    prefix = Prefix(name, request.system, tools)
    messages, recalls = _messages(request, prefix, recall if thinks else None)
    key = prefix.key(messages)
    body: Json = {
        "model": name,
        "max_tokens": _MAX_TOKENS if name.startswith("claude-") else _MAX_TOKENS_ELSEWHERE,
        "messages": messages,
    }
    if request.system:
        body["system"] = [_text(request.system) | _MARK]
    if tools:
        body["tools"] = [*tools[:-1], tools[-1] | _MARK]
    if thinks:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    elif adaptive and request.purpose == "title":
        body["output_config"] = {"effort": "low"}
    _mark_newest(messages)
    return Asked(body, key, recalls)


def _messages(request: ModelRequest, prefix: Prefix, recall: Recall | None) -> tuple[list[Json], bool]:
    messages: list[Json] = []
    recalls = False
    call_ids: dict[str, str] = {}
    for turn in request.turns:
        match turn:
            case UserTurn():
                _add(messages, "user", _blocks(turn.content))
            case ToolResults():
                _add(messages, "user", [_result(result, call_ids) for result in turn.results])
            case AssistantTurn(text=text, calls=calls) if text.strip() or calls:
                kept = recall and recall.find(prefix.key(messages))
                if kept and _fits(kept, turn):
                    theirs = [block["id"] for block in kept if block["type"] == "tool_use"]
                    call_ids |= {call.call_id: call_id for call, call_id in zip(calls, theirs, strict=True)}
                    messages.append({"role": "assistant", "content": _without_blanks(kept)})
                    recalls = True
                else:
                    messages.append({"role": "assistant", "content": _said(turn)})
            case AssistantTurn():
                pass  # It was cancelled before its first word, and an empty message is refused.
    return messages, recalls


def _add(messages: list[Json], role: str, blocks: list[Json]) -> None:
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _fits(kept: list[Json], turn: AssistantTurn) -> bool:
    """Whether what is kept is this turn: one that was cancelled or taken back may have said something else."""
    text = "".join(block["text"] for block in kept if block["type"] == "text")
    names = [block["name"] for block in kept if block["type"] == "tool_use"]
    return text == turn.text and names == [call.name for call in turn.calls]


def _said(turn: AssistantTurn) -> list[Json]:
    said = [_text(turn.text)] if turn.text.strip() else []
    calls = [{"type": "tool_use", "id": call.call_id, "name": call.name, "input": call.input} for call in turn.calls]
    return said + calls


def _result(result: ToolOutput, call_ids: dict[str, str]) -> Json:
    if result.is_error:
        # An error may hold nothing but text.
        said = _without_blanks(_text(in_words(block)) for block in result.content)
    else:
        said = _blocks(result.content)
    content = said or [_text("(no output)")]
    block: Json = {
        "type": "tool_result",
        "tool_use_id": call_ids.get(result.call_id, result.call_id),
        "content": content,
    }
    return block | {"is_error": True} if result.is_error else block


def _blocks(blocks: Iterable[ContentBlock]) -> list[Json]:
    return _without_blanks(_image(block) if has_image(block) else _text(in_words(block)) for block in blocks)


def _without_blanks(blocks: Iterable[Json]) -> list[Json]:
    """The blocks without blank texts, which the API refuses also where it sent them itself."""
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _image(block: ContentBlock) -> Json:
    assert isinstance(block, ImageBlock)
    return {"type": "image", "source": {"type": "base64", "media_type": block.mime_type, "data": block.data}}


def _mark_newest(messages: list[Json]) -> None:
    users = [message for message in messages if message["role"] == "user"]
    for message in users[-_MARKED_MESSAGES:]:
        content: list[dict[str, Any]] = message["content"]
        content[-1] = content[-1] | _MARK
