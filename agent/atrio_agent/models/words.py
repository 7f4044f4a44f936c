"""What of a content block goes to a model as words, and what as an image.

Shared by all providers. An API that has no place for a kind of block gets it in
words, so that a model at least knows that there was something.
"""

from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceLink, TextBlock
from atrio_protocol.struct import UNSET

__all__ = ["has_image", "in_words"]


def has_image(block: ContentBlock) -> bool:
    """Whether the block is an image whose data is here."""
    return isinstance(block, ImageBlock) and block.data is not UNSET


def in_words(block: ContentBlock) -> str:
    """The block as text."""
    match block:
        case TextBlock():
            return block.text
        case ImageBlock():
            return f"[image, {block.mime_type}]"
        case ResourceLink():
            return f"[{block.name}: {block.uri}]"
        case ResourceBlock(resource=resource) if resource.text is not UNSET:
            return f'<resource uri="{resource.uri}">\n{resource.text}\n</resource>'
        case ResourceBlock(resource=resource):
            return f"[binary resource: {resource.uri}]"
