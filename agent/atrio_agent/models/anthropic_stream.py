"""The streamed events of a message, as model events.

One `MessageReader` per answer; it does no I/O. Events and blocks of a kind that
is not known are passed over, as the API asks of its clients.

Invariant: for each call one start, at least one piece of input, one end; and
`Finish` comes last or not at all. An answer with signed thoughts is handed to
``keep`` as it came, once it is whole.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from atrio_agent.models.base import (
    Finish,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
    UsageReport,
)
from atrio_agent.models.provider_errors import reported_error, spoken
from atrio_agent.models.recall import Json
from atrio_protocol.errors import ProviderError, ProviderUnreachable

__all__ = ["MessageReader"]


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""


class _Details(msgspec.Struct, gc=False):
    category: str | None = None
    explanation: str | None = None


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None
    stop_details: _Details | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    index: int = -1
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Part:
    """A block of the answer that grows."""

    def __init__(self, block: _Block) -> None:
        self.block = block
        self.pieces: list[str] = []
        self.call_id = ""
        self.ended = False


_decode = msgspec.json.Decoder(_Event).decode
_REASONS: Final[dict[str, Literal["end_turn", "tool_use", "max_tokens", "refusal"]]] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}
_BLOCKS: Final = {"text", "thinking", "redacted_thinking", "tool_use"}


class MessageReader:
    """Reads one answer. ``server`` names it in errors."""

    def __init__(self, server: str, *, keep: Callable[[list[Json]], None] | None = None) -> None:
        self._server = server
        self._keep = keep
        self._parts: dict[int, _Part] = {}
        self._usage = _Usage()
        self._stop: str | None = None
        self._details: _Details | None = None
        self.done = False
        """Whether the server said that nothing more comes."""

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stops."""
        return self._stop is not None

    def read(self, payload: bytes, out: list[ModelEvent]) -> None:
        """Append the events of one payload to ``out``.

        Raises:
            RunError: The server reports an error, or the payload is no event.
        """
        try:
            event = _decode(payload)
        except msgspec.MsgspecError as exc:
            raise ProviderError(f"{self._server} sent a chunk that cannot be read: {exc}") from exc
        match event:
            case _Event(type="content_block_delta", delta=_Delta() as delta):
                self._grow(self._part(event.index), delta, out)
            case _Event(type="content_block_start", content_block=_Block() as block):
                self._begin(event.index, block, out)
            case _Event(type="content_block_stop"):
                self._end_part(self._part(event.index), out)
            case _Event(type="message_start", message=_Message(usage=_Usage() as usage)):
                self._usage = usage
            case _Event(type="message_delta"):
                self._close(event)
            case _Event(type="message_stop"):
                self.done = True
            case _Event(type="error"):
                raise reported_error(event.error, server=self._server)
            case _:
                pass

    def _part(self, index: int) -> _Part:
        part = self._parts.get(index)
        if part is None:
            raise ProviderError(f"{self._server} went on with a part that it had not begun", retryable=True)
        return part

    def _begin(self, index: int, block: _Block, out: list[ModelEvent]) -> None:
        part = self._parts[index] = _Part(block)
        match block.type:
            case "text" if block.text:
                self._grow(part, _Delta("text_delta", text=block.text), out)
            case "thinking" if block.thinking:
                self._grow(part, _Delta("thinking_delta", thinking=block.thinking), out)
            case "tool_use":
                if not block.name:
                    raise ProviderError(f"{self._server} asked for a tool without naming it", retryable=True)
                known = {other.call_id for other in self._parts.values()}
                if not block.id or block.id in known:
                    block.id = f"toolu_{secrets.token_hex(8)}"
                part.call_id = block.id
                out.append(ToolCallStart(part.call_id, block.name))
            case _:
                pass

    def _grow(self, part: _Part, delta: _Delta, out: list[ModelEvent]) -> None:
        match delta.type:
            case "text_delta" if delta.text:
                part.pieces.append(delta.text)
                out.append(TextDelta(delta.text))
            case "thinking_delta" if delta.thinking:
                part.pieces.append(delta.thinking)
                out.append(ReasoningDelta(delta.thinking))
            case "input_json_delta" if delta.partial_json and part.call_id:
                part.pieces.append(delta.partial_json)
                out.append(ToolCallArgs(part.call_id, delta.partial_json))
            case "signature_delta":
                part.block.signature += delta.signature
            case _:
                pass

    def _end_part(self, part: _Part, out: list[ModelEvent]) -> None:
        if part.call_id and not part.ended:
            if not part.pieces:
                # Some servers give the input at once, at the beginning.
                part.pieces.append(msgspec.json.encode(part.block.input or {}).decode())
                out.append(ToolCallArgs(part.call_id, part.pieces[0]))
            out.append(ToolCallEnd(part.call_id))
        part.ended = True

    def _close(self, event: _Event) -> None:
        if event.delta is not None and event.delta.stop_reason:
            self._stop, self._details = event.delta.stop_reason, event.delta.stop_details
        if event.usage is not None:
            # The counts are of the whole answer so far; what is left out has not changed.
            for name in _Usage.__struct_fields__:
                if (count := getattr(event.usage, name)) is not None:
                    setattr(self._usage, name, count)

    def end(self) -> list[ModelEvent]:
        """The last events, once nothing more comes.

        Raises:
            ProviderUnreachable: The answer was cut off; what it said is void.
        """
        if self._stop is None:
            raise ProviderUnreachable(f"the answer of {self._server} was cut off")
        out: list[ModelEvent] = []
        for part in self._parts.values():
            self._end_part(part, out)
        self._remember()
        usage = self._usage
        if usage.input_tokens is not None and usage.output_tokens is not None:
            read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
            out.append(
                UsageReport(
                    usage.input_tokens + read + written,
                    usage.output_tokens,
                    cache_read_tokens=read,
                    cache_write_tokens=written,
                )
            )
        out.append(self._finish_event(self._stop))
        return out

    def _finish_event(self, word: str) -> Finish:
        # Whether there are calls is a fact; words that are not known end the turn.
        called = any(part.call_id for part in self._parts.values())
        reason = _REASONS.get(word) or ("tool_use" if called else "end_turn")
        details = self._details
        return Finish(reason, spoken((details and (details.explanation or details.category)) or word))

    def _remember(self) -> None:
        """Hand on an answer that holds thoughts and is whole; one that is not would be refused."""
        parts = list(self._parts.values())
        thoughts = [part for part in parts if part.block.type in {"thinking", "redacted_thinking"}]
        signed = all(part.block.signature or part.block.data for part in thoughts)
        if self._keep is None or not thoughts or not signed or any(part.block.type not in _BLOCKS for part in parts):
            return
        try:
            blocks = [_as_sent(part) for part in parts]
        except msgspec.DecodeError:
            return  # A call whose input cannot be read; the model is told, and thinks anew.
        self._keep(blocks)


def _as_sent(part: _Part) -> Json:
    block, said = part.block, "".join(part.pieces)
    match block.type:
        case "thinking":
            return {"type": "thinking", "thinking": said, "signature": block.signature}
        case "redacted_thinking":
            return {"type": "redacted_thinking", "data": block.data}
        case "tool_use":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": msgspec.json.decode(said)}
        case _:
            return {"type": "text", "text": said}
