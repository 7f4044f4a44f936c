"""The tools `glob` and `grep`: files by name, lines by content.

Both see what `ignore.View` shows. For `grep` ripgrep, where there is one, or
our own scan finds the lines in a process of its own; what is shown is then read
here, from a file opened without following a link, and only if the line stands
there. So what a link that was swapped in meanwhile leads to is never shown, and
both ways of searching look the same.
"""

import heapq
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
import trio

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.confine import (
    Inside,
    LinkMet,
    apparent_path,
    ask_to_read,
    closed_beneath,
    open_beneath,
    open_exactly,
)
from atrio_agent.tools.files import BINARY_PROBE_BYTES
from atrio_agent.tools.globs import GlobMalformed, Globs
from atrio_agent.tools.ignore import MAX_SEEN, View
from atrio_agent.tools.output import MAX_TITLE_CHARS, bounded, counted, cut_line, shown, shown_path
from atrio_agent.tools.ripgrep import (
    Found,
    PatternRefused,
    Search,
    SearchFailed,
    installed_ripgreps,
    is_usable,
    open_search,
    ripgrep_command,
    scan_command,
)
from atrio_agent.tools.threads import in_files_thread
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Glob", "GlobInput", "Grep", "GrepInput"]

_MAX_PATHS: Final = 500
_MAX_MATCHES: Final = 200
_MAX_MATCH_CHARS: Final = 500
_MAX_PATTERN_CHARS: Final = 4_096
_SEARCH_S: Final = 20.0
_PROBE_S: Final = 5.0
_MAX_REASON_CHARS: Final = 1_000
_PLAIN_PATH: Final = re.compile(r"[\w./ -]+")
_SIMPLE_NAMES: Final = re.compile(r"[\w.-]*\*[\w.-]*(?:\{[\w.,-]+\})?")

_PathOption = Annotated[str, msgspec.Meta(description="Where to search. Default: the workspace.")]


class GlobInput(ToolInput):
    pattern: Annotated[
        str,
        msgspec.Meta(
            description="Such as src/**/*.{ts,tsx}, relative to path.", min_length=1, max_length=_MAX_PATTERN_CHARS
        ),
    ]
    path: _PathOption | None = None


class Glob:
    """Find files by name, the newest first."""

    name: str = "glob"
    kind: ToolKind = "search"
    description: str = description_of("glob")
    input_type: type[ToolInput] = GlobInput

    def title(self, given: GlobInput) -> str:
        """Such as ``Find **/*.py in src``."""
        return _title("Find", given.pattern, given.path)

    def locations(self, given: GlobInput, place: Place) -> tuple[Location, ...]:
        """The directory."""
        return (Location(path=apparent_path(given.path or ".", place.root)),)

    async def ask(self, given: GlobInput, place: Place) -> Ask | None:
        """Ask where the directory is outside the workspace."""
        return await in_files_thread(ask_to_read, given.path or ".", place, self.title(given))

    async def run(self, given: GlobInput, place: Place) -> ToolOutcome:
        """Find.

        Raises:
            ToolFailed: The pattern is none, or ``path`` is no directory of the workspace.
        """
        globs = _globs("pattern", given.pattern)
        return await in_files_thread(_find, given, globs, place)


class GrepInput(ToolInput):
    pattern: Annotated[
        str,
        msgspec.Meta(description="A regular expression for one line.", min_length=1, max_length=_MAX_PATTERN_CHARS),
    ]
    path: Annotated[str, msgspec.Meta(description="A directory or a file. Default: the workspace.")] | None = None
    include: (
        Annotated[
            str,
            msgspec.Meta(
                description="Search only files that fit this glob, such as *.py.",
                min_length=1,
                max_length=_MAX_PATTERN_CHARS,
            ),
        ]
        | None
    ) = None
    literal: Annotated[bool, msgspec.Meta(description="The pattern is plain text.")] | None = None


