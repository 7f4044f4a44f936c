"""Whatever is published and whoever reads when: no gap, no overlap, the same text for everybody.

The budget of the rings is so small here that cursors lag all the time. The
model is the log as it was published, rendered event by event; what a reader has
rendered must equal the model as of the reader's place, at every step.
"""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.streams import EVENT_OVERHEAD_BYTES, Cursor, Ended, Lagged, Rings, Stream
from atrio_protocol.events import Event, MessageDelta, MessageReset, Notice, ToolOutput, decode_event
from atrio_protocol.methods import Position

View = dict[tuple[str, str, int], str]


def render(view: View, event: Event) -> View:
    """What a reader shows after an event."""
    match event:
        case MessageDelta() | ToolOutput():
            key = (type(event).__name__, event.message_id, event.part)
            before = view.get(key, "")
            assert event.offset == len(before), "a delta joins what came before it"
            return view | {key: before + event.text}
        case MessageReset():
            return {key: text for key, text in view.items() if key[1] != event.message_id}
        case _:
            return view


@dataclass
class Reader:
    """A client: where it is, and what it shows."""

    cursor: Cursor
    view: View
    ranges: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


@dataclass
class World:
    stream: Stream
    views: list[View] = field(default_factory=lambda: [{}])
    readers: list[Reader] = field(default_factory=list[Reader])
    published: int = 0

    def publish(self, kind: int, message: int, part: int, text: str) -> None:
        name = f"m{message}"
        view = self.views[-1]
        event: Event
        match kind:
            case 0 | 1 | 2:
                cls = ToolOutput if kind == 2 else MessageDelta
                offset = len(view.get((cls.__name__, name, part), ""))
                event = cls(message_id=name, part=part, offset=offset, text=text)
            case 3:
                event = MessageReset(message_id=name)
            case _:
                event = Notice(severity="info", title=text)
        assert self.stream.publish(event) == len(self.views)
        self.views.append(render(view, event))

    def attach(self, reader: Reader | None) -> None:
        """Attach anew, or again from where a reader left off; without recovery there is a snapshot."""
        after = None if reader is None else Position(epoch=self.stream.epoch, seq=reader.cursor.seq)
        cursor = self.stream.cursor(after)
        if reader is not None:
            self.drop(reader)
            assert cursor.recovered == (reader.cursor.seq >= self.stream.oldest_seq - 1)
        if reader is not None and cursor.recovered:
            view = reader.view
        else:
            assert cursor.seq == self.stream.seq
            view = self.views[cursor.seq]
        self.stream.start(cursor, lambda: None)
        self.readers.append(Reader(cursor, view))

    def drop(self, reader: Reader) -> None:
        self.stream.stop(reader.cursor)
        self.readers.remove(reader)

    def read(self, reader: Reader, max_bytes: int) -> bool:
        """Read once; False when there is nothing."""
        cursor = reader.cursor
        place = cursor.seq
        held = place >= self.stream.oldest_seq - 1
        try:
            found = self.stream.read(cursor, max_bytes)
        except Lagged:
            assert not held
            assert cursor.seq == place
            self.attach(reader)
            return True
        assert held
        if found is None:
            assert place == self.stream.seq
            return False
        assert found.first_seq == place + 1
        for data in found.events:
            event = decode_event(data)
            first = event.first_seq if isinstance(event.first_seq, int) else event.seq
            assert first == place + 1, "the next event begins where the last one ended"
            assert first <= event.seq
            reader.view = render(reader.view, event)
            place = event.seq
        assert place == cursor.seq == found.last_seq
        assert len(found.events) == 1 or sum(map(len, found.events)) <= max_bytes
        assert reader.view == self.views[place], "it shows what the log says"
        return True


texts = st.text(st.characters(codec="utf-8"), min_size=0, max_size=12)
operations = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 4), st.integers(0, 1), st.integers(0, 1), texts),
    st.tuples(st.just("burst"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), texts),
    st.tuples(st.just("read"), st.integers(0, 7), st.sampled_from([1, 200, 1000, 100_000])),
    st.tuples(st.just("attach"), st.integers(-1, 7)),
    st.tuples(st.just("drop"), st.integers(0, 7)),
)


@given(st.lists(operations, max_size=60), st.integers(2, 40))
def test_every_reader_shows_the_log_as_of_its_place(steps: list[tuple[object, ...]], ring_events: int) -> None:
    rings = Rings(max_bytes=ring_events * (EVENT_OVERHEAD_BYTES + 100), clock=lambda: 0.0)
    world = World(Stream(rings))
    for step in steps:
        match step:
            case ("publish", int(kind), int(message), int(part), str(text)):
                world.publish(kind, message, part, text)
            case ("burst", int(kind), int(message), int(part), str(text)):
                for _ in range(10):
                    world.publish(kind, message, part, text)
            case ("read", int(index), int(max_bytes)) if world.readers:
                world.read(world.readers[index % len(world.readers)], max_bytes)
            case ("attach", int(index)):
                again = index >= 0 and world.readers
                world.attach(world.readers[index % len(world.readers)] if again else None)
            case ("drop", int(index)) if world.readers:
                world.drop(world.readers[index % len(world.readers)])
            case _:
                pass
        assert rings.used_bytes == world.stream.ring_bytes
        assert world.stream.encodes == world.stream.seq
        assert world.stream.readers == len(world.readers)

    world.stream.close("workspace_closed")
    for reader in list(world.readers):
        if reader.cursor.lagged:
            continue
        try:
            while world.read(reader, 100_000):
                pass
        except Ended:
            assert reader.view == world.views[-1]
        else:
            raise AssertionError("a closed stream ends for everybody who has read it")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), texts), min_size=1, max_size=80),
    st.integers(0, 80),
    st.sampled_from([150, 400, 100_000]),
)
def test_a_reader_cut_anywhere_and_resumed_shows_the_same_as_one_never_cut(
    published: list[tuple[int, int, str]], cut_at: int, max_bytes: int
) -> None:
    world = World(Stream(Rings(clock=lambda: 0.0)))
    world.attach(None)
    for index, (kind, part, text) in enumerate(published):
        world.publish(kind, 0, part, text)
        if index == cut_at:
            world.read(world.readers[0], max_bytes)
            world.attach(world.readers[0])
            assert world.readers[0].cursor.recovered
    while world.read(world.readers[0], max_bytes):
        pass
    assert world.readers[0].view == world.views[-1]
