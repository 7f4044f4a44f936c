"""A thousand readers of one session: one encode an event, one frame for all of them, all equal."""

import pytest

from atrio_agent.streams import Rings, Stream
from atrio_protocol.events import MessageDelta, Notice
from atrio_server.attachments import WINDOW_MAX_S, WINDOW_S, Attachments
from atrio_server.calls import Key

READERS = 1000
KEY = Key("session", "s")


def attached(stream: Stream) -> Attachments:
    attachments = Attachments(lambda: None)
    attachments.begin(KEY, stream.cursor())
    assert attachments.next_frame(0.0) is None
    return attachments


def say(stream: Stream, times: int = 1) -> None:
    for _ in range(times):
        stream.publish(MessageDelta(message_id="m", part=0, offset=0, text="x"))


def note(stream: Stream) -> None:
    stream.publish(Notice(severity="info", title="now"))


def test_a_thousand_readers_cost_one_encode_an_event_and_one_frame() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    readers = [attached(stream) for _ in range(READERS)]
    at = 0.0
    for _ in range(20):
        say(stream, 9)
        note(stream)
        at += 1
        frames = [reader.next_frame(at) for reader in readers]
        assert frames[0] is not None
        assert all(frame is frames[0] for frame in frames)
        assert all(reader.next_frame(at) is None for reader in readers)
    assert stream.encodes == 200


@pytest.mark.parametrize(
    ("took_s", "wait_s"), [(0.0, WINDOW_S), (0.001, WINDOW_S - 0.001), (0.02, 0.06), (60.0, WINDOW_MAX_S)]
)
def test_deltas_wait_in_proportion_to_what_the_frame_before_them_took(took_s: float, wait_s: float) -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    say(stream)
    assert reader.next_frame(100.0) is not None
    say(stream)
    at = 100.0 + took_s
    assert reader.next_frame(at) is None
    assert reader.next_at == pytest.approx(at + wait_s)
    assert reader.next_frame(reader.next_at) is not None


@pytest.mark.parametrize("took_s", [0.0, 0.02, 60.0])
def test_other_events_never_wait(took_s: float) -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    say(stream)
    assert reader.next_frame(100.0) is not None
    at = 100.0 + took_s
    say(stream)
    assert reader.next_frame(at) is None
    note(stream)
    assert reader.next_frame(at) is not None
    assert reader.next_frame(at) is None


def test_a_flood_of_deltas_does_not_wait_for_the_window() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    say(stream)
    assert reader.next_frame(100.0) is not None
    say(stream)
    assert reader.next_frame(100.0) is None
    say(stream, 2000)
    assert reader.next_frame(100.001) is not None
    say(stream)
    assert reader.next_frame(100.002) is None


def test_detaching_everywhere_leaves_no_reader_behind() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    say(stream, 2)
    reader.end_all()
    assert stream.readers == 0
    assert reader.drained
    assert reader.next_frame(1.0) is None
