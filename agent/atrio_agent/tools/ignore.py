"""What of a directory is to be seen: `.gitignore` honoured, `.git` left out.

The rules are git's: those of the nearest `.gitignore` count first, in one file
the last that fits; what is beneath an ignored directory is ignored. Only files
inside the workspace are asked: neither the user's own ignore file nor those of
directories above. A directory that was named itself is shown even if the rules
above would hide it, and then they do not count beneath it either.

Nothing here follows a link. Everything here blocks: call it in a worker thread.
"""

import os
import re
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

import trio

from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.confine import Inside, LinkMet, Opened, closed_beneath, open_exactly
from atrio_agent.tools.globs import GlobMalformed, PathGlob, name_regex

__all__ = ["MAX_SEEN", "Entry", "Kind", "RuleFile", "View"]

MAX_SEEN: Final = 100_000
"""Entries that one walk gives before it ends."""

_MAX_DEPTH: Final = 64
_MAX_RULES_BYTES: Final = 256 * 1024
_MAX_RULES: Final = 2_000
_READ_HERE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Kind = Literal["file", "dir", "link", "other"]


class Entry(NamedTuple):
    """Something that a walk came by. ``parts`` begin below the start; ``target`` is where a link points."""

    parts: tuple[str, ...]
    kind: Kind
    mtime_ns: int = 0
    target: str = ""


class _PathRule(NamedTuple):
    place: int
    dirs_only: bool
    glob: PathGlob


class _NameRules:
    """Patterns for a bare name; the first that fits counts."""

    def __init__(self, rules: list[tuple[int, str]]) -> None:
        self._places = [place for place, _ in rules]
        # One expression with a group for each: which of a hundred patterns fits costs one match.
        self._pattern = re.compile("|".join(f"({regex})" for _, regex in rules)) if rules else None

    def find(self, name: str) -> int:
        """The place of the rule that fits, or -1."""
        match = self._pattern.fullmatch(name) if self._pattern else None
        return -1 if match is None or match.lastindex is None else self._places[match.lastindex - 1]


class RuleFile:
    """The rules of one `.gitignore`. A line that is no pattern is passed over.

    ``depth`` is the number of names that lead from the base to the file's directory.
    """

    def __init__(self, text: str, *, depth: int) -> None:
        self.depth = depth
        self._hides: list[bool] = []
        self._paths: list[_PathRule] = []
        names: list[tuple[int, bool, str]] = []
        for line in text.removeprefix("\ufeff").split("\n")[:_MAX_RULES]:
            pattern = _without_trailing_spaces(line.removesuffix("\r"))
            if not pattern or pattern.startswith("#"):
                continue
            place = len(self._hides)
            self._hides.append(not pattern.startswith("!"))
            pattern = pattern.removeprefix("!")
            dirs_only = pattern.endswith("/")
            pattern = pattern.removesuffix("/")
            try:
                if "/" in pattern:
                    self._paths.append(_PathRule(place, dirs_only, PathGlob(pattern.removeprefix("/"))))
                elif pattern:
                    names.append((place, dirs_only, name_regex(pattern)))
            except GlobMalformed:
                continue
        self._paths.reverse()
        names.reverse()
        self._for_dirs = _NameRules([(place, regex) for place, _, regex in names])
        self._for_files = _NameRules([(place, regex) for place, dirs_only, regex in names if not dirs_only])

    def decide(self, parts: Sequence[str], *, is_dir: bool) -> bool | None:
        """Whether an entry, given by its names below the base, is hidden; None if these rules say nothing of it."""
        place = (self._for_dirs if is_dir else self._for_files).find(parts[-1])
        for rule in self._paths:
            if rule.place < place:
                break
            if (is_dir or not rule.dirs_only) and rule.glob.matches(parts[self.depth :]):
                return self._hides[rule.place]
        return self._hides[place] if place >= 0 else None


Rules = tuple[RuleFile, ...]
"""The rules that count in a directory, the nearest first."""


