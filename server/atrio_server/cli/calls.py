"""Requests that several commands make: answering a question, and runs that are no prompts.

Each is one request and gives what is of use in its answer. Nothing is shown here.
"""

from atrio_protocol.methods import (
    PermissionListParams,
    PermissionRespondParams,
    PermissionRespondResult,
    ShellParams,
    SummarizeParams,
)
from atrio_protocol.things import Permission, Run
from atrio_server.client import Client

__all__ = ["begin_shell", "begin_summary", "pending", "respond"]


async def respond(client: Client, permission_id: str, option_id: str) -> PermissionRespondResult:
    """Answer a question. The first valid answer counts."""
    params = PermissionRespondParams(permission_id=permission_id, option_id=option_id)
    return await client.call("permission/respond", params)


async def pending(client: Client, workspace_id: str) -> tuple[Permission, ...]:
    """The questions that wait for an answer in a workspace."""
    return (await client.call("permission/list", PermissionListParams(workspace_id=workspace_id))).permissions


async def begin_shell(client: Client, session_id: str, command: str, run_id: str) -> Run:
    """Run a command in a session; gives the run as it was accepted."""
    params = ShellParams(session_id=session_id, command=command, run_id=run_id)
    return (await client.call("session/shell", params)).run


async def begin_summary(client: Client, session_id: str, run_id: str) -> Run:
    """Sum up a session; gives the run as it was accepted."""
    return (await client.call("session/summarize", SummarizeParams(session_id=session_id, run_id=run_id))).run
