"""`atrio attach`, and what `atrio` alone does: talk to a session in a terminal.

Only the command line is here. What is shown and sent is `atrio_server.cli.talk`;
how it is typed is `atrio_server.cli.visit`.
"""

from typing import Annotated

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, Target

__all__ = ["attach"]


def attach(
    session: Annotated[
        str, Parameter(help='A session\'s id, or "last": the newest of the directory; a new one if there is none.')
    ] = "last",
    *,
    new: Annotated[bool, Parameter(("--new", "-n"), help="Begin a new session.")] = False,
    history: Annotated[int, Parameter(help="How many messages to show of what was said before.")] = 50,
    directory: Dir = None,
    target: Target = OWN_SERVER,
) -> int:
    """Watch a session and talk to it. What is typed is sent to it; /help lists the commands.

    Others may do the same at the same time. Leaving (Ctrl-D or /quit) ends
    nothing: what runs goes on. Without a terminal, each line of standard input is
    a prompt, and the command ends when they have all been answered.
    """
    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.on_trio import run_on_trio
    from atrio_server.cli.visit import Visit, visit

    if new and session != "last":
        raise Failure(Exit.USAGE, "--new and a session do not go together")
    if not 0 <= history <= 1000:
        raise Failure(Exit.USAGE, "--history takes a number from 0 to 1000")
    return run_on_trio(visit, Visit(session=None if new else session, directory=directory, history=history), target)
