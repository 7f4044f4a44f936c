"""The server that commands would use: whether it is there, answers, and is of our version.

Unlike any other command this one never starts a server. What the server knows
better than we do, its model and how its MCP servers are, is brought along.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

import trio

from atrio_protocol.errors import WireError
from atrio_protocol.methods import ModelInfo, NoParams, WorkspaceParams
from atrio_protocol.struct import given
from atrio_protocol.things import McpState
from atrio_protocol.version import VERSION
from atrio_server.cli.checks.finding import Finding, ok, problem, warning
from atrio_server.cli.connect import open_connection
from atrio_server.cli.failure import Failure
from atrio_server.cli.options import Target
from atrio_server.cli.stop import stop_command
from atrio_server.cli.which_model import default_model, unseen_key
from atrio_server.client import Client, ClientError
from atrio_server.discover import Found, find_server
from atrio_server.statedir import StateDirUnsafe, lock_holder
from atrio_server.token import TokenFileUnsafe

__all__ = ["ANSWER_S", "ServerSeen", "look_at_server"]

ANSWER_S: Final = 5.0
"""How long a server may take to say all that it is asked."""

_NAME: Final = "server"


class ServerSeen(NamedTuple):
    """What is known of the server. ``model`` and ``mcp`` are None where it does not say or there is none."""

    finding: Finding
    runs: bool = False
    model: ModelInfo | None = None
    mcp: tuple[McpState, ...] | None = None
    unseen_key: str = ""


async def look_at_server(target: Target, root: Path) -> ServerSeen:
    """Ask the server that is named, else that of the state directory, if it runs.

    Args:
        target: Which server the options name.
        root: The directory whose MCP servers are asked for, resolved.
    """
    named = target.server or os.environ.get("ATRIO_SERVER")
    found: Found | None = None
    if not named:
        state_dir = target.resolved_state_dir()
        try:
            found = find_server(state_dir)
            if found is None:
                return ServerSeen(_without_server(state_dir))
        except (StateDirUnsafe, TokenFileUnsafe) as exc:
            return ServerSeen(problem(_NAME, f"cannot be looked for: {exc}", "put the state directory in order first"))
    where = f"at {named}" if found is None else f"with pid {found.pid}"
    fix = (
        "look at its address and token" if found is None else f"stop it (kill {found.pid}); the next command starts one"
    )
    try:
        with trio.fail_after(ANSWER_S):
            async with open_connection(target, found=found) as client:
                return await _ask(client, target, root, found)
    except trio.TooSlowError:
        return ServerSeen(problem(_NAME, f"the server {where} does not answer within {ANSWER_S:g} s", fix))
    except (ClientError, WireError, Failure, TokenFileUnsafe) as exc:
        return ServerSeen(problem(_NAME, f"the server {where} cannot be used: {exc}", fix))


async def _ask(client: Client, target: Target, root: Path, found: Found | None) -> ServerSeen:
    info = await client.call("server/info", NoParams())
    model = await default_model(client)
    hint = await unseen_key(client, target.resolved_state_dir(), os.environ) if found is not None else ""
    version = info.version if found is None or found.version == info.version else found.version
    detail = f"runs with pid {info.pid}, version {version}"
    finding = ok(_NAME, detail)
    if version != VERSION:
        how = "stop it" if found is None else f"stop it ({stop_command(target.resolved_state_dir())})"
        fix = f"{how}, and the next command starts one of this version"
        finding = warning(_NAME, f"{detail}, and this is {VERSION}", fix)
    return ServerSeen(finding, True, model, await _mcp_states(client, root), hint)


async def _mcp_states(client: Client, root: Path) -> tuple[McpState, ...] | None:
    """How the MCP servers of a directory are; None if its workspace is not open."""
    listed = await client.call("workspace/list", NoParams())
    for workspace in listed.workspaces:
        if workspace.path == str(root):
            params = WorkspaceParams(workspace_id=workspace.workspace_id)
            return given((await client.call("workspace/get", params)).mcp, ())
    return None


def _without_server(state_dir: Path) -> Finding:
    try:
        holder = lock_holder(state_dir)
    except OSError:
        holder = None
    if holder is None:
        return ok(_NAME, "none runs; the first command that needs one starts it")
    who = f"the process {holder.pid}" if holder.pid else "a process that does not say its pid"
    fix = f"if it is not just starting or ending, stop it (kill {holder.pid or 'PID'})"
    return problem(_NAME, f"{state_dir} is locked by {who}, which is no server that is ready", fix)
