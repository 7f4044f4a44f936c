"""Streams: the total order of what happens in a session or a workspace, and who reads it.

A stream numbers an event, encodes it once and keeps it in a bounded ring. A
reader is a `Cursor`, a number: it never has a queue of its own, so a thousand
readers cost no more memory than one, and a slow one holds up nobody. It reads
what is new as one `Slice`, in which neighbouring deltas are merged.

Everything here is synchronous and does no I/O; nothing here knows sockets. The
invariant: the slices that one cursor reads join without gap and without
overlap, or reading raises `Lagged`.
"""

import secrets
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import trio

from atrio_agent.clock import now
from atrio_protocol.events import Event
from atrio_protocol.limits import REPLAY_EVENTS
from atrio_protocol.merge import Encoded, encode_event, merge_all
from atrio_protocol.methods import Position

__all__ = [
    "EVENT_OVERHEAD_BYTES",
    "KEPT_EVENTS",
    "RINGS_BYTES",
    "RING_BYTES",
    "Cursor",
    "Ended",
    "Lagged",
    "Rings",
    "Slice",
    "Stream",
]

RING_BYTES: Final = 2 * 1024 * 1024
"""Most that one stream keeps, counted with what Python needs round each event."""

KEPT_EVENTS: Final = 16
"""So many newest events a stream keeps whatever their size, as long as there is room for all streams.

A prompt of the largest size takes a few events in one go; a reader that was live before them must not lag by them.
"""

RINGS_BYTES: Final = 64 * 1024 * 1024
"""Most that all streams of the process keep, counted alike."""

EVENT_OVERHEAD_BYTES: Final = 256
"""What an event takes in the ring beside its encoded bytes."""

FLOOD_BYTES: Final = 256 * 1024
"""Deltas beyond this do not wait for the end of a window: the ring must not overtake its readers."""

SHARED_SLICES: Final = 4
"""Slices that are kept for the other readers of a stream. They all read near its head."""


class Lagged(Exception):
    """The ring no longer holds what the cursor would read next. The cursor has not moved."""


