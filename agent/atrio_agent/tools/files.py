"""The tools `read` and `ls`: one file's lines, one directory's tree.

Both say what they left out and how to get it. Files are read line by line and
never as a whole, so that a huge one costs no more memory than what is shown.
What may be opened at all is decided in `confine`, not here.
"""

import codecs
import io
import os
from typing import Annotated, Final

import msgspec
import trio

from atrio_agent.ask import Ask
from atrio_agent.tools.base import (
    FileSeen,
    Place,
    ToolFailed,
    ToolInput,
    ToolOutcome,
    description_of,
    text_outcome,
)
from atrio_agent.tools.confine import Opened, apparent_path, ask_to_read, open_beneath
from atrio_agent.tools.images import MAX_IMAGE_BYTES, image_outcome, image_type
from atrio_agent.tools.output import MAX_TITLE_CHARS, bounded, counted, cut_line, shown, shown_path
from atrio_agent.tools.sight import see
from atrio_agent.tools.threads import in_files_thread
from atrio_agent.tools.tree import tree_of
from atrio_protocol.parts import Location, ToolKind
from atrio_protocol.struct import UNSET

__all__ = ["BINARY_PROBE_BYTES", "Ls", "LsInput", "Read", "ReadInput"]

BINARY_PROBE_BYTES: Final = 8_192
"""A file with a NUL in its first bytes, this many, is no text."""

_DEFAULT_LINES: Final = 2_000
_MAX_LINES: Final = 10_000
_MAX_READ_CHARS: Final = 100_000
_MAX_LINE_CHARS: Final = 2_000
_LINE_BYTES: Final = 4 * _MAX_LINE_CHARS + 16
"""What is read of one line: more than is shown of it, however wide its characters are."""

_CHUNK_BYTES: Final = 256 * 1024
_COUNTED_BYTES: Final = 16 * 1024 * 1024
"""Files up to this size are read to their end to tell how many lines they have."""

_DEFAULT_DEPTH: Final = 2
_MAX_DEPTH: Final = 20
_MAX_ENTRIES: Final = 1_000


class ReadInput(ToolInput):
    path: Annotated[str, msgspec.Meta(description="The file, relative to the workspace or absolute.")]
    offset: Annotated[int, msgspec.Meta(description="The first line to read, from 1.", ge=1)] | None = None
    limit: (
        Annotated[int, msgspec.Meta(description="How many lines to read. Default 2000.", ge=1, le=_MAX_LINES)] | None
    ) = None


class Read:
    """Show lines of a text file, numbered, or an image; and remember what the file was."""

    name: str = "read"
    kind: ToolKind = "read"
    description: str = description_of("read")
    input_type: type[ToolInput] = ReadInput

    def title(self, given: ReadInput) -> str:
        """Such as ``Read src/a.py from line 10``."""
        start = f" from line {given.offset:,}" if given.offset else ""
        return f"Read {shown(given.path, max_chars=MAX_TITLE_CHARS)}{start}"

    def locations(self, given: ReadInput, place: Place) -> tuple[Location, ...]:
        """The file, and the line where reading begins."""
        return (Location(path=apparent_path(given.path, place.root), line=given.offset or UNSET),)

    async def ask(self, given: ReadInput, place: Place) -> Ask | None:
        """Ask where the file is outside the workspace."""
        return await in_files_thread(ask_to_read, given.path, place, self.title(given))

    async def run(self, given: ReadInput, place: Place) -> ToolOutcome:
        """Read.

        Raises:
            ToolFailed: It is not a file of the workspace, or has fewer lines.
        """
        outcome, path, seen = await in_files_thread(_read, given, place)
        if seen is not None:
            place.seen[path] = seen
        return outcome


class LsInput(ToolInput):
    path: Annotated[str, msgspec.Meta(description="The directory. Default: the workspace.")] | None = None
    depth: (
        Annotated[int, msgspec.Meta(description="How many levels to show. Default 2.", ge=1, le=_MAX_DEPTH)] | None
    ) = None


class Ls:
    """Show a directory as a tree."""

    name: str = "ls"
    kind: ToolKind = "read"
    description: str = description_of("ls")
    input_type: type[ToolInput] = LsInput

    def title(self, given: LsInput) -> str:
        """Such as ``List src``."""
        return f"List {shown(given.path or '.', max_chars=MAX_TITLE_CHARS)}"

    def locations(self, given: LsInput, place: Place) -> tuple[Location, ...]:
        """The directory."""
        return (Location(path=apparent_path(given.path or ".", place.root)),)

    async def ask(self, given: LsInput, place: Place) -> Ask | None:
        """Ask where the directory is outside the workspace."""
        return await in_files_thread(ask_to_read, given.path or ".", place, self.title(given))

    async def run(self, given: LsInput, place: Place) -> ToolOutcome:
        """List.

        Raises:
            ToolFailed: It is not a directory of the workspace.
        """
        return await in_files_thread(_list, given, place)


def _read(given: ReadInput, place: Place) -> tuple[ToolOutcome, str, FileSeen | None]:
    """What is shown; the file's path; what it was, or None if it changed meanwhile or is too large to be changed."""
    with open_beneath(given.path, place) as opened:
        if opened.is_dir:
            raise ToolFailed(f"'{shown(given.path)}' is a directory. List it with ls.")
        outcome = _read_opened(opened, given)
        return outcome, str(opened.at.resolved), see(opened.fd, opened.status)


