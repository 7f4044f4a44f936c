"""What an MCP tool answered, as our own outcome.

Text is bounded like that of every tool. Images that models know are passed on,
and so are texts of resources and links to them; what cannot be passed on is
named. Structured content is shown when the text does not say the same.

Importing this module imports the SDK: only a thread does it.
"""

import base64
import binascii
from typing import Any, Final

import msgspec
from mcp import types

from atrio_agent.tools.base import ToolOutcome
from atrio_agent.tools.images import MAX_IMAGE_BYTES, image_type
from atrio_agent.tools.output import MAX_OUTPUT_CHARS, bounded, counted, shown
from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceContents, ResourceLink, TextBlock
from atrio_protocol.struct import UNSET

__all__ = ["outcome_of"]

_MAX_IMAGES: Final = 10
_MAX_OTHERS: Final = 50
_MAX_URI_CHARS: Final = 2_000


def outcome_of(result: types.CallToolResult) -> ToolOutcome:
    """The outcome. It is text first, then what is not text."""
    texts: list[str] = []
    others: list[ContentBlock] = []
    for content in result.content:
        block = _block(content)
        is_over = isinstance(block, ImageBlock) and sum(isinstance(b, ImageBlock) for b in others) >= _MAX_IMAGES
        if isinstance(block, str):
            texts.append(block)
        elif is_over or len(others) >= _MAX_OTHERS:
            texts.append("[One more, left out.]")
        else:
            others.append(block)
    structured = _structured(result, texts)
    if structured is not None:
        texts.append(structured)
    said = bounded("\n".join(texts))
    left_out = said.left_out
    room = MAX_OUTPUT_CHARS - len(said.text)
    for index, block in enumerate(others):
        if isinstance(block, ResourceBlock) and isinstance(block.resource.text, str):
            text = bounded(block.resource.text, max_chars=max(room, 100))
            left_out += text.left_out
            room -= len(text.text)
            others[index] = ResourceBlock(resource=msgspec.structs.replace(block.resource, text=text.text))
    content = (*([TextBlock(text=said.text)] if said.text or not others else []), *others)
    return ToolOutcome(content=content, is_error=result.is_error, truncated=left_out > 0)


def _block(content: types.ContentBlock) -> ContentBlock | str:
    match content:
        case types.TextContent():
            return content.text
        case types.ImageContent():
            return _image(content.data) or _named("An image", content.mime_type, content.data)
        case types.AudioContent():
            return _named("A sound", content.mime_type, content.data)
        case types.ResourceLink():
            return ResourceLink(
                uri=_uri(content.uri), name=shown(content.name, max_chars=200), mime_type=content.mime_type or UNSET
            )
        case types.EmbeddedResource():
            return _resource(content.resource)


def _resource(resource: types.TextResourceContents | types.BlobResourceContents) -> ContentBlock | str:
    uri = _uri(resource.uri)
    if isinstance(resource, types.BlobResourceContents):
        return _image(resource.blob) or _named(f"The resource {uri}", resource.mime_type, resource.blob)
    return ResourceBlock(resource=ResourceContents(uri=uri, mime_type=resource.mime_type or UNSET, text=resource.text))


def _image(data: str) -> ImageBlock | None:
    """The image, if models know its kind: they refuse a whole request for one that they cannot read."""
    if len(data) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        return None
    try:
        kind = image_type(base64.b64decode(data, validate=True)[:16])
    except (binascii.Error, ValueError):
        return None
    return None if kind is None else ImageBlock(mime_type=kind, data=data)


def _named(what: str, mime_type: str | None, data: str) -> str:
    kind = shown(mime_type or "no type", max_chars=100)
    return f"[{what} ({kind}, {counted(len(data) * 3 // 4, 'byte')}) that cannot be passed on.]"


def _uri(uri: object) -> str:
    return shown(str(uri), max_chars=_MAX_URI_CHARS)


def _structured(result: types.CallToolResult, texts: list[str]) -> str | None:
    """The structured content as JSON, where no text says the same."""
    given: Any = result.structured_content
    if given is None:
        return None
    for text in texts:
        try:
            if msgspec.json.decode(text) == given:
                return None
        except (ValueError, RecursionError):
            continue
    return msgspec.json.encode(given).decode()
