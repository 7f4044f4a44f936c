"""On which line of a TOML text each key is written: what `tomllib` does not tell.

The text is known to be TOML, so it can be taken apart with `tomllib` itself: a
statement is the fewest lines from where the last one ended that parse. No line
before the last can end it, since a string or bracket that is still open does
not parse.

The effort is bounded: after `MAX_EFFORT_CHARS` that were parsed in vain, what
comes later has no line. A line is for people; nothing is decided by it.
"""

import tomllib
from collections.abc import Generator
from typing import Final, cast

__all__ = ["MAX_EFFORT_CHARS", "key_lines"]

MAX_EFFORT_CHARS: Final = 4 * 1024 * 1024

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """The first line of each key, from 1, by the names that lead to it. Keys of lists of tables have none."""
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _statements(text):
        keys = list(_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            table = max(keys, key=len, default=())
            keys = [table[:length] for length in range(1, len(table) + 1)]
        else:
            keys = [(*table, *key) for key in keys]
        for key in keys:
            lines.setdefault(key, number)
    return lines


def _statements(text: str) -> Generator[tuple[int, str]]:
    begun, statement, effort = 0, "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            begun = number
        statement += line + "\n"
        try:
            is_something = bool(tomllib.loads(statement))
        except (ValueError, RecursionError):
            effort += len(statement)
            if effort > MAX_EFFORT_CHARS:
                return
            continue
        if is_something:
            yield begun, statement
        statement = ""


def _paths(table: dict[str, object]) -> Generator[Path]:
    for key, value in table.items():
        yield (key,)
        if isinstance(value, dict):
            for below in _paths(cast("dict[str, object]", value)):
                yield (key, *below)
