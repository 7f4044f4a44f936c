"""The demo model's summary of a project, from what its tools returned.

Counting and quoting, nothing else: languages by their files, directories by
what is in them, the README's first words, the manifest's names, the lines where
a program begins. A part of which nothing was seen is left out.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from textwrap import fill
from typing import Final

from atrio_agent.models.demo_results import Match

__all__ = ["ENTRY_POINTS", "MANIFESTS", "Seen", "summary"]

MANIFESTS: Final = (
    "pyproject.toml",
    "package.json",
    "Cargo.toml",
    "go.mod",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "Gemfile",
    "composer.json",
    "mix.exs",
    "CMakeLists.txt",
    "setup.py",
    "Makefile",
)
"""Files that say what a project is, the most telling first."""

ENTRY_POINTS: Final = (
    r"^if __name__ == .__main__.|^func main\(|^(pub )?(async )?fn main\(|^int main\("
    r"|public static (async )?[a-zA-Z]+ [Mm]ain\(|^#!/usr/bin/env (node|python|ruby)"
)
"""A pattern for lines where a program begins."""

_LANGUAGES: Final = {
    "py": "Python", "pyi": "Python", "js": "JavaScript", "mjs": "JavaScript", "cjs": "JavaScript",
    "jsx": "JavaScript", "ts": "TypeScript", "tsx": "TypeScript", "go": "Go", "rs": "Rust", "java": "Java",
    "kt": "Kotlin", "kts": "Kotlin", "c": "C", "h": "C", "cc": "C++", "cpp": "C++", "hpp": "C++", "cs": "C#",
    "rb": "Ruby", "php": "PHP", "swift": "Swift", "scala": "Scala", "ex": "Elixir", "exs": "Elixir", "lua": "Lua",
    "sh": "shell", "bash": "shell", "sql": "SQL", "html": "HTML", "css": "CSS", "scss": "CSS", "vue": "Vue",
    "svelte": "Svelte", "md": "Markdown", "rst": "reStructuredText", "toml": "TOML", "yaml": "YAML", "yml": "YAML",
    "json": "JSON", "xml": "XML", "tf": "Terraform", "zig": "Zig", "hs": "Haskell", "dart": "Dart", "r": "R",
    "jl": "Julia", "ml": "OCaml", "clj": "Clojure", "proto": "Protocol Buffers", "ipynb": "notebooks",
}  # fmt: skip
_PROSE_AND_DATA: Final = {"Markdown", "reStructuredText", "TOML", "YAML", "JSON", "XML", "HTML", "CSS"}
_IMAGE: Final = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_MARKUP: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)|[*_`]|<[^>]+>")
_TOTAL: Final = re.compile(r"of ([\d,]+)\.")
_FIELD: Final = re.compile(r"""\s*"?(name|description|version|requires-python|module|license)"?\s*[=:]\s*"([^"]+)",?""")
_MODULE: Final = re.compile(r"(module|go)\s+(\S+)")
_STARTS_SHOWN: Final = 8
_DIRECTORIES_SHOWN: Final = 12
_README_CHARS: Final = 400
_COLUMNS: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the tools showed. ``note`` is the note of `glob` about files that it left out."""

    name: str
    tree: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    note: str = ""
    readme: str | None = None
    readme_lines: list[str] = field(default_factory=list[str])
    manifest: str | None = None
    manifest_lines: list[str] = field(default_factory=list[str])
    starts: list[Match] = field(default_factory=list[Match])


def summary(seen: Seen) -> str:
    """The whole text."""
    if not seen.files:
        return f"\n{seen.name} has no files yet, or none that are not ignored.\n"
    parts = [_headline(seen), _about(seen), _manifest(seen), _directories(seen), _starts(seen), _tests(seen)]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _headline(seen: Seen) -> str:
    total = _TOTAL.search(seen.note)
    number = total[1] if total else f"{len(seen.files):,}"
    languages = Counter(
        language for path in seen.files if (language := _LANGUAGES.get(PurePosixPath(path).suffix[1:].lower()))
    )
    # Code before prose and data, so that a well documented Python project is not called Markdown.
    ranked = sorted(languages.items(), key=lambda item: (item[0] in _PROSE_AND_DATA, -item[1], item[0]))
    counted = ", ".join(f"{name} {count}" for name, count in ranked[:6])
    newest = f" (of the {len(seen.files)} newest)" if total else ""
    line = f"{seen.name}: {number} {'file' if number == '1' else 'files'}"
    return f"{line}. By language{newest}: {counted}." if counted else f"{line}."


def _about(seen: Seen) -> str:
    paragraph: list[str] = []
    for raw in seen.readme_lines:
        line = _MARKUP.sub(lambda match: match[1] or "", _IMAGE.sub("", raw)).strip()
        is_text = bool(line) and line[0] not in "#=-|>" and not line.startswith(("```", ":::"))
        if is_text:
            paragraph.append(line)
        elif paragraph:
            break
    text = " ".join(paragraph)
    if not text:
        return ""
    text = text if len(text) <= _README_CHARS else text[: _README_CHARS - 1] + "…"
    return f"{seen.readme} begins:\n" + fill(text, _COLUMNS, initial_indent="  ", subsequent_indent="  ")


def _manifest(seen: Seen) -> str:
    if seen.manifest is None:
        return ""
    facts: dict[str, str] = {}
    for line in seen.manifest_lines:
        if found := _FIELD.fullmatch(line) or _MODULE.fullmatch(line):
            facts.setdefault(found[1], found[2])
    told = "; ".join(f"{name} {value}" for name, value in facts.items())
    return fill(f"{seen.manifest}{': ' + told if told else ' is there'}.", _COLUMNS, subsequent_indent="  ")


def _directories(seen: Seen) -> str:
    inside = Counter(path.split("/", 1)[0] for path in seen.files if "/" in path)
    shown = [line.strip() for line in seen.tree if line.strip().endswith("/")]
    # One without a file that was listed holds what is ignored or hidden.
    rows = [(name, count) for name in shown if (count := inside.get(name.rstrip("/"), 0))]
    rows.sort(key=lambda row: -row[1])
    if not rows:
        return ""
    width = max(len(name) for name, _ in rows[:_DIRECTORIES_SHOWN])
    lines = [
        f"  {name:<{width}}  {count:>5} {'file' if count == 1 else 'files'}"
        for name, count in rows[:_DIRECTORIES_SHOWN]
    ]
    if len(rows) > _DIRECTORIES_SHOWN:
        lines.append(f"  … and {len(rows) - _DIRECTORIES_SHOWN} more")
    return "\n".join(["Directories:", *lines])


def _starts(seen: Seen) -> str:
    # One line a file, and none for examples in documents; tests last, they begin nothing.
    first = {match.path: match for match in reversed(seen.starts) if not _is_prose(match.path)}
    if not first:
        return ""
    ranked = sorted(first.values(), key=lambda match: (_is_test(match.path), match.path.count("/"), match.path))
    lines = [f"  {match.path}:{match.line}" for match in ranked[:_STARTS_SHOWN]]
    more = len(ranked) - _STARTS_SHOWN
    return "\n".join(["Programs begin at:", *lines, *([f"  … and {more} more"] if more > 0 else [])])


def _tests(seen: Seen) -> str:
    count = sum(map(_is_test, seen.files))
    return f"Tests: {count} {'file' if count == 1 else 'files'}." if count else ""


def _is_prose(path: str) -> bool:
    return _LANGUAGES.get(PurePosixPath(path).suffix[1:].lower()) in _PROSE_AND_DATA


def _is_test(path: str) -> bool:
    parts = PurePosixPath(path.lower())
    return bool({"test", "tests", "__tests__", "spec"} & set(parts.parts[:-1])) or parts.name.startswith("test_")
