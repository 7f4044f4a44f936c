"""Pages and growth as pure functions, over anything that can be asked."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.store.base import AppendText
from atrio_agent.store.paging import Place, cut_page, grown_message, message_bytes, read_cursor, write_cursor
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.parts import ToolCallPart
from atrio_protocol.things import Message
from store_samples import append, message, text_of, tool_call

Role = Literal["user", "assistant", "tool"]
roles: st.SearchStrategy[Role] = st.sampled_from(("user", "assistant", "tool"))
conversations = st.lists(st.tuples(roles, st.integers(0, 50)), max_size=12).map(
    lambda found: [message(f"m{n}", "x" * size, order=n, role=role) for n, (role, size) in enumerate(found)]
)


@given(conversations, st.integers(-1, 14), st.integers(-1, 4_000), st.booleans())
def test_a_page_is_the_newest_run_within_its_limits_and_begins_with_no_tool_message(
    messages: list[Message], limit: int, max_bytes: int, more: bool
) -> None:
    page = cut_page(messages, limit=limit, max_bytes=max_bytes, more=more)

    cut = len(messages) - len(page.messages)
    assert list(page.messages) == messages[cut:]
    assert page.more == (more or cut > 0)
    assert bool(page.messages) == bool(messages)
    if not cut:
        return
    assert page.messages[0].role != "tool"
    # One message less would break the rule about tools, unless it keeps the limits.
    inside = [found for found in page.messages if found.role != "tool"]
    if page.messages[1:] and len(inside) == len(page.messages):
        assert len(page.messages) <= limit
        assert sum(map(message_bytes, page.messages)) <= max_bytes
    # And one more would break a limit.
    larger = messages[cut - 1 :]
    assert len(larger) > limit or sum(map(message_bytes, larger)) > max_bytes


def test_a_page_that_would_begin_with_results_reaches_back_to_their_calls() -> None:
    messages = [
        message("m1", role="user", order=1),
        message("m2", "calls" * 100, order=2),
        message("m3", role="tool", order=3),
        message("m4", role="tool", order=4),
        message("m5", role="user", order=5),
    ]

    page = cut_page(messages, limit=2, max_bytes=500, more=False)

    assert [found.message_id for found in page.messages] == ["m2", "m3", "m4", "m5"]
    assert page.more


@given(st.lists(st.text(max_size=5), max_size=20), st.text(max_size=5))
def test_pieces_add_up(pieces: list[str], before: str) -> None:
    grown = grown_message(message("m1", before), [append("m1", piece) for piece in pieces])

    assert text_of(grown) == before + "".join(pieces)


@given(st.lists(st.integers(0, 50_000), max_size=6), st.integers(0, 70_000), st.integers(0, 9))
def test_of_live_output_the_end_is_kept_and_the_rest_counted(sizes: list[int], before: int, dropped: int) -> None:
    call = tool_call("t1", output="a" * min(before, TOOL_OUTPUT_CHARS), output_from=dropped)
    pieces = [AppendText(message_id="m1", session_id="s1", part=0, field="output", text="é" * size) for size in sizes]

    (part,) = grown_message(message("m1", None, call), pieces).parts

    assert isinstance(part, ToolCallPart)
    whole = "a" * min(before, TOOL_OUTPUT_CHARS) + "é" * sum(sizes)
    assert part.output == whole[-TOOL_OUTPUT_CHARS:]
    assert part.output_from == dropped + max(0, len(whole) - TOOL_OUTPUT_CHARS)


@given(st.text(), st.integers(0, 2**63 - 1))
def test_a_cursor_is_read_as_it_was_written(updated_at: str, touched: int) -> None:
    place = Place(updated_at, touched)

    assert read_cursor(write_cursor(place)) == place


@given(st.text())
def test_whatever_else_is_given_as_a_cursor_is_a_value_error(text: str) -> None:
    try:
        place = read_cursor(text)
    except ValueError:
        return
    pytest.fail(f"{text!r} was read as {place}")
