"""What may go wrong with a provider, for each way to ask one: the same cells for all of them.

Real SDKs over real sockets, against the mocks. What only one API does is in the
file of its own; OpenRouter and Ollama are asked as people name them, because
their requests take the way of OpenAI's chat completions with other settings.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import NamedTuple

import pytest
import trio

from atrio_agent.gates import Gates
from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.base import Finish, Model, ModelEvent, TextDelta, UsageReport
from atrio_agent.models.choose import open_models
from atrio_agent.models.connection import Address
from atrio_agent.models.local import LocalServers
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from atrio_protocol.errors import ProviderAuth, ProviderError, ProviderRateLimited, ProviderUnreachable, RunError
from model_calls import ask, calls_of, request, text_of
from providers import responses_mock
from providers.anthropic_mock import MockAnthropic
from providers.openai_mock import MockOpenAI, MockServer, open_mock

MOST_S = 30
KEY = "sk-secret-key"
assert responses_mock.PATH


class Way(NamedTuple):
    """One way to ask: ``model`` takes what the mock is to do."""

    mock: MockServer
    model: Callable[[str], Model]
    has_key: bool = True

    async def answer(self, name: str) -> list[ModelEvent]:
        return await ask(self.model(name), most_s=MOST_S)

    async def failure(self, name: str, into: list[ModelEvent] | None = None) -> RunError:
        with pytest.raises(RunError) as caught:
            await ask(self.model(name), into=into, most_s=MOST_S)
        return caught.value


async def _chat(stack: AsyncExitStack, _patch: pytest.MonkeyPatch, *, responses: bool = False) -> Way:
    mock = await stack.enter_async_context(open_mock(MockOpenAI))
    connection = OpenAIConnection(Address(mock.url, KEY, "OPENAI_API_KEY"), responses=responses)
    await stack.enter_async_context(aclosing(connection))
    prefix = "gpt-5-" if responses else ""
    return Way(mock, lambda name: OpenAIModel(f"{prefix}{name}", connection))


async def _anthropic(stack: AsyncExitStack, _patch: pytest.MonkeyPatch) -> Way:
    mock = await stack.enter_async_context(open_mock(MockAnthropic))
    connection = AnthropicConnection(Address(mock.url, KEY, "ANTHROPIC_API_KEY"))
    await stack.enter_async_context(aclosing(connection))
    return Way(mock, lambda name: AnthropicModel(name, connection))


async def _openrouter(stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Way:
    mock = await stack.enter_async_context(open_mock(MockOpenAI))
    patch.setattr("atrio_agent.models.offers._OPENROUTER_URL", mock.url)
    models = await stack.enter_async_context(open_models({"OPENROUTER_API_KEY": KEY}, default=None, gates=Gates()))
    return Way(mock, lambda name: models.get(f"openrouter/{name}"))


async def _ollama(stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Way:
    mock = await stack.enter_async_context(open_mock(MockOpenAI))
    patch.setattr("atrio_agent.models.choose.LocalServers", partial(LocalServers, others=()))
    environ = {"OLLAMA_HOST": f"127.0.0.1:{mock.port}"}
    models = await stack.enter_async_context(open_models(environ, default=None, gates=Gates()))
    return Way(mock, lambda name: models.get(f"ollama/{name}"), has_key=False)


WAYS: dict[str, Callable[[AsyncExitStack, pytest.MonkeyPatch], Awaitable[Way]]] = {
    "chat": _chat,
    "responses": partial(_chat, responses=True),
    "anthropic": _anthropic,
    "openrouter": _openrouter,
    "ollama": _ollama,
}


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Way]:
    async with AsyncExitStack() as stack:
        yield await WAYS[request.param](stack, monkeypatch)


@pytest.mark.parametrize(
    ("name", "kind", "retryable"),
    [
        ("status,status=401", ProviderAuth, False),
        ("status,status=403", ProviderAuth, False),
        ("status,status=400", ProviderError, False),
        ("status,status=404,code=model_not_found", ProviderError, False),
        ("status,status=429", ProviderRateLimited, True),
        ("status,status=500", ProviderError, True),
        ("status,status=502", ProviderError, True),
        ("status,status=503", ProviderError, True),
        ("cut,how=close", ProviderUnreachable, True),
        ("cut,how=reset", ProviderUnreachable, True),
        ("cut,how=end", ProviderUnreachable, True),
        ("raw,what=malformed", ProviderError, False),
        ("raw,what=long", ProviderError, False),
        ("raw,what=error", ProviderError, True),
    ],
)
async def test_a_fault_has_its_kind_a_sentence_without_the_key_and_says_whether_it_may_pass(
    way: Way, name: str, kind: type[RunError], retryable: bool
) -> None:
    error = await way.failure(name)

    assert (type(error), error.retryable) == (kind, retryable)
    assert f"127.0.0.1:{way.mock.port}" in error.message
    assert not way.has_key or KEY not in error.message
    assert len(error.message) < 1_000
    # Nobody but the loop asks again.
    assert len(way.mock.requests) == 1


@pytest.mark.parametrize(("headers", "ms"), [("after=3", 3_000), ("after-ms=250,after=3", 250)])
@pytest.mark.parametrize("status", [429, 503])
async def test_the_time_that_a_provider_asks_to_wait_is_told(way: Way, status: int, headers: str, ms: int) -> None:
    assert (await way.failure(f"status,status={status},{headers}")).retry_after_ms == ms


@pytest.mark.parametrize("name", ["raw,what=malformed", "raw,what=error", "raw,what=long", "cut,how=reset"])
async def test_what_came_before_a_fault_was_given(way: Way, name: str) -> None:
    events: list[ModelEvent] = []
    await way.failure(name, events)

    assert text_of(events) in {"word", "half"}
    assert not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize("name", ["hang", "mute"])
async def test_leaving_a_provider_that_hangs_closes_the_connection_at_once(way: Way, name: str) -> None:
    with trio.fail_after(MOST_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, way.model(name))
            await way.mock.wait_for_requests(1)
            nursery.cancel_scope.cancel()
        await way.mock.wait_for_connections(0)


async def test_what_a_provider_said_before_it_hangs_is_there_at_once(way: Way) -> None:
    with trio.fail_after(MOST_S):
        async with way.model("hang").stream(request()) as events:
            assert await anext(aiter(events)) == TextDelta("first")
        await way.mock.wait_for_connections(0)


async def test_a_refusal_is_shown_and_ends_the_answer_as_one(way: Way) -> None:
    events = await way.answer("refusal")

    assert text_of(events) == "I will not."
    assert isinstance(events[-1], Finish) and events[-1].reason == "refusal"


async def test_without_a_count_of_tokens_there_is_no_report_and_no_fault(way: Way) -> None:
    events = await way.answer("no-usage")

    assert text_of(events) == "word"
    assert isinstance(events[-1], Finish) and events[-1].reason == "end_turn"
    assert not any(isinstance(event, UsageReport) for event in events)


async def test_tool_calls_in_pieces_and_in_parallel_are_put_together(way: Way) -> None:
    events = await way.answer("tools")

    assert text_of(events) == "looking"
    assert calls_of(events)[:2] == [("read", '{"path":"a.py"}'), ("ls", '{"depth":2}')]
    assert isinstance(events[-1], Finish) and events[-1].reason == "tool_use"


@pytest.mark.parametrize("at", ["once", "call"])
async def test_claude_may_refuse_before_its_first_word_and_in_the_middle_of_a_call(
    anthropic: AnthropicConnection, at: str
) -> None:
    events = await ask(AnthropicModel(f"refusal,at={at}", anthropic), most_s=MOST_S)

    assert events[-1] == Finish("refusal", "refusal")
    assert text_of(events) == ("I will not." if at == "call" else "")
    assert [name for name, _ in calls_of(events)] == (["read"] if at == "call" else [])
