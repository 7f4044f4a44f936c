"""Patterns for file names, matched so that no pattern can take long.

The usual way turns a whole pattern into one regular expression; five stars in
it then cost seconds on a long name, and while `re` works nothing else in this
process does. Patterns come from models and from the `.gitignore` of strangers.
So a path is matched name by name, ``**`` by following all ways through the
pattern at once, and within a name each star takes the first place that fits,
which it never has to give up: what is between two stars has a fixed length.

Works on names only; nothing here looks at a file.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

__all__ = ["GlobMalformed", "Globs", "PathGlob", "name_regex"]

_MAX_ALTERNATIVES: Final = 64
_BRACES: Final = re.compile(r"\\.|[{},]", re.DOTALL)


class GlobMalformed(Exception):
    """It is not a pattern. The message says why."""


class PathGlob:
    """One pattern for a whole path, without braces; ``**`` stands for any number of directories.

    Raises:
        GlobMalformed: A name in it is empty, a bracket is not closed, or a name ends in a backslash.
    """

    def __init__(self, pattern: str) -> None:
        names = pattern.split("/")
        if "" in names:
            raise GlobMalformed("a name in it is empty")
        if names[-1] == "**":
            names.append("*")  # what ends in "/**" is everything beneath, not the directory itself
        self._steps = [None if name == "**" else re.compile(name_regex(name)) for name in names]  # None: any depth

    def matches(self, parts: Sequence[str]) -> bool:
        """Whether the whole path fits."""
        return len(self._steps) in self._follow(parts)

    def may_match_beneath(self, parts: Sequence[str]) -> bool:
        """Whether something beneath this directory may fit."""
        return any(step < len(self._steps) for step in self._follow(parts))

    def _follow(self, parts: Sequence[str]) -> set[int]:
        here = self._skip({0})
        for part in parts:
            following: set[int] = set()
            for step in here:
                if step == len(self._steps):
                    continue
                name = self._steps[step]
                if name is None:
                    following.add(step)
                elif name.fullmatch(part):
                    following.add(step + 1)
            here = self._skip(following)
        return here

    def _skip(self, steps: set[int]) -> set[int]:
        """Add the steps that are reached by letting a ``**`` stand for no directory."""
        reached = set(steps)
        for step in steps:
            for following in range(step + 1, len(self._steps) + 1):
                if self._steps[following - 1] is not None:
                    break
                reached.add(following)
        return reached


class Globs:
    """A pattern as people write it: with ``{a,b}``.

    Args:
        pattern: Relative to where matching begins.
        anywhere: A pattern without a slash fits a name in any directory.

    Raises:
        GlobMalformed: As for `PathGlob`; or it is absolute, goes up by ``..``,
            or has too many alternatives.
    """

    def __init__(self, pattern: str, *, anywhere: bool = False) -> None:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise GlobMalformed("it must be relative and stay beneath its directory: give the directory as 'path'")
        self._globs: list[PathGlob] = []
        for single in _alternatives(pattern):
            trimmed = "/".join(name for name in single.split("/") if name not in {"", "."})
            if single.endswith("/"):
                trimmed += "/**"
            self._globs.append(PathGlob(f"**/{trimmed}" if anywhere and "/" not in trimmed else trimmed))

    def matches(self, parts: Sequence[str]) -> bool:
        """Whether the whole path fits one of the alternatives."""
        return any(glob.matches(parts) for glob in self._globs)

    def may_match_beneath(self, parts: Sequence[str]) -> bool:
        """Whether something beneath this directory may fit."""
        return any(glob.may_match_beneath(parts) for glob in self._globs)


def name_regex(pattern: str) -> str:
    """The regular expression, without groups, for one name: ``*``, ``?``, ``[a-z]``, ``[!a]`` and backslash.

    It is meant for `re.fullmatch` and takes time in proportion to pattern and name.

    Raises:
        GlobMalformed: A bracket is not closed, or the pattern ends in a backslash.
    """
    chunks = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "."
        elif char == "[":
            members, at = _character_class(pattern, at)
            chunks[-1] += members
        elif char == "\\":
            if at == len(pattern):
                raise GlobMalformed("it ends in a backslash")
            chunks[-1] += re.escape(pattern[at])
            at += 1
        else:
            chunks[-1] += re.escape(char)
    if len(chunks) == 1:
        return f"(?s:{chunks[0]})"
    between = "".join(f"(?>.*?{chunk})" for chunk in chunks[1:-1] if chunk)
    return f"(?s:{chunks[0]}{between}.*{chunks[-1]})"


def _character_class(pattern: str, at: int) -> tuple[str, int]:
    """Read the class whose bracket opened before ``at``; where it ends."""
    negated = pattern[at : at + 1] in {"!", "^"}
    at += negated
    members: list[str] = []
    first = at
    while at == first or pattern[at : at + 1] != "]":
        low, at = _member(pattern, at)
        if low == "[" and pattern[at : at + 1] == ":":
            raise GlobMalformed("named character classes are not supported")
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in {"]", ""}:
            high, at = _member(pattern, at + 1)
            if low <= high:
                members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(low))
    at += 1
    if not members:
        return ("." if negated else r"[^\s\S]"), at
    return f"[{'^' if negated else ''}{''.join(members)}]", at


def _member(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at : at + 1] == "\\":
        at += 1
    if at >= len(pattern):
        raise GlobMalformed("a bracket '[' is not closed")
    return pattern[at], at + 1


def _alternatives(pattern: str) -> list[str]:
    """All that the braces of a pattern stand for. Braces that do not pair up stand for themselves."""
    finished: list[str] = []
    todo = [pattern]
    while todo:
        current = todo.pop()
        group = _first_group(current)
        if group is None:
            finished.append(current)
            continue
        for left, right in pairwise(group):
            todo.append(current[: group[0]] + current[left + 1 : right] + current[group[-1] + 1 :])
        if len(todo) + len(finished) > _MAX_ALTERNATIVES:
            raise GlobMalformed(f"its braces stand for more than {_MAX_ALTERNATIVES} patterns")
    return finished


def _first_group(pattern: str) -> list[int] | None:
    """Where the brace opens that closes first, its commas, and where it closes."""
    opened: list[list[int]] = []
    for mark in _BRACES.finditer(pattern):
        if mark[0] == "{":
            opened.append([mark.start()])
        elif mark[0] == "," and opened:
            opened[-1].append(mark.start())
        elif mark[0] == "}" and opened:
            group = opened.pop()
            if len(group) > 1:
                return [*group, mark.start()]
    return None
