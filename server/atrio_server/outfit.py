"""What one workspace works with: its settings, made into models, tools, rules and MCP servers.

The server's settings and the project's file are read when the workspace opens,
in a thread and for a limited time, and never again while it is open: a change
counts from the next opening. Where they cannot be read in time the workspace is
not opened, since the project might have asked for more care than the server.

A workspace that chooses nothing of its own shares the server's models. One with
keys or addresses of its own, from a trusted project, has its own connections,
and its tools keep its secrets as they keep the server's.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import trio

from atrio_agent.mcp.server import McpServer
from atrio_agent.models.choose import NAMED_BY, Models, open_own_models
from atrio_agent.permissions import PermissionRules
from atrio_agent.tools.jobs import Jobs
from atrio_agent.tools.programs import AllowList
from atrio_agent.tools.registry import Tools, all_tools, read_only_tools
from atrio_protocol.errors import StorageUnavailable
from atrio_server.config import McpServer as McpSettings
from atrio_server.config import Settings
from atrio_server.config.secret_words import secret_words
from atrio_server.config.table import SETTINGS
from atrio_server.config.trust import TrustStore
from atrio_server.config.workspace import WorkspaceSettings, closed_to_tools, project_path, workspace_settings
from atrio_server.known_secrets import KnownSecrets

__all__ = ["KEY_VARIABLES", "READ_S", "Outfit", "OutfitMaker", "keys_in", "mcp_servers_of_workspace", "secrets_of"]

KEY_VARIABLES: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY")
"""Variables that hold a provider's key, which no tool may give back."""

ADDRESS_VARIABLES: Final = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_HOST")
"""Variables that hold a provider's address, in which there may be a password."""

READ_S: Final = 5.0
"""Seconds that reading a workspace's configuration may take."""

_READERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outfit:
    """What one workspace works with.

    No tool may enter a ``closed`` directory. ``secrets`` is what nothing of the
    workspace may give back. ``problems`` are told to people.
    """

    models: Models
    make_tools: Callable[[Jobs], Tools]
    child_tools: Tools
    rules: PermissionRules
    closed: tuple[Path, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    problems: tuple[str, ...] = ()


class _Read(NamedTuple):
    """What a thread found out."""

    settings: WorkspaceSettings
    closed: tuple[Path, ...]
    allowed: AllowList


@dataclass(frozen=True, slots=True, kw_only=True)
class OutfitMaker:
    """Makes the outfits of a server's workspaces.

    ``environ`` is where the server's models have their keys from, and ``origins``
    what was set instead of a variable of it. ``known`` has the server's secrets, and
    learns those of each workspace that opens.
    """

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    models: Models
    known: KnownSecrets
    reading: trio.CapacityLimiter = field(default_factory=partial(trio.CapacityLimiter, _READERS))

    @asynccontextmanager
    async def open(self, root: Path) -> AsyncGenerator[Outfit]:
        """Read what holds in a directory (resolved), and own what it takes.

        Raises:
            StorageUnavailable: The disk did not answer in time.
        """
        found: _Read | None = None
        with trio.move_on_after(READ_S):
            found = await trio.to_thread.run_sync(
                _read, self.settings, root, limiter=self.reading, abandon_on_cancel=True
            )
        if found is None:
            raise StorageUnavailable(
                f"The configuration of {root} could not be read within {READ_S:g} s; look at the disk and try again."
            )
        async with self._open_models(found.settings, root) as models:
            yield self._outfit(found, models)

    @asynccontextmanager
    async def _open_models(self, settings: WorkspaceSettings, root: Path) -> AsyncGenerator[Models]:
        choice = settings.model, settings.small_model
        if choice == (self.settings.model, self.settings.small_model) and not settings.provider_values:
            yield self.models
            return
        names_its_own = settings.model != self.settings.model
        keys = {setting.variable or "": setting.key for setting in SETTINGS}
        own_origins = {name: f"{keys[name]} ({project_path(root)})" for name in settings.provider_values}
        async with open_own_models(
            self.models,
            default=settings.model,
            named_by=f"It was named in {project_path(root)}." if names_its_own else NAMED_BY,
            small=settings.small_model,
            environ=self._environ_of(settings),
            origins={**self.origins, **own_origins},
        ) as models:
            yield models

    def _environ_of(self, settings: WorkspaceSettings) -> dict[str, str] | None:
        """Where a workspace's keys are looked up, if not where the server's are.

        What a variable of the process sets is not among the values of a project.
        """
        return {**self.environ, **settings.provider_values} if settings.provider_values else None

    def _outfit(self, found: _Read, models: Models) -> Outfit:
        settings = found.settings
        servers, problems = mcp_servers_of_workspace(settings.mcp_servers)
        secrets = (
            *keys_in(settings.provider_values),
            *(secret for server in servers for secret in secrets_of(server)),
        )
        self.known.add(secrets)
        redactor = self.known.redactor(secrets)
        return Outfit(
            models=models,
            make_tools=partial(all_tools, allowed=found.allowed, redactor=redactor),
            child_tools=read_only_tools(redactor),
            rules=PermissionRules(policy=settings.permissions, timeout_s=self.settings.permission_timeout_s),
            closed=found.closed,
            mcp_servers=servers,
            secrets=redactor.secrets,
            problems=(*settings.problems, *problems),
        )


def keys_in(environ: Mapping[str, str]) -> list[str]:
    """The providers' keys, the words of one that was pasted with a line end in it, and passwords in their addresses."""
    keys = [environ.get(name, "") for name in KEY_VARIABLES]
    words = [part for key in keys for part in (key.strip(), *key.split())]
    return words + [password for name in ADDRESS_VARIABLES if (password := _password_in(environ.get(name, "")))]


def _password_in(address: str) -> str | None:
    try:
        return urlsplit(address.strip()).password
    except ValueError:
        return None  # it is no address, which others tell


def mcp_servers_of_workspace(configured: Iterable[McpSettings]) -> tuple[tuple[McpServer, ...], tuple[str, ...]]:
    """The MCP servers that these settings are about, and a sentence for each that cannot be one."""
    servers: list[McpServer] = []
    problems: list[str] = []
    for one in configured:
        try:
            server = McpServer(
                name=one.name,
                command=one.command,
                args=one.args,
                env=one.env,
                cwd=one.cwd,
                url=one.url,
                headers=one.headers,
                enabled=one.enabled,
                call_s=one.timeout_s,
            )
        except ValueError as exc:
            problems.append(str(exc))
        else:
            servers.append(server)
    return tuple(servers), tuple(problems)


def secrets_of(server: McpServer) -> Iterable[str]:
    """What in an MCP server's configuration looks secret: by its name, or because nobody would make that up."""
    return secret_words(args=server.args, url=server.url, named=(server.env, server.headers))


def _read(settings: Settings, root: Path) -> _Read:
    """Read everything that is on a disk. Runs in a worker thread."""
    found = workspace_settings(settings, root, TrustStore(settings.state_dir))
    # The parser of shell lines is loaded here as well.
    return _Read(found, closed_to_tools(settings, root), AllowList(found.shell_allow))
