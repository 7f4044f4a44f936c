"""Changes of a text, as a model asks for them: pure, no file is touched.

A model sees lines without knowing how they end, so it may write either line
end: what is searched is compared with all ends alike, and what is put in gets
the ends of what it replaces. Lines that are not changed keep theirs, mixed ones
too, and a text ends with a line end after the change if it did before.

Invariant: outside of what is replaced (and its very end) no character changes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.linediff import changes, lines_of
from atrio_agent.tools.output import counted

__all__ = ["Edit", "Edited", "apply_edit", "apply_edits", "rewritten"]

_MAX_NAMED: Final = 5
_MAX_PLACES: Final = 100_000


class Edit(NamedTuple):
    """Put ``new`` in place of ``old``: where it stands alone, or everywhere."""

    old: str
    new: str
    everywhere: bool = False


class Edited(NamedTuple):
    """The text after a change. ``loosely``: what was replaced had other spaces than were given."""

    text: str
    replaced: int
    loosely: bool


class _Piece(NamedTuple):
    """From here to there in the plain text, this is to stand."""

    start: int
    end: int
    new: str


class _Text:
    """A text with all line ends alike, and which of them were not."""

    def __init__(self, text: str) -> None:
        self.raw = text
        self.plain = _plain(text)
        self._wide = [match.start() - before for before, match in enumerate(re.finditer("\r\n", text))]
        self.is_mostly_wide = 2 * len(self._wide) > self.plain.count("\n")

    def with_pieces(self, pieces: Sequence[_Piece]) -> str:
        """The raw text with these pieces, which do not overlap and are in order."""
        made: list[str] = []
        at = 0
        for piece in pieces:
            start, end, new = self._narrowed(piece)
            made.append(self.raw[self._raw(at) : self._raw(start)])
            made.append(self._with_ends(new, start, end))
            at = end
        made.append(self.raw[self._raw(at) :])
        return "".join(made)

    def line_at(self, index: int) -> int:
        """The number of the line, from 1, in which this place is."""
        return self.plain.count("\n", 0, index) + 1

    def _narrowed(self, piece: _Piece) -> _Piece:
        """Without what is the same before and after, so that it is left as it is."""
        old, new = self.plain[piece.start : piece.end], piece.new
        longest = min(len(old), len(new))
        head = next((at for at in range(longest) if old[at] != new[at]), longest)
        longest -= head
        tail = next((at for at in range(longest) if old[-1 - at] != new[-1 - at]), longest)
        return _Piece(piece.start + head, piece.end - tail, new[head : len(new) - tail])

    def _with_ends(self, new: str, start: int, end: int) -> str:
        """The new text with the line ends of what it replaces; those of the whole, where there was none."""
        ends = [index for index in range(start, end) if self.plain[index] == "\n"]
        wide = [self._is_wide(index) for index in ends] or [self.is_mostly_wide]
        first, *others = new.split("\n")
        return first + "".join(
            ("\r\n" if wide[min(at, len(wide) - 1)] else "\n") + line for at, line in enumerate(others)
        )

    def _is_wide(self, index: int) -> bool:
        at = bisect_left(self._wide, index)
        return at < len(self._wide) and self._wide[at] == index

    def _raw(self, index: int) -> int:
        return index + bisect_left(self._wide, index)


def apply_edits(text: str, edits: Sequence[Edit]) -> list[Edited]:
    """Do one after the other; each sees what the one before has made.

    Returns:
        What each came to. The last one has the whole text.

    Raises:
        ToolFailed: One cannot be done, or nothing changes.
    """
    done: list[Edited] = []
    for number, edit in enumerate(edits, start=1):
        try:
            done.append(apply_edit(done[-1].text if done else text, edit))
        except ToolFailed as exc:
            if len(edits) == 1:
                raise
            raise ToolFailed(f"Edit {number} of {len(edits)}: {exc} None of the edits was made.") from exc
    last = done[-1]._replace(text=_ending_as(text, done[-1].text))
    if last.text == text:
        raise ToolFailed("That changes nothing: the file would be as it is. Whether it ends with a line end is kept.")
    return [*done[:-1], last]


def apply_edit(text: str, edit: Edit) -> Edited:
    """Do one change.

    Raises:
        ToolFailed: What is to be replaced is empty, is not there, or is there
            more than once and not all are meant.
    """
    if not edit.old:
        raise ToolFailed("'old' is empty, which makes a new file, but this file is there and not empty.")
    whole, old, new = _Text(text), _plain(edit.old), _plain(edit.new)
    if old == new:
        raise ToolFailed("'old' and 'new' are the same.")
    exact = [_Piece(at, at + len(old), new) for at in islice(_occurrences(whole.plain, old), _MAX_PLACES + 1)]
    if len(exact) > _MAX_PLACES:
        raise ToolFailed(f"'old' is in the file more than {_MAX_PLACES:,} times. Give more of what surrounds it.")
    pieces = exact or list(_loose_pieces(whole.plain, old, new))
    if not pieces:
        raise ToolFailed(f"'old' is not in the file.{_hint(whole.plain, old)}")
    if edit.everywhere:
        pieces = list(_apart(pieces))
    elif len(pieces) > 1:
        lines = ", ".join(f"{whole.line_at(piece.start):,}" for piece in pieces[:_MAX_NAMED])
        more = ", …" if len(pieces) > _MAX_NAMED else ""
        manner = "is in the file" if exact else "is not in the file exactly, but with other spaces"
        raise ToolFailed(
            f"'old' {manner} {len(pieces):,} times (from lines {lines}{more}). Give more of what surrounds it, or set"
            " replaceAll."
        )
    return Edited(whole.with_pieces(pieces), len(pieces), loosely=not exact)


def rewritten(before: str, content: str) -> str:
    """A new content for a text that was there, with its line ends and its manner of ending.

    Raises:
        ToolFailed: Nothing changes.
    """
    if "\n" in before:
        whole = _Text(before)
        old, new = lines_of(whole.plain), lines_of(_plain(content))
        starts = [0]
        for line in old:
            starts.append(starts[-1] + len(line))
        after = whole.with_pieces(
            [
                _Piece(
                    starts[change.old_start], starts[change.old_end], "".join(new[change.new_start : change.new_end])
                )
                for change in changes(old, new)
            ]
        )
    else:
        after = content
    after = _ending_as(before, after)
    if after == before:
        raise ToolFailed("That changes nothing: the file has this content. Line ends are kept as they are.")
    return after


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def _occurrences(text: str, wanted: str) -> Iterator[int]:
    """Where it stands, also where two overlap."""
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)


def _apart(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """Those that do not overlap an earlier one."""
    free_from = 0
    for piece in pieces:
        if piece.start >= free_from:
            yield piece
            free_from = piece.end


def _loose_pieces(text: str, old: str, new: str) -> Iterator[_Piece]:
    """Whole lines that are the same but for spaces. What is put in is moved to the depth of what is there."""
    wanted = old.split("\n")
    takes_end = len(wanted) > 1 and not wanted[-1]
    if takes_end:
        wanted.pop()
    keys = [_key(line) for line in wanted]
    lead = next((index for index, key in enumerate(keys) if key), None)
    if lead is None:
        return
    lines = text.split("\n")
    there = [_key(line) for line in lines]
    start = 0
    for index, line in enumerate(lines):
        if there[index] == keys[0] and there[index : index + len(keys)] == keys:
            end = start + sum(len(each) + 1 for each in lines[index : index + len(keys)]) - (not takes_end)
            yield _Piece(start, min(end, len(text)), _moved(new, wanted[lead], lines[index + lead]))
        start += len(line) + 1


def _key(line: str) -> str:
    return " ".join(line.split())


def _moved(new: str, given: str, found: str) -> str:
    """The new text, its lines as much further in or out as the line that was found is than the one that was given."""
    was, now = given[: len(given) - len(given.lstrip())], found[: len(found) - len(found.lstrip())]
    return "\n".join(
        now + line[len(was) :] if line.strip() and line.startswith(was) else line for line in new.split("\n")
    )


def _hint(text: str, old: str) -> str:
    """Where the first of the wanted lines is, if it is there at all."""
    first = next((key for key in map(_key, old.split("\n")) if key), "")
    found = [number for number, line in enumerate(text.split("\n"), start=1) if first and _key(line) == first]
    if not found:
        return " Read the file again."
    times = "" if len(found) == 1 else f" and {counted(len(found) - 1, 'other')}"
    return f" Its first line is line {found[0]:,}{times}, but what follows differs. Read that place again."


def _ending_as(before: str, after: str) -> str:
    """The text after a change, ending with a line end if it did before, and without if not."""
    if not before or not after or before.endswith("\n") == after.endswith("\n"):
        return after
    if before.endswith("\n"):
        return after + ("\r\n" if before.endswith("\r\n") else "\n")
    while after.endswith("\n"):
        after = after.removesuffix("\n").removesuffix("\r")
    return after
