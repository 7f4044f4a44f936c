"""Exit codes, and the one sentence that goes with each that is not 0.

`explain` turns whatever can end a command into its code and a sentence that says
what to do about it. Decisions are made by the kind of an error, never by its
message. A bug is no such thing: it is passed on, and `atrio_server.cli.app` says
how to get at its traceback.
"""

import errno
from enum import IntEnum
from typing import Final, cast

from atrio_protocol.errors import Forbidden, PathNotAllowed, WireError
from atrio_protocol.things import Run

__all__ = ["Exit", "Failure", "exit_of_run", "explain", "innermost"]


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    OTHER = 1
    USAGE = 2
    TIMEOUT = 3
    NOT_FOUND = 4
    DENIED = 5
    UNREACHABLE = 6
    MODEL = 7
    INTERRUPTED = 130


class Failure(Exception):
    """A command ends here, with this code and this sentence."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


_BY_KIND: Final[dict[str, tuple[Exit, str]]] = {
    "session_not_found": (Exit.NOT_FOUND, "`atrio sessions list` shows the sessions of a directory"),
    "run_not_found": (Exit.NOT_FOUND, "`atrio runs SESSION` shows the runs of a session"),
    "permission_not_found": (Exit.NOT_FOUND, "`atrio permissions` shows what waits for an answer"),
    "workspace_not_found": (Exit.NOT_FOUND, ""),
    "message_not_found": (Exit.NOT_FOUND, ""),
    "auth_required": (Exit.UNREACHABLE, "`atrio token show` on the server's machine prints the token"),
    "forbidden": (Exit.UNREACHABLE, "the server allows names with --allow-host"),
    "server_closing": (Exit.UNREACHABLE, "try again in a moment"),
    "workspace_closing": (Exit.UNREACHABLE, "try again in a moment"),
    "too_many_connections": (Exit.UNREACHABLE, "try again later"),
    "overloaded": (Exit.UNREACHABLE, "try again later"),
    "unsupported_protocol": (Exit.UNREACHABLE, "use the `atrio` of the server's version"),
    "model_not_found": (Exit.MODEL, "`atrio models` shows what there is"),
    "agent_not_initialized": (Exit.MODEL, "`atrio models` shows what there is; `-m demo` always works"),
    "invalid_params": (Exit.USAGE, ""),
    "empty_prompt": (Exit.USAGE, ""),
    "prompt_too_large": (Exit.USAGE, ""),
    "session_missing": (Exit.USAGE, ""),
    "path_required": (Exit.USAGE, ""),
    "path_not_found": (Exit.USAGE, ""),
    "path_not_allowed": (Exit.USAGE, "the server allows directories with --allow-path"),
    "queue_full": (Exit.OTHER, "wait for some to end, or cancel them with `atrio cancel SESSION`"),
    "idempotency_conflict": (Exit.OTHER, ""),
    "provider_error": (Exit.MODEL, "what was said until then is kept; `atrio run -c` goes on from there"),
    "provider_auth": (Exit.MODEL, "check the key of the provider, in the server's environment or configuration"),
    "provider_rate_limited": (Exit.MODEL, "try again later"),
    "provider_unreachable": (
        Exit.MODEL,
        "check the network, and the address in `atrio config show --origin`",
    ),
    "context_overflow": (Exit.MODEL, "begin a new session"),
}


_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What writing to standard output fails with, other than a reader that has left."""


def explain(error: BaseException) -> tuple[Exit, str] | None:
    """The exit code and the sentence of an error, or None if it is a bug."""
    from atrio_server.client import ClientError, FrameTooLarge, ServerGone
    from atrio_server.config import ConfigError
    from atrio_server.discover import CannotStart
    from atrio_server.listen import AddressUnusable, ListenError
    from atrio_server.statedir import StateDirLocked, StateDirUnsafe, StateDirUnusable
    from atrio_server.token import TokenFileUnsafe

    error = innermost(error)
    match error:
        case Failure():
            return error.code, str(error)
        case Forbidden() if "scope" in error.data:
            way_out = f"`atrio token create --scope {error.data['scope']}` on the server's machine makes one"
            return Exit.DENIED, _joined(error.message, way_out)
        case Forbidden() if "workspace" in error.data:
            return Exit.DENIED, _joined(error.message, "it takes a token without --workspace")
        case PathNotAllowed() if "workspace" in error.data:
            return Exit.DENIED, _joined(error.message, "name it with --dir")
        case WireError():
            code, way_out = _BY_KIND.get(error.kind, (Exit.OTHER, ""))
            return code, _joined(error.message, way_out)
        case ServerGone():
            return Exit.UNREACHABLE, _joined(str(error), "is `atrio serve` running there?")
        case FrameTooLarge() | ConfigError():
            return Exit.USAGE, str(error)
        case (
            ClientError() | CannotStart() | StateDirLocked() | StateDirUnsafe() | StateDirUnusable() | TokenFileUnsafe()
        ):
            return Exit.UNREACHABLE, str(error)
        case AddressUnusable():
            return Exit.OTHER, str(error)
        case ListenError():
            return Exit.USAGE, str(error)
        case UnicodeEncodeError():
            return Exit.USAGE, f"what was given is no text in UTF-8: {error.object!r:.80}"
        case OSError():
            if error.errno in _NO_ROOM and not error.filename:
                return Exit.OTHER, f"cannot write the output: {error.strerror}"
            return Exit.OTHER, f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        case _:
            return None


def innermost(error: BaseException) -> BaseException:
    """What a group of errors is about: the one in it, else the first."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def exit_of_run(run: Run) -> tuple[Exit, str]:
    """What a completed run means for the command that waited for it."""
    match run.stop_reason:
        case "end_turn":
            return Exit.OK, ""
        case "cancelled":
            by = f" by {run.cancelled_by.name}" if run.cancelled_by else ""
            return Exit.INTERRUPTED, f"the run was cancelled{by}"
        case "error" if run.error:
            code, way_out = _BY_KIND.get(run.error.kind, (Exit.OTHER, ""))
            return code, _joined(run.error.message, way_out)
        case "interrupted":
            return Exit.OTHER, "the server died during the run; what it had said by then is kept in the session"
        case "max_tokens":
            return Exit.OTHER, "the answer was cut: the model's limit of tokens is reached"
        case "max_turn_requests":
            return Exit.OTHER, "the run was stopped: it made as many requests to the model as one turn may"
        case "refusal":
            return Exit.OTHER, "the model refused to answer"
        case other:
            return Exit.OTHER, f"the run ended with {other or 'no reason'}"


def _joined(message: str, way_out: str) -> str:
    message = message.rstrip(".")
    return f"{message}; {way_out}" if way_out else message