class Grep:
    """Find lines by content.

    Args:
        ripgreps: Programs to try, in this order; our own scan, if none will do.
    """

    name: str = "grep"
    kind: ToolKind = "search"
    description: str = description_of("grep")
    input_type: type[ToolInput] = GrepInput

    def __init__(self, ripgreps: Sequence[Path] | None = None) -> None:
        self._ripgreps = list(installed_ripgreps() if ripgreps is None else ripgreps)
        self._is_tried = False

    def title(self, given: GrepInput) -> str:
        """Such as ``Search for TODO in src``."""
        return _title("Search for", given.pattern, given.path)

    def locations(self, given: GrepInput, place: Place) -> tuple[Location, ...]:
        """The directory or file."""
        return (Location(path=apparent_path(given.path or ".", place.root)),)

    async def ask(self, given: GrepInput, place: Place) -> Ask | None:
        """Ask where it searches outside the workspace."""
        return await in_files_thread(ask_to_read, given.path or ".", place, self.title(given))

    async def run(self, given: GrepInput, place: Place) -> ToolOutcome:
        """Search.

        Raises:
            ToolFailed: The pattern is none, ``path`` is not in the workspace, or
                nothing was found within the time limit.
        """
        if "\n" in given.pattern or "\0" in given.pattern:
            raise ToolFailed("'pattern' must fit in one line: no line end and no NUL in it.")
        include = None if given.include is None else _globs("include", given.include, anywhere=True)
        ripgrep = await self._choose()
        report = _Report()
        with trio.move_on_after(_SEARCH_S) as limit, ExitStack() as files:
            names = files.enter_context(tempfile.TemporaryFile()) if ripgrep is None else None
            ground = await in_files_thread(_survey, given, include, place, names)
            if ripgrep is None:
                command = scan_command(given.pattern, literal=bool(given.literal), max_lines=_MAX_MATCHES + 1)
            else:
                command = _ripgrep_command(ripgrep, given, ground)
            try:
                async with open_search(command, cwd=ground.at.base, names=names) as search:
                    await _collect(search, ground, report)
            except PatternRefused as exc:
                raise ToolFailed(f"'pattern' was refused: {str(exc)[:_MAX_REASON_CHARS]}") from exc
            except (OSError, SearchFailed) as exc:
                raise ToolFailed(f"The search broke off ({exc}). Try again with a narrower path.") from exc
        return report.outcome(timed_out=limit.cancelled_caught)

    async def _choose(self) -> Path | None:
        """The first ripgrep that will do, or None. Those that will not are tried only once."""
        while self._ripgreps and not self._is_tried:
            program = self._ripgreps[0]
            is_good = False
            with trio.move_on_after(_PROBE_S):
                is_good = await is_usable(program)
            if is_good:
                self._is_tried = True
            elif program in self._ripgreps:
                self._ripgreps.remove(program)
        return self._ripgreps[0] if self._ripgreps else None


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is searched. ``view`` is None for a single file."""

    at: Inside
    root: Path
    closed: tuple[Path, ...]
    include: Globs | None
    view: View | None
    ignore_file: str | None
    is_cut: bool

    def is_wanted(self, parts: tuple[str, ...]) -> bool:
        """Whether the file fits ``include``; ``parts`` begin at the base."""
        beneath = parts[len(self.at.parts) :] or parts[-1:]
        return self.include is None or self.include.matches(beneath)


class _Report:
    """What was found so far, ready to be shown."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.overlong = 0
        self.is_cut = False

    @property
    def is_full(self) -> bool:
        return len(self.rows) > _MAX_MATCHES

    def outcome(self, *, timed_out: bool) -> ToolOutcome:
        """The result.

        Raises:
            ToolFailed: The time limit was met before anything was found.
        """
        notes: list[str] = []
        if timed_out:
            if not self.rows:
                raise ToolFailed(
                    f"Nothing was found within {_SEARCH_S:.0f} s, and the search was stopped. Narrow it with path or"
                    " include, or simplify the pattern."
                )
            notes.append(f"[Stopped after {_SEARCH_S:.0f} s; there may be more.]")
        if self.is_full:
            notes.append(f"[The first {_MAX_MATCHES} lines; there are more. Narrow pattern, path or include.]")
        if self.is_cut:
            notes.append(f"[Only the first {MAX_SEEN:,} files and directories were looked at.]")
        if self.overlong:
            notes.append(f"[{counted(self.overlong, 'very long line')} not shown.]")
        rows = self.rows[:_MAX_MATCHES] or ["No matches."]
        text, left_out = bounded("\n".join(rows + notes))
        return text_outcome(text, truncated=bool(notes or left_out))


def _survey(given: GrepInput, include: Globs | None, place: Place, names: IO[bytes] | None) -> _Ground:
    """Look at what is to be searched; with ``names``, write there the files that our own scan is to search."""
    with open_beneath(given.path or ".", place) as opened:
        at = opened.at
        view = View(opened, place.closed) if opened.is_dir else None
        ground = _Ground(at, place.root, place.closed, include, view, None, is_cut=False)
        if view is not None:
            has_rules = view.is_ruled_by_base_alone and (at.base / ".gitignore").is_file()
            ground = replace(ground, ignore_file=".gitignore" if has_rules else None)
        if names is not None:
            for parts in _files(ground):
                names.write(os.fsencode("/".join(parts)) + b"\0")
            names.seek(0)
            ground = replace(ground, is_cut=view is not None and view.was_cut)
    return ground


