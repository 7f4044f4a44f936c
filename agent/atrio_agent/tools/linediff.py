"""Which lines of a text changed, and how that is written down.

Pure functions. Two texts that have little in common are not compared to the
end: what differs is then one change, so that the work stays bounded. Only a
line feed ends a line here; a carriage return belongs to its line.

Invariant: putting the new lines of all changes in place of their old ones makes
the new text of the old one.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["MAX_UNIFIED_CHARS", "Change", "changes", "lines_of", "unified"]

MAX_UNIFIED_CHARS: Final = 100_000
"""What is shown of a change; what is over it is counted."""

_CONTEXT: Final = 3
_MAX_STEPS: Final = 600
"""Lines taken out and put in that are looked for one by one."""


class Change(NamedTuple):
    """These old lines became these new ones. Ends are exclusive; one of the two may be empty."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def lines_of(text: str) -> list[str]:
    """The lines with their ends; the last one may have none."""
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def changes(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """What differs, in order, with at least one common line between two changes."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return [
        Change(*(start + index for index in change))
        for change in _differences(old[start : len(old) - end], new[start : len(new) - end])
    ]


def unified(name: str, old: str | None, new: str | None) -> str:
    """The change as a unified diff, bounded; empty if there is none.

    Args:
        name: How the file is called in it.
        old: What it held; None if it was not there.
        new: What it holds; None if it is gone.
    """
    old_lines, new_lines = lines_of(old or ""), lines_of(new or "")
    rows: list[str] = []
    for group in _grouped(changes(old_lines, new_lines)):
        rows += _hunk(group, old_lines, new_lines)
    if not rows and (old is None) == (new is None):
        return ""
    heads = f"--- {'/dev/null' if old is None else f'a/{name}'}\n+++ {'/dev/null' if new is None else f'b/{name}'}\n"
    text = heads + "".join(rows)
    left_out = len(text) - MAX_UNIFIED_CHARS
    return text if left_out <= 0 else f"{text[:MAX_UNIFIED_CHARS]}\n[… {left_out:,} characters left out …]\n"


def _differences(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Myers' greedy search for the fewest lines taken out and put in; one change where they are too many."""
    whole = Change(0, len(old), 0, len(new))
    if not old or not new:
        return [whole] if old or new else []
    furthest = {1: 0}
    trail: list[array[int]] = []
    for steps in range(min(len(old) + len(new), _MAX_STEPS) + 1):
        for diagonal in range(-steps, steps + 1, 2):
            came_from = _came_from(furthest, diagonal, steps)
            at = furthest[came_from] + (came_from < diagonal)
            while at < len(old) and at - diagonal < len(new) and old[at] == new[at - diagonal]:
                at += 1
            furthest[diagonal] = at
            if at >= len(old) and at - diagonal >= len(new):
                return _merged(_walked_back(trail, len(old), len(new)))
        trail.append(array("l", [furthest[diagonal] for diagonal in range(-steps, steps + 1, 2)]))
    return [whole]


def _came_from(furthest: Mapping[int, int], diagonal: int, steps: int) -> int:
    """The diagonal of the step before: the one above puts a new line in, the one below takes an old one out."""
    if diagonal == -steps or (diagonal != steps and furthest[diagonal - 1] < furthest[diagonal + 1]):
        return diagonal + 1
    return diagonal - 1


def _walked_back(trail: "Sequence[array[int]]", at_old: int, at_new: int) -> list[Change]:
    """The single steps that led there, first one first."""
    found: list[Change] = []
    for steps in range(len(trail), 0, -1):
        before = dict(zip(range(1 - steps, steps, 2), trail[steps - 1], strict=True))
        came_from = _came_from(before, at_old - at_new, steps)
        old_start, new_start = before[came_from], before[came_from] - came_from
        takes_out = came_from < at_old - at_new
        found.append(Change(old_start, old_start + takes_out, new_start, new_start + (not takes_out)))
        at_old, at_new = old_start, new_start
    return found[::-1]


def _merged(steps: Sequence[Change]) -> list[Change]:
    merged: list[Change] = []
    for step in steps:
        if merged and merged[-1].old_end == step.old_start and merged[-1].new_end == step.new_start:
            merged[-1] = merged[-1]._replace(old_end=step.old_end, new_end=step.new_end)
        else:
            merged.append(step)
    return merged


def _grouped(found: Sequence[Change]) -> Iterator[list[Change]]:
    """Changes whose surroundings touch belong together."""
    group: list[Change] = []
    for change in found:
        if group and change.old_start - group[-1].old_end > 2 * _CONTEXT:
            yield group
            group = []
        group.append(change)
    if group:
        yield group


def _hunk(group: Sequence[Change], old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    before = min(_CONTEXT, group[0].old_start)
    after = min(_CONTEXT, len(old) - group[-1].old_end)
    old_range = _range(group[0].old_start - before, group[-1].old_end + after)
    new_range = _range(group[0].new_start - before, group[-1].new_end + after)
    yield f"@@ -{old_range} +{new_range} @@\n"
    at = group[0].old_start - before
    for change in group:
        yield from (_row(" ", line) for line in old[at : change.old_start])
        yield from (_row("-", line) for line in old[change.old_start : change.old_end])
        yield from (_row("+", line) for line in new[change.new_start : change.new_end])
        at = change.old_end
    yield from (_row(" ", line) for line in old[at : at + after])


def _range(start: int, end: int) -> str:
    count = end - start
    first = start + 1 if count else start
    return f"{first}" if count == 1 else f"{first},{count}"


def _row(mark: str, line: str) -> str:
    return f"{mark}{line}" if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"
