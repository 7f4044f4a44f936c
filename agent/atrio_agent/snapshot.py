"""What a session is at one moment, for somebody who begins to read its stream.

Everything that may still change is copied in one synchronous step together with
the place in the stream; what the store is asked for afterwards is final and
lies below it. So the snapshot is true as of its place, however long the store
takes, and the events after it join without gap or overlap.
"""

from typing import Final, NamedTuple

import msgspec

from atrio_agent.run_lists import RUNS_BYTES, runs_within
from atrio_agent.session import Session
from atrio_agent.store.base import Store
from atrio_agent.streams import Cursor
from atrio_protocol.limits import PAGE_BYTES
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.questions import lean_permissions
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Run

__all__ = ["Page", "messages_page", "take_snapshot"]


SNAPSHOT_BYTES: Final = 960 * 1024
"""What one snapshot may take: the newest messages get what the rest has left, and in any case one message."""

WATCHED_BYTES: Final = 256 * 1024
"""What watched runs may take of a snapshot before they are told without what is large in them; `run/get` has that."""

_BARE_PROMPT_CHARS: Final = 32
"""What is left of a watched run's prompt where there is no room for more."""


class Page(NamedTuple):
    """Messages, oldest first, and whether there are older ones."""

    messages: tuple[Message, ...]
    more: bool


async def messages_page(session: Session, store: Store, *, before: int | None, limit: int) -> Page:
    """The newest messages with an order below ``before``, those that still grow included.

    Raises:
        StoreFailed: The older ones cannot be read.
    """
    live = session.scribe.live_page(before)
    stored_below = session.scribe.stored_below
    below = stored_below if before is None else min(stored_below, before)
    return await _page(store, session.session_id, live, below, limit, PAGE_BYTES)


async def take_snapshot(
    session: Session, store: Store, *, history_limit: int, watch: tuple[str, ...]
) -> tuple[Cursor, SessionSnapshot]:
    """A snapshot and the place in the stream as of which it is true.

    Raises:
        StoreFailed: The older messages cannot be read.
    """
    while True:
        cursor = session.stream.cursor()
        live = session.scribe.live_page(None)
        stored_below = session.scribe.stored_below
        view = session.profile.view()
        todos, permissions = session.todos, lean_permissions(session.permissions())
        runs = runs_within(session.inbox.announced, RUNS_BYTES)
        over = [
            run_id for run_id in dict.fromkeys(watch) if session.inbox.knows(run_id) and not session.inbox.find(run_id)
        ]
        watched: list[Run] = []
        watched_bytes = 0
        for run_id in over:
            stored = await store.run(run_id)
            if stored is not None and stored.session_id == session.session_id and stored.state == "completed":
                told, size_bytes = _as_watched(stored, WATCHED_BYTES - watched_bytes)
                watched.append(told)
                watched_bytes += size_bytes
        beside_bytes = watched_bytes + len(msgspec.json.encode((todos, permissions, runs)))
        room_bytes = min(PAGE_BYTES, SNAPSHOT_BYTES - beside_bytes)
        page = await _page(store, session.session_id, live, stored_below, history_limit, room_bytes)
        if not cursor.lagged:
            return cursor, SessionSnapshot(
                session=view,
                messages=page.messages,
                more=page.more,
                todos=todos,
                runs=(*runs, *watched),
                permissions=permissions,
            )


async def _page(
    store: Store, session_id: str, live: list[Message], stored_below: int, limit: int, max_bytes: int
) -> Page:
    """Join the messages in memory with those of the store, within the limits of a page."""
    kept: list[Message] = []
    size = 0
    for message in reversed(live):
        size += len(msgspec.json.encode(message))
        if kept and (len(kept) >= limit or size > max_bytes) and kept[-1].role != "tool":
            return Page(tuple(reversed(kept)), more=True)
        kept.append(message)
    kept.reverse()
    starts_with_tool = bool(kept) and kept[0].role == "tool"
    room = limit - len(kept)
    if room <= 0 and not starts_with_tool:
        older = await store.messages(session_id, before=stored_below, limit=1, max_bytes=1)
        return Page(tuple(kept), more=bool(older.messages))
    stored = await store.messages(
        session_id, before=stored_below, limit=max(room, 1), max_bytes=max(max_bytes - size, 1)
    )
    if kept and not starts_with_tool and size >= max_bytes:
        return Page(tuple(kept), more=bool(stored.messages))
    return Page(stored.messages + tuple(kept), more=stored.more)


def _as_watched(run: Run, room_bytes: int) -> tuple[Run, int]:
    """A run with as much of it as there is room for, and what it takes."""
    whole = msgspec.structs.replace(run, prompt=UNSET)
    textless = msgspec.structs.replace(whole, text=UNSET)
    bare = msgspec.structs.replace(
        textless, prompt_text=run.prompt_text[:_BARE_PROMPT_CHARS], attachments=(), meta=UNSET
    )
    for told in (whole, textless):
        size_bytes = len(msgspec.json.encode(told))
        if size_bytes <= room_bytes:
            return told, size_bytes
    return bare, len(msgspec.json.encode(bare))
