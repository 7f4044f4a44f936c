"""All workspaces of the server: one per directory, opened and closed by their own tasks.

A directory may be spelled in many ways; it is resolved first, and the resolved
path is the workspace. Requests wait for an opening that somebody else may have
begun, and their death changes nothing about it.

What is opened here is never a dead one: an opening during a close waits for its
end and opens afresh, and the caller claims or holds what it gets in the same
step in which it gets it.

Whoever may see one workspace alone (``only``) finds what is there and nothing
else: what there is elsewhere is looked for nowhere, and so answers like what is not.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from atrio_agent.lifetime import Deadlines, Errands
from atrio_agent.session import Session
from atrio_agent.store.base import RunIndex, Store, StoreFailed
from atrio_protocol.errors import (
    PathNotAllowed,
    PathNotFound,
    PermissionNotFound,
    RunNotFound,
    ServerClosing,
    SessionNotFound,
    StorageUnavailable,
    WireError,
    WorkspaceNotFound,
)
from atrio_protocol.ids import workspace_id_for, workspace_id_of
from atrio_server.statedir import StateDirUnsafe, StateDirUnusable
from atrio_server.workspace import Means, Workspace

__all__ = ["Only", "Workspaces"]

log = structlog.get_logger("atrio.workspaces")

_RESOLVERS: Final = 4


class Only(NamedTuple):
    """The one workspace that somebody may see."""

    workspace_id: str
    path: Path


class Workspaces:
    """The open workspaces. Its nursery, the server's, runs one task for each."""

    def __init__(
        self,
        means: Means,
        *,
        nursery: trio.Nursery,
        index: RunIndex,
        allowed: tuple[Path, ...],
        open_store: Callable[[Workspace], AbstractAsyncContextManager[Store]],
    ) -> None:
        """``allowed``: directories beneath which workspaces may be; none means anywhere."""
        self._means = means
        self._errands = Errands(nursery)
        self._index = index
        self._allowed = allowed
        self._open_store = open_store
        self._by_id: dict[str, Workspace] = {}
        self._resolving = trio.CapacityLimiter(_RESOLVERS)
        self.closing = False

    def all(self) -> list[Workspace]:
        """Those that are open or closing, the oldest first."""
        return [workspace for workspace in self._by_id.values() if workspace.ready.is_set()]

    def open_run_count(self) -> int:
        """How many accepted runs are not completed, in all of them."""
        return sum(workspace.coordinator.open_run_count() for workspace in self.all())

    def get(self, workspace_id: str, *, only: Only | None = None) -> Workspace:
        """One that is open or closing.

        Raises:
            WorkspaceNotFound: There is none.
            ServerClosing: There is none any more.
        """
        workspace = self._by_id.get(workspace_id) if _sees(only, workspace_id) else None
        if workspace is None or not workspace.ready.is_set() or workspace.state == "closed":
            if self.closing:
                raise ServerClosing("The server is closing; connect again in a moment.")
            raise WorkspaceNotFound(
                f"No workspace {workspace_id!r} is open; open its directory first.", workspaceId=workspace_id
            )
        return workspace

    async def open(self, path: str, *, create: bool, only: Only | None = None) -> Workspace:
        """Open a directory's workspace. Claim or hold it before the next await.

        Raises:
            PathNotFound, PathNotAllowed, ServerClosing, StorageUnavailable: Nothing was opened.
        """
        if self.closing:
            raise ServerClosing("The server is closing; connect again in a moment.")
        # A disk that does not answer holds its threads, and must not hold the connection as well.
        resolved = await trio.to_thread.run_sync(
            _resolve, path, create, self._allowed, only, limiter=self._resolving, abandon_on_cancel=True
        )
        return await self._opened(workspace_id_for(str(resolved)), resolved)

    async def session(self, session_id: str, *, only: Only | None = None) -> tuple[Workspace, Session]:
        """Find a session by its id, opening its workspace with a hold if need be.

        Raises:
            SessionNotFound: There is none.
            ServerClosing, StorageUnavailable: It cannot be looked for now.
        """
        workspace = await self._known(workspace_id_of(session_id), only)
        if workspace is None:
            raise SessionNotFound(f"There is no session {session_id!r}.", sessionId=session_id)
        return workspace, await workspace.coordinator.session(session_id)

    async def of_run(self, run_id: str, *, only: Only | None = None) -> Workspace:
        """Find the workspace of a run, opening it with a hold if need be. The run itself may still not exist.

        Raises:
            RunNotFound: No workspace can have it.
            ServerClosing, StorageUnavailable: It cannot be looked for now.
        """
        shadow: Workspace | None = None
        for workspace in self.all():
            # Looked for here first: a run may be accepted and not yet be in the index.
            if not _sees(only, workspace.workspace_id) or workspace.state == "closed":
                continue
            run = workspace.coordinator.find_open_run(run_id)
            if run is None:
                continue
            if only is not None or not run.private_id:
                return workspace
            shadow = workspace  # it takes nothing from the workspace that had this id before, if there is one
        workspace = await self._known(await self._claimant(run_id) if only is None else only.workspace_id, only)
        workspace = workspace or shadow
        if workspace is None:
            raise RunNotFound(f"There is no run {run_id!r}.", runId=run_id)
        return workspace

    async def _claimant(self, run_id: str) -> str | None:
        """The workspace that has claimed a run id, or that the id itself names."""
        try:
            claimed = await self._index.find_run(run_id)
        except StoreFailed as exc:
            raise StorageUnavailable(f"Runs cannot be looked up: {exc}") from exc
        return claimed[0] if claimed else workspace_id_of(run_id)

    async def of_message(self, message_id: str, *, only: Only | None = None) -> Workspace | None:
        """Find the workspace that a message id belongs to, opening it with a hold if need be."""
        return await self._known(workspace_id_of(message_id), only)

    async def of_permission(self, permission_id: str, *, only: Only | None = None) -> Workspace:
        """Find the workspace of a permission or grant, opening it with a hold if need be.

        Raises:
            PermissionNotFound: No workspace can have it.
            ServerClosing, StorageUnavailable: It cannot be looked for now.
        """
        workspace = await self._known(workspace_id_of(permission_id), only)
        if workspace is None:
            raise PermissionNotFound(f"There is no permission {permission_id!r}.", permissionId=permission_id)
        return workspace

    def close(self, deadlines: Deadlines) -> None:
        """Refuse everything new and close every workspace at once. Does not wait."""
        self.closing = True
        for workspace in self._by_id.values():
            workspace.close_soon("server_closing", deadlines)

    async def closed(self) -> None:
        """Wait until every workspace is gone."""
        for workspace in list(self._by_id.values()):
            await workspace.closed.wait()

    async def _known(self, workspace_id: str | None, only: Only | None) -> Workspace | None:
        """A workspace by its id: the open one, or one that the state directory knows, opened now."""
        if workspace_id is None or not _sees(only, workspace_id):
            return None
        workspace = self._by_id.get(workspace_id)
        if workspace is not None and workspace.ready.is_set() and workspace.state in ("open", "closing"):
            return workspace
        try:
            path = await self._index.workspace_path(workspace_id)
        except StoreFailed as exc:
            raise StorageUnavailable(f"Workspaces cannot be looked up: {exc}") from exc
        if path is None:
            return None
        if self._allowed or only:  # what was opened once need not be allowed any more, nor lead where it led then
            await trio.to_thread.run_sync(
                _resolve_allowed, path, self._allowed, only, limiter=self._resolving, abandon_on_cancel=True
            )
        workspace = await self._opened(workspace_id, Path(path))
        workspace.hold(for_a_claim=True)
        return workspace

    async def _opened(self, workspace_id: str, path: Path) -> Workspace:
        while True:
            if self.closing:
                raise ServerClosing("The server is closing; connect again in a moment.")
            workspace = self._by_id.get(workspace_id)
            if workspace is None:
                workspace = self._by_id[workspace_id] = Workspace(self._means, workspace_id=workspace_id, path=path)
                self._errands.start_soon(self._serve, workspace, name=f"workspace {workspace_id}")
            await workspace.ready.wait()
            if workspace.state == "open":
                return workspace
            await workspace.closed.wait()
            if workspace.failed is not None:
                raise _refusal(workspace.failed) from workspace.failed

    async def _serve(self, workspace: Workspace) -> None:
        try:
            await workspace.serve(self._open_store)
        finally:
            if self._by_id.get(workspace.workspace_id) is workspace:
                del self._by_id[workspace.workspace_id]


