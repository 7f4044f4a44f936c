"""The streamed events of a response, as model events.

One `ResponseReader` per answer; it does no I/O. Events and items of a kind that
is not known are passed over.

Invariant: for each call one start, at least one piece of input, one end; and
`Finish` comes last or not at all. An answer with encrypted reasoning is handed
to ``keep`` as it came, once it is whole.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

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

__all__ = ["ResponseReader"]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _Details | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    output_index: int = -1
    summary_index: int = 0
    delta: Any = None
    arguments: str | None = None
    item: dict[str, Any] | None = None
    response: _Response | None = None
    error: Any = None
    code: Any = None
    message: Any = None


class _Call:
    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.has_input = False
        self.ended = False


_decode = msgspec.json.Decoder(_Event).decode
_KEPT: Final = {"reasoning", "message", "function_call"}


class ResponseReader:
    """Reads one answer. ``server`` names it in errors."""

    def __init__(self, server: str, *, keep: Callable[[list[Json]], None] | None = None) -> None:
        self._server = server
        self._keep = keep
        self._calls: dict[int, _Call] = {}
        self._items: dict[int, Json] = {}
        self._response: _Response | None = None
        self._refusal = ""
        self.done = False
        """Whether the server said that nothing more comes."""

    @property
    def finished(self) -> bool:
        """Whether the answer is whole: what says so is the last event."""
        return self.done

    def read(self, payload: bytes, out: list[ModelEvent]) -> None:
        """Append the events of one payload to ``out``.

        Raises:
            RunError: The server reports an error, or the payload is no event.
        """
        if payload == b"[DONE]":
            return
        try:
            event = _decode(payload)
        except msgspec.MsgspecError as exc:
            raise ProviderError(f"{self._server} sent a chunk that cannot be read: {exc}") from exc
        text = event.delta if isinstance(event.delta, str) else ""
        match event.type:
            case "response.output_text.delta" if text:
                out.append(TextDelta(text))
            case "response.refusal.delta" if text:
                self._refusal += text
                out.append(TextDelta(text))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" if text:
                out.append(ReasoningDelta(text))
            case "response.reasoning_summary_part.added" if event.summary_index:
                out.append(ReasoningDelta("\n\n"))
            case "response.output_item.added" if event.item is not None:
                self._begin(event.output_index, event.item, out)
            case "response.function_call_arguments.delta" if text:
                self._input(event.output_index, text, out)
            case "response.output_item.done" if event.item is not None:
                self._end_item(event.output_index, event.item, out)
            case "response.completed" | "response.incomplete":
                self._response, self.done = event.response or _Response(), True
            case "response.failed":
                raise reported_error(event.response and event.response.error, server=self._server)
            case "error":
                fields = event.error or {"code": event.code, "message": event.message}
                raise reported_error(fields, server=self._server)
            case _:
                pass

    def _begin(self, index: int, item: Json, out: list[ModelEvent]) -> None:
        if item.get("type") != "function_call" or index in self._calls:
            return
        name, call_id = item.get("name"), item.get("call_id")
        if not isinstance(name, str) or not name:
            raise ProviderError(f"{self._server} asked for a tool without naming it", retryable=True)
        known = {call.call_id for call in self._calls.values()}
        if not isinstance(call_id, str) or not call_id or call_id in known:
            call_id = f"call_{secrets.token_hex(8)}"
        self._calls[index] = _Call(call_id)
        out.append(ToolCallStart(call_id, name))

    def _input(self, index: int, text: str, out: list[ModelEvent]) -> None:
        call = self._calls.get(index)
        if call is None:
            raise ProviderError(f"{self._server} went on with a call that it had not begun", retryable=True)
        call.has_input = True
        out.append(ToolCallArgs(call.call_id, text))

    def _end_item(self, index: int, item: Json, out: list[ModelEvent]) -> None:
        self._items[index] = item
        self._begin(index, item, out)
        call = self._calls.get(index)
        if call is None or call.ended:
            return
        if not call.has_input:
            given = item.get("arguments")
            self._input(index, given if isinstance(given, str) and given else "{}", out)
        call.ended = True
        out.append(ToolCallEnd(call.call_id))

    def end(self) -> list[ModelEvent]:
        """The last events, once nothing more comes.

        Raises:
            ProviderUnreachable: The answer was cut off; what it said is void.
        """
        response = self._response
        if response is None:
            raise ProviderUnreachable(f"the answer of {self._server} was cut off")
        out: list[ModelEvent] = []
        for index, call in self._calls.items():
            if not call.ended:
                self._end_item(index, {}, out)
        self._remember()
        if (usage := response.usage) is not None:
            details = usage.input_tokens_details or _Details()
            out.append(
                UsageReport(
                    usage.input_tokens,
                    usage.output_tokens,
                    cache_read_tokens=details.cached_tokens or 0,
                    cache_write_tokens=details.cache_write_tokens or 0,
                )
            )
        out.append(self._finish_event(response))
        return out

    def _finish_event(self, response: _Response) -> Finish:
        word = (response.incomplete_details and response.incomplete_details.reason) or "completed"
        if self._refusal:
            return Finish("refusal", spoken(self._refusal))
        if word == "content_filter":
            return Finish("refusal", word)
        if word == "max_output_tokens":
            return Finish("max_tokens", word)
        return Finish("tool_use" if self._calls else "end_turn", word)

    def _remember(self) -> None:
        """Hand on an answer that holds reasoning and is whole."""
        items = [self._items[index] for index in sorted(self._items)]
        reasons = [item for item in items if item.get("type") == "reasoning"]
        encrypted = all(item.get("encrypted_content") for item in reasons)
        called = [item.get("call_id") for item in items if item.get("type") == "function_call"]
        same_ids = called == [self._calls[index].call_id for index in sorted(self._calls)]
        known = all(item.get("type") in _KEPT for item in items)
        if self._keep is not None and reasons and encrypted and same_ids and known:
            self._keep(items)
