"""The settings of one workspace: what the server was told, and what the project's own file adds to it.

The file is ``.atrio/config.toml`` in the workspace's directory. It came with
somebody's repository, so it may do little by itself: what starts programs,
reaches servers, holds keys or asks less counts only once its user has trusted
that very text. The bytes that were hashed are those that are parsed.

A file that is broken or refused never keeps a workspace from opening: all there
is to say is in the ``problems``. Everything here blocks: call it in a thread.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.confine import TRIES, LinkMet, Outside, classify, open_exactly
from atrio_server.config.file import ConfigFile, FileUnreadable, parse_file, read_bounded
from atrio_server.config.settings import McpServer, Settings, mcp_servers_of
from atrio_server.config.table import SETTINGS, Found, setting_of
from atrio_server.config.trust import TrustStore
from atrio_server.config.user import FILE_NAME, malformed_commands, user_config_file

__all__ = [
    "PROJECT_DIRECTORY",
    "Project",
    "WorkspaceSettings",
    "closed_to_tools",
    "merged_values",
    "project_of",
    "project_path",
    "read_project_file",
    "workspace_settings",
]

PROJECT_DIRECTORY: Final = ".atrio"

_STRICTNESS: Final = ("allow", "ask", "deny")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSettings:
    """What holds in one workspace.

    ``provider_values`` are addresses and keys of a trusted project, by the names of
    their variables; those of the environment go before them. ``problems`` are
    sentences for people.
    """

    model: str | None
    small_model: str | None
    permissions: Literal["ask", "allow", "deny"]
    shell_allow: tuple[str, ...]
    mcp_servers: tuple[McpServer, ...]
    provider_values: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project's file as it stands to its server.

    ``values`` count. ``guarded`` need trust, and are among ``values`` only if the
    file is ``trusted``.
    """

    file: ConfigFile
    trusted: bool
    values: Mapping[str, Found] = field(repr=False)
    guarded: Mapping[str, Found] = field(repr=False)
    problems: tuple[str, ...]


def workspace_settings(settings: Settings, root: Path, trust: TrustStore) -> WorkspaceSettings:
    """Find out what holds in the workspace of a directory. Never fails over what is in it.

    Args:
        settings: Those of the server.
        root: The workspace's directory, resolved.
        trust: The trusted files of the server's state directory.
    """
    project = project_of(settings, root, trust)
    own = {key: one.value for key, one in project.values.items()}
    servers = {server.name: server for server in settings.mcp_servers}
    servers |= {server.name: server for server in mcp_servers_of(project.values)}
    return WorkspaceSettings(
        model=own.get("model", settings.model),
        small_model=own.get("small_model", settings.small_model),
        permissions=own.get("permissions", settings.permissions),
        shell_allow=tuple(dict.fromkeys((*settings.shell_allow, *own.get("shell.allow", ())))),
        mcp_servers=tuple(servers[name] for name in sorted(servers)),
        provider_values={
            setting.variable: own[setting.key]
            for setting in SETTINGS
            if setting.for_models and setting.variable and setting.key in own
        },
        problems=project.problems,
    )


def project_of(settings: Settings, root: Path, trust: TrustStore) -> Project:
    """Read a project's file and decide what of it counts."""
    file = read_project_file(root)
    problems = list(file.problems)
    values = {key: one for key, one in file.values.items() if key not in settings.fixed}
    for key in ("model", "small_model"):
        if key in values and values[key].value.startswith("script:"):
            one = values.pop(key)
            problems.append(f"{one.spot}: {key} of a project cannot be a script")
    if malformed := list(malformed_commands(values)):
        problems += malformed
        del values["shell.allow"]
    guarded = {key: one for key, one in values.items() if _needs_trust(key, one, settings)}
    trusted = trust.holds(root, file.digest)
    if guarded and not trusted:
        values = {key: one for key, one in values.items() if key not in guarded}
        problems.append(
            f"{file.path} sets {_listed(guarded)}, which counts only once you trust the file;"
            f" look at it and trust it with: atrio config trust {shlex.quote(str(root))}"
        )
    return Project(file=file, trusted=trusted, values=values, guarded=guarded, problems=tuple(problems))


def merged_values(values: Mapping[str, Found], project: Project) -> dict[str, Found]:
    """What holds in a workspace, by key, from the server's values and those of its project: for showing."""
    merged = dict(values)
    servers = {key.split(".")[2] for key in project.values if key.startswith("mcp.servers.")}
    for key in values:
        if key.startswith("mcp.servers.") and key.split(".")[2] in servers:
            del merged[key]
    for key, one in project.values.items():
        if key == "shell.allow" and (others := values.get(key)) is not None:
            both = tuple(dict.fromkeys((*others.value, *one.value)))
            merged[key] = Found(both, "project", f"{others.where} and {one.where}")
        elif merged.get(key, one).place not in {"flag", "variable"}:
            merged[key] = one
    return merged


def project_path(root: Path) -> Path:
    """Where the file of a project is, whether it is there or not."""
    return root / PROJECT_DIRECTORY / FILE_NAME


def read_project_file(root: Path) -> ConfigFile:
    """Read a project's file. Links are followed inside the project only."""
    path = project_path(root)
    try:
        return _read_beneath(path, root)
    except (FileNotFoundError, NotADirectoryError):
        return ConfigFile(path=path)
    except OSError as exc:
        return ConfigFile(path=path, problems=(f"{path} cannot be read: {exc.strerror or exc}",))
    except FileUnreadable as exc:
        return ConfigFile(path=path, problems=(f"{path} {exc}",))
    except ToolFailed as exc:  # links in a circle, a pipe, a device
        return ConfigFile(path=path, problems=(f"{path}: {exc}",))


def closed_to_tools(settings: Settings, root: Path) -> tuple[Path, ...]:
    """Where Atrio's own configuration and state are, resolved: no tool may write there, whoever allows it."""
    user_file, project_file = user_config_file(), project_path(root)
    places = [settings.state_dir.resolve(), user_file.parent.resolve(), user_file.resolve()]
    places.append(root / PROJECT_DIRECTORY)
    # A link of the project's to its own root must not close the root.
    leading_to = (project_file.parent.resolve(), project_file.resolve())
    places += [place for place in leading_to if place.is_relative_to(root) and place != root]
    places = list(dict.fromkeys(places))
    return tuple(
        place for place in places if not any(place.is_relative_to(other) for other in places if other != place)
    )


def _read_beneath(path: Path, root: Path) -> ConfigFile:
    for _ in range(TRIES):
        at = classify(str(path), root)
        if isinstance(at, Outside):
            raise FileUnreadable(f"leads out of {root}, and is ignored; put the file itself there")
        try:
            fd = open_exactly(at.base, at.parts)
        except LinkMet:
            continue
        with os.fdopen(fd, "rb"):
            return parse_file(read_bounded(fd), path, "project")
    raise FileUnreadable("is being replaced all the time, and is ignored")


def _needs_trust(key: str, one: Found, settings: Settings) -> bool:
    match setting_of(key).project:
        case "freely":
            return False
        case "stricter":
            return _STRICTNESS.index(one.value) < _STRICTNESS.index(settings.permissions)
        case _:
            return True


def _listed(keys: Mapping[str, Found]) -> str:
    names = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in keys))
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
