"""What a project tells every coding agent: `AGENTS.md`, or `CLAUDE.md` where there is none.

Read from the workspace's directory and its parents up to the root of its
repository, and nowhere else: what lies above belongs to somebody else. A link
that leads out of the repository is not followed, and what is no plain file is
not opened. Blocks: call it in a worker thread.
"""

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.confine import open_beneath
from atrio_agent.tools.output import shown

__all__ = ["MAX_FILE_BYTES", "MAX_TOTAL_BYTES", "NAMES", "Instructions", "read_instructions"]

NAMES: Final = ("AGENTS.md", "CLAUDE.md")
"""Of each directory the first that can be read counts."""

MAX_FILE_BYTES: Final = 24 * 1024
MAX_TOTAL_BYTES: Final = 48 * 1024
"""Of all files together; the nearest ones come first."""

_MAX_DIRECTORIES: Final = 32


class Instructions(NamedTuple):
    """The text of one file, perhaps cut, and where it came from."""

    path: str
    text: str


def read_instructions(root: Path, top: Path, closed: Sequence[Path] = ()) -> tuple[Instructions, ...]:
    """Read the instructions for a directory: those of the repository's root first, the nearest last.

    Args:
        root: The workspace, resolved.
        top: The root of its repository; the workspace itself where there is none.
        closed: What no tool may enter.
    """
    place = Place(root=top, session_id="", run_id="", tool_call_id="", closed=tuple(closed))
    owners = {os.geteuid(), root.stat().st_uid}
    found: list[Instructions] = []
    left_bytes = MAX_TOTAL_BYTES
    for directory in (root, *root.parents)[:_MAX_DIRECTORIES]:
        trio.from_thread.check_cancelled()
        for name in NAMES:
            data = _read(str(directory / name), place, owners if directory != root else None, MAX_FILE_BYTES + 4)
            if data is not None and data.strip():
                text = _cut(data, min(MAX_FILE_BYTES, left_bytes))
                left_bytes -= len(text.encode())
                found.append(Instructions(shown(os.path.relpath(directory / name, root)), text))
                break
        if directory == top or left_bytes <= 0:
            break
    return tuple(reversed(found))


def _read(path: str, place: Place, owners: set[int] | None, size_bytes: int) -> bytes | None:
    try:
        with open_beneath(path, place) as opened:
            if opened.is_dir or (owners is not None and opened.status.st_uid not in owners):
                return None
            with os.fdopen(opened.fd, "rb", closefd=False) as file:
                return file.read(size_bytes)
    except ToolFailed:
        return None


def _cut(data: bytes, max_bytes: int) -> str:
    """Text of at most so many bytes before the note that says it was cut, whole characters only."""
    kept = data[:max_bytes]
    # A character that the cut went through is left out, not shown as a broken one.
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(kept, final=len(data) <= max_bytes)
    text = text.removeprefix("\ufeff").replace("\0", "\ufffd").strip()
    return text if len(data) <= max_bytes else f"{text}\n[… cut here; read the file for the rest]"
