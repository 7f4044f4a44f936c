"""What a stream keeps, whom it wakes and how it ends. No sockets, no time that passes."""

import pytest

from atrio_agent.streams import EVENT_OVERHEAD_BYTES, KEPT_EVENTS, RING_BYTES, Cursor, Ended, Lagged, Rings, Stream
from atrio_protocol.events import Event, MessageDelta, MessageReset, Notice, decode_event
from atrio_protocol.limits import REPLAY_EVENTS
from atrio_protocol.methods import Position

MAX_BYTES = 256 * 1024


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rings(clock: Clock) -> Rings:
    return Rings(clock=clock)


def delta(text: str = "x", part: int = 0) -> MessageDelta:
    return MessageDelta(message_id="m", part=part, offset=0, text=text)


def note(title: str = "hello") -> Notice:
    return Notice(severity="info", title=title)


def started(stream: Stream, after: Position | None = None) -> tuple[Cursor, list[int]]:
    """A started cursor, and a list that gets the stream's seq at each of its wakings."""
    cursor = stream.cursor(after)
    woken: list[int] = []
    stream.start(cursor, lambda: woken.append(stream.seq))
    return cursor, woken


def read(cursor: Cursor, max_bytes: int = MAX_BYTES) -> list[Event]:
    found = cursor.stream.read(cursor, max_bytes)
    return [] if found is None else [decode_event(data) for data in found.events]


def test_events_are_numbered_from_one_and_read_once_in_order(rings: Rings) -> None:
    stream = Stream(rings)
    cursor = stream.cursor()
    numbers = [stream.publish(note(title)) for title in "abc"]
    events = read(cursor)
    assert numbers == [1, 2, 3] == [event.seq for event in events]
    assert [event.title for event in events if isinstance(event, Notice)] == ["a", "b", "c"]
    assert all(event.at for event in events)
    assert read(cursor) == []


def test_two_streams_have_different_epochs(rings: Rings) -> None:
    assert Stream(rings).epoch != Stream(rings).epoch


def test_a_cursor_at_the_head_reads_only_what_comes_later(rings: Rings) -> None:
    stream = Stream(rings)
    stream.publish(note())
    cursor = stream.cursor()
    assert not cursor.recovered
    assert not cursor.behind
    stream.publish(note("later"))
    assert cursor.behind
    assert [event.seq for event in read(cursor)] == [2]


def test_a_reader_that_comes_back_goes_on_where_it_was(rings: Rings) -> None:
    stream = Stream(rings)
    for _ in range(5):
        stream.publish(note())
    cursor = stream.cursor(Position(epoch=stream.epoch, seq=2))
    assert cursor.recovered
    assert [event.seq for event in read(cursor)] == [3, 4, 5]
    assert stream.cursor(Position(epoch=stream.epoch, seq=5)).recovered


@pytest.mark.parametrize(("epoch", "seq"), [("other", 2), (None, 6), (None, -1)])
def test_a_position_of_another_epoch_or_outside_of_the_log_is_not_resumed(
    rings: Rings, epoch: str | None, seq: int
) -> None:
    stream = Stream(rings)
    for _ in range(5):
        stream.publish(note())
    cursor = stream.cursor(Position(epoch=epoch or stream.epoch, seq=seq))
    assert not cursor.recovered
    assert cursor.seq == 5


def test_the_ring_keeps_no_more_events_than_were_announced(rings: Rings) -> None:
    stream = Stream(rings)
    for _ in range(REPLAY_EVENTS + 10):
        stream.publish(note())
    assert stream.oldest_seq == 11
    assert stream.can_resume(stream.epoch, 10)
    assert not stream.can_resume(stream.epoch, 9)


