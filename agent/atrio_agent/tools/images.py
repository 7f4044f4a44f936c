"""Images among files: told by their first bytes, given to the model whole.

Nothing here decodes an image; a file that only begins like one is passed on as
one, and whoever looks at it says so.
"""

import base64
from typing import Final

from atrio_agent.tools.base import ToolOutcome
from atrio_agent.tools.output import counted
from atrio_protocol.content import ImageBlock, TextBlock

__all__ = ["MAX_IMAGE_BYTES", "image_outcome", "image_type"]

MAX_IMAGE_BYTES: Final = 5 * 1024 * 1024
"""A larger image is only named."""

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def image_type(head: bytes) -> str | None:
    """The MIME type of a file that begins like this; None if it is no image that models know."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((mime_type for beginning, mime_type in _BEGINNINGS if head.startswith(beginning)), None)


def image_outcome(name: str, mime_type: str, data: bytes) -> ToolOutcome:
    """The image, after a line that names it for those who cannot see it."""
    said = TextBlock(text=f"'{name}' is an image ({mime_type}) of {counted(len(data), 'byte')}.")
    return ToolOutcome(content=(said, ImageBlock(mime_type=mime_type, data=base64.b64encode(data).decode())))
