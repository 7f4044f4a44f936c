"""Whatever a session's past holds, the request made from it is one that each provider accepts.

The rules below are the providers' own, as they refuse what breaks them.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.context import turns_of
from atrio_agent.models import anthropic_messages, openai_messages, responses_messages
from atrio_agent.models.base import AssistantTurn, ToolResults, UserTurn
from atrio_agent.models.recall import Recall
from atrio_protocol.content import ImageBlock, ResourceBlock, ResourceContents, ResourceLink, TextBlock
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.things import Message
from model_calls import request

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ID = re.compile(r"[a-zA-Z0-9_-]+")

TEXTS = st.sampled_from(["", " ", "\n", "hello", "€ and more"])
IDS = st.sampled_from(["t-1", "t-2", "t-3", ""])
NAMES = st.sampled_from(["read", "no such tool!", "", "x" * 100, "functions.read"])

CONTENT = st.one_of(
    TEXTS.map(lambda text: TextBlock(text=text)),
    st.just(ImageBlock(mime_type="image/png", data="aGk=")),
    st.just(ImageBlock(mime_type="image/tiff", data="aGk=")),
    st.just(ImageBlock(mime_type="image/png", bytes=9)),
    st.just(ResourceLink(uri="file:///a", name="a")),
    TEXTS.map(lambda text: ResourceBlock(resource=ResourceContents(uri="file:///a", text=text))),
    st.just(ResourceBlock(resource=ResourceContents(uri="file:///a", blob="aGk="))),
)
CALLS = st.builds(
    ToolCallPart,
    tool_call_id=IDS,
    name=NAMES,
    title=st.just("t"),
    kind=st.just("other"),
    input=st.sampled_from([None, {}, {"path": "a"}]),
    status=st.sampled_from(["pending", "in_progress", "completed", "failed", "cancelled"]),
)
RESULTS = st.builds(
    ToolResultPart,
    tool_call_id=IDS,
    name=NAMES,
    content=st.lists(CONTENT, max_size=2).map(tuple),
    is_error=st.booleans(),
)
SAID: st.SearchStrategy[Part] = st.one_of(
    TEXTS.map(lambda text: TextBlock(text=text)), TEXTS.map(lambda text: ReasoningPart(text=text)), CALLS
)


def message(role: Any, parts: Sequence[Part]) -> Message:
    """A stored message."""
    return Message(message_id="m", session_id="s", order=1, role=role, parts=tuple(parts), created_at="", updated_at="")


HISTORIES = st.lists(
    st.one_of(
        st.lists(CONTENT, max_size=3).map(lambda parts: message("user", [*parts])),
        st.lists(SAID, max_size=4).map(lambda parts: message("assistant", parts)),
        st.lists(RESULTS, max_size=4).map(lambda parts: message("tool", [*parts])),
    ),
    max_size=8,
)
PROMPT = message("user", [TextBlock(text="go on")])


@given(HISTORIES)
def test_turns_are_whole(history: list[Message]) -> None:
    turns = turns_of([*history, PROMPT])
    assert isinstance(turns[0], UserTurn) and isinstance(turns[-1], UserTurn)
    ids: list[str] = []
    for index, turn in enumerate(turns):
        after = turns[index + 1] if index + 1 < len(turns) else None
        if isinstance(turn, AssistantTurn) and turn.calls:
            assert isinstance(after, ToolResults)
            assert [result.call_id for result in after.results] == [call.call_id for call in turn.calls]
            ids += [call.call_id for call in turn.calls]
        elif isinstance(turn, ToolResults):
            assert isinstance(turns[index - 1], AssistantTurn) and not isinstance(after, ToolResults)
        else:
            assert type(after) is not type(turn)
    assert len(ids) == len(set(ids))


@given(HISTORIES)
def test_anthropic_takes_what_is_made_of_any_history(history: list[Message]) -> None:
    for name in ("claude-sonnet-5-5", "claude-haiku-4-5"):
        body = anthropic_messages.request_body(request(turns=turns_of([*history, PROMPT])), name, Recall()).body
        messages = body["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
        ids: list[str] = []
        wanted: list[str] = []
        for each in messages:
            content = each["content"]
            assert content
            assert all(block["text"].strip() for block in content if block["type"] == "text")
            given_back = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
            assert given_back == wanted
            assert all(block["type"] == "tool_result" for block in content[: len(wanted)])
            for block in content:
                if block["type"] == "tool_result":
                    assert block["content"] and all(b["type"] != "text" or b["text"].strip() for b in block["content"])
            calls = [block for block in content if block["type"] == "tool_use"]
            wanted = [block["id"] for block in calls]
            ids += wanted
            assert all(NAME.fullmatch(block["name"]) and ID.fullmatch(block["id"]) for block in calls)
        assert not wanted and len(ids) == len(set(ids))


@given(HISTORIES)
def test_chat_completions_takes_what_is_made_of_any_history(history: list[Message]) -> None:
    messages = openai_messages.request_body(request(turns=turns_of([*history, PROMPT])))["messages"]
    wanted: list[str] = []
    before = "system"
    for each in messages[1:]:
        assert each["content"] or each.get("tool_calls")
        if each["role"] == "tool":
            assert each["tool_call_id"] == wanted.pop(0)
        else:
            assert not wanted and each["role"] != before
        if each["role"] == "assistant":
            wanted = [call["id"] for call in each.get("tool_calls", ())]
            assert all(NAME.fullmatch(call["function"]["name"]) for call in each.get("tool_calls", ()))
            assert each["content"] is None or each["content"].strip()
        before = each["role"]
    assert messages[1]["role"] == messages[-1]["role"] == "user"


@given(HISTORIES)
def test_responses_takes_what_is_made_of_any_history(history: list[Message]) -> None:
    turns = turns_of([*history, PROMPT])
    items = responses_messages.request_body(request(turns=turns), "gpt-6-sol", Recall()).body["input"]
    open_calls: list[str] = []
    seen: set[str] = set()
    for item in items:
        if item.get("type") == "function_call":
            assert item["call_id"] not in seen and NAME.fullmatch(item["name"])
            msgspec.json.decode(item["arguments"], type=dict)
            seen.add(item["call_id"])
            open_calls.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            assert item["call_id"] == open_calls.pop(0) and item["output"]
        else:
            assert not open_calls and item["content"]
    assert not open_calls


def test_results_in_several_messages_are_all_kept() -> None:
    def result(call_id: str) -> ToolResultPart:
        return ToolResultPart(tool_call_id=call_id, name="t", content=(TextBlock(text=call_id),), is_error=False)

    def call(call_id: str) -> ToolCallPart:
        return ToolCallPart(tool_call_id=call_id, name="t", title="t", kind="other", input={}, status="completed")

    said = message("assistant", [call("1"), call("2")])
    turns = turns_of([PROMPT, said, message("tool", [result("2")]), message("tool", [result("1"), result("2")])])
    assert isinstance(turns[2], ToolResults)
    assert [(each.call_id, each.is_error) for each in turns[2].results] == [("1", False), ("2", False)]


def test_a_history_that_begins_in_the_middle_says_so() -> None:
    turns = turns_of([message("assistant", [TextBlock(text="hello")]), PROMPT])
    assert isinstance(turns[0], UserTurn) and "not here" in str(turns[0].content)
