"""What a model is shown of the images that were said: those that it takes, as many as one request may hold.

A provider refuses a whole request for one image that it cannot read, and would
do so again in every later turn. So an image goes only to a model that takes
images, only if its first bytes are those of a kind that every provider reads,
and only while there is room; the newest go first. Everything else is named in
words. Nothing is decoded and no message is changed: another model may be shown
tomorrow what this one was not.

Invariant: what comes out has as many parts as what went in.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from atrio_agent.models.words import in_words
from atrio_agent.tools.images import image_type
from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, TextBlock
from atrio_protocol.errors import ProviderError, RunError
from atrio_protocol.parts import Part, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message

if TYPE_CHECKING:
    from atrio_agent.loop import TurnHost

__all__ = ["MAX_IMAGES", "MAX_IMAGES_CHARS", "MAX_IMAGE_CHARS", "Shown", "Sight", "shown"]

MAX_IMAGES: Final = 20
"""In one request. With more, Anthropic takes none of over 2,000 pixels."""

MAX_IMAGE_CHARS: Final = 5 * 1024 * 1024
"""Of one image, in base64, as Anthropic counts."""

MAX_IMAGES_CHARS: Final = 20 * 1024 * 1024
"""Of all images of one request, in base64. A request to Anthropic may have 32 MB, text and tools included."""

_BLIND: Final = "this model takes no images"
_REFUSED: Final = "the provider refused the images"
_NO_KIND: Final = "it is no PNG, JPEG, GIF or WebP"
_TOO_LARGE: Final = f"it is over {MAX_IMAGE_CHARS * 3 // 4 // 1024:,} KB"
_HEAD_CHARS: Final = 64
_MAX_NAMED: Final = 10
"""How many things one notice names."""

P = TypeVar("P", bound=Part | ContentBlock)


class Shown(NamedTuple):
    """Messages as a model is shown them, and by message id what of them is only named, in words."""

    messages: tuple[Message, ...]
    named: dict[str, list[str]]
    images: int


class Sight:
    """What the model of one turn is shown. Tells those who watch, once, what of the turn's prompts is not."""

    def __init__(self, host: "TurnHost") -> None:
        self._host = host
        self._told = False
        self._refused = False
        self._images = 0

    def of(self, said: Sequence[Message]) -> tuple[Message, ...]:
        """What was said, as the model is shown it."""
        why = _REFUSED if self._refused else "" if self._host.model.takes_images else _BLIND
        seen = shown(said, why=why)
        self._images = seen.images
        if not self._told and seen.named:
            prompts = [message.message_id for message in self._host.so_far() if message.role == "user"]
            named = [words for message_id in prompts for words in seen.named.get(message_id, ())]
            if named:
                self._told = True
                more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
                self._host.notice(
                    "warning",
                    "The model was told of something in the prompt, and not given it.",
                    f"{self._host.model.model_id} got {', '.join(named[:_MAX_NAMED])}{more}.",
                )
        return seen.messages

    def goes_without(self, error: RunError) -> bool:
        """Whether to ask again without images, because a request with some was refused. Once a turn.

        Nobody says in a way that can be relied on that it was an image that was refused, and one in the history
        would end every turn to come.
        """
        if type(error) is not ProviderError or error.retryable or not self._images or self._refused:
            return False
        # What the prompt holds of images is told here.
        self._refused = self._told = True
        self._host.notice("warning", "The request was refused; asking again without its images.", error.message)
        return True


def shown(said: Sequence[Message], *, why: str = "") -> Shown:
    """The messages with their images, as many as one request may hold, the newest first.

    Args:
        said: Oldest first.
        why: Why there may be no images at all.
    """
    room = _Room(why)
    named: dict[str, list[str]] = {}
    messages: list[Message] = []
    for message in reversed(said):
        room.named = []
        parts = tuple(reversed([_part(part, room) for part in reversed(message.parts)]))
        if room.named:
            named[message.message_id] = room.named[::-1]
        changed = any(new is not old for new, old in zip(parts, message.parts, strict=True))
        messages.append(msgspec.structs.replace(message, parts=parts) if changed else message)
    return Shown(tuple(reversed(messages)), named, room.images)


class _Room:
    """What there is still room for, and what had none."""

    def __init__(self, why: str) -> None:
        self._why = why
        self._chars = MAX_IMAGES_CHARS
        self.images = 0
        self.named: list[str] = []

    def block(self, block: P) -> P | ImageBlock | TextBlock:
        """The block; as an image, or in words, if it is one or binary."""
        if isinstance(block, ImageBlock):
            data = block.data
        elif isinstance(block, ResourceBlock) and block.resource.text is UNSET:
            data = block.resource.blob
        else:
            return block
        kind = None if data is UNSET else _kind(data)
        if data is UNSET:
            why = "its data is not here"
        elif kind is None:
            why = _NO_KIND if isinstance(block, ImageBlock) else ""
        elif not (why := self._refusal(data)):
            self.images += 1
            self._chars -= len(data)
            # Its bytes say what it is. What the client called it would be refused if it is wrong.
            fits = isinstance(block, ImageBlock) and block.mime_type == kind
            return block if fits else ImageBlock(mime_type=kind, data=data)
        words = in_words(block, why)
        self.named.append(words)
        return TextBlock(text=words)

    def _refusal(self, data: str) -> str:
        """Why an image is not shown; empty if it is."""
        if self._why:
            return self._why
        if len(data) > MAX_IMAGE_CHARS:
            return _TOO_LARGE
        if self.images >= MAX_IMAGES or len(data) > self._chars:
            return "a request holds no more images, and there are newer ones"
        return ""


def _part(part: Part, room: _Room) -> Part:
    if isinstance(part, ToolResultPart):
        content = tuple(reversed([room.block(block) for block in reversed(part.content)]))
        same = all(new is old for new, old in zip(content, part.content, strict=True))
        return part if same else msgspec.structs.replace(part, content=content)
    return room.block(part)


def _kind(data: str) -> str | None:
    try:
        return image_type(base64.b64decode(data[:_HEAD_CHARS], validate=True))
    except (binascii.Error, ValueError):
        return None
