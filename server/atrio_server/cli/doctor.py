"""`atrio doctor`: looks at everything that Atrio stands on, and says how to mend what is wrong.

It starts no server and changes nothing. A place that cannot even be looked at is
a problem like others, and the checks go on: whoever calls this has trouble enough.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from atrio_server.cli.checks.finding import Finding

__all__ = ["doctor"]

_MARKS: Final = {"ok": "ok", "warning": "! ", "problem": "!!"}
_COLOURS: Final = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"
_NAME_CHARS: Final = 15
_DETAIL_AT: Final = 2 + 2 + _NAME_CHARS + 2
"""The column at which what was found begins."""

T = TypeVar("T")


def doctor(
    *,
    directory: Dir = None,
    offline: Annotated[bool, Parameter(help="Ask no provider.")] = False,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Look at everything that Atrio stands on, and say how to mend what is wrong."""
    from atrio_server.cli.config import project_root
    from atrio_server.cli.failure import Exit
    from atrio_server.cli.on_trio import run_on_trio
    from atrio_server.cli.output import say

    findings = run_on_trio(_look, target, project_root(directory), offline, _show_json if json else _show)
    problems = sum(finding.state == "problem" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if not json:
        say(f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return Exit.OTHER if problems else Exit.OK


async def _look(target: Target, root: "Path", offline: bool, show: "Callable[[Finding], None]") -> "list[Finding]":
    """Make all checks, one after the other, and show what each finds as it is found."""
    import os
    from dataclasses import replace

    from atrio_server.cli.checks import machine, mcp, models, places, port, programs, storage, tokens
    from atrio_server.cli.checks.finding import problem
    from atrio_server.cli.checks.server import look_at_server
    from atrio_server.config import ConfigError
    from atrio_server.config.settings import server_settings
    from atrio_server.config.trust import TrustStore
    from atrio_server.config.user import model_environ, model_origins, read_user_file
    from atrio_server.config.workspace import project_of, workspace_settings

    told: list[Finding] = []

    def tell(*findings: "Finding") -> None:
        told.extend(findings)
        for finding in findings:
            show(finding)

    state_dir = target.resolved_state_dir()
    tell(programs.check_install())
    tell(
        _tried("state directory", places.check_state_dir, state_dir),
        _tried("storage", storage.check_storage, state_dir),
        _tried("free space", places.check_space, state_dir),
        _tried("token", places.check_token, state_dir),
        _tried("tokens", tokens.check_tokens, state_dir),
    )
    user = read_user_file()
    tell(_tried("configuration", places.check_user_file, user))
    flags = {"state_dir": target.state_dir}
    try:
        settings = server_settings(flags, os.environ, user.values)
    except ConfigError as exc:
        tell(problem("settings", str(exc), "correct it; a server does not start with it as it is"))
        settings = server_settings({"state_dir": str(state_dir)}, {}, user.values)
    trust = TrustStore(state_dir)
    tell(places.check_project_file(project_of(settings, root, trust), root))
    seen = await look_at_server(target, root)
    tell(seen.finding)
    if not seen.runs:
        tell(port.check_port(settings.host, settings.port))
    own = workspace_settings(settings, root, trust)
    environ = {**model_environ(os.environ, user.values), **own.provider_values}
    chosen = replace(settings, model=own.model, small_model=own.small_model)
    tell(
        *await models.check_models(chosen, environ, model_origins(os.environ, user.values), seen=seen, offline=offline)
    )
    tell(machine.check_clock(), machine.check_open_files(), machine.check_processes())
    tell(await programs.check_ripgrep(), await programs.check_git(), programs.check_grammar())
    tell(*mcp.check_mcp(own.mcp_servers, seen.mcp, root))
    return told


def _tried(name: str, check: "Callable[[T], Finding]", what: "T") -> "Finding":
    """What a check of a place finds, also where the place does not let us look."""
    from atrio_server.cli.checks.finding import problem

    try:
        return check(what)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return problem(name, f"cannot be looked at: {where}{exc.strerror}", "look at its owner and mode")


def _show_json(finding: "Finding") -> None:
    from atrio_server.cli.output import print_json

    print_json(finding)


def _show(finding: "Finding") -> None:
    """A line for what was found, and one for what to do about it."""
    import os

    from atrio_server.cli.output import is_terminal
    from atrio_server.cli.terminal.clean import visible

    on_terminal = is_terminal(sys.stdout)
    coloured = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    mark = _MARKS[finding.state]
    # What a file or a server says is one line, and none that moves the cursor.
    detail, fix = (visible(" ".join(text.split("\n"))) for text in (finding.detail, finding.fix))
    if on_terminal:
        detail, fix = _folded(detail), _folded(fix)
    name = f"{visible(finding.name):{_NAME_CHARS}}"
    label = "fix:"
    if coloured:
        mark, label = (f"{_COLOURS[finding.state]}{text}{_PLAIN}" for text in (mark, label))
    lines = [f"{mark}  {name}  {detail}"]
    if fix:
        lines.append(f"{' ' * (_DETAIL_AT - 5 if on_terminal else 4)}{label} {fix}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _folded(text: str) -> str:
    """As lines that fit beside the name, where the terminal is wide enough for that."""
    import shutil
    import textwrap

    columns = shutil.get_terminal_size().columns
    if columns < _DETAIL_AT + 30:
        return text
    folded = textwrap.wrap(text, columns - _DETAIL_AT, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * _DETAIL_AT}".join(folded)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
