"""Writes a session's messages: to its stream at once, to its store soon after.

Each method is one synchronous step that changes the message in memory,
publishes the event and hands the same change to the store, in this order and
with no wait between. That is why a snapshot, the stream and the text in memory
never disagree.

The scribe keeps the *tail*: every message since the active run began. These
are read from memory; older ones are final and read from the store.
"""

from collections.abc import Callable, Collection

from atrio_agent.clock import now
from atrio_agent.messages import LiveMessage, growing_field
from atrio_agent.store.base import AppendText, PutMessage, Store
from atrio_agent.streams import Stream
from atrio_protocol.events import MessageCompleted, MessageCreated, MessageDelta, MessagePart, MessageReset, ToolOutput
from atrio_protocol.ids import new_id
from atrio_protocol.parts import Part, lean_part
from atrio_protocol.things import Message, MessageFinish, lean_message
from atrio_protocol.who import Author

__all__ = ["Scribe"]


class Scribe:
    """The one writer of a session's messages."""

    def __init__(
        self,
        *,
        workspace_id: str,
        session_id: str,
        stream: Stream,
        store: Store,
        last_order: int,
        on_message: Callable[[], None],
    ) -> None:
        """``on_message`` is called after each new message, to keep the session's count."""
        self._workspace_id = workspace_id
        self._session_id = session_id
        self._stream = stream
        self._store = store
        self._on_message = on_message
        self.last_order = last_order
        self.tail: list[LiveMessage] = []
        self._drafts: dict[LiveMessage, None] = {}

    def draft(
        self,
        *,
        run_id: str,
        role: str,
        model: str | None = None,
        provider: str | None = None,
        author: Author | None = None,
        summary: bool = False,
        parts: tuple[Part, ...] = (),
    ) -> LiveMessage:
        """Make the next message, with its place in the order, without telling anybody."""
        self.last_order += 1
        message = LiveMessage(
            message_id=new_id(self._workspace_id, "m"),
            session_id=self._session_id,
            run_id=run_id,
            order=self.last_order,
            role=role,
            model=model,
            provider=provider,
            author=author,
            summary=summary,
        )
        for index, part in enumerate(parts):
            message.set_part(index, part)
        self._drafts[message] = None
        return message

    def announce(self, message: LiveMessage, *, stored: bool = False) -> None:
        """Tell of a draft; from now on it is in the tail. ``stored``: the store has it already."""
        self._drafts.pop(message, None)
        self.tail.append(message)
        self._stream.publish(MessageCreated(message=message.lean()))
        if not stored:
            self._store.write_later(PutMessage(message=message.view()))
        self._on_message()

    def delta(self, message: LiveMessage, index: int, text: str) -> None:
        """Let a part of an announced message grow."""
        offset = message.append(index, text)
        self._stream.publish(MessageDelta(message_id=message.message_id, part=index, offset=offset, text=text))
        self._store.write_later(
            AppendText(
                message_id=message.message_id,
                session_id=self._session_id,
                part=index,
                field=growing_field(message.raw_part(index)),
                text=text,
            )
        )

    def output(self, message: LiveMessage, index: int, text: str) -> None:
        """Add to the live output of a tool call. It is told and shown, and not stored: its result will be."""
        offset = message.append_output(index, text)
        self._stream.publish(ToolOutput(message_id=message.message_id, part=index, offset=offset, text=text))

    def part(self, message: LiveMessage, index: int, part: Part) -> None:
        """Set or add a part."""
        self.publish_part(message, index, part)
        self._store.write_later(PutMessage(message=message.view(), final=message.completed))

    def reset(self, message: LiveMessage) -> None:
        """Take back what the message said so far."""
        message.clear()
        self._stream.publish(MessageReset(message_id=message.message_id))
        self._store.write_later(PutMessage(message=message.view()))

    def complete(self, message: LiveMessage, finish: MessageFinish | None = None) -> None:
        """Say that the message's text is final. Its tool calls may still change."""
        message.finish = finish
        message.updated_at = now()
        self._store.write_later(PutMessage(message=message.view(), final=True))
        self.publish_completed(message)

    def publish_part(self, message: LiveMessage, index: int, part: Part) -> None:
        """Set or add a part that the store has already."""
        message.set_part(index, part)
        self._stream.publish(MessagePart(message_id=message.message_id, part=index, value=lean_part(part)))

    def publish_completed(self, message: LiveMessage) -> None:
        """Publish the completion of a message whose final form the store has, or will get."""
        message.completed = True
        self._stream.publish(MessageCompleted(message=message.lean()))

    def live(self, message_id: str) -> Message | None:
        """A message of the tail as it stands, whole."""
        return next((message.view() for message in self.tail if message.message_id == message_id), None)

    def live_page(self, before: int | None) -> list[Message]:
        """The messages of the tail with an order below ``before``, as lists show them, oldest first."""
        found = [message for message in self.tail if before is None or message.order < before]
        return [lean_message(message.view()) for message in sorted(found, key=lambda message: message.order)]

    @property
    def stored_below(self) -> int:
        """Every message with a lower order is final, in the store and published."""
        return min([self.last_order + 1, *(message.order for message in (*self.tail, *self._drafts))])

    @property
    def complete_below(self) -> int:
        """Every message with a lower order has said all that it will, or will lack its results here."""
        growing = [message.order for message in self.tail if not message.completed]
        return min([self.last_order + 1, *growing, *(message.order for message in self._drafts)])

    def forget_drafts(self, but: Collection[LiveMessage]) -> None:
        """Give up the drafts that nobody will announce any more: all but these."""
        self._drafts = {draft: None for draft in self._drafts if draft in but}

    def drop_tail(self) -> None:
        """The run is over and stored: its messages are read from the store from now on."""
        self.tail.clear()
