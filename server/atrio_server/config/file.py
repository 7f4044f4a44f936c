"""One configuration file: from its bytes to values that fit, and sentences about what does not.

`read_file` reads a file that its user named, `parse_file` takes bytes that
somebody has read. Whether a value from a project counts is not decided here;
the digest is that of the very bytes that were parsed.

Both always give a `ConfigFile`: what is wrong is in its ``problems``, each one
sentence with the file, the line and the way out. No sentence holds the value of
a key or of anything else that is secret.
"""

import errno
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast

from atrio_server.config.lines import key_lines
from atrio_server.config.table import ANY_NAME, KEYS, SETTINGS, Branch, Found, Place, Setting

__all__ = ["MAX_FILE_BYTES", "NAME_PATTERN", "ConfigFile", "FileUnreadable", "parse_file", "read_bounded", "read_file"]

MAX_FILE_BYTES: Final = 256 * 1024

NAME_PATTERN: Final = "[A-Za-z0-9_-]{1,32}"
"""What a user may call an MCP server: it becomes part of its tools' names."""

_MAX_DOTS: Final = 200
"""On one line. A key with many thousand parts holds `tomllib` for minutes."""

_SHOWN_CHARS: Final = 60


class FileUnreadable(Exception):
    """The file is there and cannot be used. The message says why, without the file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What a file says. ``values`` are by key, ``digest`` is that of its bytes, and empty if there is no file."""

    path: Path
    digest: str = ""
    values: Mapping[str, Found] = field(default_factory=dict[str, Found], repr=False)
    problems: tuple[str, ...] = ()


def read_file(path: Path, place: Place) -> ConfigFile:
    """Read a file that may not be there. Blocks."""
    try:
        # Without O_NONBLOCK a pipe would hold us here for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return parse_file(read_bounded(fd), path, place)
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return ConfigFile(path=path)
    except OSError as exc:
        return ConfigFile(path=path, problems=(f"{path} cannot be read: {exc.strerror}",))
    except FileUnreadable as exc:
        return ConfigFile(path=path, problems=(f"{path} {exc}",))


