"""A thousand readers of one session: one encode an event, one frame for all of them, all equal."""

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


def test_a_thousand_readers_cost_one_encode_an_event_and_one_frame() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    readers = [attached(stream) for _ in range(READERS)]
    at = 0.0
    for _ in range(20):
        say(stream, 9)
        stream.publish(Notice(severity="info", title="now"))
        at += 1
        frames = [reader.next_frame(at) for reader in readers]
        assert frames[0] is not None
        assert all(frame is frames[0] for frame in frames)
        assert all(reader.next_frame(at) is None for reader in readers)
    assert stream.encodes == 200


def test_a_frame_that_took_long_to_send_makes_for_a_longer_window() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    for took_s, window_s in ((0.0, WINDOW_S), (0.02, 0.08), (60.0, WINDOW_MAX_S), (0.001, WINDOW_S)):
        say(stream)
        at = stream.seq * 1000.0
        assert reader.next_frame(at) is not None
        reader.next_frame(at + took_s)
        say(stream)
        assert reader.next_frame(at + took_s) is None or took_s >= window_s
        if took_s < window_s:
            assert reader.next_at == at + window_s
            assert reader.next_frame(at + window_s) is not None


def test_detaching_everywhere_leaves_no_reader_behind() -> None:
    stream = Stream(Rings(clock=lambda: 0.0))
    reader = attached(stream)
    say(stream, 2)
    reader.end_all()
    assert stream.readers == 0
    assert reader.drained
    assert reader.next_frame(1.0) is None
