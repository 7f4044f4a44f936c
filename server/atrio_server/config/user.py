"""The user's own configuration, and what a server makes of it when it starts.

`server_config` is the only thing that a server starts by. A mistake in the
user's file stops it, since a server that ignores half of what it was told is
worse than none; `read_user_file` gives the mistakes instead, for whoever shows
them.

Values for providers are put into the mapping that the models are opened with,
never into ``os.environ``: children would get them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from atrio_server.config.file import ConfigFile, read_file
from atrio_server.config.settings import ConfigError, Flags, Settings, server_settings
from atrio_server.config.table import SETTINGS, Found

__all__ = [
    "FILE_NAME",
    "ServerConfig",
    "malformed_commands",
    "model_environ",
    "model_origins",
    "read_user_file",
    "server_config",
    "user_config_file",
]

FILE_NAME: Final = "config.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What a server starts by.

    ``environ`` is where its models find their keys, and ``origins`` says which of
    them are no variables of the process, and what they are, for sentences.
    """

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)
    origins: Mapping[str, str] = field(default_factory=dict[str, str])


def server_config(flags: Flags, environ: Mapping[str, str]) -> ServerConfig:
    """Put together what a server runs by, with the user's file. Blocks.

    Raises:
        ConfigError: A value cannot be, wherever it stands, or two do not go together.
    """
    file = read_user_file()
    for problem in file.problems:
        others = len(file.problems) - 1
        raise ConfigError(problem + (f" (and {others} more; see `atrio config show`)" if others else ""))
    settings = server_settings(flags, environ, file.values)
    return ServerConfig(
        settings=settings, environ=model_environ(environ, file.values), origins=model_origins(environ, file.values)
    )


def user_config_file() -> Path:
    """Where the user's file is, whether it is there or not."""
    # Imported where it is needed: it costs a tenth of a command's start.
    from platformdirs import user_config_path  # noqa: PLC0415

    return user_config_path("atrio", appauthor=False) / FILE_NAME


def read_user_file() -> ConfigFile:
    """Read the user's file; what is wrong with it is in its problems. Blocks."""
    file = read_file(user_config_file(), "user")
    problems = (*file.problems, *malformed_commands(file.values))
    return ConfigFile(path=file.path, digest=file.digest, values=file.values, problems=problems)


def model_environ(environ: Mapping[str, str], values: Mapping[str, Found]) -> dict[str, str]:
    """The environment that models are opened with: that of the process, and what files say where it says nothing."""
    merged = dict(environ)
    for variable, found in _for_models(environ, values).items():
        merged[variable] = found.value if isinstance(found.value, str) else str(int(found.value))
    return merged


def model_origins(environ: Mapping[str, str], values: Mapping[str, Found]) -> dict[str, str]:
    """What was set in files instead of these variables, as people would say it: the key, and the file."""
    keys = {setting.variable: setting.key for setting in SETTINGS}
    return {name: f"{keys[name]} ({found.where})" for name, found in _for_models(environ, values).items()}


def _for_models(environ: Mapping[str, str], values: Mapping[str, Found]) -> dict[str, Found]:
    """What files say to models, by variables that are not set."""
    return {
        setting.variable: values[setting.key]
        for setting in SETTINGS
        if setting.for_models
        and setting.variable
        and setting.key in values
        and not environ.get(setting.variable, "").strip()
    }


def malformed_commands(values: Mapping[str, Found]) -> Iterable[str]:
    """A sentence for each allowed command that is none."""
    if "shell.allow" not in values:
        return
    # The parser of shell lines is loaded only where there is something to parse.
    from atrio_agent.tools.programs import AllowList, AllowListMalformed  # noqa: PLC0415

    found = values["shell.allow"]
    for line in found.value:
        try:
            AllowList((line,))
        except AllowListMalformed as exc:
            yield f"{found.spot}: shell.allow: {exc}"