def read_bounded(fd: int) -> bytes:
    """Everything in an open file, if it is a plain one and not too large.

    Raises:
        FileUnreadable: It is neither.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise FileUnreadable("is no plain file; make it one, or remove it")
    data = b""
    while len(data) <= MAX_FILE_BYTES:
        try:
            piece = os.read(fd, MAX_FILE_BYTES + 1 - len(data))
        except BlockingIOError as exc:  # a file that another program has locked, on some systems
            raise OSError(errno.EAGAIN, "it is locked") from exc
        if not piece:
            return data
        data += piece
    raise FileUnreadable(f"is larger than {MAX_FILE_BYTES // 1024} KiB, which no configuration is; shorten it")


def parse_file(data: bytes, path: Path, place: Place) -> ConfigFile:
    """Read what these bytes say. ``path`` and ``place`` say whose they are."""
    digest = hashlib.sha256(data).hexdigest()

    def unreadable(why: str) -> ConfigFile:
        return ConfigFile(path=path, digest=digest, problems=(f"{path} {why}",))

    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        return unreadable(f"line {data[: exc.start].count(10) + 1} is not UTF-8; save the file as UTF-8")
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:
            return unreadable(f"line {number} has more than {_MAX_DOTS} dots; break it up")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        return unreadable(_syntax(str(exc), text))
    except ValueError as exc:  # a number or a date that no program takes
        return unreadable(f"is not TOML: {exc}")
    except RecursionError:
        return unreadable("is nested too deeply")
    values: dict[str, Found] = {}
    problems: list[tuple[int, str]] = []
    broken: set[tuple[str, ...]] = set()
    lines = key_lines(text)
    for at, outcome in _walk(table, KEYS, (), place):
        line = next((lines[at[:length]] for length in range(len(at), 0, -1) if at[:length] in lines), None)
        found = Found(outcome, place, str(path), line)
        if isinstance(outcome, str):
            problems.append((line or 0, f"{found.spot}: {outcome}"))
            broken.add(at[:3])
        else:
            values[".".join(at)] = found._replace(value=outcome[0])
    # A server with half of its keys is another server: it might start with less, or at all.
    values = {key: one for key, one in values.items() if tuple(key.split(".")[:3]) not in broken}
    for name, sentence in list(_odd_servers(values)):
        first = min((values.pop(key) for key in list(values) if key.startswith(f"mcp.servers.{name}.")), key=_line_of)
        problems.append((_line_of(first), f"{first.spot}: mcp.servers.{name} {sentence}"))
    sentences = tuple(sentence for _, sentence in sorted(problems))
    return ConfigFile(path=path, digest=digest, values=values, problems=sentences)


def _line_of(found: Found) -> int:
    return found.line or 0


def _syntax(said: str, text: str) -> str:
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", said)
    line = (place and place[1]) or text.rstrip("\n").count("\n") + 1
    why = said[: place.start()] if place else said
    return f"line {line} is not TOML: {why[:1].lower()}{why[1:]}"


def _walk(
    table: Mapping[str, object], branch: Branch, at: tuple[str, ...], place: Place
) -> Generator[tuple[tuple[str, ...], tuple[Any] | str]]:
    """Each value that fits, in a tuple of its own, or what is wrong with it."""
    for key, value in table.items():
        here = (*at, key)
        below = branch.get(ANY_NAME) or branch.get(key)
        if ANY_NAME in branch and not re.fullmatch(NAME_PATTERN, key):
            yield here, f"{_quoted(key)} is no name; it takes up to 32 letters, digits, - and _"
        elif below is None:
            yield here, f"unknown key {_quoted('.'.join(here))}{_guess(key, at, branch)}"
        elif isinstance(below, Setting):
            yield here, _taken(below, value, ".".join(here), place)
        elif isinstance(value, dict):
            yield from _walk(cast("dict[str, object]", value), below, here, place)
        else:
            yield here, f"{'.'.join(here)} is a table, not {_described(value)}"


def _taken(setting: Setting, value: object, key: str, place: Place) -> tuple[Any] | str:
    if place == "project" and setting.project == "never":
        return f"{key} is not for a project to set; it belongs in your own configuration"
    try:
        return (setting.kind.take(value),)
    except (ValueError, RuntimeError):  # RuntimeError: a "~name" that nobody has
        given = _type_of(value) if setting.secret else _described(value)
        return f"{key} takes {setting.kind.in_file}, not {given}"


def _guess(key: str, at: tuple[str, ...], branch: Branch) -> str:
    """The nearest key of the same table, else one of that very name elsewhere."""
    plain = {known.casefold(): known for known in branch}
    near = get_close_matches(key.casefold(), plain, n=1)
    if near:
        return f"; did you mean {'.'.join((*at, plain[near[0]]))!r}?"
    for setting in SETTINGS:
        if setting.in_file and (setting.key.rpartition(".")[2] == key or setting.key.replace(".", "_") == key):
            return f"; did you mean {setting.key!r}?"
    return ""


def _odd_servers(values: Mapping[str, Found]) -> Iterable[tuple[str, str]]:
    """The MCP servers whose keys do not go together, and why."""
    given: dict[str, set[str]] = {}
    for key in values:
        if key.startswith("mcp.servers."):
            name, _, last = key.removeprefix("mcp.servers.").partition(".")
            given.setdefault(name, set()).add(last)
    for name, keys in given.items():
        if {"command", "url"} <= keys:
            yield name, "has both a command and a url; it is one or the other"
        elif not keys & {"command", "url"}:
            yield name, "needs a command to start, or the url of a server"
        elif alone := sorted(keys & ({"headers"} if "command" in keys else {"args", "cwd", "env"})):
            kind = "a command" if "command" in keys else "a url"
            yield name, f"has {' and '.join(alone)}, which does not go with {kind}"


def _described(value: object) -> str:
    """A value in an error: itself if it is short and plain, else what it is."""
    if isinstance(value, str | int | float) and not (isinstance(value, int) and abs(value) > 10**30):
        shown = repr(value) if isinstance(value, str) else str(value).lower()
        return shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 1]}…"
    return _type_of(value)


def _type_of(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "such a text"
        case list():
            return "a list" if not value else "such a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _quoted(key: str) -> str:
    return repr(key if len(key) <= _SHOWN_CHARS else f"{key[: _SHOWN_CHARS - 1]}…")