class Ended(Exception):
    """The stream was closed and the cursor has read all of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Slice:
    """Events of a stream from ``first_seq`` to ``last_seq``, merged and encoded.

    Readers that stand at the same place get the same object. What the first of
    them makes of it for the wire, it leaves in ``frame`` for the others.
    """

    __slots__ = ("events", "first_seq", "frame", "last_seq")

    def __init__(self, first_seq: int, last_seq: int, events: list[bytes]) -> None:
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.events = events
        self.frame: str | None = None


class Cursor:
    """A place in a stream: everything up to ``seq`` has been read.

    Made by `Stream.cursor`. It costs nothing and holds nothing until it is
    started, so it may simply be dropped before that; once started it must be stopped.
    """

    __slots__ = ("recovered", "seq", "stream", "wake")

    def __init__(self, stream: "Stream", seq: int, *, recovered: bool = False) -> None:
        self.stream = stream
        self.seq = seq
        self.recovered = recovered
        self.wake: Callable[[], None] | None = None

    @property
    def lagged(self) -> bool:
        """Whether the ring has overtaken it."""
        return self.stream.oldest_seq > self.seq + 1

    @property
    def behind(self) -> bool:
        """Whether there is something to read: events, or the end."""
        return self.seq < self.stream.seq or self.stream.end_reason is not None

    @property
    def urgent(self) -> bool:
        """Whether there is something to read that is not a delta."""
        return self.seq < self.stream.urgent_seq or self.stream.end_reason is not None


class Rings:
    """What the rings of all streams may take together.

    Beyond it, the streams that were longest without a reader give up their
    oldest events; when none of those has any left, the largest ring gives up
    its older half. ``clock`` is what `Stream.idle_since` is measured by.

    It counts for all streams, of all time: events ``published``, and readers that
    ``lagged`` out of a ring.
    """

    def __init__(self, *, max_bytes: int = RINGS_BYTES, clock: Callable[[], float] = trio.current_time) -> None:
        self.max_bytes = max_bytes
        self.clock = clock
        self.used_bytes = 0
        self.published = 0
        self.lagged = 0
        self.streams: dict[Stream, None] = {}

    def make_room(self) -> None:
        """Bring the rings back under the limit, and a little below, so as not to be called for each event."""
        target = self.max_bytes - self.max_bytes // 64
        unread = [stream for stream in self.streams if stream.ring_bytes and stream.idle_since is not None]
        unread.sort(key=lambda stream: stream.idle_since or 0.0)
        for stream in unread:
            if self.used_bytes <= target:
                return
            stream.give_up(self.used_bytes - target, keep=0)
        while self.used_bytes > target:
            largest = max(self.streams, key=lambda stream: stream.ring_bytes)
            if not largest.give_up(max(largest.ring_bytes // 2, 1), keep=1):
                return


class Stream:
    """One total order of events, numbered 1, 2, 3 … within an epoch.

    ``seq`` is the number of the newest event. ``encodes`` counts how often an
    event was encoded, which is once, however many read it.
    """

    def __init__(self, rings: Rings) -> None:
        self.epoch = secrets.token_hex(8)
        self.seq = 0
        self.urgent_seq = 0
        self.encodes = 0
        self.end_reason: str | None = None
        self.ring_bytes = 0
        self._rings = rings
        self._ring: deque[Encoded] = deque()
        self._readers = 0
        self._idle_since = rings.clock()
        # A cursor is in at most one of the two, and only while it has nothing to do.
        self._waiting: dict[Cursor, None] = {}
        self._skipping_deltas: dict[Cursor, None] = {}
        self._skipped_bytes = 0
        self._shared: dict[tuple[int, int, int], Slice] = {}
        rings.streams[self] = None

    @property
    def oldest_seq(self) -> int:
        """The number of the oldest event that is kept; one above ``seq`` when none is."""
        return self.seq - len(self._ring) + 1

    @property
    def readers(self) -> int:
        """How many cursors are started."""
        return self._readers

    @property
    def idle_since(self) -> float | None:
        """When it was last read or about to be, on the clock of its `Rings`; None while it has readers."""
        return None if self._readers else self._idle_since

    def publish(self, event: Event) -> int:
        """Append an event, wake whoever waits for it, and return its number.

        On a closed stream nothing happens: there is nobody left to tell.
        """
        if self.end_reason is not None:
            return self.seq
        encoded = encode_event(event, self.seq + 1, now())
        self.seq += 1
        self.encodes += 1
        self._rings.published += 1
        cost = len(encoded.data) + EVENT_OVERHEAD_BYTES
        self._ring.append(encoded)
        self.ring_bytes += cost
        self._rings.used_bytes += cost
        if len(self._ring) > REPLAY_EVENTS:
            self._drop_oldest()
        if self.ring_bytes > RING_BYTES:
            self.give_up(self.ring_bytes - RING_BYTES, keep=KEPT_EVENTS)
        if self._rings.used_bytes > self._rings.max_bytes:
            self._rings.make_room()
        if encoded.key is None:
            self.urgent_seq = self.seq
            self._wake_skipping()
        elif self._skipping_deltas:
            self._skipped_bytes += cost
            if self._skipped_bytes > FLOOD_BYTES:
                self._wake_skipping()
        if self._waiting:
            self._wake_waiting()
        return self.seq

    def close(self, reason: str) -> None:
        """End the stream. Readers still get everything in it, and then `Ended`; safe to call twice."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        self._wake_skipping()
        self._wake_waiting()
        if not self._readers:
            self._release()

    def can_resume(self, epoch: str, seq: int) -> bool:
        """Whether a reader that has everything up to ``seq`` of ``epoch`` can go on from there."""
        return epoch == self.epoch and self.oldest_seq - 1 <= seq <= self.seq

    def cursor(self, after: Position | None = None) -> Cursor:
        """A cursor where a reader left off, if the stream still has what follows (``recovered``), else at its head."""
        self._idle_since = self._rings.clock()
        if after is not None and self.can_resume(after.epoch, after.seq):
            return Cursor(self, after.seq, recovered=True)
        return Cursor(self, self.seq)

    def start(self, cursor: Cursor, wake: Callable[[], None]) -> None:
        """Count the cursor among the readers. ``wake`` is called once for each `wait`."""
        cursor.wake = wake
        self._readers += 1

    def stop(self, cursor: Cursor) -> None:
        """Forget a reader. Safe to call twice, and for one that was never started."""
        if cursor.wake is None:
            return
        cursor.wake = None
        self.unwait(cursor)
        self._readers -= 1
        if self._readers < 2:
            self._shared.clear()
        if not self._readers:
            self._idle_since = self._rings.clock()
            if self.end_reason is not None:
                self._release()

    def read(self, cursor: Cursor, max_bytes: int) -> Slice | None:
        """Read on: at most ``max_bytes`` or one event; None when there is nothing new.

        Raises:
            Lagged: Something between the cursor and the ring is gone.
            Ended: There is nothing new and never will be.
        """
        behind = self.seq - cursor.seq
        if not behind:
            if self.end_reason is not None:
                raise Ended(self.end_reason)
            return None
        if behind > len(self._ring):
            self._rings.lagged += 1
            raise Lagged
        place = (cursor.seq, self.seq, max_bytes)
        found = self._shared.get(place)
        if found is None:
            found = self._slice(cursor.seq, behind, max_bytes)
            if self._readers > 1:
                if len(self._shared) >= SHARED_SLICES:
                    del self._shared[next(iter(self._shared))]
                self._shared[place] = found
        cursor.seq = found.last_seq
        return found

    def wait(self, cursor: Cursor, *, skip_deltas: bool = False) -> None:
        """Have a started cursor woken by the next event, or by the next that is not a delta.

        To be called in the same step in which there was nothing (or nothing
        `Cursor.urgent`) to read. It is woken once. A flood of deltas wakes those
        that skip them too.
        """
        if skip_deltas:
            if not self._skipping_deltas:
                self._skipped_bytes = 0
            self._skipping_deltas[cursor] = None
            return
        self._waiting[cursor] = None
        if len(self._waiting) == self._readers:
            self._shared.clear()

    def unwait(self, cursor: Cursor) -> None:
        """Take back a `wait`."""
        self._waiting.pop(cursor, None)
        self._skipping_deltas.pop(cursor, None)

    def give_up(self, some_bytes: int, *, keep: int) -> int:
        """Drop oldest events until at least ``some_bytes`` are free or only ``keep`` are left; bytes freed."""
        before = self.ring_bytes
        while len(self._ring) > keep and before - self.ring_bytes < some_bytes:
            self._drop_oldest()
        return before - self.ring_bytes

    def _slice(self, after: int, count: int, max_bytes: int) -> Slice:
        # From the newest end: readers stand near the head, and a deque has no cheap middle.
        items = list(islice(reversed(self._ring), count))
        items.reverse()
        events, consumed = merge_all(items, max_bytes)
        return Slice(after + 1, after + consumed, events)

    def _drop_oldest(self) -> None:
        cost = len(self._ring.popleft().data) + EVENT_OVERHEAD_BYTES
        self.ring_bytes -= cost
        self._rings.used_bytes -= cost

    def _release(self) -> None:
        self.give_up(self.ring_bytes, keep=0)
        self._rings.streams.pop(self, None)

    def _wake_waiting(self) -> None:
        woken, self._waiting = self._waiting, {}
        for cursor in woken:
            if cursor.wake is not None:
                cursor.wake()

    def _wake_skipping(self) -> None:
        if not self._skipping_deltas:
            return
        woken, self._skipping_deltas = self._skipping_deltas, {}
        for cursor in woken:
            if cursor.wake is not None:
                cursor.wake()
