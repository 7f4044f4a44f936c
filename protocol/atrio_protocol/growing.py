"""A message while it grows, as a reader keeps it.

Text grows by pieces that are joined only when somebody looks, so a delta costs
the same however long the text is. Nothing here knows the numbering of a stream;
but a piece that does not begin where the text ends is refused.
"""

from typing import Literal

import msgspec

from atrio_protocol.content import TextBlock
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import Message

__all__ = ["GrowingField", "GrowingMessage", "StreamGap"]


class StreamGap(Exception):
    """The event does not follow on what is here. The state is as it was before it."""


GrowingField = Literal["text", "output"]
"""What a part grows by: ``text`` is also the input of a tool call, as far as it has come."""


class _Growth:
    """A text of a part, in pieces. ``end`` counts the code points of all of it, also of what is no longer kept."""

    __slots__ = ("_keep", "_kept", "_pieces", "end")

    def __init__(self, before: str, *, dropped: int = 0, keep: int | None = None) -> None:
        self._pieces = [before]
        self._kept = len(before)
        self._keep = keep
        self.end = dropped + len(before)

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._kept += len(text)
        self.end += len(text)
        if self._keep is not None and self._kept > 2 * self._keep:
            self.join()

    def join(self) -> str:
        text = "".join(self._pieces)
        text = text if self._keep is None else text[-self._keep :]
        self._pieces = [text]
        self._kept = len(text)
        return text


class GrowingMessage:
    """A message, with parts that may grow."""

    __slots__ = ("growth", "message", "parts")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.parts = [_without_zero(part) for part in message.parts]
        self.growth: dict[tuple[int, GrowingField], _Growth] = {}

    def set_part(self, index: int, part: Part) -> None:
        """Set or add a part.

        Raises:
            StreamGap: A part before it is missing. Nothing was changed.
        """
        if index > len(self.parts):
            raise StreamGap(f"part {index} of a message that has {len(self.parts)}")
        self.growth.pop((index, "text"), None)
        self.growth.pop((index, "output"), None)
        self.parts[index : index + 1] = [_without_zero(part)]

    def grow(self, index: int, of: GrowingField, offset: int, text: str) -> None:
        """Append to a part.

        Raises:
            StreamGap: There is no such part, or its text does not end at ``offset``. Nothing was changed.
        """
        growth = self.growth.get((index, of)) or _growth_of(self.parts, index, of)
        if growth.end != offset:
            raise StreamGap(f"text for code point {offset} of a part that ends at {growth.end}")
        growth.add(text)
        self.growth[index, of] = growth

    def empty(self) -> None:
        """Take back all parts."""
        self.parts.clear()
        self.growth.clear()

    def view(self) -> Message:
        """The message as it stands."""
        for (index, of), growth in self.growth.items():
            part = self.parts[index]
            if of == "output":
                output = growth.join()
                self.parts[index] = msgspec.structs.replace(
                    part, output=output, output_from=growth.end - len(output) or UNSET
                )
            else:
                text = growth.join()
                name = "input_text" if isinstance(part, ToolCallPart) else "text"
                self.parts[index] = msgspec.structs.replace(part, **{name: text})
        return msgspec.structs.replace(self.message, parts=tuple(self.parts))


def _without_zero(part: Part) -> Part:
    """One way to say that no output was dropped."""
    if isinstance(part, ToolCallPart) and part.output_from == 0:
        return msgspec.structs.replace(part, output_from=UNSET)
    return part


def _growth_of(parts: list[Part], index: int, of: GrowingField) -> _Growth:
    part = parts[index] if index < len(parts) else None
    if of == "output" and isinstance(part, ToolCallPart):
        return _Growth(given(part.output, ""), dropped=given(part.output_from, 0), keep=TOOL_OUTPUT_CHARS)
    if of == "text" and isinstance(part, ToolCallPart):
        return _Growth(given(part.input_text, ""))
    if of == "text" and isinstance(part, TextBlock | ReasoningPart):
        return _Growth(part.text)
    raise StreamGap(f"text for part {index}, which does not grow or is not there")
