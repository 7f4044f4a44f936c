"""A question for a permission, as rows, and the answers to it.

All that the server says of the call is shown, and it is shown whole or with the
number of lines that are left out: nobody is to allow what they could not see.
"""

import json
import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from atrio_protocol.events import PermissionResolved
from atrio_protocol.parts import Diff
from atrio_protocol.struct import given
from atrio_protocol.things import Permission, PermissionKind, PermissionOutcome
from atrio_server.cli.terminal.clean import flat
from atrio_server.cli.terminal.diffs import diff_rows, short_path
from atrio_server.cli.terminal.rows import Row, Span, indented, row

__all__ = ["ANSWERS", "answer_of", "choice_rows", "option_for", "outcome_row", "question_rows"]

ANSWERS: Final[dict[str, PermissionKind]] = {
    "y": "allow_once",
    "yes": "allow_once",
    "1": "allow_once",
    "a": "allow_always",
    "always": "allow_always",
    "2": "allow_always",
    "n": "reject_once",
    "no": "reject_once",
    "3": "reject_once",
}
"""What people type, and what it means."""

_COUNTS: Final = re.compile(r"^(?:Makes|Changes) [^\n]*?: [\d,]+ lines? added(?:, [\d,]+ removed)?\. ?")
"""What a server says of a change that is shown anyway."""

DIFF_LINES: Final = 60
DETAIL_LINES: Final = 30

_CHOICES: Final[tuple[tuple[PermissionKind, str, str], ...]] = (
    ("allow_once", "y", "es"),
    ("allow_always", "a", "lways"),
    ("reject_once", "n", "o"),
)

_SAID: Final[dict[str, tuple[str, str]]] = {
    "allow_once": ("✓ ", "allowed once"),
    "allow_always": ("✓ ", "allowed for this session"),
    "reject_once": ("✗ ", "rejected"),
    "reject_always": ("✗ ", "rejected for this session"),
    "cancelled": ("⊘ ", "no longer asked: the run was cancelled"),
    "expired": ("✗ ", "not answered in time, and so not allowed"),
    "policy": ("· ", "decided by the server's policy"),
}


def question_rows(permission: Permission, *, directory: str = "", whole: bool = False) -> list[Row]:
    """What is asked: the title, and the command, the path, the input or the change that it is about."""
    by_child = ", for a sub-agent" if given(permission.root_session_id, "") else ""
    rows = [row(("? ", "warn"), (flat(permission.title), "strong"), (f"  needs permission{by_child}", "dim"))]
    most = 1_000_000 if whole else DIFF_LINES
    diffs: tuple[Diff, ...] = given(permission.diffs, ())
    path = given(permission.path, "")
    # Not as a terminal would show it in the end: what a control code hides there is run or written all the same.
    detail = given(permission.detail, "").strip("\n")
    if diffs:
        detail = _COUNTS.sub("", detail)
    if permission.name == "shell" and not detail:
        detail = str(permission.input.get("command", "")).strip("\n")
    if path and path not in {diff.path for diff in diffs}:
        rows.append(row("  ", (short_path(path, directory), "")))
    if detail and detail not in flat(permission.title):  # a short command is whole in the title
        lines = detail.split("\n")
        rows += indented("\n".join(lines[: most if whole else DETAIL_LINES]))
        if not whole and len(lines) > DETAIL_LINES:
            rows.append(row("  ", (f"… {len(lines) - DETAIL_LINES} more lines (d shows all)", "dim")))
    for diff in diffs:
        rows += diff_rows(diff, directory=directory, max_lines=most)
    if not diffs and not detail and not path and permission.input:
        rows.append(row("  ", flat(json.dumps(permission.input, ensure_ascii=False), max_chars=most if whole else 300)))
    return rows


def choice_rows(permission: Permission, *, directory: str = "") -> list[Row]:
    """What one may answer, and how far "always" goes."""
    kinds = {option.kind for option in permission.options}
    rows = [row((f"always: {_extent(permission, directory)}, in this session", "dim"))]
    return [*(rows if "allow_always" in kinds else ()), _choices_row(permission, directory)]


def _extent(permission: Permission, directory: str) -> str:
    """What an answer that lasts allows: the same tool, in the same place."""
    path = given(permission.path, "")
    match permission.name:
        case "shell":
            return f"any command in {_named(str(permission.input.get('cwd') or '.'), directory)}"
        case "fetch":
            return f"any page of {flat(urlsplit(str(permission.input.get('url', ''))).hostname or 'this host')}"
        case "write" | "edit" | "multi_edit" if path:
            return f"any {permission.name} in {_named(str(PurePosixPath(path).parent), directory)}"
        case "read" | "ls" | "glob" | "grep":
            return f"any {permission.name} in this place"
        case _:
            return "any call of this tool"


def _named(place: str, directory: str) -> str:
    short = short_path(place, directory)
    return "this directory" if short == "." else flat(short)


def _choices_row(permission: Permission, directory: str) -> Row:
    kinds = {option.kind for option in permission.options}
    spans: list[Span] = [("allow? ", "warn")]
    for kind, key, word in _CHOICES:
        if kind in kinds:
            spans.append((f"[{key}]", "strong"))
            spans.append((f"{word}  ", ""))
    shortened = question_rows(permission, directory=directory)
    if shortened != question_rows(permission, directory=directory, whole=True):
        spans.append(("[d]etails", "dim"))
    return row(*spans)


def option_for(permission: Permission, kind: PermissionKind) -> str | None:
    """The id of the option of this kind; of the other kind that says no more than it, if there is none."""
    others: dict[PermissionKind, PermissionKind] = {"allow_always": "allow_once", "reject_once": "reject_always"}
    for wanted in (kind, others.get(kind)):
        for option in permission.options:
            if option.kind == wanted:
                return option.option_id
    return None


def answer_of(typed: str) -> PermissionKind | None:
    """What somebody's answer means, if it is one."""
    return ANSWERS.get(typed.strip().lower())


def outcome_row(permission: Permission, resolved: PermissionResolved, own_id: str) -> Row:
    """What became of a question, and who answered it if it was somebody else."""
    outcome: PermissionOutcome = resolved.outcome
    mark, said = _SAID[outcome.kind]
    if outcome.kind == "policy":
        mark, said = _SAID.get(str(outcome.option_id), (mark, said))
        said += "" if mark == "· " else " by the server's policy"
    by = resolved.by
    if by and by.client_id != own_id:
        said += f" (answered by {flat(by.name, max_chars=64)})"
    good = mark.startswith("✓")
    return row((mark, "good" if good else "bad"), (f"{said}: {flat(permission.title, max_chars=60)}", "dim"))
