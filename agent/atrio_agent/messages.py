"""A message while it grows.

The parts are kept as they are on the wire, except for text that still grows,
which is a list of pieces: a delta costs one append, and the whole is joined
only when somebody looks. Text that an outsider sees is always the sum of the
deltas that were published, because both happen in the same synchronous step
(`scribe`).

Nothing here publishes or stores.
"""

from dataclasses import dataclass, field

import msgspec

from atrio_agent.clock import now
from atrio_protocol.content import TextBlock
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart, lean_part
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, MessageFinish
from atrio_protocol.who import Author

__all__ = ["LiveMessage", "growing_field"]

GrowingPart = TextBlock | ReasoningPart | ToolCallPart


def growing_field(part: Part) -> str:
    """The wire name of what a delta of this part appends to."""
    return "inputText" if isinstance(part, ToolCallPart) else "text"


@dataclass(slots=True)
class _Growing:
    """A part whose text still grows: the part without its text, and the pieces."""

    part: GrowingPart
    pieces: list[str]
    length: int

    def whole(self) -> GrowingPart:
        text = "".join(self.pieces)
        if len(self.pieces) > 1:
            self.pieces[:] = [text]
        if isinstance(self.part, ToolCallPart):
            return msgspec.structs.replace(self.part, input_text=text)
        return msgspec.structs.replace(self.part, text=text)


@dataclass(slots=True)
class _Output:
    """What a tool call has said so far: its end, and how many code points there were before."""

    kept: str = ""
    dropped: int = 0

    def append(self, text: str) -> int:
        """Add to it; returns the code points that were there before, dropped ones included."""
        offset = self.dropped + len(self.kept)
        whole = self.kept + text
        self.kept = whole[-TOOL_OUTPUT_CHARS:]
        self.dropped += len(whole) - len(self.kept)
        return offset


@dataclass(slots=True, kw_only=True, eq=False)
class LiveMessage:
    """A message that is not completed, or whose run is not."""

    message_id: str
    session_id: str
    run_id: str
    order: int
    role: str
    model: str | None = None
    provider: str | None = None
    author: Author | None = None
    summary: bool = False
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    finish: MessageFinish | None = None
    completed: bool = False
    """Its `message.completed` is published."""
    _parts: list[Part | _Growing] = field(default_factory=list["Part | _Growing"])
    _outputs: dict[int, _Output] = field(default_factory=dict[int, _Output])
    """Live output of the tool calls that run, by part."""

    def __len__(self) -> int:
        return len(self._parts)

    def part(self, index: int) -> Part:
        """One part as it stands."""
        held = self._parts[index]
        part = held.whole() if isinstance(held, _Growing) else held
        output = self._outputs.get(index)
        if output is None or not isinstance(part, ToolCallPart):
            return part
        return msgspec.structs.replace(part, output=output.kept, output_from=output.dropped or UNSET)

    def raw_part(self, index: int) -> Part:
        """One part without what it grew by; enough to know its type."""
        held = self._parts[index]
        return held.part if isinstance(held, _Growing) else held

    def parts(self) -> tuple[Part, ...]:
        """All parts as they stand."""
        return tuple(self.part(index) for index in range(len(self._parts)))

    def set_part(self, index: int, part: Part) -> None:
        """Set a part, or add it when ``index`` is the next one. It does not grow any more; its live output is gone."""
        self.updated_at = now()
        self._outputs.pop(index, None)
        if index == len(self._parts):
            self._parts.append(part)
        else:
            self._parts[index] = part

    def append(self, index: int, text: str) -> int:
        """Let a part grow; returns the code points it had before."""
        held = self._parts[index]
        if not isinstance(held, _Growing):
            if isinstance(held, ToolCallPart):
                before = "" if held.input_text is UNSET else held.input_text
            elif isinstance(held, TextBlock | ReasoningPart):
                before = held.text
            else:
                raise TypeError(f"a {type(held).__name__} does not grow")
            held = self._parts[index] = _Growing(held, [before], len(before))
        offset = held.length
        held.pieces.append(text)
        held.length += len(text)
        return offset

    def append_output(self, index: int, text: str) -> int:
        """Add to the live output of a tool call; returns the code points it had before."""
        return self._outputs.setdefault(index, _Output()).append(text)

    def clear(self) -> None:
        """Empty it: what was said is void, parts count from 0 again."""
        self._parts.clear()
        self._outputs.clear()
        self.updated_at = now()

    def text(self) -> str:
        """All its text parts, joined as they came."""
        return "".join(part.text for part in self.parts() if isinstance(part, TextBlock))

    def view(self, *, finish: MessageFinish | None = None, parts: tuple[Part, ...] | None = None) -> Message:
        """The whole message as it stands, or as it will stand with this finish and these parts."""
        finish = finish or self.finish
        return Message(
            message_id=self.message_id,
            session_id=self.session_id,
            run_id=self.run_id,
            order=self.order,
            role=self.role,  # type: ignore[arg-type]  # one of the three by construction
            parts=self.parts() if parts is None else parts,
            finish=finish or UNSET,
            model=self.model or UNSET,
            provider=self.provider or UNSET,
            summary=self.summary,
            author=self.author or UNSET,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def lean(self) -> Message:
        """The message as snapshots, lists and events show it."""
        message = self.view()
        return msgspec.structs.replace(message, parts=tuple(lean_part(part) for part in message.parts))
