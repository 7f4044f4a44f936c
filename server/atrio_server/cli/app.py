"""The commands, and what happens when one goes wrong.

Every command is named here and imported only when it is called or asked for
help. A command returns its exit code; whatever it raises becomes one sentence on
stderr, and a traceback only with ``ATRIO_DEBUG=1``.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from atrio_protocol.version import VERSION
from atrio_server.cli.failure import Exit, explain, innermost
from atrio_server.cli.terminal.clean import visible

__all__ = ["STDIN", "make_app", "run_command"]

STDIN: Final = "\0stdin"
"""What a lone ``-`` is turned into: cyclopts takes it for an option."""

_COMMANDS: Final = {
    "run": ("run:run", "[OPTIONS] [PROMPT...|-]", "Send a prompt and stream what comes of it."),
    "attach": ("attach:attach", "[OPTIONS] [SESSION]", "Watch a session and talk to it. `atrio` alone begins one."),
    "sessions": ("sessions:app", "", "List, show, rename, fork, remove and search sessions."),
    "runs": ("runs:runs", "[OPTIONS] [SESSION]", "List the runs of a session."),
    "tail": ("tail:tail", "[OPTIONS] SESSION", "Watch a session."),
    "wait": ("runs:wait", "[OPTIONS] RUN", "Wait for a run to end."),
    "cancel": ("runs:cancel", "[OPTIONS] SESSION", "Cancel a session's runs, or one."),
    "permissions": ("permissions:app", "", "List and answer what is asked, and take back what was allowed."),
    "shell": ("doing:shell", "[OPTIONS] SESSION COMMAND...", "Run a command in a session."),
    "summarize": ("doing:summarize", "[OPTIONS] [SESSION]", "Put a summary in the place of what was said."),
    "export": ("export:export", "[OPTIONS] [SESSION]", "Print a whole session."),
    "models": ("models:models", "[OPTIONS]", "List the models, and say which is used and why."),
    "serve": ("serve:serve", "[OPTIONS]", "Run a server."),
    "stop": ("stop:stop", "[OPTIONS]", "Stop the server in order."),
    "config": ("config:app", "", "Show the configuration, and trust that of a project."),
    "doctor": ("doctor:doctor", "[OPTIONS]", "Look at everything, and say how to mend what is wrong."),
    "token": ("token:app", "", "Show, replace, make, list and revoke the tokens that open the server."),
    "schema": ("about:schema", "", "Print the JSON Schema of the protocol."),
    "version": ("about:version", "", "Print the version."),
}
"""Where each command is, how it is used and what it does, in the order of the help. A group's usage is its own."""


def make_app(tokens: Sequence[str] = ()) -> App:
    """The commands, none of them imported yet. ``tokens`` are the words that it will be called with."""
    app = App(
        name="atrio",
        help="An agent server, and the commands to talk to it.",
        version=VERSION,
        default_parameter=Parameter(negative="", show_default=False),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for order, (name, (place, usage, summary)) in enumerate(_COMMANDS.items()):
        # The summary would stand in for what the command says of itself, so the one that is called has none.
        more = {} if name in tokens[:1] else {"help": summary}
        if usage:
            more["usage"] = f"Usage: atrio {name} {usage}"
        app.command(f"atrio_server.cli.{place}", name=name, sort_key=order, **more)
    return app


def run_command(argv: Sequence[str] | None) -> int:
    """Run a command and return its exit code."""
    _open_missing_streams()
    tokens = [STDIN if word == "-" else word for word in (sys.argv[1:] if argv is None else argv)]
    if not tokens and sys.stdin.isatty() and sys.stdout.isatty():
        tokens = ["attach", "--new"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to end
    try:
        code = make_app(tokens)(tokens)
        sys.stdout.flush()
    except CycloptsError as exc:
        return _fail(Exit.USAGE, _usage(exc), exc)
    except BrokenPipeError:
        _let_go_of_stdout()
        return Exit.OTHER
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - whatever it is, the person at the terminal gets a sentence
        explained = explain(exc)
        if explained is None:
            inner = innermost(exc)
            return _fail(Exit.OTHER, f"this is a bug ({type(inner).__name__}: {inner}); ATRIO_DEBUG=1 shows where", exc)
        return _fail(*explained, exc)
    return code if isinstance(code, int) else Exit.OK


def _fail(code: Exit, sentence: str, error: BaseException) -> int:
    if os.environ.get("ATRIO_DEBUG") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
    one_line = " ".join(sentence.split())
    if sys.stderr.isatty():
        one_line = visible(one_line)  # it may hold a file's name, or what a server says
    try:
        sys.stderr.write(f"atrio: {one_line}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    return code


def _usage(error: CycloptsError) -> str:
    command = " ".join(("atrio", *(error.command_chain or ())))
    if isinstance(error, UnusedCliTokensError):
        unused = " ".join(map(repr, error.unused_tokens or ()))
        return f"{unused} is not something that `{command}` takes; `{command} --help` shows what there is"
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.argument.index is not None:
        return f"{error.argument.name.lstrip('-').upper()} is missing; `{command} --help` shows what there is"
    # The help lists the commands in full; here the list would be cut off.
    said, _, guess = str(error).replace(STDIN, "-").partition(" Available commands:")[0].partition(" Did you mean ")
    more = f" (did you mean {guess.rstrip('?')}?)" if guess else ""
    return f"{said.rstrip('.')}{more}; `{command} --help` shows what there is"


def _open_missing_streams() -> None:
    # A caller may have closed them (`>&-`); what is written then goes nowhere, as the caller wished.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _let_go_of_stdout() -> None:
    # The interpreter flushes stdout once more at its end and would complain then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
