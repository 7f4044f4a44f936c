"""The MCP servers of a directory: how they are where a server knows, else whether they could be.

None is started or reached from here: that is for the workspace that uses it.
Only the command or the form of the address is looked at.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from atrio_agent.tools.process import child_path
from atrio_protocol.struct import given
from atrio_protocol.things import McpState
from atrio_server.cli.checks.finding import Finding, ok, problem
from atrio_server.config import McpServer

__all__ = ["check_mcp"]

_EDIT: Final = "edit mcp.servers.{} in the configuration (`atrio config show --origin` says where)"


def check_mcp(configured: Iterable[McpServer], states: Iterable[McpState] | None, root: Path) -> list[Finding]:
    """A finding for each MCP server.

    Args:
        configured: What the configuration of the directory says.
        states: What the running server says, or None if it has not opened the directory.
        root: The directory, resolved.
    """
    if states is not None:
        return [_running(state) for state in states]
    return [_configured(server, root) for server in configured]


def _running(state: McpState) -> Finding:
    name = f"mcp {state.name}"
    if state.state in {"failed", "stopped"}:
        why = given(state.detail, "")
        return problem(name, f"{state.state}{f': {why}' if why else ''}", _EDIT.format(state.name))
    return ok(name, f"ready, {state.tools} tools" if state.state == "ready" else state.state)


def _configured(server: McpServer, root: Path) -> Finding:
    name = f"mcp {server.name}"
    if not server.enabled:
        return ok(name, "disabled")
    if server.command is not None:
        program = _program(server.command, Path(root, server.cwd or ""))
        if program is None:
            return problem(
                name, f"the command {server.command} is not found", f"install it, or {_EDIT.format(server.name)}"
            )
        return ok(name, f"configured, not started: {program}")
    parts = urlsplit(server.url or "")
    if parts.scheme in {"http", "https"} and parts.hostname:
        return ok(name, f"configured, not asked: {parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    return problem(name, "its address is none", _EDIT.format(server.name))


def _program(command: str, directory: Path) -> str | None:
    if os.sep in command:
        path = directory / Path(command).expanduser()
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None
    return shutil.which(command, path=child_path())
