"""OpenAI's responses over real sockets and the real SDK, against the mock."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from atrio_agent.models.base import (
    AssistantTurn,
    Finish,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolOutput,
    ToolResults,
    UsageReport,
    UserTurn,
)
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OPENAI_URL, OpenAIConnection, OpenAIModel
from atrio_protocol.content import ContentBlock, ImageBlock, TextBlock
from atrio_protocol.errors import (
    ContextOverflow,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderUnreachable,
    RunError,
)
from model_calls import A_TOOL, ask, calls_of, request, text_of
from providers.openai_mock import CHAT_PATH, MockOpenAI
from providers.responses_mock import PATH

MOST_S = 30


@pytest.fixture
async def responses(mock: MockOpenAI) -> AsyncGenerator[OpenAIConnection]:
    address = Address(mock.url, "sk-secret-key", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    async with aclosing(OpenAIConnection(address, responses=True)) as opened:
        yield opened


async def answer(responses: OpenAIConnection, name: str) -> list[ModelEvent]:
    return await ask(OpenAIModel(name, responses), most_s=MOST_S)


async def failure(responses: OpenAIConnection, name: str, into: list[ModelEvent] | None = None) -> RunError:
    with pytest.raises(RunError) as caught:
        await ask(OpenAIModel(name, responses), into=into, most_s=MOST_S)
    return caught.value


async def test_text_comes_piece_by_piece_then_usage_then_the_end(responses: OpenAIConnection) -> None:
    events = await ask(OpenAIModel("gpt-5", responses), request("one\ntwo"), most_s=MOST_S)

    assert events == [
        TextDelta("one\n"),
        TextDelta("two"),
        UsageReport(7, 3, cache_read_tokens=4, cache_write_tokens=1),
        Finish("end_turn", "completed"),
    ]


async def test_a_request_carries_everything_and_leaves_nothing_at_the_provider(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    await ask(OpenAIModel("gpt-5", responses), request("hello", tools=(A_TOOL,)), most_s=MOST_S)

    seen = mock.requests[-1]
    assert seen.path == PATH
    assert seen.headers["authorization"] == "Bearer sk-secret-key"
    assert seen.body == {
        "model": "gpt-5",
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "s",
        "reasoning": {"summary": "auto"},
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        "tools": [
            {
                "type": "function",
                "name": "read",
                "description": "Read a file.",
                "parameters": {"type": "object"},
                "strict": False,
            }
        ],
    }


@pytest.mark.parametrize(
    ("name", "wanted", "path"),
    [("gpt-5", True, PATH), ("o4-mini", True, PATH), ("gpt-4.1", True, CHAT_PATH), ("gpt-5", False, CHAT_PATH)],
)
async def test_only_models_that_reason_are_asked_for_responses_and_only_where_there_are_some(
    mock: MockOpenAI, name: str, wanted: bool, path: str
) -> None:
    async with aclosing(OpenAIConnection(Address(mock.url), responses=wanted)) as connection:
        await answer(connection, name)

    assert mock.requests[-1].path == path


def test_responses_are_wanted_of_openai_alone() -> None:
    assert OpenAIConnection(Address(f"{OPENAI_URL}/")).responses
    assert not OpenAIConnection(Address("http://127.0.0.1:8000/v1")).responses


async def test_a_server_that_knows_no_responses_is_asked_for_completions_from_then_on(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    for _ in range(2):
        assert text_of(await answer(responses, "gpt-5-elsewhere")) == "hi"

    assert [seen.path for seen in mock.requests] == [PATH, CHAT_PATH, CHAT_PATH]


async def test_a_model_that_does_not_exist_is_no_reason_to_ask_elsewhere(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    error = await failure(responses, "gpt-5-nobody")

    assert type(error) is ProviderError
    assert "no such model" in error.message
    assert [seen.path for seen in mock.requests] == [PATH]


async def test_a_key_that_may_not_see_summaries_is_not_asked_for_them_again(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    for _ in range(2):
        assert text_of(await answer(responses, "gpt-5-unverified")) == "fine"

    assert ["reasoning" in seen.body for seen in mock.requests] == [True, False, False]


async def test_reasoning_and_parallel_tool_calls_in_pieces_are_told_apart(responses: OpenAIConnection) -> None:
    events = await answer(responses, "gpt-5-tools")

    thoughts = [event.text for event in events if isinstance(event, ReasoningDelta)]
    assert thoughts == ["let me", "\n\n", "see"]
    assert text_of(events) == "looking"
    assert calls_of(events) == [("read", '{"path":"a.py"}'), ("ls", '{"depth":2}'), ("todos", "{}")]
    assert events[-1] == Finish("tool_use", "completed")


@pytest.mark.parametrize(
    ("shape", "text", "calls"),
    [
        ("kinds", "hi", []),
        ("input-at-once", "", [("read", '{"path":"x"}')]),
        ("no-start", "", [("read", '{"path":"x"}')]),
        ("same-id", "", [("read", '{"path":"x"}'), ("ls", '{"path":"x"}')]),
        ("no-end", "", [("read", "{}")]),
    ],
)
async def test_an_answer_is_understood_also_where_it_is_unusual(
    responses: OpenAIConnection, shape: str, text: str, calls: list[tuple[str, str]]
) -> None:
    events = await answer(responses, f"gpt-5-odd,shape={shape}")

    assert text_of(events) == text
    assert calls_of(events) == calls


FIRST = UserTurn((TextBlock(text="hi"),))
CALLS = (ToolCall("t_1", "read", {"path": "a.py"}), ToolCall("t_2", "ls", {"depth": 2}), ToolCall("t_3", "todos", {}))
CALLED = AssistantTurn("looking", reasoning="let me\n\nsee", calls=CALLS)


def output(call_id: str, *content: ContentBlock, is_error: bool = False) -> ToolOutput:
    return ToolOutput(call_id, "read", content, is_error)


RESULTS = ToolResults(
    (
        output("t_1", TextBlock(text="x = 1")),
        output("t_2", TextBlock(text="no"), is_error=True),
        output("t_3", ImageBlock(mime_type="image/png", data="AAAA")),
    )
)


async def test_what_a_model_reasoned_goes_back_with_the_results_exactly_as_it_came(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    model = OpenAIModel("gpt-5-tools", responses)
    await ask(model, request("hi"), most_s=MOST_S)
    await ask(model, request("hi", turns=(FIRST, CALLED, RESULTS)), most_s=MOST_S)

    items = mock.requests[-1].body["input"]
    kinds = [item["type"] for item in items]
    assert kinds == ["message", "reasoning", "message", *["function_call"] * 3, *["function_call_output"] * 3]
    assert items[1]["encrypted_content"] == "secret"
    assert [item["call_id"] for item in items[6:]] == ["call_a", "call_b", "call_c"]
    assert [item["output"] for item in items[6:]] == [
        "x = 1",
        "Error: no",
        [{"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"}],
    ]


async def test_reasoning_that_is_refused_is_forgotten_and_the_request_goes_on_without_it(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    model = OpenAIModel("gpt-5-forgetful", responses)
    await ask(model, request("hi"), most_s=MOST_S)
    for _ in range(2):
        asked = request("hi", turns=(FIRST, CALLED, RESULTS))
        assert text_of(await ask(model, asked, most_s=MOST_S)) == "42"

    assert len(mock.requests) == 4


async def test_without_what_it_reasoned_a_turn_is_told_in_plain_words(
    responses: OpenAIConnection, mock: MockOpenAI
) -> None:
    turns = (FIRST, CALLED, RESULTS, UserTurn((TextBlock(text="and?"),)))
    await ask(OpenAIModel("gpt-5-tools", responses), request("and?", turns=turns), most_s=MOST_S)

    items = mock.requests[-1].body["input"]
    assert items[1] == {"role": "assistant", "content": "looking"}
    assert items[2] == {"type": "function_call", "call_id": "t_1", "name": "read", "arguments": '{"path":"a.py"}'}
    assert items[5]["call_id"] == "t_1"
    assert items[-1]["content"][0]["text"] == "and?"


async def test_a_title_is_asked_for_with_little_effort(responses: OpenAIConnection, mock: MockOpenAI) -> None:
    await ask(OpenAIModel("gpt-5", responses), request(purpose="title"), most_s=MOST_S)

    assert mock.requests[-1].body["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("gpt-5-incomplete,reason=max_output_tokens", Finish("max_tokens", "max_output_tokens")),
        ("gpt-5-incomplete,reason=content_filter", Finish("refusal", "content_filter")),
        ("gpt-5-incomplete,reason=new", Finish("end_turn", "new")),
        ("gpt-5-refusal", Finish("refusal", "I will not.")),
    ],
)
async def test_the_reason_for_the_end_is_translated(responses: OpenAIConnection, name: str, finish: Finish) -> None:
    events = await answer(responses, name)

    assert text_of(events) in {"word", "I will not."}
    assert events[-1] == finish


@pytest.mark.parametrize(
    ("name", "kind", "retryable"),
    [
        ("status,status=401", ProviderAuth, False),
        ("status,status=429", ProviderRateLimited, True),
        ("status,status=429,code=insufficient_quota", ProviderRateLimited, False),
        ("status,status=503", ProviderError, True),
        ("status,status=400", ProviderError, False),
        ("status,status=400,code=context_length_exceeded", ContextOverflow, False),
        ("raw,what=failed", ProviderError, True),
        ("raw,what=failed,code=rate_limit_exceeded", ProviderRateLimited, True),
        ("raw,what=failed,code=invalid_prompt", ProviderError, False),
        ("raw,what=error", ProviderError, True),
        ("raw,what=malformed", ProviderError, False),
        ("raw,what=long", ProviderError, False),
        ("odd,shape=no-name", ProviderError, True),
        ("odd,shape=stray-input", ProviderError, True),
        ("cut,how=close", ProviderUnreachable, True),
        ("cut,how=reset", ProviderUnreachable, True),
        ("cut,how=end", ProviderUnreachable, True),
    ],
)
async def test_what_goes_wrong_has_its_kind_and_says_whether_it_may_be_tried_again(
    responses: OpenAIConnection, name: str, kind: type[RunError], retryable: bool
) -> None:
    error = await failure(responses, f"gpt-5-{name}")

    assert type(error) is kind
    assert error.retryable is retryable
    assert "127.0.0.1" in error.message
    assert "sk-secret-key" not in error.message
