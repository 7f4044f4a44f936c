"""The programs that may run without a question, and with which arguments.

One table says which programs only read and which of their options are known to
be harmless; an option that is not in it asks, and so does every path that leads
out of the workspace or to a closed directory, as things stand now. The list is
short on purpose: a question too many is a nuisance, one too few is an accident.

This is advice for a line that `commands` found plain. A link that is swapped
between the check and the run can still lead a program astray; it takes a
command that was allowed to swap one.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.commands import plain_commands
from atrio_agent.tools.confine import Inside, classify, closed_beneath
from atrio_agent.tools.process import SHELLS

__all__ = ["CAREFUL_GIT", "AllowList", "AllowListMalformed", "is_plain_git"]

CAREFUL_GIT: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "5",
    "GIT_CONFIG_KEY_0": "core.fsmonitor",
    "GIT_CONFIG_VALUE_0": "false",
    "GIT_CONFIG_KEY_1": "core.hooksPath",
    "GIT_CONFIG_VALUE_1": "/dev/null",
    "GIT_CONFIG_KEY_2": "safe.bareRepository",
    "GIT_CONFIG_VALUE_2": "explicit",
    "GIT_CONFIG_KEY_3": "log.showSignature",
    "GIT_CONFIG_VALUE_3": "false",
    "GIT_CONFIG_KEY_4": "diff.autoRefreshIndex",
    "GIT_CONFIG_VALUE_4": "false",
}
"""For a command that nobody was asked about: git writes nothing, and starts nothing that a repository names.

The user's own settings are left out as well: they define filters and drivers, and a repository's attributes choose
among them.
"""

_NUMBER: Final = r"[0-9]{1,9}"
_TEXT: Final = r"[^\x00]*"
_LINES: Final = rf"[+-]?{_NUMBER}[kKmMgG]?"

# What in a repository's own configuration lets git start a program, or look elsewhere. Words, wherever they stand.
_PROGRAMS_IN_GIT: Final = re.compile(
    r"include|filter|textconv|external|command|fsmonitor|hookspath|gpg|pager|worktree|promisor|partialclone|pretty"
    r"|sshcommand|alias|attributesfile|%g|^\s*\[\s*(diff|extensions)\b",
    re.IGNORECASE | re.MULTILINE,
)
_MAX_GIT_CONFIG_BYTES: Final = 64 * 1024
_MAX_GIT_INDEX_BYTES: Final = 32 * 1024 * 1024
_SUBMODULE: Final = b"\0\0\xe0\0"
"""How an entry of the index begins that stands for another repository, which has a configuration of its own."""

_LINKED_GIT: Final = ("HEAD", "objects", "objects/info", "objects/pack", "packed-refs", "refs")
"""What of a ``.git`` would show another repository if it were a link."""

_MAX_ADDITION_WORDS: Final = 64


class AllowListMalformed(ValueError):
    """An addition to the list is no plain command. The message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """What a program may be given.

    ``letters`` are options of one letter, which may stand together. ``with_value``
    are those that take a value, which must fit the pattern; so do ``options`` that
    have one. ``paths``: the other words are paths, from that position on; None:
    they are text.
    """

    letters: str = ""
    with_value: dict[str, str] = field(default_factory=dict[str, str])
    options: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    paths: int | None = 0
    most: int = 1_000
    dash_number: bool = False


def _flags(names: str) -> dict[str, str | None]:
    return dict.fromkeys(names.split())


_COLOUR: Final[dict[str, str | None]] = {"--color": None, "--no-color": None}

_PROGRAMS: Final = {
    "basename": _Program(letters="a", paths=None),
    "cat": _Program(letters="AbeEnstTuv", options=_flags("--number --show-all --show-ends --show-tabs")),
    "dirname": _Program(paths=None),
    "du": _Program(
        letters="abchkmsx",
        with_value={"d": _NUMBER},
        options={**_flags("--all --apparent-size --human-readable --summarize --total"), "--max-depth": _NUMBER},
    ),
    "echo": _Program(letters="n", paths=None),
    "grep": _Program(
        letters="EFGHILabchilnoqrsvwx",
        with_value={"A": _NUMBER, "B": _NUMBER, "C": _NUMBER, "m": _NUMBER},
        options={
            **_flags("--count --extended-regexp --files-with-matches --fixed-strings --ignore-case --line-number"),
            **_flags("--only-matching --recursive --word-regexp"),
            "--exclude": _TEXT,
            "--exclude-dir": _TEXT,
            "--include": _TEXT,
        },
        paths=1,
    ),
    "head": _Program(
        letters="qv",
        with_value={"c": _LINES, "n": _LINES},
        options={"--bytes": _LINES, "--lines": _LINES},
        dash_number=True,
    ),
    "ls": _Program(
        letters="1aAbBcCdFghiklmnopqQrRsStuUvxXZ",
        options=_flags("--all --almost-all --classify --directory --full-time --human-readable --recursive --reverse"),
    ),
    "pwd": _Program(letters="LP", most=0),
    "stat": _Program(options=_flags("--terse"), letters="t"),
    "tail": _Program(
        letters="qv",
        with_value={"c": _LINES, "n": _LINES},
        options={"--bytes": _LINES, "--lines": _LINES},
        dash_number=True,
    ),
    "true": _Program(most=0),
    "wc": _Program(letters="clLmw", options=_flags("--bytes --chars --lines --max-line-length --words")),
}

