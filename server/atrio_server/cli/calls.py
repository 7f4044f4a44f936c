"""Calls of methods that not every server of this protocol version has.

They are made by their rows of the contract's table, wherever in it a row stands;
a server that lacks one answers `method_not_found`. Each is one request and gives
what is of use in its answer.
"""

from typing import Any, Protocol, cast

from atrio_protocol.methods import METHODS
from atrio_protocol.struct import UnsetType
from atrio_protocol.things import Permission, PermissionOutcome, Run
from atrio_protocol.who import Author
from atrio_server.client import Client

__all__ = ["GrantRow", "Responded", "begin_shell", "begin_summary", "grants", "pending", "respond", "revoke"]


class Responded(Protocol):
    """What an answer to a question is told."""

    @property
    def resolved(self) -> bool: ...

    @property
    def outcome(self) -> PermissionOutcome: ...

    @property
    def by(self) -> Author | UnsetType: ...


class GrantRow(Protocol):
    """What was allowed for good."""

    @property
    def grant_id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def action(self) -> str: ...

    @property
    def path(self) -> str | UnsetType: ...

    @property
    def by(self) -> Author: ...

    @property
    def at(self) -> str: ...


async def respond(client: Client, permission_id: str, option_id: str) -> Responded:
    """Answer a question. The first valid answer counts."""
    return cast(
        "Responded", await _call(client, "permission/respond", permission_id=permission_id, option_id=option_id)
    )


async def pending(client: Client, workspace_id: str) -> tuple[Permission, ...]:
    """The questions that wait for an answer in a workspace."""
    answer = await _call(client, "permission/list", workspace_id=workspace_id)
    return cast("tuple[Permission, ...]", answer.permissions)


async def grants(client: Client, session_id: str) -> tuple[GrantRow, ...]:
    """What was allowed for good in a session."""
    answer = await _call(client, "permission/grants", session_id=session_id)
    return cast("tuple[GrantRow, ...]", answer.grants)


async def revoke(client: Client, grant_id: str) -> None:
    """Take back what was allowed for good."""
    await _call(client, "permission/revoke", grant_id=grant_id)


async def begin_shell(client: Client, session_id: str, command: str, run_id: str) -> Run:
    """Run a command in a session; gives the run as it was accepted."""
    answer = await _call(client, "session/shell", session_id=session_id, command=command, run_id=run_id)
    return cast("Run", answer.run)


async def begin_summary(client: Client, session_id: str, run_id: str) -> Run:
    """Sum up a session; gives the run as it was accepted."""
    return cast("Run", (await _call(client, "session/summarize", session_id=session_id, run_id=run_id)).run)


async def _call(client: Client, method: str, **params: str) -> Any:
    row = METHODS[method]
    return await client.call_row(row, row.params(**params))
