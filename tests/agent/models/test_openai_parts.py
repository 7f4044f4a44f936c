"""The parts of the OpenAI provider that touch no network: bodies out, errors in."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from atrio_agent.models.base import AssistantTurn, ModelEvent, ToolCall, ToolOutput, ToolResults, Turn, UserTurn
from atrio_agent.models.estimate import estimate_request, estimate_text
from atrio_agent.models.openai_messages import request_body
from atrio_agent.models.openai_stream import ChunkReader
from atrio_agent.models.provider_errors import reported_error, retry_after_ms, spoken
from atrio_protocol.content import ImageBlock, ResourceBlock, ResourceContents, ResourceLink, TextBlock
from atrio_protocol.errors import ContextOverflow, ProviderAuth, ProviderError, ProviderRateLimited, RunError
from model_calls import A_TOOL, request

HELLO = UserTurn((TextBlock(text="hello"),))
IMAGE = ImageBlock(mime_type="image/png", data="AAAA")
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def messages(*turns: Turn, system: str = "") -> list[dict[str, Any]]:
    return request_body(request(system=system, turns=turns))["messages"]


def result(text: str, *, is_error: bool = False, call_id: str = "c1") -> ToolOutput:
    return ToolOutput(call_id, "read", (TextBlock(text=text),), is_error)


def test_the_system_prompt_comes_first_and_only_if_there_is_one() -> None:
    assert messages(HELLO, system="Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert messages(HELLO) == [{"role": "user", "content": "hello"}]


def test_an_image_goes_as_a_part_of_its_message() -> None:
    turn = UserTurn((TextBlock(text="what is this?"), IMAGE))

    assert messages(turn) == [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, IMAGE_PART]}]


def test_resources_and_links_are_said_in_words() -> None:
    turn = UserTurn(
        (
            ResourceBlock(resource=ResourceContents(uri="file:///a.py", text="x = 1")),
            ResourceBlock(resource=ResourceContents(uri="file:///a.bin", blob="AAAA")),
            ResourceLink(uri="file:///b.py", name="b"),
            ImageBlock(mime_type="image/png", bytes=70_000),
        )
    )

    assert messages(turn)[0]["content"].split("\n\n") == [
        '<resource uri="file:///a.py">\nx = 1\n</resource>',
        "[resource file:///a.bin 3 bytes: binary data is not passed on]",
        "[b: file:///b.py]",
        "[image image/png, 68 KB]",
    ]


def test_calls_and_their_results_are_paired_by_id() -> None:
    called = AssistantTurn("looking", calls=(ToolCall("c1", "read", {"path": "a.py"}), ToolCall("c2", "ls", {})))
    results = ToolResults((result("x = 1"), result("no such directory", is_error=True, call_id="c2")))

    assert messages(HELLO, called, results)[1:] == [
        {
            "role": "assistant",
            "content": "looking",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path":"a.py"}'}},
                {"id": "c2", "type": "function", "function": {"name": "ls", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "x = 1"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: no such directory"},
    ]


def test_an_assistant_message_of_calls_alone_has_no_content() -> None:
    called = AssistantTurn("", reasoning="hm", calls=(ToolCall("c1", "read", {}),))

    assert messages(HELLO, called, ToolResults((result(""),)))[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "(no output)"},
    ]


def test_an_empty_answer_is_left_out_and_users_in_a_row_are_one_message() -> None:
    assert messages(HELLO, AssistantTurn(""), UserTurn((TextBlock(text="again"),)), UserTurn((IMAGE,))) == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "again"}, IMAGE_PART],
        }
    ]


def test_an_image_that_a_tool_returned_follows_in_a_user_message() -> None:
    called = AssistantTurn("", calls=(ToolCall("c1", "read", {}),))
    shown = ToolResults((ToolOutput("c1", "read", (TextBlock(text="a picture"), IMAGE), is_error=False),))

    assert messages(HELLO, called, shown)[2:] == [
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": "a picture\n\n[image image/png, 3 bytes: it follows after the results]",
        },
        {
            "role": "user",
            "content": [{"type": "text", "text": "The images that the tools returned:"}, IMAGE_PART],
        },
    ]


def test_a_request_without_tools_does_not_mention_them() -> None:
    assert "tools" not in request_body(request())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2_000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e99"}, 24 * 3600 * 1000),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after-ms": "125.7", "retry-after": "9"}, 125),
    ],
)
def test_the_time_to_wait_is_read_from_the_headers(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


def test_the_time_to_wait_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)

    assert 50_000 < (retry_after_ms({"retry-after": later}) or 0) <= 60_000


def test_a_wait_is_passed_on_only_where_trying_again_makes_sense() -> None:
    waits = [
        reported_error({"message": "m"}, server="s", status=status, retry_after_ms=70).retry_after_ms
        for status in (400, 401, 429, 500, 503)
    ]

    assert waits == [None, None, 70, 70, 70]


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"message": "m", "code": "invalid_api_key"}, ProviderAuth, False),
        ({"message": "m", "type": "rate_limit_error"}, ProviderRateLimited, True),
        ({"message": "m", "code": "insufficient_quota", "type": "insufficient_quota"}, ProviderRateLimited, False),
        ({"message": "m", "code": 502}, ProviderError, True),
        ({"message": "m", "code": 400}, ProviderError, False),
        ({"message": "m", "type": "invalid_request_error"}, ProviderError, False),
        ({"message": "the context window is full"}, ContextOverflow, False),
        ({}, ProviderError, True),
        ("just words", ProviderError, True),
        (None, ProviderError, True),
    ],
)
def test_an_error_within_a_stream_has_its_kind(error: object, kind: type[RunError], retryable: bool) -> None:
    found = reported_error(error, server="server")

    assert type(found) is kind
    assert found.retryable is retryable
    assert found.message.startswith("server ")


def test_what_is_repeated_of_a_provider_fits_on_a_line() -> None:
    assert spoken("<html>\n\n  no\tkey  k1 ", secret="k1") == "<html> no key [redacted]"
    assert len(spoken("x" * 100_000)) == 500


def test_a_count_in_every_chunk_is_reported_once_and_the_last_one() -> None:
    reader = ChunkReader("server")
    out: list[ModelEvent] = []
    for count in (1, 2):
        reader.read(
            b'{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":9,"completion_tokens":%d}}' % count, out
        )
    reader.read(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}', out)

    assert [getattr(event, "output_tokens", None) for event in [*out, *reader.end()]] == [None, None, 2, None]


def test_a_token_is_about_four_bytes() -> None:
    assert estimate_text("") == 0
    assert estimate_text("a") == 1
    assert estimate_text("word " * 100) == 125
    assert estimate_text("漢字") == 2
    assert estimate_text("\ud800") > 0


def test_everything_that_is_sent_counts() -> None:
    bare = estimate_request(request("hello", system=""))
    full = request(
        "hello",
        turns=(
            UserTurn((TextBlock(text="hello"), IMAGE, ResourceLink(uri="file:///b", name="b"))),
            AssistantTurn("hi", calls=(ToolCall("c1", "read", {"path": "a" * 400}),)),
            ToolResults((result("x" * 4_000),)),
        ),
        tools=(A_TOOL,),
    )

    assert 0 < bare < 10
    assert estimate_request(full) > bare + 1_000 + 1_000 + 100


def test_a_key_with_a_line_end_in_it_is_not_shown_by_the_library_that_refuses_it() -> None:
    key = "sk-0123456789\nsk-abcdefghi"
    said = spoken(f"Illegal header value {key.encode()!r}", secret=key)
    assert said == r"Illegal header value b'[redacted]\n[redacted]'"
    assert spoken("a b c", secret="b c") == "a [redacted]"
    assert spoken("as it is", secret="") == "as it is"