def _refusal(failed: Exception) -> Exception:
    if isinstance(failed, WireError):
        return failed
    if isinstance(failed, StoreFailed | OSError | StateDirUnsafe | StateDirUnusable):
        return StorageUnavailable(f"The workspace cannot be opened: {failed}")
    return failed


def _sees(only: Only | None, workspace_id: str) -> bool:
    return only is None or only.workspace_id == workspace_id


def _resolve(path: str, create: bool, allowed: tuple[Path, ...], only: Only | None) -> Path:
    """The directory that a path means, links followed. Runs in a worker thread."""
    if "\0" in path:
        raise PathNotFound("A path has no NUL characters.", path="/path")
    if not Path(path).is_absolute():
        raise PathNotAllowed("The path must be absolute.", path="/path")
    try:
        resolved = _resolve_allowed(path, allowed, only)
        str(resolved).encode()  # no link may lead to a name that cannot be told to anybody
        if create:
            resolved.mkdir(parents=True, exist_ok=True)
        if not resolved.is_dir():
            raise PathNotFound(f"{path} is not a directory.", path="/path")
    except (OSError, RuntimeError, UnicodeError) as exc:
        raise PathNotFound(f"{path} cannot be opened: {getattr(exc, 'strerror', None) or exc}.", path="/path") from exc
    return resolved


def _resolve_allowed(path: str, allowed: tuple[Path, ...], only: Only | None) -> Path:
    """Where a path leads, if that is beneath an allowed directory. Runs in a worker thread."""
    if only is not None and not _leads_to(path, only.path):
        # The same sentence whatever is there, and whether anything is.
        raise PathNotAllowed(f"This token is for {only.path} alone.", path="/path", workspace=str(only.path))
    resolved = Path(path).resolve()
    if allowed and not any(resolved.is_relative_to(root) for root in allowed):
        raise PathNotAllowed(f"{path} is not beneath a directory that this server may open.", path="/path")
    return resolved


def _leads_to(path: str, directory: Path) -> bool:
    try:
        return Path(path).resolve() == directory
    except (OSError, RuntimeError, UnicodeError):
        return False
