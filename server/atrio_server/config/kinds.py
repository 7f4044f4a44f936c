"""Kinds of values: what a setting takes, as a flag's text and as a file's value.

A `Kind` reads both into the same thing and says in words what it expects, so
that a port means the same wherever it is written. What cannot be is a
`ValueError`; the sentence about it is made by whoever knows the place.

Nothing here knows a setting, or where a value came from.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

__all__ = [
    "BELOW",
    "COMMANDS",
    "DIRECTORIES",
    "DIRECTORY",
    "FILE",
    "HEADERS",
    "HOST",
    "HOSTS",
    "KEY",
    "LOOK_AROUND",
    "MODEL",
    "ORIGINS",
    "PORT",
    "PROGRAM",
    "PROVIDER_URL",
    "SERVER_ADDRESS",
    "SWITCH",
    "TEXTS",
    "URL",
    "VARIABLES",
    "Kind",
    "count",
    "one_of",
    "seconds",
]

_MAX_ITEMS: Final = 1_000
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of value.

    ``read`` takes the text of a flag or a variable, ``take`` the value of a file;
    both raise `ValueError`. ``expected`` goes with the first, ``in_file`` with the
    second. ``split`` cuts a variable that holds several values, of which ``read``
    takes one.
    """

    expected: str
    read: Callable[[str], Any]
    take: Callable[[object], Any]
    schema: Mapping[str, Any]
    in_file: str
    split: str | None = None


def _textual(expected: str, read: Callable[[str], Any], in_file: str = "", **schema: Any) -> Kind:
    """A kind that is text in a file as well."""

    def take(value: object) -> Any:
        return read(_text(value))

    return Kind(
        expected=expected, read=read, take=take, schema={"type": "string", **schema}, in_file=in_file or expected
    )


def _several(one: Kind, in_file: str, split: str | None = None) -> Kind:
    def take(value: object) -> Any:
        return tuple(one.take(item) for item in _list(value))

    schema = {"type": "array", "items": one.schema, "maxItems": _MAX_ITEMS}
    return Kind(expected=one.expected, read=one.read, take=take, schema=schema, in_file=in_file, split=split)


def _texts_by_name(in_file: str, is_name: Callable[[str], bool], is_value: Callable[[str], bool]) -> Kind:
    def take(value: object) -> dict[str, str]:
        items = cast("dict[str, object]", value) if isinstance(value, dict) else None
        if items is None or len(items) > _MAX_ITEMS:
            raise ValueError("no table")
        table = {name: _text(text) for name, text in items.items()}
        if not all(is_name(name) and is_value(text) for name, text in table.items()):
            raise ValueError(table)
        return table

    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    return Kind(expected=in_file, read=_unreadable, take=take, schema=schema, in_file=in_file)