def test_the_ring_is_bounded_in_bytes_but_keeps_the_newest_few_events_of_any_size(rings: Rings) -> None:
    stream = Stream(rings)
    for _ in range(100):
        stream.publish(note("x" * 100_000))
    assert RING_BYTES - 110_000 < stream.ring_bytes <= RING_BYTES
    cursor = stream.cursor()
    for _ in range(KEPT_EVENTS):
        stream.publish(note("y" * (RING_BYTES // 2)))
    assert stream.oldest_seq == 101
    assert not cursor.lagged
    assert [event.seq for event in read(cursor)] == [101]
    stream.publish(note())
    assert stream.oldest_seq == 102


def test_a_cursor_that_the_ring_overtook_lags_and_does_not_move(rings: Rings) -> None:
    stream = Stream(rings)
    cursor = stream.cursor()
    for _ in range(REPLAY_EVENTS):
        stream.publish(note())
    assert not cursor.lagged
    stream.publish(note())
    assert cursor.lagged
    with pytest.raises(Lagged):
        read(cursor)
    assert cursor.seq == 0


def test_a_read_stops_at_its_limit_and_goes_on_there(rings: Rings) -> None:
    stream = Stream(rings)
    cursor = stream.cursor()
    for _ in range(10):
        stream.publish(note("x" * 1000))
    seen: list[int] = []
    while events := read(cursor, 3000):
        assert len(events) <= 3
        seen += [event.seq for event in events]
    assert seen == list(range(1, 11))


def test_an_event_that_cannot_be_encoded_takes_no_number(rings: Rings) -> None:
    stream = Stream(rings)
    with pytest.raises(UnicodeEncodeError):
        stream.publish(note("\ud800"))
    assert stream.publish(note()) == 1


def test_readers_at_one_place_share_one_slice(rings: Rings) -> None:
    stream = Stream(rings)
    cursors = [started(stream)[0] for _ in range(1000)]
    for _ in range(20):
        stream.publish(delta())
    slices = {id(stream.read(cursor, MAX_BYTES)) for cursor in cursors}
    assert len(slices) == 1
    assert stream.encodes == 20


def test_nothing_is_kept_for_others_once_everybody_waits(rings: Rings) -> None:
    stream = Stream(rings)
    (one, _), (other, _) = started(stream), started(stream)
    stream.publish(note())
    found = stream.read(one, MAX_BYTES)
    stream.wait(one)
    assert stream.read(other, MAX_BYTES) is found
    stream.wait(other)
    assert not stream._shared


def test_a_waiting_reader_is_woken_once_until_it_waits_again(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.wait(cursor)
    for _ in range(3):
        stream.publish(delta())
    assert woken == [1]
    read(cursor)
    stream.wait(cursor)
    stream.publish(delta())
    assert woken == [1, 4]


def test_a_reader_that_skips_deltas_is_woken_by_the_first_other_event(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.publish(delta())
    stream.wait(cursor, skip_deltas=True)
    stream.publish(delta())
    assert woken == []
    assert not cursor.urgent
    stream.publish(MessageReset(message_id="m"))
    assert woken == [3]
    assert cursor.urgent


def test_a_flood_of_deltas_wakes_even_those_that_skip_them(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.publish(delta())
    stream.wait(cursor, skip_deltas=True)
    for _ in range(REPLAY_EVENTS // 2):
        stream.publish(delta("x" * 64))
    assert len(woken) == 1
    assert not cursor.lagged


def test_a_wait_that_was_taken_back_wakes_nobody(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.wait(cursor)
    stream.unwait(cursor)
    stream.publish(note())
    assert woken == []


def test_a_stopped_reader_is_neither_counted_nor_woken(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.wait(cursor)
    stream.stop(cursor)
    stream.stop(cursor)
    stream.publish(note())
    assert woken == []
    assert stream.readers == 0


def test_a_stream_says_since_when_it_has_no_reader(rings: Rings, clock: Clock) -> None:
    stream = Stream(rings)
    assert stream.idle_since == 100
    clock.at = 200
    cursor = stream.cursor()
    assert stream.idle_since == 200, "who made a cursor is about to read"
    stream.start(cursor, lambda: None)
    assert stream.idle_since is None
    clock.at = 300
    stream.stop(cursor)
    assert stream.idle_since == 300


def test_a_closed_stream_is_read_to_its_last_event_and_then_ends(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.wait(cursor)
    stream.publish(note())
    stream.close("deleted")
    stream.close("again")
    assert woken == [1]
    assert cursor.urgent
    assert [event.seq for event in read(cursor)] == [1]
    with pytest.raises(Ended) as ended:
        read(cursor)
    assert ended.value.reason == "deleted"


@pytest.mark.parametrize("skip_deltas", [False, True])
def test_closing_wakes_whoever_waits(rings: Rings, skip_deltas: bool) -> None:
    stream = Stream(rings)
    cursor, woken = started(stream)
    stream.wait(cursor, skip_deltas=skip_deltas)
    stream.close("workspace_closed")
    assert woken == [0]


def test_publishing_on_a_closed_stream_changes_nothing(rings: Rings) -> None:
    stream = Stream(rings)
    cursor, _ = started(stream)
    stream.publish(note())
    stream.close("deleted")
    assert stream.publish(note()) == 1
    assert [event.seq for event in read(cursor)] == [1]


def test_a_closed_stream_gives_its_memory_back_when_its_last_reader_has_gone(rings: Rings) -> None:
    unread, being_read = Stream(rings), Stream(rings)
    cursor, _ = started(being_read)
    unread.publish(note())
    being_read.publish(note())
    unread.close("unloaded")
    being_read.close("deleted")
    assert rings.used_bytes == being_read.ring_bytes > 0
    being_read.stop(cursor)
    assert rings.used_bytes == 0
    assert not rings.streams


def filled(rings: Rings, events: int = 10) -> Stream:
    stream = Stream(rings)
    for _ in range(events):
        stream.publish(note("x" * (10_000 - EVENT_OVERHEAD_BYTES)))
    return stream


def test_beyond_the_budget_the_streams_longest_without_a_reader_give_up_their_oldest(clock: Clock) -> None:
    rings = Rings(max_bytes=320_000, clock=clock)
    left_first, left_last, being_read = filled(rings), filled(rings), filled(rings)
    for stream in (left_first, left_last):
        cursor, _ = started(stream)
        clock.at += 1
        stream.stop(cursor)
    started(being_read)
    last, _ = started(newest := Stream(rings))
    for _ in range(5):
        newest.publish(note("x" * 10_000))
    assert rings.used_bytes <= rings.max_bytes
    assert left_first.oldest_seq > 1
    assert left_last.oldest_seq == being_read.oldest_seq == newest.oldest_seq == 1
    assert [event.seq for event in read(last)] == [1, 2, 3, 4, 5]


def test_where_every_stream_is_read_the_largest_gives_up_its_older_half(clock: Clock) -> None:
    rings = Rings(max_bytes=320_000, clock=clock)
    large, small = filled(rings, 25), filled(rings, 5)
    for stream in (large, small):
        started(stream)
    cursor, _ = started(newest := Stream(rings))
    for _ in range(5):
        newest.publish(note("x" * 10_000))
    assert rings.used_bytes <= rings.max_bytes
    assert large.oldest_seq > 10
    assert small.oldest_seq == 1
    assert [event.seq for event in read(cursor)] == [1, 2, 3, 4, 5]


def test_a_budget_that_one_event_exceeds_costs_no_reader_that_event(clock: Clock) -> None:
    rings = Rings(max_bytes=10_000, clock=clock)
    stream = Stream(rings)
    cursor, _ = started(stream)
    for _ in range(3):
        stream.publish(note("x" * 20_000))
        assert len(read(cursor)) == 1


def test_what_the_rings_hold_is_counted_to_the_byte(rings: Rings) -> None:
    streams = [filled(rings, count) for count in (3, 300, 1000)]
    assert rings.used_bytes == sum(stream.ring_bytes for stream in streams)
    for stream in streams:
        stream.close("unloaded")
    assert rings.used_bytes == 0
