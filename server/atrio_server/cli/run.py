"""`atrio run`: a prompt, what comes of it, and an exit code that says how it ended.

Only the command line is here: what goes together, and what an option means.
How the order is carried out is in `atrio_server.cli.running`.
"""

from typing import Annotated, Literal

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, Target

__all__ = ["run"]

Approval = Literal["ask", "reads", "all", "none"]


def run(
    *prompt: Annotated[str, Parameter(help='What to do; "-" reads it from standard input.')],
    session: Annotated[
        str | None, Parameter(("--session", "-s"), help='Go on in this session; "last" is the newest of the directory.')
    ] = None,
    go_on: Annotated[
        bool, Parameter(("--continue", "-c"), help="Go on in the newest session, if there is one.")
    ] = False,
    model: Annotated[str | None, Parameter(("--model", "-m"), help="Model for this prompt (ATRIO_MODEL).")] = None,
    file: Annotated[tuple[str, ...], Parameter(("--file", "-f"), help="Attach a file. Repeatable.")] = (),
    directory: Dir = None,
    json: JsonLines = False,
    quiet: Annotated[bool, Parameter(("--quiet", "-q"), help="Print nothing but the final text.")] = False,
    output: Annotated[
        str | None, Parameter(("--output", "-o"), help="Write the final text to this file as well.")
    ] = None,
    approve: Annotated[
        Approval | None,
        Parameter(help="What to do when this run asks for a permission: ask (on a terminal), reads, all, none."),
    ] = None,
    no_wait: Annotated[
        bool, Parameter(help="Print the run's id as soon as it is accepted, and leave it to run.")
    ] = False,
    standalone: Annotated[
        bool, Parameter(help="Use a server of this command's own, with a state of its own, that ends with it.")
    ] = False,
    target: Target = OWN_SERVER,
) -> int:
    """Send a prompt and stream what comes of it.

    Words are joined. With words and piped standard input, the words are the
    instruction and the input is its context. Ctrl-C cancels the run and waits for
    its end; a second one leaves it running.
    """
    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.prompt import read_prompt
    from atrio_server.cli.running import Order, absolute_model, carry_out

    together = [
        (json and quiet, "--json and --quiet"),
        (go_on and session is not None, "-c and -s"),
        (standalone and target.server is not None, "--standalone and --server"),
        (standalone and no_wait, "--standalone and --no-wait"),
        (no_wait and output is not None, "--no-wait and -o"),
    ]
    for both, names in together:
        if both:
            raise Failure(Exit.USAGE, f"{names} do not go together")
    order = Order(
        prompt=read_prompt(prompt, file),
        session="last" if go_on else session,
        or_new=go_on or session is None,
        model=None if model is None else absolute_model(model),
        directory=directory,
        as_json=json,
        quiet=quiet,
        output=output,
        no_wait=no_wait,
        approve=approve,
    )
    return carry_out(order, target, standalone=standalone)
