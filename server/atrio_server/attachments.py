"""The streams that one connection reads, and which frame of them comes next.

The connection's writer asks for a frame whenever its socket is free. Streams
with something new take turns, so that a busy one does not starve the others.
The first deltas after a pause go out at once; those that follow within the
window wait for its end and go together; whatever is not a delta goes at once
and takes everything before it along. Where sending itself takes long (a thousand
readers, or one that takes bytes slowly) the window grows: fewer, larger frames
are what lets the publisher go on.

Synchronous, without I/O; time is handed in. An attachment that stands in line
is not woken again, so a reader that is behind costs its stream nothing per event.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from atrio_agent.streams import Cursor, Ended, Lagged
from atrio_protocol.codec import events_frame
from atrio_protocol.errors import Overloaded
from atrio_protocol.jsonrpc import encode_notification
from atrio_protocol.limits import MAX_ATTACHMENTS
from atrio_protocol.notifications import SessionDetached, WorkspaceDetached
from atrio_server.calls import Key

__all__ = ["EVENTS_FRAME_BYTES", "WINDOW_S", "Attachments"]

EVENTS_FRAME_BYTES: Final = 256 * 1024
"""Most that one frame of events carries, but for a single larger event."""

WINDOW_S: Final = 0.010
"""Further deltas of a connection go out at most this often."""

SEND_SHARE: Final = 3
"""After a frame that took long to send, further deltas wait this many times as long."""

WINDOW_MAX_S: Final = 0.250
"""The longest such wait."""


_SESSION_REASONS: Final[dict[str, Literal["deleted", "workspace_closed"]]] = {
    "deleted": "deleted",
    "workspace_closed": "workspace_closed",
}
"""Why a session's stream ends, to clients. One unloaded under a reader that had just begun is as good as lagged."""


class _Attachment:
    """One stream as this connection reads it.

    Attached and started, it is in exactly one place: in line for the writer,
    held back by the window, or waiting in its stream. ``due``: the window has
    no more say over what it has to send.
    """

    __slots__ = ("_owner", "cursor", "due", "in_line", "key")

    def __init__(self, owner: "Attachments", key: Key, cursor: Cursor) -> None:
        self._owner = owner
        self.key = key
        self.cursor = cursor
        self.due = False
        self.in_line = False

    def wake(self) -> None:
        # Deltas that wake one that skips them are a flood, which the window must not hold back.
        self.due = self.cursor.behind and not self.cursor.urgent and self._owner.holds(self)
        self._owner.put_in_line(self)


