"""Our request as a body for OpenAI's responses.

Nothing is stored at OpenAI: each request holds the whole conversation. What a
model reasoned comes encrypted, and goes back where everything before it is as
it was; elsewhere it is left out, which the API takes as well.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from atrio_agent.models.base import AssistantTurn, ModelRequest, ToolOutput, ToolResults, UserTurn
from atrio_agent.models.recall import Asked, Json, Prefix, Recall
from atrio_agent.models.words import has_image, in_words
from atrio_protocol.content import ContentBlock, ImageBlock

__all__ = ["request_body"]

_REASONING: Final[dict[str, Json]] = {"turn": {"summary": "auto"}, "title": {"effort": "low"}}


def request_body(request: ModelRequest, name: str, recall: Recall) -> Asked:
    """The body but for how the answer is to be sent."""
    tools: list[Json] = [
        # Not strict: strict schemas know no optional inputs.
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema,
            "strict": False,
        }
        for tool in request.tools
    ]
    prefix = Prefix(name, request.system, tools)
    items, recalls = _items(request, prefix, recall)
    body: Json = {
        "model": name,
        "input": items,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": request.session_id,
    }
    if request.system:
        body["instructions"] = request.system
    if tools:
        body["tools"] = tools
    if request.purpose in _REASONING:
        body["reasoning"] = _REASONING[request.purpose]
    return Asked(body, prefix.key(items), recalls)


def _items(request: ModelRequest, prefix: Prefix, recall: Recall) -> tuple[list[Json], bool]:
    items: list[Json] = []
    recalls = False
    call_ids: dict[str, str] = {}
    for turn in request.turns:
        match turn:
            case UserTurn():
                if content := _content(turn.content):
                    items.append({"type": "message", "role": "user", "content": content})
            case ToolResults():
                items += [_result(result, call_ids) for result in turn.results]
            case AssistantTurn():
                kept = recall.find(prefix.key(items))
                if kept and _fits(kept, turn):
                    theirs = [item["call_id"] for item in kept if item["type"] == "function_call"]
                    call_ids |= {call.call_id: call_id for call, call_id in zip(turn.calls, theirs, strict=True)}
                    items += kept
                    recalls = True
                else:
                    items += _said(turn)
    return items, recalls


def _fits(kept: list[Json], turn: AssistantTurn) -> bool:
    """Whether what is kept is this turn: one that was cancelled or taken back may have said something else."""
    parts = [part for item in kept if item["type"] == "message" for part in item.get("content", ())]
    text = "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    names = [item["name"] for item in kept if item["type"] == "function_call"]
    return text == turn.text and names == [call.name for call in turn.calls]


def _said(turn: AssistantTurn) -> list[Json]:
    said: list[Json] = [{"role": "assistant", "content": turn.text}] if turn.text else []
    for call in turn.calls:
        arguments = msgspec.json.encode(call.input).decode()
        said.append({"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": arguments})
    return said


def _result(result: ToolOutput, call_ids: dict[str, str]) -> Json:
    output: Any = _content(result.content)
    # The API has no mark for a failed call, so the text says it.
    if all(part["type"] == "input_text" for part in output):
        output = "\n\n".join(part["text"] for part in output) or "(no output)"
        output = f"Error: {output}" if result.is_error else output
    elif result.is_error:
        output = [{"type": "input_text", "text": "Error:"}, *output]
    return {
        "type": "function_call_output",
        "call_id": call_ids.get(result.call_id, result.call_id),
        "output": output,
    }


def _content(blocks: Iterable[ContentBlock]) -> list[Json]:
    return [_image(block) if has_image(block) else {"type": "input_text", "text": in_words(block)} for block in blocks]


def _image(block: ContentBlock) -> Json:
    assert isinstance(block, ImageBlock)
    return {"type": "input_image", "detail": "auto", "image_url": f"data:{block.mime_type};base64,{block.data}"}
