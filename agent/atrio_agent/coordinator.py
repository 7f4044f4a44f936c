"""All sessions of one workspace: loaded when somebody needs them, kept while they live.

The coordinator owns a task per loaded session. Loading, making and deleting a
session are its errands, so the death of the request that asked changes nothing.

It ends in steps that the workspace walks through: `close` refuses and cancels,
`quiesce` waits until every run has its terminal (or the deadline passes), and
only then is its nursery cancelled.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
import trio

from atrio_agent.briefing import Briefer
from atrio_agent.clock import now
from atrio_agent.gates import Gates
from atrio_agent.ground import Ground
from atrio_agent.lifetime import Deadlines, Errand, Errands
from atrio_agent.models.choose import Models
from atrio_agent.profile import MAX_TITLE_CHARS, session_view
from atrio_agent.runs import LiveRun
from atrio_agent.session import Session
from atrio_agent.store.base import (
    DeleteSessions,
    ForkSession,
    Loaded,
    PutSession,
    SessionRow,
    Store,
    StoreFailed,
    WriteRefused,
)
from atrio_agent.streams import Rings, Stream
from atrio_agent.titles import NEW_SESSION, fork_title
from atrio_agent.tools.registry import Tools
from atrio_protocol.errors import MessageNotFound, SessionNotFound, StorageUnavailable, WorkspaceClosing
from atrio_protocol.events import Notice, SessionCreated, SessionDeleted
from atrio_protocol.ids import new_id
from atrio_protocol.things import Session as SessionView
from atrio_protocol.things import Usage

__all__ = ["Coordinator", "open_coordinator"]

UNLOAD_AFTER_S: Final = 600.0
"""Seconds that a session stays in memory with nothing to do and nobody who reads it."""

log = structlog.get_logger("atrio.coordinator")


@dataclass(slots=True)
class _Held:
    """A loaded session and the scope of its task."""

    session: Session
    scope: trio.CancelScope
    idle_since: float


class Coordinator:
    """The sessions of one workspace. Made by `open_coordinator`."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._held: dict[str, _Held] = {}
        self._loading: dict[str, trio.Event] = {}
        self._deleted: set[str] = set()
        self.closing = False

    # Sessions, by id.

    def loaded(self, session_id: str) -> Session | None:
        """The session, if it is in memory."""
        held = self._held.get(session_id)
        if held is not None:
            held.idle_since = trio.current_time()
            return held.session
        return None

    def sessions(self) -> list[Session]:
        """All sessions in memory."""
        return [held.session for held in self._held.values()]

    def notify(self, severity: Literal["info", "warning", "error"], title: str, detail: str) -> None:
        """Tell those who watch any session of the workspace."""
        for session in self.sessions():
            session.stream.publish(Notice(severity=severity, title=title, detail=detail))

    async def session(self, session_id: str) -> Session:
        """Find a session, loading it if need be.

        Raises:
            SessionNotFound: There is none, or it is being deleted.
            StorageUnavailable: It could not be read.
        """
        if self.deleted(session_id):
            raise _not_found(session_id)
        found = self.loaded(session_id)
        if found is not None:
            return found
        session = await self.ground.errands.do(lambda: self._load(session_id), name="load session")
        if self.deleted(session_id):  # between its loading and our turn to go on
            raise _not_found(session_id)
        return session

    async def new_session(self, *, title: str | None, model: str | None) -> Session:
        """Make a session. It is stored when this returns.

        Raises:
            WorkspaceClosing: The workspace takes no new work.
            StorageUnavailable: It could not be stored; there is no new session.
        """
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        at = now()
        row = SessionRow(
            session_id=new_id(self.ground.workspace_id, "s"),
            title=title or NEW_SESSION,
            title_is_final=title is not None,
            model=model,
            message_count=0,
            usage=Usage(),
            rev=1,
            created_at=at,
            updated_at=at,
        )
        return await self.ground.errands.do(lambda: self._make(row), name="new session")

    def fork_soon(self, source: Session, message_id: str | None) -> Errand[Session]:
        """Make a session that begins with what another one has said as of this step, up to a message or all of it.

        What is still being said stays behind, and so do the source's runs,
        grants and file versions. The errand fails with `MessageNotFound` or
        `StorageUnavailable`, and there is no new session then.

        Raises:
            WorkspaceClosing: The workspace takes no new work.
        """
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        at = now()
        old = source.profile.row
        context = Usage(context_tokens=old.usage.context_tokens, context_size=old.usage.context_size)
        row = SessionRow(
            session_id=new_id(self.ground.workspace_id, "s"),
            title=fork_title(old.title, MAX_TITLE_CHARS),
            title_is_final=old.title != NEW_SESSION,
            model=old.model,
            message_count=0,
            usage=Usage() if message_id else context,
            rev=1,
            created_at=at,
            updated_at=at,
        )
        below = source.scribe.complete_below
        live = source.scribe.live(message_id) if message_id else None
        known = None if live is None else live.order
        return self.ground.errands.start(lambda: self._fork(row, source, below, message_id, known), name="fork session")

    def delete_soon(self, session: Session) -> Errand[None]:
        """Delete a session and its children: from now on its id is not found.

        Its runs are cancelled and their ends sent, one commit deletes the rows,
        then the streams end. If the rows cannot be deleted the errand fails
        with `StoreFailed`, and the session is there again.
        """
        self._deleted.add(session.session_id)
        session.close()
        return self.ground.errands.start(lambda: self._delete(session), name="delete session")

    def view_of(self, row: SessionRow) -> SessionView:
        """A session of a list: from memory where it is loaded, else as stored."""
        held = self._held.get(row.session_id)
        if held is not None:
            return held.session.profile.view()
        return session_view(
            row, self.ground.workspace_id, state="idle", queued=0, viewers=self.ground.viewers(row.session_id)
        )

    def deleted(self, session_id: str) -> bool:
        """Whether the session is deleted, or about to be."""
        return session_id in self._deleted

    # What the workspace asks.

    def open_run_count(self) -> int:
        """How many accepted runs are not completed."""
        return sum(len(held.session.inbox) for held in self._held.values())

    def active_run_count(self) -> int:
        """How many runs their sessions have taken."""
        return sum(held.session.inbox.active is not None for held in self._held.values())

    def find_open_run(self, run_id: str) -> LiveRun | None:
        """A run that is not completed; it may still be on its way to the store."""
        for held in self._held.values():
            run = held.session.inbox.find(run_id)
            if run is not None:
                return run
        return None

    def close(self) -> None:
        """Refuse new work and cancel every run. Does not wait; safe to call twice."""
        self.closing = True
        for held in self._held.values():
            held.session.close()

    async def quiesce(self, deadlines: Deadlines) -> None:
        """Close, and wait until every run has ended, at most until ``deadlines.terminals_at``.

        What has not ended then is left to recovery.
        """
        self.close()
        with trio.CancelScope(deadline=deadlines.terminals_at) as budget:
            for held in list(self._held.values()):
                await held.session.quiesced()
        if budget.cancelled_caught:
            log.error("runs given up at closing", workspace=self.ground.workspace_id, runs=self.open_run_count())

    def end_streams(self, reason: str) -> None:
        """End every session's stream, after its last event."""
        for held in self._held.values():
            held.session.stream.close(reason)

    # The errands.

    async def _load(self, session_id: str) -> Session:
        while session_id in self._loading:
            await self._loading[session_id].wait()
        found = self.loaded(session_id)
        if found is not None:
            return found
        loading = self._loading[session_id] = trio.Event()
        try:
            loaded = None if self.deleted(session_id) else await self._read(session_id)
            if loaded is None or self.deleted(session_id):
                raise _not_found(session_id)
            return self._start(loaded)
        finally:
            del self._loading[session_id]
            loading.set()

    async def _read(self, session_id: str) -> Loaded | None:
        try:
            return await self.ground.store.load(session_id)
        except StoreFailed as exc:
            raise StorageUnavailable(f"The session cannot be read: {exc}") from exc

    async def _make(self, row: SessionRow) -> Session:
        try:
            await self.ground.store.write_soon(PutSession(row=row)).wait()
        except StoreFailed as exc:
            raise StorageUnavailable(f"The session cannot be stored: {exc}") from exc
        session = self._start(Loaded(row=row, runs=(), last_order=0, last_accept_seq=0))
        self.ground.stream.publish(SessionCreated(session=session.profile.view()))
        return session

    async def _fork(
        self, row: SessionRow, source: Session, below: int, message_id: str | None, through: int | None
    ) -> Session:
        store, source_id = self.ground.store, source.session_id
        try:
            if message_id and through is None:
                found = await store.message(message_id)
                if found is None or found.session_id != source_id:
                    raise MessageNotFound(f"The session has no message {message_id!r}.", messageId=message_id)
                through = found.order
            fork = ForkSession(
                row=row, source_id=source_id, below=below, through=through, workspace_id=self.ground.workspace_id
            )
            await store.write_soon(fork).wait()
            loaded = await store.load(row.session_id)
        except WriteRefused as exc:
            raise _not_found(source_id) from exc
        except StoreFailed as exc:
            raise StorageUnavailable(f"The fork cannot be stored: {exc}") from exc
        if loaded is None:
            raise _not_found(row.session_id)
        session = self._start(loaded)
        self.ground.stream.publish(SessionCreated(session=session.profile.view()))
        return session

    def _start(self, loaded: Loaded) -> Session:
        session = Session(self.ground, loaded)
        held = _Held(session, trio.CancelScope(), trio.current_time())
        self._held[session.session_id] = held
        if self.closing:
            session.close()

        async def serve() -> None:
            with held.scope:
                await session.serve()

        self.ground.errands.start_soon(serve, name=f"session {session.session_id}")
        return session

    async def _delete(self, session: Session) -> None:
        store = self.ground.store
        doomed = [session.session_id]
        try:
            doomed += await store.descendants(session.session_id)
            self._deleted.update(doomed)
            held = [self._held[session_id] for session_id in doomed if session_id in self._held]
            for one in held:
                one.session.close()
            for one in held:
                await one.session.quiesced()
            await store.write_soon(DeleteSessions(session_ids=tuple(doomed))).wait()
        except StoreFailed:
            self._deleted.difference_update(doomed)
            for session_id in doomed:
                if session_id in self._held:
                    self._held[session_id].session.inbox.closing = self.closing
            raise
        for session_id in doomed:
            one = self._held.pop(session_id, None)
            if one is not None:
                one.session.stream.publish(SessionDeleted())
                one.session.stream.close("deleted")
                one.session.profile.close()
                one.scope.cancel()
            self.ground.stream.publish(SessionDeleted(session_id=session_id))

    async def unload_idle(self) -> None:
        """Let go of sessions that nobody needs, for as long as the coordinator lives."""
        while True:
            await trio.sleep(UNLOAD_AFTER_S / 10)
            at = trio.current_time()
            for session_id, held in list(self._held.items()):
                session = held.session
                if (
                    session.inbox
                    or session.stream.readers
                    or session.profile.view().viewers
                    or session_id in self._deleted
                ):
                    held.idle_since = at
                elif at - held.idle_since >= UNLOAD_AFTER_S:
                    del self._held[session_id]
                    session.stream.close("unloaded")
                    held.scope.cancel()


def _not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"There is no session {session_id!r}.", sessionId=session_id)


@asynccontextmanager
async def open_coordinator(
    *,
    workspace_id: str,
    root: Path,
    store: Store,
    stream: Stream,
    rings: Rings,
    models: Models,
    tools: Tools,
    briefer: Briefer,
    gates: Gates,
    on_activity: Callable[[], None],
    viewers: Callable[[str], int],
    record_requests: bool,
) -> AsyncGenerator[Coordinator]:
    """Open the inner level of a workspace: the nursery of its sessions.

    On the way out whatever still runs is cancelled: walk through `close` and
    `quiesce` before, so that nothing does.
    """
    async with trio.open_nursery() as nursery:
        ground = Ground(
            workspace_id=workspace_id,
            root=root,
            store=store,
            stream=stream,
            rings=rings,
            models=models,
            tools=tools,
            briefer=briefer,
            gates=gates,
            errands=Errands(nursery),
            on_activity=on_activity,
            viewers=viewers,
            record_requests=record_requests,
        )
        coordinator = Coordinator(ground)
        nursery.start_soon(coordinator.unload_idle, name="unload idle sessions")
        try:
            yield coordinator
        finally:
            ground.errands.close()
            nursery.cancel_scope.cancel()
