"""What a server runs by: a flag, else the environment (``ATRIO_*``), else the user's file, else the default.

`server_settings` makes the frozen `Settings`; whoever has one need not ask again
where its values came from, with one exception: what a flag or a variable ``fixed``
is nothing that a project changes. Keys of providers are no settings: they go
into the environment that the models are opened with, and are never kept here.

A value that cannot be is a `ConfigError` with one sentence that names the flag,
the variable or the file. Nothing is read from the disk here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from atrio_server.config.table import SETTINGS, Found, Setting, setting_of

__all__ = [
    "ConfigError",
    "Flags",
    "McpServer",
    "Settings",
    "found_values",
    "mcp_servers_of",
    "server_settings",
    "state_dir_setting",
]

Flags = Mapping[str, str | bool | tuple[str, ...] | None]
"""By the keys of settings; None, False and () are flags that were not given."""


class ConfigError(Exception):
    """A setting has a value that cannot be. The sentence names the place it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """One MCP server: a ``command`` to start or a ``url`` to reach, never both. ``cwd``: None is the workspace."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    timeout_s: float = 60.0
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set about a server. Times are in seconds.

    ``fixed`` names the fields that a flag or a variable set.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 4317
    model: str | None = None
    small_model: str | None = None
    allow_paths: tuple[Path, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    connections_per_address: int | None = None
    keep_alive: Literal["runs", "clients"] = "runs"
    detach_grace_s: float = 10.0
    permissions: Literal["ask", "allow", "deny"] = "ask"
    permission_timeout_s: float | None = None
    exit_idle_s: float | None = None
    log_format: Literal["text", "json"] = "text"
    test_hooks: bool = False
    shell_allow: tuple[str, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    fixed: frozenset[str] = field(default=frozenset(), compare=False)


_FIELDS: Final = frozenset(one.name for one in fields(Settings))


def server_settings(flags: Flags, environ: Mapping[str, str], from_file: Mapping[str, Found] | None = None) -> Settings:
    """Put together what a server runs by.

    Args:
        flags: What the command line says.
        environ: Such as ``os.environ``.
        from_file: What the user's file says.

    Raises:
        ConfigError: A value cannot be, or two do not go together.
    """
    from_file = from_file or {}
    found = found_values(flags, environ, from_file)
    values = {key: one.value for key, one in found.items() if key in _FIELDS}
    if ("tls_cert" in values) != ("tls_key" in values):
        missing = "--tls-key" if "tls_cert" in values else "--tls-cert"
        raise ConfigError(f"a certificate and its key go together; give {missing} as well")
    values.setdefault("state_dir", _default_state_dir())
    if "shell.allow" in found:
        values["shell_allow"] = found["shell.allow"].value
    fixed = frozenset(key for key, one in found.items() if one.place in {"flag", "variable"})
    return Settings(**values, mcp_servers=mcp_servers_of(found), fixed=fixed)


def found_values(flags: Flags, environ: Mapping[str, str], from_file: Mapping[str, Found]) -> dict[str, Found]:
    """What was set anywhere, by key: the flag before the variable before the file.

    Raises:
        ConfigError: A value cannot be.
    """
    found = dict(from_file)
    for setting in SETTINGS:
        flag = flags.get(setting.key)
        if setting.flag is not None and flag not in {None, False, ()}:
            found[setting.key] = Found(_from_flag(setting, flag, setting.flag), "flag", setting.flag)
        elif setting.variable is not None and (text := environ.get(setting.variable, "")).strip():
            found[setting.key] = Found(_from_variable(setting, text, setting.variable), "variable", setting.variable)
    return found


def mcp_servers_of(found: Mapping[str, Found]) -> tuple[McpServer, ...]:
    """The MCP servers that these values are about, by name. Each is known to be whole."""
    servers: dict[str, dict[str, Any]] = {}
    for key, one in found.items():
        if key.startswith("mcp.servers."):
            _, _, name, last = key.split(".")
            servers.setdefault(name, {})[last] = one.value
    return tuple(McpServer(name=name, **servers[name]) for name in sorted(servers))


def state_dir_setting(flag: str | None, environ: Mapping[str, str]) -> Path:
    """The state directory, for commands that need no other setting.

    Raises:
        ConfigError: What was given is no path.
    """
    setting = setting_of("state_dir")
    if flag is not None:
        return _read(setting, flag, "--state-dir")
    if text := environ.get("ATRIO_STATE_DIR", ""):
        return _read(setting, text, "ATRIO_STATE_DIR")
    return _default_state_dir()


def _from_flag(setting: Setting, given: str | bool | tuple[str, ...] | None, flag: str) -> Any:
    match given:
        case str():
            return _read(setting, given, flag)
        case tuple():
            return tuple(_read(setting, text, flag) for text in given)
        case _:
            return True


def _from_variable(setting: Setting, text: str, variable: str) -> Any:
    if setting.kind.split is None:
        return _read(setting, text, variable)
    pieces = [piece.strip() for piece in text.split(setting.kind.split)]
    return tuple(_read(setting, piece, variable) for piece in pieces if piece)


def _read(setting: Setting, text: str, origin: str) -> Any:
    try:
        return setting.kind.read(text)
    except (ValueError, RuntimeError):  # RuntimeError: a "~name" that nobody has
        raise ConfigError(f"{origin} takes {setting.kind.expected}, not {text!r}") from None


def _default_state_dir() -> Path:
    # Imported where it is needed: it costs a tenth of a command's start.
    from platformdirs import user_state_path  # noqa: PLC0415

    return user_state_path("atrio", appauthor=False)
