"""Content blocks: what a prompt is made of, and what a tool returns.

The shapes are those of the Agent Client Protocol. A user message's parts are
its prompt's blocks, so they are parts as well (see `atrio_protocol.parts`).
Limits are checked where a prompt is accepted, not here.
"""

from typing import Any

import msgspec

from atrio_protocol.limits import INLINE_IMAGE_BYTES
from atrio_protocol.struct import UNSET, UnsetType, WireStruct

__all__ = [
    "Attachment",
    "ContentBlock",
    "ImageBlock",
    "ResourceBlock",
    "ResourceContents",
    "ResourceLink",
    "TextBlock",
    "attachments_of",
    "prompt_text",
    "without_large_image",
]


class TextBlock(WireStruct, kw_only=True, tag="text", tag_field="type"):
    text: str
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


class ImageBlock(WireStruct, kw_only=True, tag="image", tag_field="type"):
    """An image. ``data`` is base64; absent, with ``bytes``, where it was too large to repeat."""

    mime_type: str
    data: str | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


class ResourceContents(WireStruct, kw_only=True):
    uri: str
    mime_type: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    blob: str | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


class ResourceBlock(WireStruct, kw_only=True, tag="resource", tag_field="type"):
    resource: ResourceContents
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


class ResourceLink(WireStruct, kw_only=True, tag="resource_link", tag_field="type"):
    uri: str
    name: str
    mime_type: str | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


ContentBlock = TextBlock | ImageBlock | ResourceBlock | ResourceLink


class Attachment(WireStruct, kw_only=True):
    """What a run says of a block that is not text."""

    type: str
    name: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET


def prompt_text(blocks: tuple[ContentBlock, ...]) -> str:
    """The text blocks, joined by a blank line."""
    return "\n\n".join(block.text for block in blocks if isinstance(block, TextBlock))


def attachments_of(blocks: tuple[ContentBlock, ...]) -> tuple[Attachment, ...]:
    """A short description of every block that is not text, in order."""
    found: list[Attachment] = []
    for block in blocks:
        match block:
            case TextBlock():
                pass
            case ImageBlock():
                found.append(Attachment(type="image", uri=block.uri, mime_type=block.mime_type))
            case ResourceBlock(resource=resource):
                found.append(Attachment(type="resource", uri=resource.uri, mime_type=resource.mime_type))
            case ResourceLink():
                found.append(
                    Attachment(type="resource_link", name=block.name, uri=block.uri, mime_type=block.mime_type)
                )
    return tuple(found)


def without_large_image(block: ContentBlock) -> ContentBlock:
    """The block as lists, snapshots and events show it: large image data left out."""
    if isinstance(block, ImageBlock) and block.data is not UNSET:
        size = len(block.data) * 3 // 4 - block.data[-2:].count("=")
        if size > INLINE_IMAGE_BYTES:
            return ImageBlock(mime_type=block.mime_type, bytes=size, uri=block.uri, meta=block.meta)
    return block