def one_of(*words: str) -> Kind:
    """One of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return _textual(f"{', '.join(words[:-1])} or {words[-1]}", read, enum=list(words))


def seconds(*, least: float, expected: str) -> Kind:
    """A finite number of seconds."""

    def check(value: float) -> float:
        if not least <= value <= 1e9 or not math.isfinite(value):
            raise ValueError(value)
        return value

    def take(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(value)  # noqa: TRY004  one error for whatever does not fit
        return check(float(value) if abs(value) < 1e18 else math.inf)

    return Kind(
        expected=expected,
        read=lambda text: check(float(text)),
        take=take,
        schema={"type": "number", "minimum": least, "maximum": 1e9},
        in_file=expected,
    )


def count(*, most: int) -> Kind:
    """A whole number from 1 to ``most``."""

    def take(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(value)
        return value

    expected = f"a whole number from 1 to {most}"
    return Kind(
        expected=expected,
        read=lambda text: take(int(text)),
        take=take,
        schema={"type": "integer", "minimum": 1, "maximum": most},
        in_file=expected,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004  one error for whatever does not fit
    return value


def _list(value: object) -> list[object]:
    items = cast("list[object]", value) if isinstance(value, list) else None
    if items is None or len(items) > _MAX_ITEMS:
        raise ValueError("no list")
    return items


def _unreadable(text: str) -> Any:
    raise ValueError(text)


def _port(text: str) -> int:
    return _port_number(int(text))


def _port_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65_535:
        raise ValueError(value)
    return value


def _word(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(text)
    return text


def _named(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return _line(text)


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError(text)
    return text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser().absolute()


def _fixed_path(value: object) -> Path:
    """A path of a file: relative to what, nobody could tell."""
    text = _text(value)
    path = _path(text)
    if not text.startswith(("/", "~")):
        raise ValueError(text)
    return path


def _where(expected: str) -> Kind:
    in_file = f"{expected}, absolute or beginning with ~"
    return Kind(expected=expected, read=_path, take=_fixed_path, schema={"type": "string"}, in_file=in_file)


def _url(text: str) -> str:
    parts = urlsplit(_word(text))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    return text


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004  one error for whatever does not fit
    return value


def _is_variable(name: str) -> bool:
    return bool(name) and "=" not in name and "\0" not in name


def _is_header_value(text: str) -> bool:
    return text.isascii() and (text.isprintable() or not text)


def _switch(read: Callable[[str], bool]) -> Kind:
    return Kind(expected="1 or 0", read=read, take=_boolean, schema={"type": "boolean"}, in_file="true or false")


PORT: Final = Kind(
    expected="a port from 0 to 65535",
    read=_port,
    take=_port_number,
    schema={"type": "integer", "minimum": 0, "maximum": 65_535},
    in_file="a port from 0 to 65535",
)
HOST: Final = _textual("a host name or address", _line)
MODEL: Final = _textual("a model such as openai/NAME, demo or script:FILE", _named)
DIRECTORY: Final = _where("a directory")
FILE: Final = _where("a file")
DIRECTORIES: Final = _several(DIRECTORY, "a list of directories, absolute or beginning with ~", os.pathsep)
HOSTS: Final = _several(_textual("a host name", _word), "a list of host names", ",")
ORIGINS: Final = _several(
    _textual("an origin such as https://example.net", _word), "a list of origins such as https://example.net", ","
)
SWITCH: Final = _switch(_flag)
LOOK_AROUND: Final = _switch(lambda text: text.strip() != "0")
"""As the models read their variable: anything but 0 is yes."""

# Providers say themselves what is wrong with what the environment holds, when they are used.
PROVIDER_URL: Final = Kind(
    expected="an address such as http://127.0.0.1:8000/v1",
    read=str,
    take=lambda value: _url(_text(value)),
    schema={"type": "string", "format": "uri"},
    in_file="an address such as http://127.0.0.1:8000/v1",
)
SERVER_ADDRESS: Final = Kind(
    expected="an address such as 127.0.0.1:11434",
    read=str,
    take=lambda value: _word(_text(value)),
    schema={"type": "string"},
    in_file="an address such as 127.0.0.1:11434",
)
KEY: Final = Kind(
    expected="a key",
    read=str,
    take=lambda value: _word(_text(value)),
    schema={"type": "string", "writeOnly": True},
    in_file="a key, as text without spaces",
)
URL: Final = _textual("an address such as https://example.net/mcp", _url, format="uri")
PROGRAM: Final = _textual("a program, as one text without its arguments", _named)
BELOW: Final = _textual("a directory", _named)
COMMANDS: Final = _several(
    _textual("a plain command", _named), "a list of plain commands, such as 'npm test' or 'pytest *'"
)
TEXTS: Final = _several(_textual("a text", _argument), "a list of texts")
VARIABLES: Final = _texts_by_name(
    "a table of texts, one for each variable", _is_variable, lambda text: "\0" not in text
)
HEADERS: Final = _texts_by_name(
    "a table of texts, one for each header", lambda name: _HEADER_NAME.fullmatch(name) is not None, _is_header_value
)
