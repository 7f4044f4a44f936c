"""Every error that a client can meet, one class per `kind`.

    WireError
    ├─ ParseFailed, InvalidRequest, NotInitialized, AlreadyInitialized
    ├─ MethodNotFound
    ├─ InvalidParams
    │  └─ EmptyPrompt, SessionMissing, PathRequired, PathNotFound, PathNotAllowed,
    │     InvalidClientId, InvalidOption, PromptTooLarge
    ├─ InternalError
    ├─ AuthRequired, Forbidden
    ├─ NotFound
    │  └─ WorkspaceNotFound, SessionNotFound, RunNotFound, PermissionNotFound,
    │     MessageNotFound, ModelNotFound
    ├─ StateConflict
    │  └─ WorkspaceClosing, ServerClosing, AgentNotInitialized, SessionBusy,
    │     IdempotencyConflict, NotAttached, ServerNotIdle
    ├─ Exhausted
    │  └─ QueueFull, TooManyConnections, Overloaded, StorageUnavailable
    ├─ UnsupportedProtocol, RequestCancelled
    └─ RunError (never an answer, only inside `run.error`)
       └─ ProviderError, ProviderAuth, ProviderRateLimited, ProviderUnreachable,
          ContextOverflow, LoopDetected, AgentFailed

`kind` is the identity. The message is a sentence for people, and nobody decides
anything by it. Raising one of these changes nothing by itself: the layer that
raises says in its own docstring what state the caller is left in.
"""

from typing import Any, ClassVar, Final

import msgspec

from atrio_protocol.struct import WireStruct

__all__ = [
    "ERRORS",
    "AgentFailed",
    "AgentNotInitialized",
    "AlreadyInitialized",
    "AuthRequired",
    "ContextOverflow",
    "EmptyPrompt",
    "ErrorObject",
    "Exhausted",
    "Forbidden",
    "IdempotencyConflict",
    "InternalError",
    "InvalidClientId",
    "InvalidOption",
    "InvalidParams",
    "InvalidRequest",
    "LoopDetected",
    "MessageNotFound",
    "MethodNotFound",
    "ModelNotFound",
    "NotAttached",
    "NotFound",
    "NotInitialized",
    "Overloaded",
    "ParseFailed",
    "PathNotAllowed",
    "PathNotFound",
    "PathRequired",
    "PermissionNotFound",
    "PromptTooLarge",
    "ProviderAuth",
    "ProviderError",
    "ProviderRateLimited",
    "ProviderUnreachable",
    "QueueFull",
    "RequestCancelled",
    "RunError",
    "RunNotFound",
    "ServerClosing",
    "ServerNotIdle",
    "SessionBusy",
    "SessionMissing",
    "SessionNotFound",
    "StateConflict",
    "StorageUnavailable",
    "TooManyConnections",
    "UnsupportedProtocol",
    "WireError",
    "WorkspaceClosing",
    "WorkspaceNotFound",
    "error_from_object",
]


class ErrorObject(WireStruct, kw_only=True):
    """The `error` of a JSON-RPC response, and of a run that failed."""

    code: int
    message: str
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    @property
    def kind(self) -> str:
        """The error's identity; ``"internal"`` when the peer sent none."""
        kind = self.data.get("kind")
        return kind if isinstance(kind, str) else "internal"


MAX_TEXT_CHARS: Final = 4_000
"""Most of a message, or of one member of `data`, that is sent."""


