"""`atrio config`: what is set and where, and which projects' files are trusted.

It reads the files and this shell's environment, and asks no server: one that is
running has read its own when it started. Secrets are not printed; what a
project's file would be allowed to do is, before anybody trusts it.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter

from atrio_server.cli.options import Dir, JsonLines, StateDirOption, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from atrio_server.config.table import Found, Setting

__all__ = ["app", "project_root"]

REDACTED = "[redacted]"

app = App(name="config", help="Show the configuration, and trust that of a project. Without a word, show it.")

Directory = Annotated[str, Parameter(help="The project's directory.")]


@app.default
@app.command
def show(
    *,
    origin: Annotated[bool, Parameter(help="Say where each value comes from.")] = False,
    directory: Dir = None,
    json: JsonLines = False,
    state_dir: StateDirOption = None,
) -> int:
    """Print every setting as it holds in a directory, and what is wrong with the files."""
    import os

    import msgspec

    from atrio_server.cli.failure import Exit
    from atrio_server.cli.output import print_json, print_rows, say
    from atrio_server.config.settings import found_values, server_settings
    from atrio_server.config.trust import TrustStore
    from atrio_server.config.user import read_user_file
    from atrio_server.config.workspace import merged_values, project_of

    root = project_root(directory)
    user = read_user_file()
    flags = {"state_dir": state_dir}
    settings = server_settings(flags, os.environ, user.values)
    project = project_of(settings, root, TrustStore(settings.state_dir))
    values = merged_values(found_values(flags, os.environ, user.values), project)
    rows: list[tuple[str, ...]] = []
    for key, setting, found, ignored in _all_values(values, {} if project.trusted else project.guarded):
        value = settings.state_dir if key == "state_dir" else found.value
        shown = _shown(setting, value)
        if json:
            place = {"key": key, "value": shown, "from": found.place}
            place |= {"origin": found.origin} if found.origin else {}
            place |= {"line": found.line} if found.line else {}
            print_json(place | ({"ignored": "not trusted"} if ignored else {}))
            continue
        text = "unset" if shown is None else msgspec.json.encode(shown).decode()
        note = "not trusted, ignored" if ignored else ""
        rows.append((key, text, found.where, note) if origin else (key, text, note))
    if not json:
        print_rows(("KEY", "VALUE", "FROM", "") if origin else ("KEY", "VALUE", ""), rows)
    for problem in (*user.problems, *project.problems):
        say(f"atrio: {problem}")
    return Exit.USAGE if user.problems else Exit.OK


@app.command
def path(*, directory: Dir = None, state_dir: StateDirOption = None) -> int:
    """Print which files are read, and whether they are there."""
    from atrio_server.cli.output import print_rows
    from atrio_server.config.trust import TRUST_FILE
    from atrio_server.config.user import user_config_file
    from atrio_server.config.workspace import project_path

    files = {
        "user": user_config_file(),
        "project": project_path(project_root(directory)),
        "trust": Target(state_dir=state_dir).resolved_state_dir() / TRUST_FILE,
    }
    rows = [(name, str(file), "" if file.exists() else "not there") for name, file in files.items()]
    print_rows(("FILE", "PATH", ""), rows)
    return 0


@app.command
def schema() -> int:
    """Print the JSON Schema of a configuration file."""
    from atrio_server.config.schema import schema_text

    sys.stdout.write(schema_text())
    return 0


@app.command(usage="Usage: atrio config trust [OPTIONS] [DIR]")
def trust(
    directory: Directory = ".",
    *,
    yes: Annotated[bool, Parameter(("--yes", "-y"), help="Do not ask.")] = False,
    state_dir: StateDirOption = None,
) -> int:
    """Say what a project's file would be allowed to do, and trust this very text of it if you agree."""
    import os
    from dataclasses import replace

    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.output import is_terminal, print_result, say
    from atrio_server.config.settings import server_settings
    from atrio_server.config.trust import TrustStore
    from atrio_server.config.user import read_user_file
    from atrio_server.config.workspace import project_of

    root = project_root(directory)
    settings = server_settings({"state_dir": state_dir}, os.environ, read_user_file().values)
    store = TrustStore(settings.state_dir)
    # Told is all that trust covers, also what the variables of this shell or a looser setting make void at present.
    project = project_of(replace(settings, fixed=frozenset(), permissions="deny"), root, store)
    for problem in project.file.problems:
        say(f"atrio: {problem}")
    if not project.guarded:
        what = "sets nothing that needs trust" if project.file.digest else "is not there"
        say(f"{project.file.path} {what}")
        return Exit.OK
    if project.trusted:
        say(f"{project.file.path} is trusted already")
        return Exit.OK
    # A deed is one line, whatever the file has written into it.
    deeds = [deed.replace("\n", "\\n").replace("\r", "\\r") for deed in _deeds(project.guarded)]
    print_result("\n".join((f"{project.file.path} wants to", *(f"- {deed}" for deed in deeds))))
    if not yes:
        if not is_terminal(sys.stdin):
            raise Failure(Exit.USAGE, "nobody is here to be asked; look at the file and give --yes to trust it")
        sys.stderr.write("Trust this file as it is now? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            say("not trusted; nothing was changed")
            return Exit.OTHER
    store.add(root, project.file.digest)
    say("trusted, until the file changes; it counts from the next time that the workspace is opened")
    return Exit.OK


@app.command(usage="Usage: atrio config untrust [OPTIONS] [DIR]")
def untrust(directory: Directory = ".", *, state_dir: StateDirOption = None) -> int:
    """Trust a project's file no longer."""
    from atrio_server.cli.output import say
    from atrio_server.config.trust import TrustStore

    root = project_root(directory, must_exist=False)
    was_trusted = TrustStore(Target(state_dir=state_dir).resolved_state_dir()).remove(root)
    say("not trusted any more, from the next time that the workspace is opened" if was_trusted else "was not trusted")
    return 0


def project_root(directory: str | None, *, must_exist: bool = True) -> Path:
    """The directory as the server would know it: resolved."""
    from atrio_server.cli.failure import Exit, Failure

    try:
        root = Path(directory or ".").expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as exc:
        raise Failure(Exit.USAGE, f"cannot tell where {directory or '.'} is: {exc}") from None
    if must_exist and not root.is_dir():
        raise Failure(Exit.USAGE, f"{root} is no directory; name one that is there")
    return root


def _all_values(
    values: "Mapping[str, Found]", guarded: "Mapping[str, Found]"
) -> "Iterator[tuple[str, Setting, Found, bool]]":
    """Every setting in the order of the table, those of MCP servers by name; the last is whether it is ignored."""
    from atrio_server.config.table import ANY_NAME, SETTINGS, Found, setting_of

    for setting in SETTINGS:
        if ANY_NAME not in setting.key:
            yield setting.key, setting, values.get(setting.key, Found(setting.default, "default")), False
            if setting.key in guarded:
                yield setting.key, setting, guarded[setting.key], True
    for ignored, found in ((False, values), (True, guarded)):
        for key in sorted(key for key in found if key.startswith("mcp.servers.")):
            yield key, setting_of(key), found[key], ignored


def _shown(setting: "Setting", value: Any) -> Any:
    """A value as it may be printed."""
    import re

    from atrio_server.config.secret_words import secret_words

    if value is None:
        return None
    if setting.secret:
        return dict.fromkeys(cast("dict[str, str]", value), REDACTED) if isinstance(value, dict) else REDACTED
    if isinstance(value, tuple):
        words = [str(item) for item in cast("tuple[object, ...]", value)]
        secrets = set(secret_words(args=words)) if setting.key.endswith(".args") else set[str]()
        return [_without(secrets, word) for word in words]
    if setting.key.endswith("url"):  # it may hold a password, or a key in its query or path
        secrets = set(secret_words(url=value))
        return _without(secrets, re.sub(r"(?<=\?).*", REDACTED, re.sub(r"[^/@]*@", f"{REDACTED}@", value)))
    return str(value) if isinstance(value, Path) else value


def _without(secrets: "set[str]", text: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def _deeds(guarded: "Mapping[str, Found]") -> "Iterator[str]":
    """What a file does that needs trust, a line for each."""
    import shlex

    from atrio_server.config.settings import mcp_servers_of

    for key, found in guarded.items():
        match key.split("."):
            case ["permissions"]:
                yield f"set permissions to {found.value!r}, also where you are stricter"
            case ["providers", provider, "base_url"]:
                yield f"send what is asked of {provider}, and your key for it, to {found.value}"
            case ["providers", provider, _]:
                yield f"use a key of its own for {provider}"
            case ["shell", "allow"]:
                yield from (f"run without a question: {line}" for line in found.value)
            case _:
                pass
    for server in mcp_servers_of(guarded):
        if server.command is not None:
            line = shlex.join((server.command, *server.args))
            where = f" in {server.cwd}" if server.cwd else ""
            variables = "".join(f" {name}={shlex.quote(text)}" for name, text in server.env.items())
            yield f"start the MCP server {server.name}{where}:{variables} {line}"
        else:
            yield f"use the MCP server {server.name} at {server.url}"
