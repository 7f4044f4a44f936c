"""The workspaces as whoever asks may see them.

A token may be for one workspace alone; then everything that a request can name,
list or count is looked for there and nowhere else. Handlers get at workspaces
through this and not otherwise, so that none of them has to think of it.

It decides nothing about scopes, which are the dispatcher's affair.
"""

from atrio_agent.session import Session
from atrio_protocol.ids import workspace_id_for
from atrio_server.calls import Caller
from atrio_server.workspace import Workspace
from atrio_server.workspaces import Only, Workspaces

__all__ = ["Reach"]


class Reach:
    """What a caller can reach. What it finds, and raises, is described by `Workspaces`."""

    def __init__(self, workspaces: Workspaces, caller: Caller) -> None:
        self._workspaces = workspaces
        bound_to = caller.identity.workspace
        self._only = None if bound_to is None else Only(workspace_id_for(str(bound_to)), bound_to)

    @property
    def whole(self) -> bool:
        """Whether that is all that the server has."""
        return self._only is None

    def all(self) -> list[Workspace]:
        """Those that are open or closing, the oldest first."""
        found = self._workspaces.all()
        only = self._only
        return found if only is None else [each for each in found if each.workspace_id == only.workspace_id]

    def get(self, workspace_id: str) -> Workspace:
        """One that is open or closing."""
        return self._workspaces.get(workspace_id, only=self._only)

    def open_run_count(self) -> int:
        """How many accepted runs are not completed, in all of them."""
        return sum(workspace.coordinator.open_run_count() for workspace in self.all())

    async def open(self, path: str, *, create: bool) -> Workspace:
        """Open a directory's workspace. Claim or hold it before the next await."""
        return await self._workspaces.open(path, create=create, only=self._only)

    async def session(self, session_id: str) -> tuple[Workspace, Session]:
        """Find a session by its id."""
        return await self._workspaces.session(session_id, only=self._only)

    async def of_run(self, run_id: str) -> Workspace:
        """Find the workspace of a run. The run itself may still not exist."""
        return await self._workspaces.of_run(run_id, only=self._only)

    async def of_message(self, message_id: str) -> Workspace | None:
        """Find the workspace that a message id belongs to."""
        return await self._workspaces.of_message(message_id, only=self._only)

    async def of_permission(self, permission_id: str) -> Workspace:
        """Find the workspace of a permission or grant."""
        return await self._workspaces.of_permission(permission_id, only=self._only)
