"""All sessions of one workspace: loaded when somebody needs them, kept while they live.

The coordinator owns a task per loaded session. Loading, making and deleting a
session are its errands, so the death of the request that asked changes nothing.

It ends in steps that the workspace walks through: `close` refuses and cancels,
`quiesce` waits until every run has its terminal (or the deadline passes), and
only then is its nursery cancelled.
"""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from atrio_agent.briefing import Briefer
from atrio_agent.clock import now
from atrio_agent.forking import Fork
from atrio_agent.gates import Gates
from atrio_agent.ground import Ground
from atrio_agent.lifetime import Deadlines, Errand, Errands
from atrio_agent.measures import UNMEASURED, Measures
from atrio_agent.models.choose import Models
from atrio_agent.permissions import Broker, PermissionRules, Question
from atrio_agent.profile import session_view
from atrio_agent.runs import LiveRun
from atrio_agent.session import Session
from atrio_agent.store.base import (
    DeleteSessions,
    DropGrant,
    Loaded,
    PutGrant,
    PutSession,
    SessionRow,
    Store,
    StoreClosed,
    StoreFailed,
)
from atrio_agent.streams import Rings, Stream
from atrio_agent.titles import NEW_SESSION
from atrio_agent.tools.jobs import Jobs, open_jobs
from atrio_agent.tools.registry import Tools
from atrio_agent.trouble import Severity, Trouble
from atrio_protocol.errors import Overloaded, SessionNotFound, StorageUnavailable, WorkspaceClosing
from atrio_protocol.events import PermissionRequested, PermissionResolved, SessionCreated, SessionDeleted
from atrio_protocol.ids import new_id
from atrio_protocol.things import Grant, Todo, Usage
from atrio_protocol.things import Session as SessionView

__all__ = ["Coordinator", "open_coordinator"]

UNLOAD_AFTER_S: Final = 600.0
"""Seconds that a session stays in memory with nothing to do and nobody who reads it."""

MAX_LOADED: Final = 4_000
"""Sessions of a workspace that may be in memory. Then idle ones go early, and if there is none, nothing is loaded."""

UNLOAD_EARLY_S: Final = 5.0
"""How long one must have been idle to go early: a request that has just found it may be about to use it."""

log = structlog.get_logger("atrio.coordinator")


@dataclass(slots=True)
class _Held:
    """A loaded session and the scope of its task."""

    session: Session
    scope: trio.CancelScope
    idle_since: float


