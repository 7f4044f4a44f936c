"""What one model request says, as it comes: events in, parts of one message out.

Every event is taken in one synchronous step, so a cancel can only fall between
two of them. A request that is tried again keeps its message and starts it
afresh (`Reply.reset`).

The server's secrets are taken out of all that a model says before anything else
sees it: it may have learned them in a way that nobody thought of.

The call ids that providers make are theirs alone and may repeat; ours are
unique in the session, and theirs are forgotten here.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from atrio_agent.clock import now
from atrio_agent.messages import LiveMessage
from atrio_agent.models.base import (
    Finish,
    Model,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
    UsageReport,
)
from atrio_agent.scribe import Scribe
from atrio_agent.tools.redact import LiveRedactor
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock
from atrio_protocol.ids import new_id, workspace_id_of
from atrio_protocol.parts import ReasoningPart, ToolCallPart
from atrio_protocol.struct import UNSET

__all__ = ["Call", "Reply"]


@dataclass(slots=True)
class Call:
    """A tool call of the reply. ``bad_input`` says why its input is unusable."""

    index: int
    tool_call_id: str
    name: str
    input: dict[str, Any] | None = None
    bad_input: str | None = None


class Reply:
    """The growing answer to one model request."""

    def __init__(self, *, scribe: Scribe, run_id: str, model: Model, tools: Tools, summary: bool = False) -> None:
        """``summary``: its message stands for what was said before it."""
        self._scribe = scribe
        self._run_id = run_id
        self._model = model
        self._tools = tools
        self._summary = summary
        self._open: int | None = None  # the text or reasoning part that grows
        self._calls: dict[str, Call] = {}
        self._redact: dict[int, LiveRedactor] = {}  # by the part that grows
        self.message: LiveMessage | None = None
        self.usage: UsageReport | None = None
        self.finish: Finish | None = None

    @property
    def calls(self) -> list[Call]:
        """The tool calls, in the order in which they began."""
        return list(self._calls.values())

    def take(self, event: ModelEvent) -> None:
        """Take the next event."""
        match event:
            case TextDelta(text=text):
                self._grow(TextBlock, text)
            case ReasoningDelta(text=text):
                self._grow(ReasoningPart, text)
            case ToolCallStart(call_id=call_id, name=name):
                self._start_call(call_id, name)
            case ToolCallArgs(call_id=call_id, text=text):
                call = self._calls[call_id]
                if text and call.input is None:
                    self._say(self._said(), call.index, text)
            case ToolCallEnd(call_id=call_id):
                self._end_call(self._calls[call_id])
            case UsageReport():
                self.usage = event
            case Finish():
                self.close()
                self.finish = event

    def close(self) -> None:
        """End whatever part still grows."""
        self._close_part()
        for call in self._calls.values():
            self._end_call(call)

    def reset(self) -> None:
        """Take back what was said: the same request is sent again."""
        self._open = None
        self._calls.clear()
        self._redact.clear()
        self.usage = self.finish = None
        if self.message is not None and len(self.message):
            self._scribe.reset(self.message)

    def _said(self) -> LiveMessage:
        if self.message is None:
            message = self._scribe.draft(
                run_id=self._run_id,
                role="assistant",
                model=self._model.model_id,
                provider=self._model.provider,
                summary=self._summary,
            )
            self._scribe.announce(message)
            self.message = message
        return self.message

    def _grow(self, part_type: type[TextBlock | ReasoningPart], text: str) -> None:
        if not text:
            return
        message = self._said()
        if self._open is None or not isinstance(message.raw_part(self._open), part_type):
            self._close_part()
            self._open = len(message)
            empty = TextBlock(text="") if part_type is TextBlock else ReasoningPart(text="", started_at=now())
            self._scribe.part(message, self._open, empty)
        self._say(message, self._open, text)

    def _say(self, message: LiveMessage, index: int, text: str) -> None:
        redact = self._redact.get(index)
        if redact is None:
            redact = self._redact[index] = self._tools.live_redactor()
        shown = redact(_sound(text))
        if shown:
            self._scribe.delta(message, index, shown)

    def _say_rest(self, message: LiveMessage, index: int) -> None:
        redact = self._redact.pop(index, None)
        rest = redact.rest() if redact is not None else ""
        if rest:
            self._scribe.delta(message, index, rest)

    def _close_part(self) -> None:
        if self._open is not None and self.message is not None:
            self._say_rest(self.message, self._open)
            part = self.message.part(self._open)
            if isinstance(part, ReasoningPart):
                done = msgspec.structs.replace(part, finished_at=now())
                self._scribe.part(self.message, self._open, done)
        self._open = None

    def _start_call(self, call_id: str, name: str) -> None:
        self._close_part()
        message = self._said()
        workspace_id = workspace_id_of(message.session_id) or message.session_id
        name = _sound(name)
        call = Call(len(message), new_id(workspace_id, "t"), name)
        self._calls[call_id] = call
        self._scribe.part(
            message,
            call.index,
            ToolCallPart(
                tool_call_id=call.tool_call_id,
                name=name,
                title=name,
                kind=self._tools.kind(name),
                input=None,
                input_text="",
                status="pending",
            ),
        )

    def _end_call(self, call: Call) -> None:
        if call.input is not None or self.message is None:
            return
        self._say_rest(self.message, call.index)
        part = self.message.part(call.index)
        if not isinstance(part, ToolCallPart):
            return
        given, call.bad_input = _parse_input(part.input_text)
        call.input = self._tools.redacted_input(given)
        title = call.name if call.bad_input else self._tools.title(call.name, call.input)
        self._scribe.part(
            self.message,
            call.index,
            msgspec.structs.replace(part, input=call.input, input_text=UNSET, title=title),
        )


def _sound(text: str) -> str:
    """The text without half characters, which nothing can store or send: one would cost the whole turn its end."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _parse_input(text: object) -> tuple[dict[str, Any], str | None]:
    """The input as an object, and why it is not usable if it is not one."""
    if not isinstance(text, str) or not text.strip():
        return {}, None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as exc:
        return {}, f"The input of this call is not valid JSON ({exc}). Call the tool again with a JSON object."
    if not isinstance(value, dict):
        return {}, "The input of this call is not a JSON object. Call the tool again with one."
    return value, None  # type: ignore[reportUnknownVariableType]  # JSON objects have string keys
