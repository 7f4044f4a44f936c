"""From a request to its handler: the rules that hold for every method.

In this order: does the method exist here, has the connection introduced itself,
has it the scope, do the parameters fit. A handler's own errors are the
contract's; anything else is a bug, gets an id that is also in the log, and
leaves the connection alive.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
import trio

from atrio_agent.lifetime import OwnerEnded
from atrio_protocol.codec import decode_params
from atrio_protocol.errors import (
    AlreadyInitialized,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotFound,
    NotInitialized,
    ParseFailed,
    WireError,
    WorkspaceClosing,
)
from atrio_protocol.jsonrpc import (
    SMALL_BYTES,
    Message,
    Notification,
    Request,
    encode_error,
    encode_result,
    parse_message,
)
from atrio_protocol.limits import MAX_ID_CHARS
from atrio_protocol.methods import METHODS, Method
from atrio_protocol.who import Author
from atrio_server.calls import AttachReply, Caller, Later, Reply
from atrio_server.handlers import connection, hooks, permissions, prompts, runs, sessions, workspaces
from atrio_server.handlers import server as server_handlers
from atrio_server.server import Server

__all__ = ["HANDLERS", "Dispatcher"]

Handler = Callable[[Server, Caller, Any], Awaitable[Reply | Later]]

HANDLERS: Final[dict[str, Handler]] = {
    "initialize": connection.initialize,
    "ping": connection.ping,
    "workspace/open": workspaces.workspace_open,
    "workspace/close": workspaces.workspace_close,
    "workspace/list": workspaces.workspace_list,
    "workspace/get": workspaces.workspace_get,
    "client/list": workspaces.client_list,
    "session/new": sessions.session_new,
    "session/list": workspaces.session_list,
    "session/get": sessions.session_get,
    "session/rename": sessions.session_rename,
    "session/fork": sessions.session_fork,
    "session/delete": sessions.session_delete,
    "session/messages": sessions.session_messages,
    "message/get": sessions.message_get,
    "session/export": sessions.session_export,
    "session/view": workspaces.session_view,
    "session/attach": sessions.session_attach,
    "session/detach": sessions.session_detach,
    "session/set_model": sessions.session_set_model,
    "session/prompt": prompts.session_prompt,
    "session/summarize": prompts.session_summarize,
    "session/shell": prompts.session_shell,
    "session/cancel": prompts.session_cancel,
    "session/queue": prompts.session_queue,
    "session/clear_queue": prompts.session_clear_queue,
    "run/get": runs.run_get,
    "run/list": runs.run_list,
    "run/wait": runs.run_wait,
    "permission/list": permissions.permission_list,
    "permission/respond": permissions.permission_respond,
    "permission/grants": permissions.permission_grants,
    "permission/revoke": permissions.permission_revoke,
    "model/list": server_handlers.model_list,
    "server/info": server_handlers.server_info,
    "server/shutdown": server_handlers.server_shutdown,
    "test/gates": hooks.gates,
    "test/release": hooks.release,
    "test/hold": hooks.hold,
    "test/requests": hooks.requests,
}
"""One handler for each row of `METHODS`."""

log = structlog.get_logger("atrio.requests")


class Dispatcher:
    """Serves requests of any caller."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parsing = trio.CapacityLimiter(1)

    async def begin(self, caller: Caller, request: Request) -> Reply | Later:
        """Do the beginning of a request: find its target and take its synchronous step.

        Raises:
            WireError: What the caller is to be told.
        """
        about = {"method": request.method}
        try:
            method = self._method(caller, request.method)
            params = decode_params(method, request.params)
            about |= _named(params)
            outcome = await HANDLERS[method.name](self._server, caller, params)
        except Exception as exc:
            raise self._told(exc, caller, about) from exc
        if isinstance(outcome, Later):
            return outcome._replace(run=lambda: self._finish(outcome, caller, about))
        return outcome

    async def notify(self, caller: Caller, notification: Notification) -> None:
        """Serve a notification. Nobody is told what comes of it; one that is not known is ignored."""
        if notification.method != "session/cancel":
            return
        raw = msgspec.Raw(b"null")
        request = Request(id=raw, key=None, method=notification.method, params=notification.params)
        try:
            await self.begin(caller, request)
        except WireError as exc:
            log.debug("notification refused", method=notification.method, kind=exc.kind)

    async def rpc(self, body: bytes, caller: Caller, client_id: str | None) -> bytes | None:
        """Serve one request that came over HTTP; None answers a notification."""
        try:
            message = await self._parse(body)
        except InvalidRequest as exc:
            return encode_error(exc.request_id, exc.to_object())
        except ParseFailed as exc:
            return encode_error(None, exc.to_object())
        if isinstance(message, Notification):
            caller.author = _http_author(client_id)
            await self.notify(caller, message)
            return None
        if not isinstance(message, Request):
            return None
        try:
            caller.author = _http_author(client_id)
            outcome = await self.begin(caller, message)
            reply = await outcome.run() if isinstance(outcome, Later) else outcome
        except WireError as exc:
            return encode_error(message.id, exc.to_object())
        return encode_result(message.id, reply.result if isinstance(reply, AttachReply) else reply)

    async def _parse(self, body: bytes) -> Message:
        if len(body) <= SMALL_BYTES:
            return parse_message(body)
        return await trio.to_thread.run_sync(parse_message, body, limiter=self._parsing)

    def _method(self, caller: Caller, name: str) -> Method:
        method = METHODS.get(name)
        if caller.author is None and name != "initialize":
            raise NotInitialized("The first request of a connection must be initialize.")
        if method is None or (method.test_hook and not self._server.test_hooks):
            raise MethodNotFound(f"There is no method {name!r}.", method=name)
        if not caller.is_socket and not method.over_http:
            raise MethodNotFound(f"{name} is for WebSocket connections.", method=name)
        if name == "initialize" and caller.author is not None:
            raise AlreadyInitialized("This connection is initialized already.")
        if method.scope not in caller.scopes:
            raise Forbidden(f"{name} needs a token with the scope {method.scope!r}.", scope=method.scope)
        bound_to = caller.identity.workspace
        if method.whole_server and bound_to is not None:
            sentence = f"{name} is about the whole server, and this token is for {bound_to} alone."
            raise Forbidden(sentence, workspace=str(bound_to))
        return method

    async def _finish(self, later: Later, caller: Caller, about: dict[str, str]) -> Reply:
        try:
            return await later.run()
        except Exception as exc:
            raise self._told(exc, caller, about) from exc

    def _told(self, exc: Exception, caller: Caller, about: dict[str, str]) -> WireError:
        """What the caller is told of this exception."""
        if isinstance(exc, WireError):
            return exc
        if isinstance(exc, OwnerEnded):
            return WorkspaceClosing("The workspace closed before this was done; try again.")
        bug_id = secrets.token_hex(6)
        client = caller.author.client_id if caller.author else None
        log.error("request failed", id=bug_id, connection=caller.connection_id, client=client, **about, exc_info=exc)
        return InternalError(f"The server made an error; its log has it under {bug_id}.", id=bug_id)


def _named(params: object) -> dict[str, str]:
    """The ids in a request's parameters, for the log."""
    named = {what: getattr(params, f"{what}_id", None) for what in ("workspace", "session", "run")}
    return {what: value[:MAX_ID_CHARS] for what, value in named.items() if isinstance(value, str)}


def _http_author(client_id: str | None) -> Author:
    return Author(client_id=connection.client_id_from(client_id), name="http")
