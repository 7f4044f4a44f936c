"""Anthropic's models over real sockets and the real SDK, against the mock."""

from contextlib import aclosing

import pytest

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
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
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import (
    ContextOverflow,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderUnreachable,
    RunError,
)
from model_calls import A_TOOL, ask, calls_of, request, text_of
from providers.anthropic_mock import MockAnthropic

MOST_S = 30
THINKER = "claude-sonnet-5-5"
MARK = {"cache_control": {"type": "ephemeral"}}


def model(anthropic: AnthropicConnection, name: str) -> AnthropicModel:
    return AnthropicModel(name, anthropic)


async def answer(anthropic: AnthropicConnection, name: str) -> list[ModelEvent]:
    return await ask(model(anthropic, name), most_s=MOST_S)


async def failure(anthropic: AnthropicConnection, name: str) -> RunError:
    with pytest.raises(RunError) as caught:
        await ask(model(anthropic, name), most_s=MOST_S)
    return caught.value


async def test_text_comes_piece_by_piece_then_usage_then_the_end(anthropic: AnthropicConnection) -> None:
    events = await ask(model(anthropic, "echo"), request("one\ntwo"), most_s=MOST_S)

    assert events == [TextDelta("one\n"), TextDelta("two"), UsageReport(7, 3), Finish("end_turn", "end_turn")]


async def test_a_request_carries_the_key_the_messages_the_tools_and_what_to_cache(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic
) -> None:
    await ask(model(anthropic, "echo"), request("hello", tools=(A_TOOL,)), most_s=MOST_S)

    seen = anthropic_mock.requests[-1]
    assert seen.path == "/v1/messages"
    assert seen.headers["authorization"] == "Bearer sk-secret-key"
    assert seen.headers["anthropic-version"]
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body == {
        "model": "echo",
        "max_tokens": 8_192,
        "stream": True,
        "system": [{"type": "text", "text": "Be brief."} | MARK],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"} | MARK]}],
        "tools": [{"name": "read", "description": "Read a file.", "input_schema": {"type": "object"}} | MARK],
    }


async def test_all_input_is_counted_and_what_of_it_was_cached_told_besides(anthropic: AnthropicConnection) -> None:
    events = await answer(anthropic, "cached")

    assert events[1] == UsageReport(125, 4, cache_read_tokens=100, cache_write_tokens=20)


async def test_without_a_count_there_is_no_report(anthropic: AnthropicConnection) -> None:
    assert await answer(anthropic, "no-usage") == [TextDelta("word"), Finish("end_turn", "end_turn")]


async def test_parallel_tool_calls_in_pieces_are_put_together(anthropic: AnthropicConnection) -> None:
    events = await answer(anthropic, "tools")

    assert text_of(events) == "looking"
    assert calls_of(events) == [("read", '{"path":"a.py"}'), ("ls", '{"depth":2}'), ("todos", "{}")]
    assert events[-1] == Finish("tool_use", "tool_use")


@pytest.mark.parametrize(
    ("shape", "text", "calls"),
    [
        ("kinds", "hi", []),
        ("text-at-once", "hi", []),
        ("input-at-once", "", [("read", '{"path":"x"}')]),
        ("same-id", "", [("read", "{}"), ("ls", "{}")]),
        ("no-end", "", [("read", "{}")]),
    ],
)
async def test_an_answer_is_understood_also_where_it_is_unusual(
    anthropic: AnthropicConnection, shape: str, text: str, calls: list[tuple[str, str]]
) -> None:
    events = await answer(anthropic, f"odd,shape={shape}")

    assert text_of(events) == text
    assert calls_of(events) == calls
    assert events[-1] == Finish("tool_use" if calls else "end_turn", "end_turn")


async def test_what_a_model_thinks_is_asked_for_and_told_apart_from_text(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic
) -> None:
    events = await ask(model(anthropic, THINKER), request("hi", tools=(A_TOOL,)), most_s=MOST_S)

    assert anthropic_mock.requests[-1].body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert [event for event in events if isinstance(event, ReasoningDelta)] == [
        ReasoningDelta("let me "),
        ReasoningDelta("see"),
    ]
    assert text_of(events) == "looking"