def _files(ground: _Ground) -> Iterator[tuple[str, ...]]:
    if ground.view is None:
        yield ground.at.parts
        return
    for entry in ground.view.walk():
        parts = (*ground.at.parts, *entry.parts)
        if entry.kind == "file" and ground.is_wanted(parts):
            yield parts


def _ripgrep_command(program: Path, given: GrepInput, ground: _Ground) -> list[str]:
    only_names = given.include if given.include and _SIMPLE_NAMES.fullmatch(given.include) else None
    base = ground.at.base
    return ripgrep_command(
        program,
        given.pattern,
        "/".join(ground.at.parts),
        literal=bool(given.literal),
        max_lines=_MAX_MATCHES + 1,
        ignore_file=ground.ignore_file,
        leave_out=_left_out(base, ground.closed),
        only_names=only_names,
    )


def _left_out(base: Path, closed: Sequence[Path]) -> list[str]:
    """Globs for the closed trees. Only to save time: what is found in them is not shown anyway."""
    trees = sorted("/" + "/".join(parts) for parts in closed_beneath(base, closed))
    return [tree for tree in trees if _PLAIN_PATH.fullmatch(tree)]


async def _collect(search: Search, ground: _Ground, report: _Report) -> None:
    report.is_cut = ground.is_cut
    while not report.is_full and (found := await search.next_found()) is not None:
        report.overlong = search.overlong
        if not found.is_binary and ground.is_wanted(tuple(found.path.split("/"))):
            report.rows += await in_files_thread(_confirm, found, ground)
    report.overlong = search.overlong


def _confirm(found: Found, ground: _Ground) -> list[str]:
    """The lines as they stand in the file, opened our way; none if it is not ours to show."""
    parts = tuple(found.path.split("/"))
    if ground.view is not None and not ground.view.shows(parts[len(ground.at.parts) :]):
        return []
    try:
        fd = open_exactly(ground.at.base, parts)
    except (OSError, LinkMet, ToolFailed):
        return []
    name = shown_path(ground.at.base.joinpath(*parts), ground.root)
    try:
        if b"\0" in os.pread(fd, BINARY_PROBE_BYTES, 0):
            return []
        return [
            f"{name}:{line.number}: {_line_text(line.raw)}"
            for line in found.lines
            if os.pread(fd, len(line.raw), line.offset_bytes) == line.raw
        ]
    except OSError:  # a directory by now, or the disk fails
        return []
    finally:
        os.close(fd)


def _line_text(raw: bytes) -> str:
    text = raw.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace")
    return cut_line(text, max_chars=_MAX_MATCH_CHARS, size_bytes=len(raw))


def _find(given: GlobInput, globs: Globs, place: Place) -> ToolOutcome:
    path = given.path or "."
    with open_beneath(path, place) as opened:
        if not opened.is_dir:
            raise ToolFailed(f"'{shown(path)}' is a file; 'path' must be a directory.")
        view = View(opened, place.closed)
        total = itertools.count()
        newest = heapq.nsmallest(
            _MAX_PATHS,
            (
                (-entry.mtime_ns, entry.parts, next(total))
                for entry in view.walk(enter=globs.may_match_beneath)
                if entry.kind in {"file", "link"} and globs.matches(entry.parts)
            ),
        )
    found = next(total)
    rows = [shown_path(opened.at.resolved.joinpath(*parts), place.root) for _, parts, _ in newest]
    notes: list[str] = []
    if found > len(newest):
        notes.append(f"[The newest {_MAX_PATHS} of {found:,}. Narrow pattern or path.]")
    if view.was_cut:
        notes.append(f"[Only the first {MAX_SEEN:,} files and directories were looked at.]")
    text, left_out = bounded("\n".join((rows or ["No files match."]) + notes))
    return text_outcome(text, truncated=bool(notes or left_out))


def _globs(parameter: str, pattern: str, *, anywhere: bool = False) -> Globs:
    try:
        return Globs(pattern, anywhere=anywhere)
    except GlobMalformed as exc:
        raise ToolFailed(f"'{parameter}' {shown(pattern, max_chars=80)} is not a usable pattern: {exc}.") from exc


def _title(verb: str, pattern: str, path: str | None) -> str:
    place = f" in {shown(path, max_chars=MAX_TITLE_CHARS // 2)}" if path else ""
    return f"{verb} {shown(pattern, max_chars=MAX_TITLE_CHARS // 2)}{place}"