class View:
    """What is to be seen beneath a directory that a tool was given.

    ``was_cut``: the last walk ended at `MAX_SEEN` entries, and there were more.

    Args:
        start: The directory, open as long as `walk` is used.
        closed: Directories that no tool may enter, beside those of the system; they are given and not entered.
    """

    def __init__(self, start: Opened, closed: Sequence[Path] = ()) -> None:
        self.was_cut = False
        self._fd = start.fd
        self._at: Inside = start.at
        self._to_start = start.at.parts
        self._closed = closed_beneath(start.at.resolved, closed)
        self._above = _rules_above(start.at)
        self._known: dict[tuple[str, ...], Rules | None] = {}

    @property
    def is_ruled_by_base_alone(self) -> bool:
        """Whether rules from above the start count, and all of them are the base directory's."""
        return [file.depth for file in self._above] == [0]

    def walk(
        self, *, max_depth: int = _MAX_DEPTH, enter: Callable[[tuple[str, ...]], bool] = lambda _parts: True
    ) -> Generator[Entry]:
        """Give what is to be seen, each directory before what is in it, names in byte order.

        Links are given and not followed; a directory that cannot be read is given and not entered.

        Args:
            max_depth: 1 for the start's own entries only.
            enter: Asked for each directory whether to go into it.

        Raises:
            trio.Cancelled: Whoever waits for this thread was cancelled.
        """
        with closing(self._level(self._fd, (), self._above, min(max_depth, _MAX_DEPTH), enter)) as entries:
            for count, entry in enumerate(entries):
                if count == MAX_SEEN:
                    self.was_cut = True
                    return
                yield entry

    def shows(self, parts: tuple[str, ...]) -> bool:
        """Whether `walk` would give this file, which someone else found."""
        rules = self._rules_in(parts[:-1])
        return rules is not None and parts not in self._closed and not self._is_hidden(parts, rules, is_dir=False)

    def _level(
        self,
        fd: int,
        parts: tuple[str, ...],
        above: Rules,
        depth: int,
        enter: Callable[[tuple[str, ...]], bool],
    ) -> Generator[Entry]:
        rules = _read_rules(fd, len(self._to_start) + len(parts), above)
        with os.scandir(fd) as scan:
            found = sorted(islice(scan, MAX_SEEN + 1), key=_name_bytes)
        for found_entry in found:
            trio.from_thread.check_cancelled()
            entry = _seen(found_entry, (*parts, found_entry.name), fd)
            is_dir = entry.kind == "dir"
            if self._is_hidden(entry.parts, rules, is_dir=is_dir):
                continue
            yield entry
            if not is_dir or depth == 1 or not enter(entry.parts) or entry.parts in self._closed:
                continue
            try:
                below = os.open(found_entry.name, _READ_HERE | os.O_DIRECTORY, dir_fd=fd)
            except OSError:
                continue
            try:
                yield from self._level(below, entry.parts, rules, depth - 1, enter)
            finally:
                os.close(below)

    def _is_hidden(self, parts: tuple[str, ...], rules: Rules, *, is_dir: bool) -> bool:
        return parts[-1] == ".git" or _hides(rules, (*self._to_start, *parts), is_dir=is_dir)

    def _rules_in(self, parts: tuple[str, ...]) -> Rules | None:
        """The rules that count in a directory; None if it is not to be seen itself."""
        if parts not in self._known:
            self._known[parts] = self._find_rules(parts)
        return self._known[parts]

    def _find_rules(self, parts: tuple[str, ...]) -> Rules | None:
        above = self._rules_in(parts[:-1]) if parts else self._above
        if above is None or parts in self._closed or (parts and self._is_hidden(parts, above, is_dir=True)):
            return None
        return _rules_at(self._at.base, (*self._to_start, *parts), above)


def _hides(rules: Rules, parts: Sequence[str], *, is_dir: bool) -> bool:
    for file in rules:
        decided = file.decide(parts, is_dir=is_dir)
        if decided is not None:
            return decided
    return False


def _rules_above(at: Inside) -> Rules:
    rules: Rules = ()
    for depth in range(len(at.parts)):
        rules = _rules_at(at.base, at.parts[:depth], rules)
        if _hides(rules, at.parts[: depth + 1], is_dir=True):
            return ()
    return rules


def _rules_at(base: Path, parts: tuple[str, ...], above: Rules) -> Rules:
    try:
        fd = open_exactly(base, parts)
    except (OSError, LinkMet, ToolFailed):
        return above
    try:
        return _read_rules(fd, len(parts), above)
    finally:
        os.close(fd)


def _read_rules(dir_fd: int, depth: int, above: Rules) -> Rules:
    try:
        if not stat.S_ISREG(os.stat(".gitignore", dir_fd=dir_fd, follow_symlinks=False).st_mode):
            return above
        with os.fdopen(os.open(".gitignore", _READ_HERE, dir_fd=dir_fd), "rb") as file:
            text = file.read(_MAX_RULES_BYTES).decode(errors="surrogateescape")
    except OSError:
        return above
    return (RuleFile(text, depth=depth), *above)


def _seen(entry: os.DirEntry[str], parts: tuple[str, ...], dir_fd: int) -> Entry:
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return Entry(parts, "link", status.st_mtime_ns, os.readlink(entry.name, dir_fd=dir_fd))
    except OSError:  # gone by now
        return Entry(parts, "other")
    kind = "dir" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
    return Entry(parts, kind, status.st_mtime_ns)


def _name_bytes(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _without_trailing_spaces(line: str) -> str:
    """Git drops them, unless a backslash keeps the first."""
    end = len(line.rstrip(" "))
    backslashes = end - len(line[:end].rstrip("\\"))
    return line[: end + 1] if backslashes % 2 else line[:end]
