"""A fork: a session that begins with what another one has said.

What it takes is settled in one synchronous step, when it is asked for; storing
it is one operation of the store, so there is a whole fork or none. The source
may go on meanwhile, and be deleted: neither changes what the fork holds.
"""

from typing import TYPE_CHECKING

from atrio_agent.clock import now
from atrio_agent.profile import MAX_TITLE_CHARS
from atrio_agent.store.base import ForkSession, SessionRow, Store, StoreFailed, WriteRefused
from atrio_agent.titles import NEW_SESSION, fork_title
from atrio_protocol.errors import MessageNotFound, SessionNotFound, StorageUnavailable
from atrio_protocol.ids import new_id
from atrio_protocol.things import Usage

if TYPE_CHECKING:
    from atrio_agent.session import Session

__all__ = ["Fork"]


class Fork:
    """What a new session takes from another as of this step, up to a message or all of it.

    What is still being said stays behind. ``row`` is the new session.
    """

    def __init__(self, source: "Session", message_id: str | None, *, workspace_id: str) -> None:
        self._workspace_id = workspace_id
        self._source_id = source.session_id
        self._message_id = message_id
        self._below = source.scribe.complete_below
        live = source.scribe.live(message_id) if message_id else None
        self._through = None if live is None else live.order
        old = source.profile.row
        at = now()
        context = Usage(context_tokens=old.usage.context_tokens, context_size=old.usage.context_size)
        self.row = SessionRow(
            session_id=new_id(workspace_id, "s"),
            title=fork_title(old.title, MAX_TITLE_CHARS),
            title_is_final=old.title != NEW_SESSION,
            model=old.model,
            message_count=0,
            usage=Usage() if message_id else context,
            rev=1,
            created_at=at,
            updated_at=at,
        )

    async def store(self, store: Store) -> None:
        """Store it.

        Raises:
            MessageNotFound: The source has no such message; nothing was stored.
            SessionNotFound: The source is gone; nothing was stored.
            StorageUnavailable: It could not be stored.
        """
        try:
            through = self._through
            if self._message_id and through is None:
                through = await self._order_of(self._message_id, store)
            await store.write_soon(
                ForkSession(
                    row=self.row,
                    source_id=self._source_id,
                    below=self._below,
                    through=through,
                    workspace_id=self._workspace_id,
                )
            ).wait()
        except WriteRefused as exc:
            raise SessionNotFound(f"There is no session {self._source_id!r}.", sessionId=self._source_id) from exc
        except StoreFailed as exc:
            raise StorageUnavailable(f"The fork cannot be stored: {exc}") from exc

    async def _order_of(self, message_id: str, store: Store) -> int:
        found = await store.message(message_id)
        if found is None or found.session_id != self._source_id:
            raise MessageNotFound(f"The session has no message {message_id!r}.", messageId=message_id)
        return found.order
