"""A workspace's store in memory: the twin of the SQLite one, for tests and harnesses.

It has the same writer and passes the same tests, and works in the event loop,
without threads, so that time may be virtual. Opening recovers what the
`MemoryDisk` holds; nothing survives the process.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from atrio_agent.clock import now
from atrio_agent.store.base import (
    Commit,
    FileVersionRow,
    Loaded,
    MessagePage,
    Op,
    RunIdTaken,
    RunKey,
    RunPage,
    SessionPage,
    SessionRow,
    StoreFailed,
    WorkspaceRow,
)
from atrio_agent.store.memory_disk import KeptSession, MemoryDisk
from atrio_agent.store.paging import (
    LARGEST_INTEGER,
    Place,
    bounded_limit,
    cut_page,
    read_cursor,
    stands_for_history,
    write_cursor,
)
from atrio_agent.store.recovery import REV_STEP, Wreck, repair
from atrio_agent.store.search import matches, query_words
from atrio_agent.store.writer import Call, Tell, Writer, open_writer
from atrio_protocol.ids import new_id, workspace_id_for, workspace_id_of
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Grant, Message, Run, Todo

__all__ = ["MemoryDisk", "MemoryRunIndex", "MemoryStore", "open_memory_store"]


class MemoryRunIndex:
    """A state directory's index in memory. Its methods are described by `RunIndex`."""

    def __init__(self) -> None:
        self._workspaces: dict[str, WorkspaceRow] = {}
        self._claims: dict[str, tuple[str, str]] = {}
        self._disks: dict[str, MemoryDisk] = {}

    def add_disk(self, workspace_id: str, disk: MemoryDisk) -> None:
        """Say where this workspace's runs are; a store does so when it opens."""
        self._disks[workspace_id] = disk

    async def register_workspace(self, workspace_id: str, path: str, directory: str) -> WorkspaceRow:
        await trio.lowlevel.checkpoint()
        known = self._workspaces.get(workspace_id)
        row = WorkspaceRow(
            workspace_id=workspace_id,
            path=path,
            directory=directory,
            created_at=known.created_at if known else now(),
        )
        self._workspaces[workspace_id] = row
        return row

    async def workspace_path(self, workspace_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        known = self._workspaces.get(workspace_id)
        return known.path if known else None

    async def workspaces(self) -> Sequence[WorkspaceRow]:
        await trio.lowlevel.checkpoint()
        return list(self._workspaces.values())

    async def find_run(self, run_id: str) -> tuple[str, str] | None:
        await trio.lowlevel.checkpoint()
        return self._claims.get(run_id)

    def claim(
        self, workspace_id: str, wanted: Mapping[str, str], *, private: Collection[str] = ()
    ) -> dict[str, StoreFailed]:
        taken: dict[str, StoreFailed] = {}
        for run_id in wanted:
            others = {self._claims.get(run_id, (None,))[0], workspace_id_of(run_id)} - {None, workspace_id}
            if any(other in self._disks and run_id in self._disks[other].runs for other in others if other):
                taken[run_id] = RunIdTaken(f"The run id {run_id} is in use.")
        refused = {run_id: why for run_id, why in taken.items() if run_id not in private}
        if not refused:
            free = {run_id: session_id for run_id, session_id in wanted.items() if run_id not in taken}
            self._claims |= {run_id: (workspace_id, session_id) for run_id, session_id in free.items()}
        return refused

    def settle(self, workspace_id: str, run_ids: Collection[str]) -> None:
        """Nothing is ever undecided here: a claim and its commit are one step."""

    def free(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        for run_id, session_id in runs.items():
            if self._claims.get(run_id) == (workspace_id, session_id):
                del self._claims[run_id]

    def restore(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        for run_id, session_id in runs.items():
            self._claims.setdefault(run_id, (workspace_id, session_id))


class _MemoryBackend:
    """The writer's backend: this opening of a disk."""

    def __init__(self, disk: MemoryDisk, index: MemoryRunIndex, workspace_id: str) -> None:
        self._disk = disk
        self._index = index
        self._workspace_id = workspace_id
        self._generation = disk.generation

    async def apply(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        await self._disk.pass_gate()
        if self._generation != self._disk.generation:
            return [StoreFailed("The disk has been opened again since.")] * len(calls)
        return self._disk.commit(
            calls,
            claim=partial(self._index.claim, self._workspace_id),
            free=partial(self._index.free, self._workspace_id),
        )

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryStore:
    """One workspace's store. Made by `open_memory_store`. Its methods are described by `Store`."""

    def __init__(self, disk: MemoryDisk, writer: Writer) -> None:
        self._disk = disk
        self._writer = writer

    def write_soon(self, *ops: Op) -> Commit:
        return self._writer.write_soon(ops)

    def write_later(self, *ops: Op) -> None:
        self._writer.write_later(ops)

    @property
    def is_behind(self) -> bool:
        return self._writer.is_behind

    def set_close_deadline(self, at: float) -> None:
        self._writer.set_close_deadline(at)

    async def load(self, session_id: str) -> Loaded | None:
        await trio.lowlevel.checkpoint()
        kept = self._disk.sessions.get(session_id)
        if kept is None:
            return None
        runs = self._disk.runs_of(session_id)
        keys = [RunKey(run_id=kept.run.run_id, accept_seq=kept.run.accept_seq, digest=kept.digest) for kept in runs]
        return Loaded(
            row=self._row(kept),
            runs=tuple(keys),
            last_order=_last_order(self._disk, session_id),
            last_accept_seq=keys[-1].accept_seq if keys else 0,
        )

    async def sessions(self, *, query: str | None, limit: int, cursor: str | None, children: bool) -> SessionPage:
        after = None if cursor is None else read_cursor(cursor)
        await trio.lowlevel.checkpoint()
        limit = bounded_limit(limit)
        words = query_words(query)
        found = (
            None
            if words is None
            else {text.session_id for text in self._disk.texts.values() if matches(text.text, words)}
        )
        places = {
            Place(kept.row.updated_at, kept.touched): kept
            for kept in self._disk.sessions.values()
            if (children or kept.row.parent_session_id is None) and (found is None or kept.row.session_id in found)
        }
        order = [place for place in sorted(places, reverse=True) if after is None or place < after]
        page = tuple(self._row(places[place]) for place in order[:limit])
        if len(order) <= limit:
            return SessionPage(sessions=page)
        return SessionPage(sessions=page, next_cursor=write_cursor(order[limit - 1]))

    async def messages(self, session_id: str, *, before: int | None, limit: int, max_bytes: int) -> MessagePage:
        await trio.lowlevel.checkpoint()
        below = LARGEST_INTEGER if before is None else before
        found = [message for message in self._disk.messages_of(session_id) if message.order < below]
        return cut_page(found, limit=limit, max_bytes=max_bytes, more=False)

    async def message(self, message_id: str) -> Message | None:
        await trio.lowlevel.checkpoint()
        return self._disk.message(message_id)

    async def history(self, session_id: str) -> tuple[Message, ...]:
        await trio.lowlevel.checkpoint()
        messages = self._disk.messages_of(session_id)
        start = max((message.order for message in messages if stands_for_history(message)), default=0)
        return tuple(message for message in messages if message.order >= start and self._disk.was_seen(message))

    async def run(self, run_id: str) -> Run | None:
        await trio.lowlevel.checkpoint()
        kept = self._disk.runs.get(run_id)
        return kept.run if kept else None

    async def runs(self, session_id: str, *, before: int | None, limit: int) -> RunPage:
        await trio.lowlevel.checkpoint()
        limit = bounded_limit(limit)
        below = LARGEST_INTEGER if before is None else before
        newest = [kept.run for kept in reversed(self._disk.runs_of(session_id)) if kept.run.accept_seq < below]
        page = tuple(msgspec.structs.replace(run, prompt=UNSET) for run in newest[:limit])
        return RunPage(runs=page, more=len(newest) > limit)

    async def descendants(self, session_id: str) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        below: dict[str, None] = {}
        level = {session_id}
        while level:
            level = {
                kept.row.session_id
                for kept in self._disk.sessions.values()
                if kept.row.parent_session_id in level and kept.row.session_id not in below
            }
            below |= dict.fromkeys(sorted(level))
        return list(below)

    async def file_versions(self, session_id: str) -> tuple[FileVersionRow, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(kept.row for kept in self._disk.versions.get(session_id, ()))

    async def file_content(self, digest: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._disk.content(digest)

    async def todos(self, session_id: str) -> tuple[Todo, ...]:
        await trio.lowlevel.checkpoint()
        return self._disk.todos.get(session_id, ())

    async def grants(self, session_id: str) -> tuple[Grant, ...]:
        await trio.lowlevel.checkpoint()
        mine = [grant for grant in self._disk.grants.values() if grant.session_id == session_id]
        return tuple(sorted(mine, key=lambda grant: (grant.at, grant.grant_id)))

    async def grant(self, grant_id: str) -> Grant | None:
        await trio.lowlevel.checkpoint()
        return self._disk.grants.get(grant_id)

    def _row(self, kept: KeptSession) -> SessionRow:
        return _raised(kept, self._disk.generation)


def _raised(kept: KeptSession, generation: int) -> SessionRow:
    rev = kept.row.rev + (generation - kept.generation) * REV_STEP
    return msgspec.structs.replace(kept.row, rev=rev)


def _last_order(disk: MemoryDisk, session_id: str) -> int:
    return max((message.order for message in disk.messages_of(session_id)), default=0)


def _wreck(disk: MemoryDisk, kept: KeptSession) -> Wreck | None:
    session_id = kept.row.session_id
    messages = disk.messages_of(session_id)
    runs = [kept.run for kept in disk.runs_of(session_id) if kept.run.state != "completed"]
    unfinished = [message for message in messages if message.role == "assistant" and message.finish is UNSET]
    if not runs and not unfinished:
        return None
    theirs = {run.run_id for run in runs} | {message.run_id for message in unfinished} - {UNSET}
    return Wreck(
        row=_raised(kept, disk.generation),
        runs=runs,
        messages=[message for message in messages if message.run_id in theirs or message in unfinished],
        message_count=len(messages),
        last_order=_last_order(disk, session_id),
    )


def _open(disk: MemoryDisk, workspace_id: str) -> None:
    """Begin another generation and repair what the last one left unfinished."""
    disk.generation += 1
    time = now()
    for kept in sorted(disk.sessions.values(), key=lambda kept: (kept.row.updated_at, kept.touched)):
        if (wreck := _wreck(disk, kept)) is not None:
            disk.repair(repair(wreck, new_message_id=partial(new_id, workspace_id, "m"), now=time))
    disk.deleted.clear()


@asynccontextmanager
async def open_memory_store(
    *,
    disk: MemoryDisk | None = None,
    index: MemoryRunIndex | None = None,
    workspace_id: str = workspace_id_for("memory"),
    tell: Tell = lambda _why: None,
) -> AsyncGenerator[MemoryStore]:
    """Open a store on a disk, recovered, and close it at the end: drained, shielded, within its deadline.

    Args:
        disk: What earlier stores have left; a new one if not given.
        index: Where client-made run ids are claimed; needed where several workspaces share one.
        workspace_id: Whose store it is.
        tell: Told why what nobody waits for is only in memory, and (None) when it is stored after all.
    """
    disk = MemoryDisk() if disk is None else disk
    index = MemoryRunIndex() if index is None else index
    index.add_disk(workspace_id, disk)
    _open(disk, workspace_id)
    async with open_writer(_MemoryBackend(disk, index, workspace_id), tell=tell) as writer:
        yield MemoryStore(disk, writer)