FIRST = UserTurn((TextBlock(text="hi"),))
CALLED = AssistantTurn("looking", reasoning="let me see", calls=(ToolCall("t_1", "read", {"path": "a.py"}),))
RESULT = ToolResults((ToolOutput("t_1", "read", (TextBlock(text="x = 1"),), is_error=False),))


async def test_what_a_model_thought_goes_back_with_the_results_exactly_as_it_came(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic
) -> None:
    thinker = model(anthropic, THINKER)
    await ask(thinker, request("hi", tools=(A_TOOL,)), most_s=MOST_S)
    await ask(thinker, request("hi", tools=(A_TOOL,), turns=(FIRST, CALLED, RESULT)), most_s=MOST_S)
    further = (FIRST, CALLED, RESULT, AssistantTurn("42", "so"), UserTurn((TextBlock(text="and?"),)))
    await ask(thinker, request("and?", tools=(A_TOOL,), turns=further), most_s=MOST_S)

    _, second, third = (seen.body["messages"] for seen in anthropic_mock.requests)
    assert second[1]["content"] == [
        {"type": "thinking", "thinking": "let me see", "signature": "signed"},
        {"type": "redacted_thinking", "data": "hidden"},
        {"type": "text", "text": "looking"},
        {"type": "tool_use", "id": "toolu_a", "name": "read", "input": {"path": "a.py"}},
    ]
    assert second[2]["content"][0]["tool_use_id"] == "toolu_a"
    assert third[1]["content"] == second[1]["content"]
    assert third[3]["content"][0] == {"type": "thinking", "thinking": "so", "signature": "s2"}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"system": "Be long."}, THINKER),
        ({"tools": ()}, THINKER),
        ({}, "claude-opus-5-5"),
        ({"turns": (UserTurn((TextBlock(text="ho"),)), CALLED, RESULT)}, THINKER),
        ({"turns": (FIRST, AssistantTurn("other words", calls=CALLED.calls), RESULT)}, THINKER),
        ({"purpose": "summary"}, THINKER),
    ],
)
async def test_what_a_model_thought_stays_away_where_anything_before_it_has_changed(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic, changes: dict[str, object], name: str
) -> None:
    await ask(model(anthropic, THINKER), request("hi", tools=(A_TOOL,)), most_s=MOST_S)
    asked = request("hi", **{"tools": (A_TOOL,), "turns": (FIRST, CALLED, RESULT)} | changes)
    await ask(model(anthropic, name), asked, most_s=MOST_S)

    messages = anthropic_mock.requests[-1].body["messages"]
    assert [block["type"] for block in messages[1]["content"]] == ["text", "tool_use"]
    assert messages[1]["content"][1]["id"] == messages[2]["content"][0]["tool_use_id"] == "t_1"


async def test_thoughts_that_are_refused_are_forgotten_and_the_request_goes_on_without_them(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic
) -> None:
    forgetful = model(anthropic, "claude-forgetful-5")
    await ask(forgetful, request("hi", tools=(A_TOOL,)), most_s=MOST_S)
    for _ in range(2):
        asked = request("hi", tools=(A_TOOL,), turns=(FIRST, CALLED, RESULT))
        assert text_of(await ask(forgetful, asked, most_s=MOST_S)) == "42"

    assert len(anthropic_mock.requests) == 4


async def test_a_title_is_asked_for_with_little_effort_and_no_thoughts_shown(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic
) -> None:
    await ask(model(anthropic, THINKER), request(purpose="title"), most_s=MOST_S)

    body = anthropic_mock.requests[-1].body
    assert "thinking" not in body
    assert body["output_config"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        ("end_turn", "end_turn", "end_turn"),
        ("tool_use", "end_turn", "tool_use"),
        ("stop_sequence", "end_turn", "stop_sequence"),
        ("pause_turn", "end_turn", "pause_turn"),
        ("new_reason", "end_turn", "new_reason"),
        ("max_tokens", "max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "max_tokens", "model_context_window_exceeded"),
        ("refusal", "refusal", "refusal"),
        ("refusal,details=1", "refusal", "cyber"),
    ],
)
async def test_the_reason_for_the_end_is_translated(
    anthropic: AnthropicConnection, word: str, reason: str, detail: str
) -> None:
    events = await answer(anthropic, f"finish,reason={word}")

    assert text_of(events) == "word"
    assert events[-1] == Finish(reason, detail)  # type: ignore[arg-type]  # a parameter is any str


