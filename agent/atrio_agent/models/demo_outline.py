"""The demo model's outline of one file, from its lines.

By patterns for the common languages, not by parsing: what is found is a line
that looks like a definition or a heading, with its number.
"""

import re
from pathlib import PurePosixPath
from textwrap import fill
from typing import Final

__all__ = ["outline"]

_CODE: Final = re.compile(
    r"(?P<indent>\s*)(?P<what>(?:export\s+|default\s+|pub(?:\([^)]*\))?\s+|public\s+|private\s+|static\s+|abstract\s+|"
    r"final\s+|async\s+)*(?:def|class|func|fn|function|interface|struct|enum|trait|impl|type|module|protocol)\b"
    r"\s*[\w<(*&].*)"
)
_HEADING: Final = re.compile(r"(?P<indent>)(?P<what>#{1,4}\s+\S.*)")
_SECTION: Final = re.compile(r"(?P<indent>)(?P<what>\[{1,2}[^\]]+\]{1,2})\s*(?:#.*)?")
_IMPORT: Final = re.compile(r"(?:import|from|use|require|#include|using)\b.*")
_PATTERNS: Final = {".md": _HEADING, ".markdown": _HEADING, ".toml": _SECTION, ".ini": _SECTION, ".cfg": _SECTION}
_ENTRIES: Final = 40
_CHARS: Final = 90
_ABOUT_CHARS: Final = 300
_COLUMNS: Final = 96


def outline(path: str, lines: list[str], *, note: str = "") -> str:
    """Say how long a file is, what it says of itself and what it defines.

    Args:
        path: Its name, which tells the language.
        lines: What was read of it.
        note: What `read` said about lines that it left out.
    """
    if not lines:
        return f"{path} has no text.\n"
    pattern = _PATTERNS.get(PurePosixPath(path).suffix.lower(), _CODE)
    found = [(number, match) for number, line in enumerate(lines, 1) if (match := pattern.match(line))]
    imports = sum(1 for line in lines if _IMPORT.match(line))
    size = f"{path}: {len(lines):,} line{'' if len(lines) == 1 else 's'}"
    if imports and pattern is _CODE:
        size += f", {imports} {'import' if imports == 1 else 'imports'}"
    parts = [f"{size}." + (f" {note}" if note else ""), _about(lines), _entries(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(lines: list[str]) -> str:
    """The first docstring or comment."""
    words: list[str] = []
    for line in lines[:30]:
        text = line.strip()
        if text.startswith(("#!", "<?", "// @", "/* eslint")):
            continue
        bare = text.strip("/*#\"'-=<!> ")
        is_comment = text.startswith(("#", "//", "/*", "*", '"""', "'''", "--", "<!--")) or bool(words)
        if is_comment and bare:
            words.append(bare)
        elif words or text:
            break
    about = " ".join(words)
    about = about if len(about) <= _ABOUT_CHARS else about[: _ABOUT_CHARS - 1] + "…"
    return fill(about, _COLUMNS, initial_indent="  ", subsequent_indent="  ")


def _entries(found: list[tuple[int, re.Match[str]]]) -> str:
    rows = [f"  {number:>5}  {_clean(match)}" for number, match in found[:_ENTRIES]]
    if len(found) > _ENTRIES:
        rows.append(f"         … and {len(found) - _ENTRIES} more")
    return "\n".join(rows)


def _clean(match: re.Match[str]) -> str:
    indent = match["indent"].replace("\t", "    ")
    what = f"{indent}{match['what'].rstrip().rstrip('{:').rstrip()}"
    return what if len(what) <= _CHARS else what[: _CHARS - 1] + "…"
