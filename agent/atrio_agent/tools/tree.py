"""A directory as an indented tree, bounded, with what is missing counted.

The upper levels come first, and of each directory its first entries, so that no
large one pushes out its neighbours. What is to be seen at all is decided in
`ignore`. Blocks: call it in a worker thread.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from atrio_agent.tools.confine import Opened
from atrio_agent.tools.ignore import MAX_SEEN, Entry, View
from atrio_agent.tools.output import shown

__all__ = ["Tree", "tree_of"]


class Tree(NamedTuple):
    """The lines below the directory's own; how many entries they leave out, or at least how many."""

    lines: list[str]
    left_out: int
    was_cut: bool


def tree_of(
    opened: Opened, closed: Sequence[Path] = (), *, depth: int, max_entries: int, max_seen: int = MAX_SEEN
) -> Tree:
    """Draw a directory.

    Args:
        opened: The directory.
        closed: What no tool may enter.
        depth: 1 for its own entries only.
        max_entries: How many are shown.
        max_seen: After so many the walk ends, and what lies behind is not counted.

    Raises:
        trio.Cancelled: Whoever waits for this thread was cancelled.
    """
    view = View(opened, closed)
    in_each: defaultdict[tuple[str, ...], int] = defaultdict(int)
    with closing(view.walk(max_depth=depth)) as walk:
        seen = islice(walk, max_seen)
        kept = [entry for _, _, entry in heapq.nsmallest(max_entries, _ranked(seen, in_each))]
    total = sum(in_each.values())
    return Tree(_drawn(kept, in_each), total - len(kept), view.was_cut or total >= max_seen)


def _ranked(entries: Iterable[Entry], in_each: dict[tuple[str, ...], int]) -> Iterator[tuple[int, int, Entry]]:
    """Every entry with what decides whether it is shown; and count how many there are in each directory."""
    for entry in entries:
        parent = entry.parts[:-1]
        yield len(parent), in_each[parent], entry
        in_each[parent] += 1


def _drawn(kept: list[Entry], in_each: dict[tuple[str, ...], int]) -> list[str]:
    """The kept entries, indented; each directory says how many of its own are missing."""
    beneath: defaultdict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in kept:
        beneath[entry.parts[:-1]].append(entry)

    def show(parts: tuple[str, ...]) -> None:
        indent = "  " * (len(parts) + 1)
        for entry in beneath[parts]:
            lines.append(f"{indent}{_label(entry)}")
            if entry.kind == "dir":
                show(entry.parts)
        missing = in_each.get(parts, 0) - len(beneath[parts])
        if missing:
            lines.append(f"{indent}… {missing:,} more")

    lines: list[str] = []
    show(())
    return lines


def _label(entry: Entry) -> str:
    name = shown(entry.parts[-1])
    match entry.kind:
        case "dir":
            return f"{name}/"
        case "link":
            return f"{name} -> {shown(entry.target)}"
        case "other":
            return f"{name} (not a file)"
        case "file":
            return name
