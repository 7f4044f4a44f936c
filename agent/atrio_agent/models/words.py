"""What of a content block goes to a model as words, and what as an image.

Shared by all providers. An API that has no place for a kind of block gets it in
words, so that a model at least knows that there was something. Which images a
model is shown at all is decided before (`atrio_agent.pictures`).
"""

from typing import Final

from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceLink, TextBlock
from atrio_protocol.struct import UNSET, UnsetType

__all__ = ["IMAGE_TYPES", "has_image", "in_words"]

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What every provider takes that takes images."""

_UNITS: Final = ((1024 * 1024, "MB"), (1024, "KB"), (1, "bytes"))


def has_image(block: ContentBlock) -> bool:
    """Whether the block is an image that a provider can be given."""
    return isinstance(block, ImageBlock) and block.data is not UNSET and block.mime_type in IMAGE_TYPES


def in_words(block: ContentBlock, why: str = "") -> str:
    """The block as text; ``why`` it is no more than that, for an image."""
    match block:
        case TextBlock():
            return block.text
        case ImageBlock():
            size = _data_bytes(block.data) if block.bytes is UNSET else block.bytes
            return _named("image", block.mime_type, size, why)
        case ResourceLink():
            return f"[{block.name}: {block.uri}]"
        case ResourceBlock(resource=resource) if resource.text is not UNSET:
            return f'<resource uri="{resource.uri}">\n{resource.text}\n</resource>'
        case ResourceBlock(resource=resource):
            kind = "" if resource.mime_type is UNSET else resource.mime_type
            why = why or "binary data is not passed on"
            return _named(f"resource {resource.uri}", kind, _data_bytes(resource.blob), why)


def _data_bytes(data: str | UnsetType) -> int:
    """How many bytes a base64 text stands for, about."""
    return 0 if data is UNSET else len(data) * 3 // 4 - data[-2:].count("=")


def _named(what: str, kind: str, size_bytes: int, why: str) -> str:
    size = next((f"{size_bytes // unit} {name}" for unit, name in _UNITS if size_bytes >= unit), "")
    said = ", ".join(part for part in (kind, size) if part)
    return f"[{what} {said}: {why}]" if why else f"[{what} {said}]"
