"""State directories for tests of a store: an index and any number of workspaces.

Both kinds have one face, so that one test speaks of both. A workspace may be
opened, closed and opened again, as by a restart; what it left is still there.
"""

from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from atrio_agent.store.base import RunIndex, Store
from atrio_agent.store.index import DATABASE_NAME, SqliteRunIndex
from atrio_agent.store.memory import MemoryDisk, MemoryRunIndex, open_memory_store
from atrio_agent.store.sqlite import SqliteStore, open_sqlite_store
from atrio_protocol.ids import workspace_id_for

__all__ = ["MemoryState", "SqliteState", "State", "end_of_process"]


class State(Protocol):
    """A state directory."""

    @property
    def index(self) -> RunIndex:
        """Its index."""
        ...

    async def open(self, name: str = "one") -> AbstractAsyncContextManager[Store]:
        """Open the store of the workspace with this name."""
        ...


class MemoryState:
    def __init__(self) -> None:
        self.index = MemoryRunIndex()
        self.disks: defaultdict[str, MemoryDisk] = defaultdict(MemoryDisk)

    async def open(self, name: str = "one") -> AbstractAsyncContextManager[Store]:
        workspace_id = workspace_id_for(name)
        await self.index.register_workspace(workspace_id, f"/{name}", name)
        return open_memory_store(disk=self.disks[name], index=self.index, workspace_id=workspace_id)


class SqliteState:
    def __init__(self, directory: Path, index: SqliteRunIndex) -> None:
        self.directory = directory
        self.index = index

    def path(self, name: str = "one") -> Path:
        return self.directory / name / DATABASE_NAME

    async def open(self, name: str = "one") -> AbstractAsyncContextManager[SqliteStore]:
        workspace_id = workspace_id_for(name)
        await self.index.register_workspace(workspace_id, f"/{name}", name)
        return open_sqlite_store(self.path(name), index=self.index, workspace_id=workspace_id)


def end_of_process(store: SqliteStore) -> None:
    """Close what a store that was given up has left open."""
    store._database._opened.read_connection.close()
    store._database._opened.write_connection.close()