class Attachments:
    """What a connection is attached to. ``on_news`` is called when there may be a frame."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self._sent_from: float | None = None
        self._window_ends = -math.inf
        self._by_key: dict[Key, _Attachment] = {}
        self._line: deque[_Attachment] = deque()
        self._held: dict[_Attachment, None] = {}

    @property
    def keys(self) -> tuple[Key, ...]:
        """The streams that are attached now."""
        return tuple(self._by_key)

    def check_room(self, key: Key) -> None:
        """Refuse one attachment too many; attaching again takes no more room.

        Those whose answer is still on its way are not counted, which are as many at
        most as requests of a connection are in work.

        Raises:
            Overloaded: There are as many as there may be.
        """
        if key not in self._by_key and len(self._by_key) >= MAX_ATTACHMENTS:
            raise Overloaded(f"This connection reads {MAX_ATTACHMENTS} streams already; detach, or open another one.")

    @property
    def most_behind(self) -> int:
        """By how many events it lags in the stream in which it lags most."""
        return max((one.cursor.stream.seq - one.cursor.seq for one in self._by_key.values()), default=0)

    @property
    def next_at(self) -> float:
        """When the deltas that are held back become a frame; infinite if none are."""
        return self._window_ends if self._held else math.inf

    @property
    def drained(self) -> bool:
        """Whether everything that was published has been taken."""
        return not self._line and not self._held

    def begin(self, key: Key, cursor: Cursor) -> None:
        """Attach. An attachment to the same stream is replaced: none of its events follows."""
        self.end(key)
        attachment = _Attachment(self, key, cursor)
        self._by_key[key] = attachment
        cursor.stream.start(cursor, attachment.wake)
        self.put_in_line(attachment)

    def end(self, key: Key) -> None:
        """Detach, if attached. What was not taken is not sent any more."""
        attachment = self._by_key.pop(key, None)
        if attachment is None:
            return
        self._held.pop(attachment, None)
        if attachment.in_line:
            self._line.remove(attachment)
        attachment.cursor.stream.stop(attachment.cursor)

    def end_all(self) -> None:
        """Detach from everything."""
        for key in self.keys:
            self.end(key)

    def head(self, key: Key) -> int:
        """The number of the newest event of an attached stream; 0 when it is not attached."""
        attachment = self._by_key.get(key)
        return 0 if attachment is None else attachment.cursor.stream.seq

    def holds(self, attachment: _Attachment) -> bool:
        """Whether it is held back by the window."""
        return attachment in self._held

    def put_in_line(self, attachment: _Attachment) -> None:
        """Let an attachment have its turn. Called by its stream, at most once for each wait."""
        self._held.pop(attachment, None)
        if not attachment.in_line:
            attachment.in_line = True
            self._line.append(attachment)
            self._on_news()

    def next_frame(self, at: float, *, along: bool = False) -> str | None:
        """Take the next frame, or None when there is none yet (see `next_at`).

        What this connection was detached from is told by a frame as well.
        ``along``: it goes in one write with what was taken before, which is not sent yet.
        """
        if not along:
            self._begin_window(at)
        if self._held and at >= self._window_ends:
            self._release_held()
        while self._line:
            attachment = self._line.popleft()
            attachment.in_line = False
            if self._hold(attachment, at):
                continue
            frame = self._take(attachment)
            if frame is not None:
                self._sent_from = at
                return frame
        return None

    def frame_up_to(self, key: Key, seq: int) -> str | None:
        """Take a frame of one stream out of turn, or None when nothing up to ``seq`` is left.

        The end of a stream that was closed counts as its last event.
        """
        attachment = self._by_key.get(key)
        if attachment is None:
            return None
        cursor = attachment.cursor
        if cursor.seq >= seq and cursor.stream.end_reason is None:
            return None
        cursor.stream.unwait(cursor)
        self._held.pop(attachment, None)
        return self._take(attachment)

    def _begin_window(self, at: float) -> None:
        """Say until when the deltas behind the frame that was just sent have to wait."""
        if self._sent_from is not None:
            stretched_s = min(SEND_SHARE * (at - self._sent_from), WINDOW_MAX_S)
            self._window_ends = max(self._sent_from + WINDOW_S, at + stretched_s)
            self._sent_from = None

    def _hold(self, attachment: _Attachment, at: float) -> bool:
        """Hold an attachment back whose turn has come too early; whether it was."""
        cursor = attachment.cursor
        if at >= self._window_ends or attachment.due or cursor.urgent or not cursor.behind:
            return False
        self._held[attachment] = None
        cursor.stream.wait(cursor, skip_deltas=True)
        return True

    def _release_held(self) -> None:
        for attachment in list(self._held):
            attachment.due = True
            attachment.cursor.stream.unwait(attachment.cursor)
            self.put_in_line(attachment)

    def _take(self, attachment: _Attachment) -> str | None:
        """Read on; then the attachment is in line again if there is more, else it waits."""
        key, cursor = attachment.key, attachment.cursor
        stream = cursor.stream
        try:
            found = stream.read(cursor, EVENTS_FRAME_BYTES)
        except Lagged:
            return self._detach(key, "lagged")
        except Ended as end:
            return self._detach(key, end.reason)
        attachment.due = cursor.behind
        if attachment.due:
            self.put_in_line(attachment)
        elif not attachment.in_line:
            stream.wait(cursor)
        if found is None:
            return None
        if found.frame is None:
            if key.of == "session":
                data = events_frame("session/events", "sessionId", key.thing_id, stream.epoch, found.events)
            else:
                data = events_frame("workspace/events", "workspaceId", key.thing_id, stream.epoch, found.events)
            found.frame = data.decode()
        return found.frame

    def _detach(self, key: Key, reason: str) -> str:
        self.end(key)
        if key.of == "session":
            gone = SessionDetached(session_id=key.thing_id, reason=_SESSION_REASONS.get(reason, "lagged"))
            return encode_notification("session/detached", gone).decode()
        gone = WorkspaceDetached(workspace_id=key.thing_id, reason="lagged" if reason == "lagged" else "closed")
        return encode_notification("workspace/detached", gone).decode()
