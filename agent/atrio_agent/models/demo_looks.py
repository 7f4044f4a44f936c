"""What the demo model does for `map`, `find` and `explain`: which tools it calls, and what it says then.

Each look is a function of the rounds of results so far and returns what comes
next: some text, and calls if it needs to see more. Everything it says was read
from a result; it has nothing else to go by.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from atrio_agent.models.demo_outline import outline
from atrio_agent.models.demo_results import Match, Round, file_lines, listed_paths, matches
from atrio_agent.models.demo_summary import ENTRY_POINTS, MANIFESTS, Seen, summary

__all__ = ["Call", "Look", "explain_look", "find_look", "map_look"]

_LINES_SHOWN: Final = 20
_LINE_CHARS: Final = 100
_READ_LINES: Final = 80
_KEY_FILES: Final = f"{{README*,readme*,Readme*,{','.join(MANIFESTS)}}}"

Call = tuple[str, Mapping[str, object]]


class Look(NamedTuple):
    """What comes next."""

    text: str
    calls: tuple[Call, ...] = ()


def map_look(rounds: tuple[Round, ...], root: str) -> Look:
    """Look round, read what describes the project, sum it up. ``root`` is the workspace, for its name."""
    if not rounds:
        calls = (("ls", {"depth": 1}), ("glob", {"pattern": "**/*"}), ("glob", {"pattern": _KEY_FILES}))
        return Look("Looking round this directory.\n", calls)
    key_files = listed_paths(_text_of(rounds[0], "glob", _KEY_FILES))
    readme = min((path for path in key_files if path.lower().startswith("readme")), default=None)
    manifest = next((name for name in MANIFESTS if name in key_files), None)
    if len(rounds) == 1:
        reads: list[Call] = [("read", {"path": path, "limit": _READ_LINES}) for path in (readme, manifest) if path]
        return Look("Reading what it says of itself.\n", (*reads, ("grep", {"pattern": ENTRY_POINTS})))
    everything = _text_of(rounds[0], "glob", "**/*")
    return Look(
        summary(
            Seen(
                name=PurePosixPath(root).name or "this directory",
                tree=_text_of(rounds[0], "ls").split("\n")[1:],
                files=listed_paths(everything),
                note=_note(everything),
                readme=readme,
                readme_lines=file_lines(_text_of(rounds[1], "read", readme)),
                manifest=manifest,
                manifest_lines=file_lines(_text_of(rounds[1], "read", manifest)),
                starts=matches(_text_of(rounds[1], "grep")),
            )
        )
    )


def find_look(rounds: tuple[Round, ...], text: str) -> Look:
    """Find a text as it stands."""
    if not rounds:
        return Look("", (("grep", {"pattern": text, "literal": True}),))
    result = rounds[0][0]
    if result.is_error:
        return Look(f"The search failed: {result.text}\n")
    found = matches(result.text)
    if not found:
        return Look(f"Nothing here contains “{text}”.\n")
    files = Counter(match.path for match in found)
    at_least = "At least " if "there are more" in result.text else ""
    head = f"{at_least}{_count(len(found), 'line')} in {_count(len(files), 'file')} with “{text}”:\n\n"
    rows = "\n".join(_row(match) for match in found[:_LINES_SHOWN])
    rest = len(found) - _LINES_SHOWN
    return Look(f"{head}{rows}\n" + (f"… and {_count(rest, 'line')} more.\n" if rest > 0 else ""))


def explain_look(rounds: tuple[Round, ...], path: str) -> Look:
    """Read a file and say what is in it; if there is none, name files of that name."""
    if not rounds:
        return Look("", (("read", {"path": path}),))
    result = rounds[0][0]
    if not result.is_error:
        return Look(outline(path, file_lines(result.text), note=_note(result.text)))
    if len(rounds) == 1:
        name = PurePosixPath(path).name or path
        return Look(f"{result.text}\n", (("glob", {"pattern": f"**/{name}*"}),))
    near = listed_paths(rounds[1][0].text) if not rounds[1][0].is_error else []
    if not near:
        return Look("No file here has a name like that.\n")
    return Look("Did you mean one of these?\n\n" + "\n".join(f"  explain {name}" for name in near[:10]) + "\n")


def _text_of(results: Round, name: str, what: str | None = None) -> str:
    """What a call returned, found by its tool and its path or pattern; nothing where it failed."""
    for result in results:
        if result.name == name and what in {None, result.input.get("path"), result.input.get("pattern")}:
            return "" if result.is_error else result.text
    return ""


def _note(text: str) -> str:
    last = text.rstrip().rpartition("\n")[2]
    return last.strip("[]") if last.startswith("[") else ""


def _row(match: Match) -> str:
    text = match.text.strip()
    return f"  {match.path}:{match.line}: {text if len(text) <= _LINE_CHARS else text[: _LINE_CHARS - 1] + '…'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
