"""Merged or not, a reader is told the same, and the numbers join."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrio_protocol.content import TextBlock
from atrio_protocol.events import (
    EVENT_TYPES,
    Event,
    MessageDelta,
    MessagePart,
    MessageReset,
    Notice,
    ToolOutput,
    UnknownEvent,
    decode_event,
)
from atrio_protocol.merge import Encoded, encode_event, merge_all, merge_run
from atrio_protocol.struct import UNSET
from atrio_protocol.struct import given as or_else
from protocol_story import Story, at, encoded, stories
from protocol_values import texts, values_of


def deltas(pieces: list[str], *, kind: type[MessageDelta | ToolOutput] = MessageDelta) -> list[Event]:
    """One text in pieces, as it is streamed."""
    return [
        kind(message_id="m", part=0, offset=len("".join(pieces[:index])), text=piece)
        for index, piece in enumerate(pieces)
    ]


def read_on(items: list[Encoded], seq: int, max_bytes: int) -> list[bytes]:
    """What a reader that has everything up to ``seq`` gets, frame by frame."""
    frames: list[bytes] = []
    while seq < len(items):
        events, consumed = merge_all(items[seq:], max_bytes)
        assert consumed >= 1
        assert consumed == 1 or sum(len(event) + 1 for event in events) <= max_bytes
        frames += events
        seq += consumed
    return frames


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=10)
@given(st.data())
def test_an_event_is_encoded_as_if_it_had_had_its_number_all_along(cls: type[Event], data: st.DataObject) -> None:
    body = msgspec.structs.replace(data.draw(values_of(cls)), seq=0, first_seq=UNSET, at="")
    assert isinstance(body, Event)
    numbered = msgspec.structs.replace(body, seq=1234, at=at(1234))
    made = encode_event(body, 1234, at(1234))
    assert made.data == msgspec.json.encode(numbered)
    assert decode_event(made.data) == numbered
    assert (made.key is not None) == (cls in {MessageDelta, ToolOutput})


def test_an_event_is_numbered_only_once() -> None:
    with pytest.raises(ValueError, match="already"):
        encode_event(MessageReset(message_id="m", seq=3), 4, at(4))
    with pytest.raises(ValueError, match="already"):
        encode_event(MessageReset(message_id="m", at=at(3)), 4, at(4))


def test_half_a_surrogate_pair_is_not_let_out() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_event(MessageDelta(message_id="m", part=0, offset=0, text="\ud83d"), 1, at(1))


@given(texts)
def test_the_text_of_a_delta_is_found_whatever_its_message_is_called(name: str) -> None:
    hostile = name + '"text":"' + name
    made = encode_event(MessageDelta(message_id=hostile, part=0, offset=0, text=name), 1, at(1))
    assert json.loads(b'"' + made.data[made.text_at : -1]) == name


@pytest.mark.scenario("M11")
@given(st.lists(texts, min_size=1, max_size=30), st.data(), st.sampled_from([MessageDelta, ToolOutput]))
def test_any_split_read_from_anywhere_gives_the_same_text_in_ranges_that_join(
    pieces: list[str], data: st.DataObject, kind: type[MessageDelta | ToolOutput]
) -> None:
    items = encoded(deltas(pieces, kind=kind))
    seq = data.draw(st.integers(0, len(items)))
    max_bytes = data.draw(st.sampled_from([1, 200, 400, 1_000, 100_000]))
    text = "".join(pieces[:seq])
    for frame in read_on(items, seq, max_bytes):
        event = decode_event(frame)
        assert isinstance(event, kind)
        assert or_else(event.first_seq, event.seq) == seq + 1
        assert (event.first_seq is UNSET) == (event.seq == seq + 1)
        assert event.at == at(event.seq)
        assert event.offset == len(text)
        text += event.text
        seq = event.seq
        assert frame == msgspec.json.encode(event)
    assert text == "".join(pieces)
    assert seq == len(items)


@pytest.mark.scenario("M11")
@given(stories(), st.data())
def test_whatever_happens_readers_that_lag_differently_are_told_the_same(
    told: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    story = Story()
    for happening in told:
        story.tell(*happening)
    items = encoded(story.events)
    for _ in range(2):
        seq = 0
        singles: list[Event] = []
        while seq < len(items):
            # A reader is woken at any time and finds what has piled up since.
            head = data.draw(st.integers(seq + 1, len(items)))
            max_bytes = data.draw(st.sampled_from([150, 500, 3_000, 300_000]))
            events, consumed = merge_all(items[seq:head], max_bytes)
            for event in map(decode_event, events):
                assert or_else(event.first_seq, event.seq) == seq + 1
                singles += taken_apart(event, story.events)
                seq = event.seq
            assert seq <= head
            assert consumed >= len(events)
            assert consumed == 1 or sum(len(event) + 1 for event in events) <= max_bytes
        assert singles == story.events


def taken_apart(event: Event, bodies: list[Event]) -> list[Event]:
    """The events that this one stands for, cut out of its text at the bounds that they had."""
    first = or_else(event.first_seq, event.seq)
    if not isinstance(event, MessageDelta | ToolOutput):
        assert first == event.seq
        return [msgspec.structs.replace(event, seq=0, at="")]
    apart: list[Event] = []
    text, offset = event.text, event.offset
    for body in bodies[first - 1 : event.seq]:
        assert isinstance(body, MessageDelta | ToolOutput)
        piece, text = text[: len(body.text)], text[len(body.text) :]
        apart.append(type(event)(message_id=event.message_id, part=event.part, offset=offset, text=piece))
        offset += len(piece)
    assert text == ""
    return apart


def test_only_adjacent_deltas_of_one_part_of_one_message_are_merged() -> None:
    story: list[Event] = [
        MessageDelta(message_id="m", part=0, offset=0, text="a"),
        MessageDelta(message_id="m", part=0, offset=1, text="b"),
        MessageDelta(message_id="m", part=1, offset=0, text="c"),
        MessageDelta(message_id="n", part=1, offset=0, text="d"),
        ToolOutput(message_id="n", part=1, offset=0, text="e"),
        ToolOutput(message_id="n", part=1, offset=1, text="f"),
        MessagePart(message_id="n", part=1, value=TextBlock(text="")),
        MessageDelta(message_id="n", part=1, offset=0, text="g"),
        MessageReset(message_id="n"),
        MessageDelta(message_id="n", part=1, offset=0, text="h"),
        Notice(severity="info", title="t"),
        Notice(severity="info", title="t"),
    ]
    events, consumed = merge_all(encoded(story), 100_000)
    ranges = [(or_else(event.first_seq, event.seq), event.seq) for event in map(decode_event, events)]
    assert consumed == len(story)
    assert ranges == [(1, 2), (3, 3), (4, 4), (5, 6), (7, 7), (8, 8), (9, 9), (10, 10), (11, 11), (12, 12)]


def test_a_slice_stops_before_its_limit_but_for_a_single_event() -> None:
    items = encoded([Notice(severity="info", title="x" * 100) for _ in range(5)])
    size = len(items[0].data) + 1
    assert merge_all(items, 2 * size)[1] == 2
    assert merge_all(items, 2 * size - 1)[1] == 1
    assert merge_all(items, 1)[1] == 1
    assert merge_all([], 100) == ([], 0)


def test_what_was_merged_counts_with_what_it_became() -> None:
    notice = Notice(severity="info", title="x" * 100)
    items = encoded([*deltas(["y" * 50] * 10), notice])
    merged = len(merge_run(items[:10])) + 1
    alone = len(items[10].data) + 1
    assert merge_all(items, merged + alone)[1] == 11
    assert merge_all(items, merged + alone - 1)[1] == 10


def test_one_event_alone_is_passed_on_as_it_is() -> None:
    items = encoded(deltas(["a"]))
    assert merge_all(items, 1_000)[0][0] is items[0].data
    assert merge_run(items) is items[0].data


def test_offsets_count_code_points() -> None:
    events, _ = merge_all(encoded(deltas(["😀", "é𝄞", "x"]))[1:], 1_000)
    event = decode_event(events[0])
    assert isinstance(event, MessageDelta)
    assert (event.offset, event.text) == (1, "é𝄞x")


@given(values_of(Notice), st.integers(1, 2**40))
def test_an_event_of_a_type_that_is_not_known_keeps_its_place(notice: Notice, seq: int) -> None:
    body = msgspec.structs.replace(notice, seq=seq, first_seq=seq, at=at(1))
    data = msgspec.json.encode(body).replace(b'"type":"notice"', b'"type":"weather.changed"', 1)
    event = decode_event(data)
    assert isinstance(event, UnknownEvent)
    assert (event.seq, event.first_seq, event.at, event.name) == (seq, seq, at(1), "weather.changed")
    assert event.body == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b'{"type":5,"seq":1}',
        b'{"type":"weather.changed"}',
        b'{"type":"notice","seq":1}',
        b'{"type":"notice","seq":"1","severity":"info","title":""}',
        b'{"type":"message.reset","at":"","messageId":"m"}',
        b'{"type":"weather.changed","seq":1,"x":1e999}',
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(data)