def _read_opened(opened: Opened, given: ReadInput) -> ToolOutcome:
    size = opened.status.st_size
    with os.fdopen(opened.fd, "rb", closefd=False) as file:
        head = file.read(BINARY_PROBE_BYTES)
        mime_type = image_type(head)
        if mime_type is not None and size <= MAX_IMAGE_BYTES:
            return image_outcome(shown(given.path), mime_type, head + file.read(MAX_IMAGE_BYTES - len(head)))
        if mime_type is not None:
            return text_outcome(
                f"'{shown(given.path)}' is an image ({mime_type}) of {counted(size, 'byte')}; not shown:"
                f" the limit is {MAX_IMAGE_BYTES:,}."
            )
        if b"\0" in head:
            return text_outcome(f"'{shown(given.path)}' is a binary file of {counted(size, 'byte')}; not shown.")
        file.seek(0)
        return _read_text(file, given, size)


def _read_text(file: io.BufferedReader, given: ReadInput, size_bytes: int) -> ToolOutcome:
    first = given.offset or 1
    name = shown(given.path)
    before = _skip_lines(file, first - 1)
    if before < first - 1:
        if not before:
            raise ToolFailed(f"'{name}' is empty.")
        raise ToolFailed(f"'{name}' has {counted(before, 'line')}; there is no line {first:,}.")
    shown_lines, is_cut = _take_lines(file, first, given.limit or _DEFAULT_LINES)
    if not shown_lines:
        if first == 1:
            return text_outcome(f"'{name}' is empty.")
        raise ToolFailed(f"'{name}' has {counted(before, 'line')}; there is no line {first:,}.")
    last = first + len(shown_lines) - 1
    text = "\n".join(shown_lines)
    if file.peek(1):
        total = ""
        if size_bytes <= _COUNTED_BYTES:
            total = f" of {last + _skip_lines(file, None):,}"
        text += f"\n\n[Lines {first:,} to {last:,}{total} shown. Read on with offset={last + 1}.]"
        return text_outcome(text, truncated=True)
    if first > 1:
        text += f"\n\n[Lines {first:,} to {last:,} shown, to the end of the file.]"
    return text_outcome(text, truncated=is_cut)


def _take_lines(file: io.BufferedReader, first: int, limit: int) -> tuple[list[str], bool]:
    """The next lines, numbered, as many as fit; and whether one of them was cut."""
    lines: list[str] = []
    chars = 0
    is_cut = False
    for number in range(first, first + limit):
        trio.from_thread.check_cancelled()
        start = file.tell()
        raw = file.readline(_LINE_BYTES)
        if not raw:
            break
        size_bytes = len(raw) + (0 if raw.endswith(b"\n") else _skip_to_line_end(file))
        if start == 0:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        line = raw.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace").replace("\0", "\ufffd")
        row = f"{number:6}\t{cut_line(line, max_chars=_MAX_LINE_CHARS, size_bytes=size_bytes)}"
        if lines and chars + len(row) > _MAX_READ_CHARS:
            file.seek(start)
            break
        is_cut = is_cut or len(line) > _MAX_LINE_CHARS
        lines.append(row)
        chars += len(row) + 1
    return lines, is_cut


def _skip_to_line_end(file: io.BufferedReader) -> int:
    """Skip the rest of a line; how many bytes that was."""
    skipped = 0
    while piece := file.readline(_CHUNK_BYTES):
        trio.from_thread.check_cancelled()
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _skip_lines(file: io.BufferedReader, count: int | None) -> int:
    """Skip lines, or all there are; how many that was. A last line needs no line end to count."""
    skipped = 0
    last = b"\n"
    while count is None or skipped < count:
        trio.from_thread.check_cancelled()
        chunk = file.read(_CHUNK_BYTES)
        if not chunk:
            return skipped if last == b"\n" else skipped + 1
        ends = chunk.count(b"\n")
        if count is not None and skipped + ends >= count:
            at = -1
            for _ in range(count - skipped):
                at = chunk.index(b"\n", at + 1)
            file.seek(at + 1 - len(chunk), os.SEEK_CUR)
            return count
        skipped += ends
        last = chunk[-1:]
    return skipped


def _list(given: LsInput, place: Place) -> ToolOutcome:
    path = given.path or "."
    with open_beneath(path, place) as opened:
        if not opened.is_dir:
            raise ToolFailed(f"'{shown(path)}' is a file. Read it with read.")
        tree = tree_of(opened, place.closed, depth=given.depth or _DEFAULT_DEPTH, max_entries=_MAX_ENTRIES)
    name = shown_path(opened.at.resolved, place.root)
    if not tree.lines:
        return text_outcome(f"{name}/ is empty, or all in it is ignored.")
    lines = [f"{name}/", *tree.lines]
    if tree.left_out:
        more = "at least " if tree.was_cut else ""
        lines.append(f"[{more}{counted(tree.left_out, 'entry', 'entries')} left out. List a directory further down.]")
    text, cut_chars = bounded("\n".join(lines))
    return text_outcome(text, truncated=bool(tree.left_out or cut_chars))