class Coordinator:
    """The sessions of one workspace. Made by `open_coordinator`."""

    def __init__(self, ground: Ground, jobs: Jobs) -> None:
        self.ground = ground
        self._jobs = jobs
        self._held: dict[str, _Held] = {}
        self._loading: dict[str, trio.Event] = {}
        self._deleted: set[str] = set()
        self._looked_at = -math.inf
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

    def notify(self, severity: Severity, title: str, detail: str) -> None:
        """Tell those who watch any session of the workspace."""
        for session in self.sessions():
            session.tell(Trouble(severity, title, detail))

    async def session(self, session_id: str) -> Session:
        """Find a session, loading it if need be.

        Raises:
            SessionNotFound: There is none, or it is being deleted.
            StorageUnavailable: It could not be read.
            Overloaded: As many are in use as may be in memory.
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
            Overloaded: As many are in use as may be in memory.
        """
        self._make_room()
        row = self._new_row(title or NEW_SESSION, title_is_final=title is not None, model=model)
        return await self.ground.errands.do(lambda: self._make(row), name="new session")

    async def open_child(self, parent: Session, title: str, run: LiveRun) -> Session:
        """Make a session for a sub-agent of another, whose ``run`` asks for it. It is stored when this returns.

        If the run is cancelled meanwhile, nothing is left of it.

        Raises:
            SessionNotFound: The other is being deleted.
            WorkspaceClosing, StorageUnavailable: As for `new_session`.
        """
        row = self._new_row(title, title_is_final=True, model=parent.profile.row.model)
        beneath = msgspec.structs.replace(
            row,
            parent_session_id=parent.session_id,
            root_session_id=parent.root_session_id or parent.session_id,
        )
        return await self.ground.errands.do(lambda: self._make(beneath, for_run=run), name="new child session")

    def _new_row(self, title: str, *, title_is_final: bool, model: str | None) -> SessionRow:
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        at = now()
        return SessionRow(
            session_id=new_id(self.ground.workspace_id, "s"),
            title=title,
            title_is_final=title_is_final,
            model=model,
            message_count=0,
            usage=Usage(),
            rev=1,
            created_at=at,
            updated_at=at,
        )

    def fork_soon(self, source: Session, message_id: str | None) -> Errand[Session]:
        """Make a session that begins with what another one has said as of this step, up to a message or all of it.

        What is still being said stays behind, and so do the source's runs,
        grants and file versions. The errand fails with `MessageNotFound` or
        `StorageUnavailable`, and there is no new session then.

        Raises:
            WorkspaceClosing: The workspace takes no new work.
            Overloaded: As many are in use as may be in memory.
        """
        if self.closing:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.")
        self._make_room()
        fork = Fork(source, message_id, workspace_id=self.ground.workspace_id)
        return self.ground.errands.start(lambda: self._fork(fork), name="fork session")

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
            row,
            self.ground.workspace_id,
            state="requires_action" if self.ground.broker.pending(row.session_id) else "idle",
            queued=0,
            viewers=self.ground.viewers(row.session_id),
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

        Every command has ended before the runs that wait for it. What has not
        ended then is left to recovery.
        """
        self.close()
        self._jobs.close(by=deadlines.processes_at)
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
        self._make_room()
        loading = self._loading[session_id] = trio.Event()
        try:
            loaded = None if self.deleted(session_id) else await self._read(session_id)
            if loaded is None or self.deleted(session_id):
                raise _not_found(session_id)
            return self._start(*loaded)
        finally:
            del self._loading[session_id]
            loading.set()

    async def _read(self, session_id: str) -> tuple[Loaded, tuple[Todo, ...]] | None:
        store = self.ground.store
        try:
            loaded = await store.load(session_id)
            if loaded is None:
                return None
            grants, todos = await store.grants(session_id), await store.todos(session_id)
        except StoreClosed as exc:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.") from exc
        except StoreFailed as exc:
            raise StorageUnavailable(f"The session cannot be read: {exc}") from exc
        self.ground.broker.load_grants(grants)
        return loaded, todos

    async def _make(self, row: SessionRow, *, for_run: LiveRun | None = None) -> Session:
        if row.parent_session_id is not None and self.deleted(row.parent_session_id):
            raise _not_found(row.parent_session_id)
        try:
            await self.ground.store.write_soon(PutSession(row=row)).wait()
        except StoreClosed as exc:
            raise WorkspaceClosing("The workspace is closing; open it again in a moment.") from exc
        except StoreFailed as exc:
            raise StorageUnavailable(f"The session cannot be stored: {exc}") from exc
        if self.deleted(row.session_id):  # with its parent, meanwhile
            raise _not_found(row.session_id)
        if for_run is not None and for_run.cancelled:  # nobody was told of it, and nobody would ever work in it
            self.ground.store.write_soon(DeleteSessions(session_ids=(row.session_id,)))
            raise _not_found(row.session_id)
        session = self._start(Loaded(row=row, runs=(), last_order=0, last_accept_seq=0), ())
        self.ground.stream.publish(SessionCreated(session=session.profile.view()))
        return session

    async def _fork(self, fork: Fork) -> Session:
        await fork.store(self.ground.store)
        found = await self._read(fork.row.session_id)
        if found is None:
            raise _not_found(fork.row.session_id)
        session = self._start(*found)
        self.ground.stream.publish(SessionCreated(session=session.profile.view()))
        return session

    def _start(self, loaded: Loaded, todos: tuple[Todo, ...]) -> Session:
        session = Session(self.ground, loaded, todos=todos, open_child=self.open_child)
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
            # A child that is being made is stored before this, or finds its parent deleted.
            await store.write_soon(PutSession(row=session.profile.row)).wait()
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
            self.ground.broker.forget_session(session_id)
            self.ground.stream.publish(SessionDeleted(session_id=session_id))

    def tell_of_permission(self, question: Question, event: PermissionRequested | PermissionResolved) -> None:
        """Publish what became of a question, wherever it is shown, and that those sessions wait or go on."""
        shown_in = [question.session_id, *([question.root_session_id] if question.root_session_id else [])]
        sessions = [self._held[session_id].session for session_id in shown_in if session_id in self._held]
        for session in sessions:
            session.stream.publish(event)
        self.ground.stream.publish(event)
        for session in sessions:
            session.profile.refresh()
        root = question.root_session_id
        if root is not None and root not in self._held and not self.closing:
            # Nobody looks at it, but lists show it, and it waits or goes on now.
            self.ground.errands.start(lambda: self._announce(root), name="tell of a root session")

    async def _announce(self, session_id: str) -> None:
        (await self._load(session_id)).profile.refresh(anyway=True)

    def keep_grant(self, grant: Grant) -> None:
        """Store what was allowed for good. Who answered need not wait: a lost one is asked for again."""
        self.ground.store.write_later(PutGrant(grant=grant))

    def revoke_soon(self, grant_id: str) -> Errand[None]:
        """Take back what was allowed for good: from now on it is asked about.

        If that cannot be stored the errand fails with `StoreFailed`, and the grant holds again.

        Raises:
            PermissionNotFound: There is no such grant.
        """
        grant = self.ground.broker.revoke(grant_id)
        dropped = self.ground.store.write_soon(DropGrant(grant_id=grant_id))

        async def settle() -> None:
            try:
                await dropped.wait()
            except StoreFailed:
                # It would come back with the next start anyhow, and nobody could take it back until then.
                self.ground.broker.give_back(grant)
                raise

        return self.ground.errands.start(settle, name="revoke grant")

    async def unload_idle(self) -> None:
        """Let go of sessions that nobody needs, for as long as the coordinator lives."""
        while True:
            await trio.sleep(UNLOAD_AFTER_S / 10)
            self._unload(UNLOAD_AFTER_S)

    def _unload(self, after_s: float) -> None:
        if self.ground.store.is_behind:
            return  # what a session is would be read again from older rows
        at = trio.current_time()
        for session_id, held in list(self._held.items()):
            session = held.session
            profile = session.profile
            is_read = session.stream.readers or profile.view().viewers
            if session.inbox or is_read or profile.is_changing or session_id in self._deleted:
                held.idle_since = at
            elif at - held.idle_since >= after_s:
                del self._held[session_id]
                session.stream.close("unloaded")
                held.scope.cancel()

    def _make_room(self) -> None:
        if len(self._held) < MAX_LOADED:
            return
        at = trio.current_time()
        if at - self._looked_at >= 1:  # looking takes some milliseconds
            self._looked_at = at
            self._unload(UNLOAD_EARLY_S)
        if len(self._held) >= MAX_LOADED:
            raise Overloaded(f"{MAX_LOADED} sessions of this workspace are in use; try again in a moment.")


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
    briefer: Briefer,
    make_tools: Callable[[Jobs], Tools],
    child_tools: Tools,
    output_dir: Path,
    closed: tuple[Path, ...],
    rules: PermissionRules,
    gates: Gates,
    on_activity: Callable[[], None],
    viewers: Callable[[str], int],
    record_requests: bool,
    troubles: Callable[[], tuple[Trouble, ...]] = tuple,
    life: str = "",
    measures: Measures = UNMEASURED,
) -> AsyncGenerator[Coordinator]:
    """Open the inner level of a workspace: the nurseries of its sessions and of its commands.

    On the way out whatever still runs is cancelled: walk through `close` and
    `quiesce` before, so that nothing does.

    ``make_tools`` gives what the agent has here, on the workspace's commands;
    ``child_tools`` is what a sub-agent has. ``output_dir`` is for what commands
    say that is too long to be shown; it need not be there. No tool may enter a
    ``closed`` directory. ``rules`` answer what nobody answers. ``troubles`` tells
    what is wrong with the workspace: each session says so once. ``life`` is whose the
    commands are, should we be killed. ``measures`` is told what has been done.
    """
    async with open_jobs(output_dir, life=life) as jobs, trio.open_nursery() as nursery:
        ground = Ground(
            workspace_id=workspace_id,
            root=root,
            store=store,
            stream=stream,
            rings=rings,
            models=models,
            tools=make_tools(jobs),
            child_tools=child_tools,
            broker=Broker(
                workspace_id=workspace_id,
                rules=rules,
                publish=lambda question, event: coordinator.tell_of_permission(question, event),  # noqa: PLW0108  made below
                keep=lambda grant: coordinator.keep_grant(grant),  # noqa: PLW0108  made below
            ),
            allowed=(output_dir,),
            closed=closed,
            briefer=briefer,
            gates=gates,
            errands=Errands(nursery),
            on_activity=on_activity,
            viewers=viewers,
            troubles=troubles,
            record_requests=record_requests,
            measures=measures,
        )
        coordinator = Coordinator(ground, jobs)
        nursery.start_soon(coordinator.unload_idle, name="unload idle sessions")
        try:
            yield coordinator
        finally:
            ground.errands.close()
            nursery.cancel_scope.cancel()
