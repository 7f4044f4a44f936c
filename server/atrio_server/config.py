"""Where a setting comes from: a flag, else the environment (``ATRIO_*``), else the default.

`server_settings` makes the frozen `Settings` that a server runs by; whoever has
one need not ask again where its values came from. Keys of providers are no
settings: they are read where a model needs them, and never kept here.

A value that cannot be is a `ConfigError` with one sentence that names the flag or
the variable it came from. Nothing is read from the disk.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

__all__ = ["ConfigError", "Settings", "server_settings", "state_dir_setting"]

DEFAULT_PORT: Final = 4317


class ConfigError(Exception):
    """A setting has a value that cannot be. The sentence names the place it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set about a server. Times are in seconds."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    model: str | None = None
    allow_paths: tuple[Path, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    keep_alive: Literal["runs", "clients"] = "runs"
    detach_grace_s: float = 10.0
    permissions: Literal["ask", "allow", "deny"] = "ask"
    permission_timeout_s: float | None = None
    exit_idle_s: float | None = None
    log_format: Literal["text", "json"] = "text"
    test_hooks: bool = False


class _Setting(NamedTuple):
    """How one setting is called and read. ``split`` cuts a variable that holds several values."""

    flag: str
    read: Callable[[str], Any]
    expected: str
    split: str | None = None


def _number(*, least: float, most: float = math.inf) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most or not math.isfinite(value):
            raise ValueError(text)
        return value

    return read


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(text)
    return port


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


def _word(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(text)
    return text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser().absolute()


def _switch(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[text.lower()]


_SETTINGS: Final[dict[str, _Setting]] = {
    "state_dir": _Setting("--state-dir", _path, "a directory"),
    "host": _Setting("--host", _line, "a host name or address"),
    "port": _Setting("--port", _port, "a port from 0 to 65535"),
    "model": _Setting("--model", _line, "a model such as openai/NAME, demo or script:FILE"),
    "allow_paths": _Setting("--allow-path", _path, "a directory", os.pathsep),
    "allow_hosts": _Setting("--allow-host", _word, "a host name", ","),
    "allow_origins": _Setting("--allow-origin", _word, "an origin such as https://example.net", ","),
    "tls_cert": _Setting("--tls-cert", _path, "a file"),
    "tls_key": _Setting("--tls-key", _path, "a file"),
    "insecure_bind": _Setting("--insecure-bind", _switch, "1 or 0"),
    "keep_alive": _Setting("--keep-alive", _one_of("runs", "clients"), "runs or clients"),
    "detach_grace_s": _Setting("--detach-grace", _number(least=0), "seconds, 0 or more"),
    "permissions": _Setting("--permissions", _one_of("ask", "allow", "deny"), "ask, allow or deny"),
    "permission_timeout_s": _Setting("--permission-timeout", _number(least=0.001), "seconds, more than 0"),
    "exit_idle_s": _Setting("--exit-idle", _number(least=0), "seconds, 0 or more"),
    "log_format": _Setting("--log-format", _one_of("text", "json"), "text or json"),
    "test_hooks": _Setting("--test-hooks", _switch, "1 or 0"),
}


def server_settings(flags: Mapping[str, str | bool | tuple[str, ...] | None], environ: Mapping[str, str]) -> Settings:
    """Put together what a server runs by.

    Args:
        flags: By the names of `Settings`; None, False and () are flags that were not given.
        environ: Such as ``os.environ``.

    Raises:
        ConfigError: A value cannot be, or two do not go together.
    """
    values: dict[str, Any] = {}
    for name, setting in _SETTINGS.items():
        flag = flags.get(name)
        if flag is True:
            values[name] = True
        elif isinstance(flag, str):
            values[name] = _read(setting, flag, setting.flag)
        elif isinstance(flag, tuple) and flag:
            values[name] = tuple(_read(setting, text, setting.flag) for text in flag)
        elif text := environ.get(variable := _variable(setting), ""):
            if setting.split is None:
                values[name] = _read(setting, text, variable)
            else:
                pieces = [piece.strip() for piece in text.split(setting.split)]
                values[name] = tuple(_read(setting, piece, variable) for piece in pieces if piece)
    if ("tls_cert" in values) != ("tls_key" in values):
        missing = "--tls-key" if "tls_cert" in values else "--tls-cert"
        raise ConfigError(f"a certificate and its key go together; give {missing} as well")
    values.setdefault("state_dir", _default_state_dir())
    return Settings(**values)


def state_dir_setting(flag: str | None, environ: Mapping[str, str]) -> Path:
    """The state directory, for commands that need no other setting.

    Raises:
        ConfigError: What was given is no path.
    """
    setting = _SETTINGS["state_dir"]
    if flag is not None:
        return _read(setting, flag, setting.flag)
    if text := environ.get(variable := _variable(setting), ""):
        return _read(setting, text, variable)
    return _default_state_dir()


def _variable(setting: _Setting) -> str:
    return "ATRIO_" + setting.flag.removeprefix("--").replace("-", "_").upper()


def _read(setting: _Setting, text: str, origin: str) -> Any:
    try:
        return setting.read(text)
    except (ValueError, KeyError, RuntimeError):  # RuntimeError: a "~name" that nobody has
        raise ConfigError(f"{origin} takes {setting.expected}, not {text!r}") from None


def _default_state_dir() -> Path:
    # Imported where it is needed: it costs a tenth of a command's start.
    from platformdirs import user_state_path  # noqa: PLC0415

    return user_state_path("atrio", appauthor=False)
