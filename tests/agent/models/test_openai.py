"""OpenAI's models over real sockets and the real SDK, against the mock."""

import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import trio

from atrio_agent.models.base import Finish, ModelEvent, ReasoningDelta, TextDelta, UsageReport
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from atrio_protocol.errors import (
    ContextOverflow,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderUnreachable,
    RunError,
)
from model_calls import A_TOOL, ask, calls_of, request, text_of
from providers.openai_mock import MockOpenAI

MOST_S = 30


def model(connection: OpenAIConnection, name: str) -> OpenAIModel:
    return OpenAIModel(name, connection)


async def answer(connection: OpenAIConnection, name: str) -> list[ModelEvent]:
    return await ask(model(connection, name), most_s=MOST_S)


async def failure(connection: OpenAIConnection, name: str) -> RunError:
    with pytest.raises(RunError) as caught:
        await ask(model(connection, name), most_s=MOST_S)
    return caught.value


async def test_text_comes_piece_by_piece_then_usage_then_the_end(connection: OpenAIConnection) -> None:
    events = await answer(connection, "tokens,n=3")

    assert events == [
        TextDelta("tok "),
        TextDelta("tok "),
        TextDelta("tok "),
        UsageReport(7, 3),
        Finish("end_turn", "stop"),
    ]


async def test_a_request_carries_the_key_the_messages_and_the_tools(
    connection: OpenAIConnection, mock: MockOpenAI
) -> None:
    await ask(model(connection, "echo"), request("hello", tools=(A_TOOL,)), most_s=MOST_S)

    seen = mock.requests[-1]
    assert seen.headers["authorization"] == "Bearer sk-secret-key"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body == {
        "model": "echo",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "read", "description": "Read a file.", "parameters": {"type": "object"}},
            }
        ],
    }


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_text(connection: OpenAIConnection, key: str) -> None:
    events = await answer(connection, f"reasoning,key={key}")

    assert events[:3] == [ReasoningDelta("let me "), ReasoningDelta("see"), TextDelta("42")]


async def test_parallel_tool_calls_in_pieces_are_put_together(connection: OpenAIConnection) -> None:
    events = await answer(connection, "tools")

    assert text_of(events) == "looking"
    assert calls_of(events) == [("read", '{"path":"a.py"}'), ("ls", '{"depth":2}')]
    assert events[-1] == Finish("tool_use", "tool_calls")


@pytest.mark.parametrize(
    ("shape", "calls"),
    [
        ("no-index", [("read", '{"path":"x"}'), ("ls", "{}")]),
        ("same-index", [("read", '{"path":"x"}'), ("ls", "{}")]),
        ("same-id", [("read", '{"path":"x"}'), ("ls", "{}")]),
        ("no-id", [("read", '{"path":"x"}'), ("ls", "{}")]),
        ("object", [("read", '{"path":"x"}')]),
        ("late-name", [("read", '{"path":"x"}')]),
        ("no-arguments", [("ls", "{}")]),
    ],
)
async def test_calls_are_understood_however_a_server_sends_them(
    connection: OpenAIConnection, shape: str, calls: list[tuple[str, str]]
) -> None:
    events = await answer(connection, f"tools-odd,shape={shape},finish=stop")

    assert calls_of(events) == calls
    assert events[-1] == Finish("tool_use", "stop")


async def test_a_call_without_a_name_is_an_error_that_may_pass(connection: OpenAIConnection) -> None:
    error = await failure(connection, "tools-odd,shape=no-name")

    assert isinstance(error, ProviderError)
    assert error.retryable


@pytest.mark.parametrize(
    ("word", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "end_turn")],
)
async def test_the_reason_for_the_end_is_translated(connection: OpenAIConnection, word: str, reason: str) -> None:
    events = await answer(connection, f"finish,reason={word}")

    assert events == [TextDelta("word"), Finish(reason, word)]  # type: ignore[arg-type]  # a parameter is any str


async def test_a_refusal_is_shown_and_ends_the_answer_as_one(connection: OpenAIConnection) -> None:
    events = await answer(connection, "refusal")

    assert text_of(events) == "I will not."
    assert events[-1] == Finish("refusal", "I will not.")


@pytest.mark.parametrize("how", ["end", "cut"])
async def test_an_answer_that_says_why_it_ends_needs_no_done_mark(connection: OpenAIConnection, how: str) -> None:
    assert await answer(connection, f"no-done,how={how}") == [TextDelta("all said"), Finish("end_turn", "stop")]


async def test_a_server_that_is_done_but_does_not_end_is_not_waited_for(connection: OpenAIConnection) -> None:
    assert await answer(connection, "lingering") == [TextDelta("all said"), Finish("end_turn", "stop")]


async def test_a_model_that_takes_tools_only_without_reasoning_is_asked_so_and_it_is_remembered(
    connection: OpenAIConnection, mock: MockOpenAI
) -> None:
    picky = model(connection, "effort")
    for _ in range(2):
        assert text_of(await ask(picky, request(tools=(A_TOOL,)), most_s=MOST_S)) == "fine"
    assert text_of(await ask(picky, most_s=MOST_S)) == "fine"

    efforts = [seen.body.get("reasoning_effort") for seen in mock.requests]
    assert efforts == [None, "none", "none", None]


