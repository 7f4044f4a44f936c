"""`atrio token`: the secret that opens the server of a state directory.

It is printed to stdout and nowhere else. The file is the truth: a server reads
it when it starts.
"""

import sys

from cyclopts import App

from atrio_server.cli.options import StateDirOption, Target

__all__ = ["app"]

app = App(name="token", help="Show or replace the token that opens the server.")


@app.command
def show(*, state_dir: StateDirOption = None) -> int:
    """Print the token; it is made if there is none yet."""
    from atrio_server.statedir import make_state_dir
    from atrio_server.token import load_or_make_token

    path = Target(state_dir=state_dir).resolved_state_dir()
    make_state_dir(path)
    sys.stdout.write(load_or_make_token(path) + "\n")
    return 0


@app.command
def rotate(*, state_dir: StateDirOption = None) -> int:
    """Replace the token by a fresh one and print it."""
    from atrio_server.cli.output import say
    from atrio_server.statedir import make_state_dir, running_server
    from atrio_server.token import rotate_token

    path = Target(state_dir=state_dir).resolved_state_dir()
    make_state_dir(path)
    sys.stdout.write(rotate_token(path) + "\n")
    if server := running_server(path):
        say(f"the running server (pid {server.pid}) keeps the old token until it ends; stop it with: kill {server.pid}")
    return 0