async def test_a_server_that_is_done_but_does_not_end_is_not_waited_for(anthropic: AnthropicConnection) -> None:
    assert text_of(await answer(anthropic, "lingering")) == "all said"


@pytest.mark.parametrize(
    ("name", "kind", "retryable"),
    [
        ("status,status=401,type=authentication_error", ProviderAuth, False),
        ("status,status=403,type=permission_error", ProviderAuth, False),
        ("status,status=402,type=billing_error", ProviderRateLimited, False),
        ("status,status=429,type=rate_limit_error", ProviderRateLimited, True),
        ("status,status=500,type=api_error", ProviderError, True),
        ("status,status=503", ProviderError, True),
        ("status,status=529,type=overloaded_error", ProviderError, True),
        ("status,status=404,type=not_found_error", ProviderError, False),
        ("status,status=413,type=request_too_large", ProviderError, False),
        ("status,status=400,type=invalid_request_error", ProviderError, False),
        ("status,status=400,message=prompt_is_too_long:_9_tokens_>_8_maximum", ContextOverflow, False),
        ("raw,what=error,type=overloaded_error", ProviderError, True),
        ("raw,what=error,type=rate_limit_error", ProviderRateLimited, True),
        ("raw,what=error,type=invalid_request_error", ProviderError, False),
        ("raw,what=malformed", ProviderError, False),
        ("raw,what=wrong-type", ProviderError, False),
        ("raw,what=long", ProviderError, False),
        ("odd,shape=no-name", ProviderError, True),
        ("odd,shape=no-start", ProviderError, True),
        ("html", ProviderError, False),
        ("cut,how=close", ProviderUnreachable, True),
        ("cut,how=reset", ProviderUnreachable, True),
        ("cut,how=end", ProviderUnreachable, True),
    ],
)
async def test_what_goes_wrong_has_its_kind_and_says_whether_it_may_be_tried_again(
    anthropic: AnthropicConnection, name: str, kind: type[RunError], retryable: bool
) -> None:
    error = await failure(anthropic, name)

    assert type(error) is kind
    assert error.retryable is retryable
    assert "127.0.0.1" in error.message
    assert "sk-secret-key" not in error.message


async def test_a_key_that_is_refused_names_its_variable(anthropic: AnthropicConnection) -> None:
    error = await failure(anthropic, "status,status=401")

    assert "mock says no to [redacted]" in error.message
    assert "ANTHROPIC_API_KEY" in error.message


@pytest.mark.parametrize("status", [429, 529])
async def test_the_time_that_a_provider_asks_to_wait_is_told(anthropic: AnthropicConnection, status: int) -> None:
    assert (await failure(anthropic, f"status,status={status},after=3")).retry_after_ms == 3_000


async def test_a_server_that_is_not_there_is_named_with_the_reason() -> None:
    async with aclosing(AnthropicConnection(Address("http://user:hidden@127.0.0.1:9"))) as nobody:
        error = await failure(nobody, "any")

    assert isinstance(error, ProviderUnreachable)
    assert "127.0.0.1:9 cannot be reached: Connection refused" in error.message
    assert "hidden" not in error.message


async def test_answers_one_after_the_other_share_a_connection(
    anthropic: AnthropicConnection, anthropic_mock: MockAnthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_agent.models.answer._LAST_CHUNK_S", MOST_S)
    for _ in range(3):
        await answer(anthropic, "echo")

    assert anthropic_mock.accepted == 1


async def test_no_other_event_loop_is_started(anthropic: AnthropicConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asyncio was started")

    monkeypatch.setattr("asyncio.new_event_loop", refuse)
    await answer(anthropic, "echo")
    await failure(anthropic, "status,status=500")
