"""Our request as a body for OpenAI's chat completions.

Nothing is sent here and nothing is refused: whatever a request holds has a
form. What the API has no place for (binary resources, links, images in tool
results) is said in words or moved to where it may stand.

Turns of the same role that follow each other become one message, because many
compatible servers insist on user and assistant taking turns.
"""

from typing import Any, cast

import msgspec

from atrio_agent.models.base import AssistantTurn, ModelRequest, ToolOutput, ToolResults, UserTurn
from atrio_agent.models.words import has_image, in_words
from atrio_protocol.content import ContentBlock, ImageBlock

__all__ = ["request_body"]

Json = dict[str, Any]

_BELOW = "it follows after the results"


def request_body(request: ModelRequest) -> Json:
    """The body but for the model's name and how the answer is to be sent."""
    messages: list[Json] = [{"role": "system", "content": request.system}] if request.system else []
    for turn in request.turns:
        match turn:
            case UserTurn():
                _add_user(messages, _parts(turn.content))
            case AssistantTurn():
                _add_assistant(messages, turn)
            case ToolResults():
                messages += [_tool_message(result) for result in turn.results]
                images = [_image(block) for result in turn.results for block in result.content if has_image(block)]
                if images:
                    _add_user(messages, [_text("The images that the tools returned:"), *images])
    body: Json = {"messages": [_flattened(message) for message in messages]}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            }
            for tool in request.tools
        ]
    return body


def _add_user(messages: list[Json], parts: list[Json]) -> None:
    if not parts:
        return
    if messages and messages[-1]["role"] == "user":
        messages[-1]["content"] += parts
    else:
        messages.append({"role": "user", "content": parts})


def _add_assistant(messages: list[Json], turn: AssistantTurn) -> None:
    # A turn that was cancelled before its first word says nothing, and an empty message is refused.
    if not turn.text and not turn.calls:
        return
    message: Json = {"role": "assistant", "content": turn.text or None}
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": msgspec.json.encode(call.input).decode()},
            }
            for call in turn.calls
        ]
    messages.append(message)


def _tool_message(result: ToolOutput) -> Json:
    text = "\n\n".join(in_words(block, _BELOW if has_image(block) else "") for block in result.content)
    # The API has no mark for a failed call, so the text says it.
    content = f"Error: {text}" if result.is_error else text
    return {"role": "tool", "tool_call_id": result.call_id, "content": content or "(no output)"}


def _parts(blocks: tuple[ContentBlock, ...]) -> list[Json]:
    return [_image(block) if has_image(block) else _text(in_words(block)) for block in blocks]


def _flattened(message: Json) -> Json:
    # Text alone goes as a string: every compatible server takes that, not every one takes parts.
    content = message["content"]
    if isinstance(content, list):
        parts = cast("list[Json]", content)
        if all(part["type"] == "text" for part in parts):
            return message | {"content": "\n\n".join(part["text"] for part in parts)}
    return message


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _image(block: ContentBlock) -> Json:
    assert isinstance(block, ImageBlock)
    return {"type": "image_url", "image_url": {"url": f"data:{block.mime_type};base64,{block.data}"}}
