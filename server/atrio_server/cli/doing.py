"""`atrio shell` and `atrio summarize`: runs that are no prompts.

They queue as prompts do, and end as prompts do: with one `run.completed`, which
decides the exit code. Ctrl-C cancels the run; a second one leaves it running.
"""

from typing import Annotated

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, SessionArgument, Target

__all__ = ["shell", "summarize"]


def shell(
    session: SessionArgument,
    *command: Annotated[str, Parameter(help="The command; several words are joined.")],
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Run a command in a session, so that the model knows of it, and print its output."""
    from atrio_server.cli.failure import Exit, Failure

    line = " ".join(command)
    if not line.strip():
        raise Failure(Exit.USAGE, "there is no command; say it as in: atrio shell last 'git status'")
    return _carry_out(session, line, directory, json, target)


def summarize(
    session: SessionArgument = "last",
    *,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Put a summary in the place of what was said in a session so far, for the model; nothing is removed."""
    return _carry_out(session, None, directory, json, target)


def _carry_out(
    session: str,
    command: str | None,
    directory: str | None,
    as_json: bool,
    target: Target,
) -> int:
    from atrio_server.cli.running import Order, carry_out

    order = Order(
        prompt=(),
        command=command,
        kind="summarize" if command is None else "shell",
        session=session,
        or_new=False,
        model=None,
        directory=directory,
        as_json=as_json,
        quiet=False,
        output=None,
        no_wait=False,
    )
    return carry_out(order, target, standalone=False)
