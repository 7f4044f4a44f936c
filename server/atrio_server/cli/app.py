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

from cyclopts import App, CycloptsError, Parameter

from atrio_protocol.version import VERSION
from atrio_server.cli.failure import Exit, explain, innermost

__all__ = ["STDIN", "make_app", "run_command"]

STDIN: Final = "\0stdin"
"""What a lone ``-`` is turned into: cyclopts takes it for an option."""

_COMMANDS: Final = {
    "run": ("atrio_server.cli.run:run", "Send a prompt and stream what comes of it."),
    "tail": ("atrio_server.cli.tail:tail", "Watch a session."),
    "wait": ("atrio_server.cli.runs:wait", "Wait for a run to end."),
    "cancel": ("atrio_server.cli.runs:cancel", "Cancel a session's runs, or one."),
    "sessions": ("atrio_server.cli.sessions:app", "List, show, rename, remove and search sessions."),
    "runs": ("atrio_server.cli.runs:runs", "List the runs of a session."),
    "models": ("atrio_server.cli.models:models", "List the models, and say which is used and why."),
    "serve": ("atrio_server.cli.serve:serve", "Run a server."),
    "token": ("atrio_server.cli.token:app", "Show or replace the token that opens the server."),
    "schema": ("atrio_server.cli.about:schema", "Print the JSON Schema of the protocol."),
    "version": ("atrio_server.cli.about:version", "Print the version."),
}


def make_app() -> App:
    """The commands, none of them imported yet."""
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
    for name, (place, summary) in _COMMANDS.items():
        app.command(place, name=name, help=summary)
    return app


def run_command(argv: Sequence[str] | None) -> int:
    """Run a command and return its exit code."""
    tokens = [STDIN if word == "-" else word for word in (sys.argv[1:] if argv is None else argv)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to end
    try:
        code = make_app()(tokens)
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
    try:
        sys.stderr.write(f"atrio: {one_line}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    return code


def _usage(error: CycloptsError) -> str:
    command = " ".join(("atrio", *(error.command_chain or ())))
    return f"{str(error).replace(STDIN, '-').rstrip('.')}; `{command} --help` shows what there is"


def _let_go_of_stdout() -> None:
    # The interpreter flushes stdout once more at its end and would complain then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
