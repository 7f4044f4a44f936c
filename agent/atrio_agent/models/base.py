"""What a model is to the rest of the agent.

A model turns one request into one stream of events. It knows no session and
writes nothing; the loop does all that. No answer depends on an earlier request:
what a provider remembers of one (`atrio_agent.models.recall`) it may lose. Every
provider's oddities end in its own module: what comes out is the events below,
and what goes wrong is a `RunError` of the contract.

The stream is an async *context manager* round an iterator: an abandoned async
generator with a nursery inside would end the process.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, dataclass_transform

import msgspec

from atrio_agent.toolspec import ToolSpec
from atrio_protocol.content import ContentBlock

__all__ = [
    "AssistantTurn",
    "Finish",
    "Model",
    "ModelEvent",
    "ModelRequest",
    "ReasoningDelta",
    "TextDelta",
    "ToolCall",
    "ToolCallArgs",
    "ToolCallEnd",
    "ToolCallStart",
    "ToolOutput",
    "ToolResults",
    "ToolSpec",
    "Turn",
    "UsageReport",
    "UserTurn",
]


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Data(msgspec.Struct, frozen=True, rename="camel"):
    """A plain value; also readable as JSON by test hooks."""


class UserTurn(Data, tag="user", tag_field="role"):
    content: tuple[ContentBlock, ...]


class ToolCall(Data):
    call_id: str
    name: str
    input: dict[str, Any]


class AssistantTurn(Data, tag="assistant", tag_field="role"):
    text: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


class ToolOutput(Data):
    call_id: str
    name: str
    content: tuple[ContentBlock, ...]
    is_error: bool


class ToolResults(Data, tag="tool", tag_field="role"):
    """The results of all calls of the assistant turn before it."""

    results: tuple[ToolOutput, ...]


Turn = UserTurn | AssistantTurn | ToolResults


class ModelRequest(Data, kw_only=True):
    """Everything a model may know. ``turns`` is already repaired: it is never refused for its form.

    ``step`` counts the model requests of the run from 0; a retry has the same step.
    ``prompt`` is the text of the newest user message (a user turn may hold several).
    """

    session_id: str
    run_id: str
    purpose: Literal["turn", "title", "summary"]
    step: int
    system: str
    prompt: str
    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...]


class TextDelta(Data):
    text: str


class ReasoningDelta(Data):
    text: str


class ToolCallStart(Data):
    call_id: str
    name: str


class ToolCallArgs(Data):
    """A further piece of the call's input, as JSON text."""

    call_id: str
    text: str


class ToolCallEnd(Data):
    call_id: str


class UsageReport(Data):
    """Tokens of this request as the provider counts them.

    ``input_tokens`` is all input; what of it was read from the provider's cache
    or written into it is told besides. ``cost_usd`` is what the provider says
    that it charges, where it does.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None


class Finish(Data):
    """The last event. ``detail`` is the provider's own word, for people."""

    reason: Literal["end_turn", "tool_use", "max_tokens", "refusal"]
    detail: str = ""


ModelEvent = TextDelta | ReasoningDelta | ToolCallStart | ToolCallArgs | ToolCallEnd | UsageReport | Finish


class Model(Protocol):
    """One model that can be asked. Attributes are constant."""

    @property
    def model_id(self) -> str:
        """The name that the command line and the wire use, such as ``openai/gpt-5``."""
        ...

    @property
    def provider(self) -> str:
        """Such as ``openai``, ``demo``, ``script``."""
        ...

    @property
    def context_size(self) -> int | None:
        """Tokens that one request may hold, where known."""
        ...

    @property
    def takes_images(self) -> bool:
        """Whether it can be shown images. To one that cannot they are named (`atrio_agent.pictures`)."""
        ...

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Ask the model.

        The iterator ends after `Finish`. Leaving the context early closes the
        provider's connection at once.

        Raises:
            RunError: `ProviderAuth`, `ProviderRateLimited`, `ProviderUnreachable`,
                `ProviderError` or `ContextOverflow`, on entering or while
                iterating. ``retryable`` says whether the same request may be sent
                again; what was yielded before is void then.
        """
        ...