class WireError(Exception):
    """An error with an identity that crosses the wire.

    Args:
        message: One sentence for a person, with the way out where there is one.
        retry_after_ms: When trying again makes sense, in milliseconds.
        retryable: Whether trying again may help, where it is not what the kind says.
        data: Further members of the error's `data`, in camelCase.
    """

    kind: ClassVar[str] = "internal"
    code: ClassVar[int] = -32603
    retryable: bool = False

    def __init__(
        self, message: str, *, retry_after_ms: int | None = None, retryable: bool | None = None, **data: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.data = data
        if retryable is not None:
            self.retryable = retryable

    def to_object(self) -> ErrorObject:
        """What is sent for this error. Text that repeats what a peer sent is cut: it may be megabytes."""
        data: dict[str, Any] = {"kind": self.kind, "retryable": self.retryable}
        if self.retry_after_ms is not None:
            data["retryAfterMs"] = self.retry_after_ms
        return ErrorObject(
            code=self.code,
            message=_cut(self.message),
            data=data | {name: _cut(value) if isinstance(value, str) else value for name, value in self.data.items()},
        )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + "…"


class ParseFailed(WireError):
    """It is not JSON. There is no id to answer to."""

    kind = "parse_error"
    code = -32700
    request_id: msgspec.Raw | None = None


class InvalidRequest(WireError):
    """It is JSON, but no request. ``request_id`` is the id to answer to, where one could be read."""

    kind = "invalid_request"
    code = -32600
    request_id: msgspec.Raw | None = None


class NotInitialized(WireError):
    kind = "not_initialized"
    code = -32600


class AlreadyInitialized(WireError):
    kind = "already_initialized"
    code = -32600


class MethodNotFound(WireError):
    kind = "method_not_found"
    code = -32601


class InvalidParams(WireError):
    """A parameter does not fit. ``data.path`` is a JSON Pointer into `params`."""

    kind = "invalid_params"
    code = -32602


class EmptyPrompt(InvalidParams):
    kind = "empty_prompt"


class SessionMissing(InvalidParams):
    kind = "session_missing"


class PathRequired(InvalidParams):
    kind = "path_required"


class PathNotFound(InvalidParams):
    kind = "path_not_found"


class PathNotAllowed(InvalidParams):
    kind = "path_not_allowed"


class InvalidClientId(InvalidParams):
    kind = "invalid_client_id"


class InvalidOption(InvalidParams):
    kind = "invalid_option"


class PromptTooLarge(InvalidParams):
    kind = "prompt_too_large"


class InternalError(WireError):
    """A bug of ours. ``data.id`` is in the log, next to the traceback."""


class AuthRequired(WireError):
    kind = "auth_required"
    code = -32000


class Forbidden(WireError):
    kind = "forbidden"
    code = -32003


class NotFound(WireError):
    kind = "not_found"
    code = -32002


class WorkspaceNotFound(NotFound):
    kind = "workspace_not_found"


class SessionNotFound(NotFound):
    kind = "session_not_found"


class RunNotFound(NotFound):
    kind = "run_not_found"


class PermissionNotFound(NotFound):
    kind = "permission_not_found"


class MessageNotFound(NotFound):
    kind = "message_not_found"


class ModelNotFound(NotFound):
    kind = "model_not_found"


class StateConflict(WireError):
    kind = "state_conflict"
    code = -32010


class WorkspaceClosing(StateConflict):
    kind = "workspace_closing"
    retryable = True


class ServerClosing(StateConflict):
    kind = "server_closing"
    retryable = True


class AgentNotInitialized(StateConflict):
    kind = "agent_not_initialized"


class SessionBusy(StateConflict):
    kind = "session_busy"
    retryable = True


class IdempotencyConflict(StateConflict):
    kind = "idempotency_conflict"


class NotAttached(StateConflict):
    kind = "not_attached"


class ServerNotIdle(StateConflict):
    kind = "server_not_idle"
    retryable = True


class Exhausted(WireError):
    """Something is full or away. Nothing was changed; trying again makes sense."""

    kind = "exhausted"
    code = -32020
    retryable = True


class QueueFull(Exhausted):
    kind = "queue_full"


class TooManyConnections(Exhausted):
    kind = "too_many_connections"


class Overloaded(Exhausted):
    kind = "overloaded"


class StorageUnavailable(Exhausted):
    kind = "storage_unavailable"


class UnsupportedProtocol(WireError):
    kind = "unsupported_protocol"
    code = -32022


class RequestCancelled(WireError):
    kind = "request_cancelled"
    code = -32800


class RunError(WireError):
    """Why a run ended with `error`. Found in `run.error` only."""

    kind = "run_error"
    code = -32030


class ProviderError(RunError):
    kind = "provider_error"


class ProviderAuth(RunError):
    kind = "provider_auth"


class ProviderRateLimited(RunError):
    kind = "provider_rate_limited"
    retryable = True


class ProviderUnreachable(RunError):
    kind = "provider_unreachable"
    retryable = True


class ContextOverflow(RunError):
    kind = "context_overflow"


class LoopDetected(RunError):
    kind = "loop_detected"


class AgentFailed(RunError):
    kind = "agent_failed"


_GROUPS = (NotFound, StateConflict, Exhausted, RunError)


def _leaves(cls: type[WireError]) -> list[type[WireError]]:
    found = [] if cls in _GROUPS or cls is WireError else [cls]
    for sub in cls.__subclasses__():
        found += _leaves(sub)
    return found


ERRORS: dict[str, type[WireError]] = {cls.kind: cls for cls in _leaves(WireError)}
"""Every kind of the contract, with its class."""


def error_from_object(error: ErrorObject) -> WireError:
    """Rebuild, on the client's side, the error that the server sent.

    An unknown kind becomes a `WireError` that keeps its kind, code and data.
    """
    cls = ERRORS.get(error.kind)
    if cls is None:
        cls = type("UnknownError", (WireError,), {"kind": error.kind, "code": error.code})
    retry = error.data.get("retryAfterMs")
    rebuilt = cls(
        error.message,
        retry_after_ms=retry if isinstance(retry, int) else None,
        retryable=bool(error.data.get("retryable")),
    )
    # Not as keywords: a peer may name a member like one of our own arguments.
    rebuilt.data = {key: value for key, value in error.data.items() if key not in {"kind", "retryable", "retryAfterMs"}}
    return rebuilt