@pytest.mark.parametrize(
    ("name", "kind", "retryable"),
    [
        ("status,status=401", ProviderAuth, False),
        ("status,status=403", ProviderAuth, False),
        ("status,status=429", ProviderRateLimited, True),
        ("status,status=429,code=insufficient_quota", ProviderRateLimited, False),
        ("status,status=500", ProviderError, True),
        ("status,status=503", ProviderError, True),
        ("status,status=404", ProviderError, False),
        ("status,status=400", ProviderError, False),
        ("status,status=400,code=context_length_exceeded", ContextOverflow, False),
        ("status,status=400,message=This_model's_maximum_context_length_is_4096_tokens", ContextOverflow, False),
        ("raw,what=error", ProviderError, True),
        ("raw,what=error,code=context_length_exceeded", ContextOverflow, False),
        ("raw,what=error-status", ProviderRateLimited, True),
        ("raw,what=malformed", ProviderError, False),
        ("raw,what=wrong-type", ProviderError, False),
        ("raw,what=long", ProviderError, False),
        ("raw,what=empty", ProviderError, True),
        ("html", ProviderError, False),
        ("cut,how=close", ProviderUnreachable, True),
        ("cut,how=reset", ProviderUnreachable, True),
        ("cut,how=end", ProviderUnreachable, True),
    ],
)
async def test_what_goes_wrong_has_its_kind_and_says_whether_it_may_be_tried_again(
    connection: OpenAIConnection, name: str, kind: type[RunError], retryable: bool
) -> None:
    error = await failure(connection, name)

    assert type(error) is kind
    assert error.retryable is retryable
    assert "127.0.0.1" in error.message
    assert "sk-secret-key" not in error.message


async def test_what_the_provider_says_is_passed_on_without_the_key(connection: OpenAIConnection) -> None:
    error = await failure(connection, "status,status=401")

    assert "mock says no to [redacted]" in error.message
    assert "OPENAI_API_KEY" in error.message


async def test_an_error_page_of_any_size_is_read_only_in_part(connection: OpenAIConnection) -> None:
    error = await failure(connection, "big-error")

    assert isinstance(error, ProviderError)
    assert len(error.message) < 1_000


@pytest.mark.parametrize(
    ("headers", "low_ms", "high_ms"),
    [("after=3", 3_000, 3_000), ("after-ms=250,after=3", 250, 250), ("after=date", 5_000, 11_000)],
)
async def test_the_time_that_a_provider_asks_to_wait_is_told(
    connection: OpenAIConnection, headers: str, low_ms: int, high_ms: int
) -> None:
    error = await failure(connection, f"status,status=429,{headers}")

    assert error.retry_after_ms is not None
    assert low_ms <= error.retry_after_ms <= high_ms


async def test_a_server_that_is_not_there_is_named_with_the_reason() -> None:
    async with aclosing(OpenAIConnection(Address("http://user:hidden@127.0.0.1:9/v1"))) as nobody:
        error = await failure(nobody, "any")

    assert isinstance(error, ProviderUnreachable)
    assert error.retryable
    assert "127.0.0.1:9 cannot be reached: Connection refused" in error.message
    assert "hidden" not in error.message


async def test_answers_one_after_the_other_share_a_connection(
    connection: OpenAIConnection, mock: MockOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_agent.models.answer._LAST_CHUNK_S", MOST_S)
    for _ in range(3):
        await answer(connection, "tokens,n=500")

    assert mock.accepted == 1


async def test_two_hundred_answers_stream_at_the_same_time(connection: OpenAIConnection) -> None:
    texts: list[str] = []

    async def one() -> None:
        texts.append(text_of(await answer(connection, "together,n=200")))

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one)

    assert texts == ["all here"] * 200


async def test_a_fast_answer_lets_others_run(connection: OpenAIConnection) -> None:
    steps = 0
    done = False

    async def count() -> None:
        nonlocal steps
        while not done:
            steps += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await answer(connection, "tokens,n=3200,block=1")
        done = True

    assert steps >= 200


async def test_a_long_stream_arrives_whole_through_a_proxy_too(
    mock: MockOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a proxy is set the answer is read the ordinary way; here the server itself is excepted from it.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with aclosing(OpenAIConnection(Address(mock.url))) as connection:
        assert len(await answer(connection, "tokens,n=2000")) == 2_002
        assert type(await failure(connection, "cut,how=reset")) is ProviderUnreachable


async def test_no_other_event_loop_is_started(connection: OpenAIConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asyncio was started")

    monkeypatch.setattr("asyncio.new_event_loop", refuse)
    await answer(connection, "tokens,n=3")
    await failure(connection, "status,status=500")


def test_the_sdk_is_not_imported_before_it_is_needed() -> None:
    late = "{'openai', 'anthropic', 'httpx2', 'anyio'}"
    code = f"import sys, atrio_agent.models.choose; print(sorted({late} & set(sys.modules)))"
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "[]\n"


async def test_the_mock_runs_as_a_process_of_its_own_until_its_input_ends() -> None:
    script = Path(__file__).parents[2] / "providers" / "openai_mock.py"
    with trio.fail_after(MOST_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdout as output, process.stdin as given:
            url = msgspec.json.decode(await output.receive_some(4096))["url"]
            async with aclosing(OpenAIConnection(Address(url))) as connection:
                assert text_of(await answer(connection, "tokens,n=2")) == "tok tok "
            await given.aclose()
            assert await process.wait() == 0