_GIT_DIFF: Final[dict[str, str | None]] = {
    **_COLOUR,
    **_flags("--cached --check --compact-summary --exit-code --ignore-all-space --ignore-space-change --minimal"),
    **_flags("--name-only --name-status --no-ext-diff --no-textconv --numstat --patch --quiet --raw --shortstat"),
    **_flags("--staged --stat --summary --word-diff"),
    "--unified": _NUMBER,
}
_GIT_LOG: Final[dict[str, str | None]] = {
    **_GIT_DIFF,
    **_flags("--abbrev-commit --all --branches --decorate --first-parent --follow --graph --merges --no-merges"),
    **_flags("--no-patch --oneline --reverse --tags"),
    "--author": _TEXT,
    "--format": "oneline|short|medium|full|fuller|reference",
    "--grep": _TEXT,
    "--max-count": _NUMBER,
    "--pretty": "oneline|short|medium|full|fuller|reference",
    "--since": _TEXT,
    "--until": _TEXT,
}

_GIT: Final = {
    "branch": _Program(letters="arv", options=_flags("--all --list --no-color --remotes --show-current"), most=0),
    "diff": _Program(letters="bpw", with_value={"U": _NUMBER}, options=_GIT_DIFF),
    "log": _Program(letters="pw", with_value={"n": _NUMBER, "U": _NUMBER}, options=_GIT_LOG, dash_number=True),
    "ls-files": _Program(letters="cdmo", options=_flags("--cached --deleted --exclude-standard --modified --others")),
    "rev-parse": _Program(options=_flags("--abbrev-ref --short --show-prefix --show-toplevel --verify")),
    "show": _Program(letters="psw", with_value={"U": _NUMBER}, options=_GIT_LOG),
    "status": _Program(
        letters="bsuz", options={**_flags("--branch --long --short"), "--porcelain": "v1|v2", "--untracked-files": "no"}
    ),
}


class AllowList:
    """Says which command lines need no question.

    Args:
        additions: Plain command lines that are allowed besides. They are compared
            word by word with a whole command; a last word ``*`` stands for any
            further words that are no options, and paths only inside the workspace.

    Raises:
        AllowListMalformed: An addition is no single plain command.
    """

    def __init__(self, additions: Iterable[str] = ()) -> None:
        self._additions = [_addition(line) for line in additions]

    def allows(self, command: str, directory: Path, place: Place, path: str) -> bool:
        """Whether a command line may run unasked. Blocks: call it in a thread.

        Args:
            command: The whole line.
            directory: Where it would run, resolved.
            place: The workspace.
            path: The ``PATH`` it would run with.
        """
        commands = plain_commands(command)
        if commands is None or not _is_open(".", directory, place, beneath=False):
            return False
        if any(_is_ours(shell, place, path) for shell in SHELLS):
            return False
        return all(
            _is_foreign(words[0], place, path)
            and (self._is_added(words, directory, place) or _is_listed(words, directory, place))
            for words in commands
        )

    def _is_added(self, words: Sequence[str], directory: Path, place: Place) -> bool:
        for added, is_open in self._additions:
            if not is_open and words == added:
                return True
            if is_open and words[: len(added)] == added:
                rest = words[len(added) :]
                if all(not word.startswith("-") and _is_open(word, directory, place, beneath=False) for word in rest):
                    return True
        return False


def _addition(line: str) -> tuple[tuple[str, ...], bool]:
    stem = line.strip()
    is_open = stem.endswith(" *")
    commands = plain_commands(stem.removesuffix(" *"))
    if commands is None or len(commands) != 1 or len(commands[0]) > _MAX_ADDITION_WORDS:
        raise AllowListMalformed(f"'{line}' is not one plain command, such as 'npm test' or 'npm run *'")
    return commands[0], is_open


def _is_foreign(program: str, place: Place, path: str) -> bool:
    """Whether the name stands for a program of the system, not for one that lies in the workspace."""
    return shutil.which(program, path=path) is not None and not _is_ours(program, place, path)


def _is_ours(program: str, place: Place, path: str) -> bool:
    found = shutil.which(program, path=path)
    return found is not None and any(
        name.is_relative_to(base) and base != Path("/")
        for name in (Path(found), Path(found).resolve())
        for base in (place.root, *place.allowed)
    )


