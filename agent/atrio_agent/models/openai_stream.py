"""The streamed chunks of a chat completion, as model events.

One `ChunkReader` per answer; it does no I/O. It puts right what servers that
only resemble OpenAI's do differently: calls without an index or an id, several
calls under one index, arguments as an object, no finish reason for calls.

Invariant: for each call one start, at least one piece of input, one end; and
`Finish` comes last or not at all.
"""

import secrets
from typing import Any, Literal

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
from atrio_agent.models.provider_errors import reported_error
from atrio_protocol.errors import ProviderError, ProviderUnreachable

__all__ = ["ChunkReader"]


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    cost: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _OpenCall:
    """A call whose pieces are coming."""

    def __init__(self, call_id: str, index: int | None) -> None:
        self.call_id = call_id
        self.index = index
        self.name = ""
        self.held: list[str] = []
        """Input that came before the name."""
        self.has_input = False


_decode = msgspec.json.Decoder(_Chunk).decode
_REASONS: dict[str, Literal["end_turn", "tool_use", "max_tokens", "refusal"]] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
_DETAIL_CHARS = 300


class ChunkReader:
    """Reads one answer. ``server`` names it in errors."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._calls: list[_OpenCall] = []
        self._usage: _Usage | None = None
        self._finish: str | None = None
        self._refusal = ""
        self._any = False
        self.done = False
        """Whether the server said that nothing more comes."""

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stops; only its count of tokens may be missing."""
        return self._finish is not None

    def read(self, payload: bytes, out: list[ModelEvent]) -> None:
        """Append the events of one payload to ``out``.

        Raises:
            RunError: The server reports an error, or the payload is no chunk.
        """
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode(payload)
        except msgspec.MsgspecError as exc:
            raise ProviderError(f"{self._server} sent a chunk that cannot be read: {exc}") from exc
        if chunk.error is not None:
            raise reported_error(chunk.error, server=self._server)
        if chunk.usage is not None:
            # Some servers count along in every chunk; the last count is the answer's.
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            self._any = True
            if choice.delta is not None:
                self._delta(choice.delta, out)
            if choice.finish_reason:
                self._finish = choice.finish_reason

    def _delta(self, delta: _Delta, out: list[ModelEvent]) -> None:
        if delta.content:
            out.append(TextDelta(delta.content))
        # Some servers send the same thought under both names.
        if thought := delta.reasoning_content or delta.reasoning:
            out.append(ReasoningDelta(thought))
        if delta.refusal:
            self._refusal += delta.refusal
            out.append(TextDelta(delta.refusal))
        for piece in delta.tool_calls or ():
            self._piece(piece, out)

    def _piece(self, piece: _Call, out: list[ModelEvent]) -> None:
        function = piece.function or _Function()
        call = self._call_of(piece, named=bool(function.name))
        text = function.arguments or ""
        if isinstance(text, dict):
            text = msgspec.json.encode(text).decode()
        if function.name and not call.name:
            call.name = function.name
            out.append(ToolCallStart(call.call_id, call.name))
            text, call.held = "".join([*call.held, text]), []
        if not text:
            return
        if call.name:
            call.has_input = True
            out.append(ToolCallArgs(call.call_id, text))
        else:
            call.held.append(text)

    def _call_of(self, piece: _Call, *, named: bool) -> _OpenCall:
        """The call that a piece belongs to: by index, else by id, else the newest."""
        found: _OpenCall | None = None
        if piece.index is not None:
            found = next((call for call in reversed(self._calls) if call.index == piece.index), None)
        elif piece.id:
            found = next((call for call in self._calls if call.call_id == piece.id), None)
        elif self._calls and not (named and self._calls[-1].name):
            found = self._calls[-1]
        if found is not None and not (piece.id and named and found.name and piece.id != found.call_id):
            return found
        known = {call.call_id for call in self._calls}
        call_id = piece.id if piece.id and piece.id not in known else f"call_{secrets.token_hex(8)}"
        call = _OpenCall(call_id, piece.index)
        self._calls.append(call)
        return call

    def end(self) -> list[ModelEvent]:
        """The last events, once nothing more comes.

        Raises:
            ProviderUnreachable: The answer was cut off; what it said is void.
            ProviderError: It ended properly but cannot be used.
        """
        if self._finish is None and not self.done:
            raise ProviderUnreachable(f"the answer of {self._server} was cut off")
        if not self._any:
            raise ProviderError(f"{self._server} ended its answer without having said anything", retryable=True)
        out: list[ModelEvent] = []
        for call in self._calls:
            if not call.name:
                raise ProviderError(f"{self._server} asked for a tool without naming it", retryable=True)
            if not call.has_input:
                out.append(ToolCallArgs(call.call_id, "{}"))
            out.append(ToolCallEnd(call.call_id))
        usage = self._usage
        if usage is not None and usage.prompt_tokens is not None:
            out.append(_report(usage, usage.prompt_tokens))
        out.append(self._finish_event())
        return out

    def _finish_event(self) -> Finish:
        word = self._finish or ""
        reason = _REASONS.get(word, "end_turn")
        if self._refusal:
            return Finish("refusal", self._refusal[:_DETAIL_CHARS])
        if reason in {"end_turn", "tool_use"}:
            # Whether there are calls is a fact, the word for it a habit that differs.
            reason = "tool_use" if self._calls else "end_turn"
        return Finish(reason, word)


def _report(usage: _Usage, input_tokens: int) -> UsageReport:
    details = usage.prompt_tokens_details or _Details()
    return UsageReport(
        input_tokens,
        usage.completion_tokens or 0,
        cache_read_tokens=details.cached_tokens or 0,
        cache_write_tokens=details.cache_write_tokens or 0,
        # Only some gateways say it; what others put there is not for us.
        cost_usd=float(usage.cost) if isinstance(usage.cost, int | float) else None,
    )