def _is_listed(words: Sequence[str], directory: Path, place: Place) -> bool:
    program, rest = _PROGRAMS.get(words[0]), words[1:]
    if words[0] == "git":
        rest = rest[1:] if rest[:1] == ("--no-pager",) else rest
        program, rest = _GIT.get(rest[0] if rest else ""), rest[1:]
        if not _is_plain_repository(directory, place):
            return False
    if program is None:
        return False
    operands = _operands(program, rest)
    if operands is None or len(operands) > program.most:
        return False
    paths = [] if program.paths is None else operands[program.paths :]
    beneath = _looks_beneath(words)
    return all(_is_open(path, directory, place, beneath=beneath) for path in (paths or ["."]))


def _looks_beneath(words: Sequence[str]) -> bool:
    """Whether a program of the list may read what lies deeper in a directory; git reads what it keeps itself."""
    short = (word for word in words[1:] if word.startswith("-") and not word.startswith("--"))
    return words[0] == "du" or "--recursive" in words or any({"r", "R"} & set(word) for word in short)


def _operands(program: _Program, words: Sequence[str]) -> list[str] | None:
    """The words that are no options; None, if there is an option that is not known to be harmless."""
    operands: list[str] = []
    todo = list(reversed(words))
    while todo:
        word = todo.pop()
        if word == "--":
            return operands + todo[::-1]
        if word == "-" or not word.startswith("-"):
            operands.append(word)
        elif word.startswith("--"):
            name, has_value, value = word.partition("=")
            if name not in program.options:
                return None
            pattern = program.options[name]
            if pattern is None and has_value:
                return None
            if pattern is not None and not (has_value and re.fullmatch(pattern, value)):
                return None
        elif not (program.dash_number and re.fullmatch(_NUMBER, word[1:])) and not _letters(program, word[1:], todo):
            return None
    return operands


def _letters(program: _Program, letters: str, todo: list[str]) -> bool:
    """Whether options of one letter are harmless; takes the value of the last one from ``todo``."""
    for index, letter in enumerate(letters):
        if letter in program.letters:
            continue
        pattern = program.with_value.get(letter)
        if pattern is None:
            return False
        value = letters[index + 1 :] or (todo.pop() if todo else "")
        return re.fullmatch(pattern, value) is not None
    return True


def _is_open(word: str, directory: Path, place: Place, *, beneath: bool) -> bool:
    """Whether a word, taken as a path, leads to what a tool may read unasked; ``beneath``: with all that lies there."""
    if word == "-":
        return True
    try:
        at = classify(str(directory / word), place.root, place.allowed, place.closed)
    except ToolFailed:
        return False
    if not isinstance(at, Inside):
        return False
    # What is not there cannot be read.
    return not beneath or not any(
        os.path.lexists(at.resolved.joinpath(*names)) for names in closed_beneath(at.resolved, place.closed)
    )


def _is_plain_repository(directory: Path, place: Place) -> bool:
    """Whether git finds a repository in the workspace whose own configuration starts no program.

    Git passes over what it does not take for a repository, by rules of its own.
    So all that could be one is looked at on the way up; that it stops at the
    workspace's directory is for whoever starts it to see to.
    """
    if os.pathsep in str(place.root) or ".git" in directory.parts:
        return False
    found = False
    for base in (directory, *directory.parents):
        if not base.is_relative_to(place.root):
            break
        git = base / ".git"
        if os.path.lexists(base / "HEAD") or git.is_symlink() or git.is_file():
            return False
        if git.is_dir():
            # Git refuses what belongs to somebody else, unless the user's settings say so, which count when asked.
            mine = all(status.st_uid == os.geteuid() for status in (base.stat(), git.stat()))
            if (
                not mine
                or not is_plain_git(git)
                or b"filter=" in (_content(base / ".gitattributes", _MAX_GIT_CONFIG_BYTES) or b"")
            ):
                return False
            found = True
    return found


def is_plain_git(git: Path) -> bool:
    """Whether nothing in a ``.git`` directory lets git start a program or look elsewhere. Blocks."""
    odd = ("modules", "config.worktree", "commondir", "info/attributes", "objects/info/alternates")
    if any((git / name).exists() or (git / name).is_symlink() for name in odd) or any(git.glob("sharedindex.*")):
        return False
    if any((git / name).is_symlink() for name in _LINKED_GIT):
        return False
    config = _content(git / "config", _MAX_GIT_CONFIG_BYTES)
    index = _content(git / "index", _MAX_GIT_INDEX_BYTES) if (git / "index").exists() else b""
    if config is None or index is None or _SUBMODULE in index:
        return False
    return not _PROGRAMS_IN_GIT.search(config.decode("latin-1").replace("\\\n", ""))


def _content(file: Path, most_bytes: int) -> bytes | None:
    """A small plain file; None if it is anything else."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > most_bytes:
            return None
        return file.read_bytes()
    except OSError:
        return None
