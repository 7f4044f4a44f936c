"""What the server answers to plain HTTP, as a quart-trio application.

A few routes, each a thin skin over something that is not about HTTP. Who asks
was decided at the door, which leaves the `Identity` (or None, where no token is
needed) in ``scope["state"]``; no header that says so reaches the application.

Nothing here may outlive its request. The invariant: every answer but that of
`/metrics` is JSON, and none is stored by anybody in between or carries a CORS header.
"""

import re
import secrets
from typing import Any, Final, Protocol, cast

import msgspec
import structlog
import trio
from quart import request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse as Response
from werkzeug.exceptions import HTTPException

from atrio_protocol.errors import InvalidClientId, WireError
from atrio_protocol.jsonrpc import Message, Request, encode_error, parse_message
from atrio_protocol.limits import MAX_FRAME_BYTES
from atrio_protocol.version import NAME, PROTOCOL_VERSION, VERSION
from atrio_server.auth import Identity

__all__ = ["CLIENT_ID_HEADER", "TokenEnded", "WebBackend", "make_app"]

CLIENT_ID_HEADER: Final = "Atrio-Client-Id"

CLIENT_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class TokenEnded(Exception):
    """The token of a request has ended while the request was served."""


class WebBackend(Protocol):
    """The server behind the routes."""

    @property
    def closing(self) -> bool:
        """Whether the server takes no new work any more."""
        ...

    async def rpc(self, body: bytes, identity: Identity, client_id: str | None) -> bytes | None:
        """Serve one JSON-RPC message; None where it wants no answer.

        ``client_id`` is a UUID, or None where the client did not say one.

        Raises:
            TokenEnded: Whoever asks may not know the answer any more. What was begun may have been done.
        """
        ...

    async def metrics(self) -> tuple[bytes, str]:
        """The figures of the whole server, and the content type of that text."""
        ...


def make_app(backend: WebBackend) -> QuartTrio:
    """Make the application of one server."""
    # There are no files to serve; left to itself Flask asks for the present directory, which may be gone.
    app = QuartTrio("atrio", static_folder=None, root_path="/", instance_path="/")
    app.config["MAX_CONTENT_LENGTH"] = MAX_FRAME_BYTES
    app.config["BODY_TIMEOUT"] = None  # the door has read it
    app.config["RESPONSE_TIMEOUT"] = None  # every write is bounded, and `run/wait` may take its time
    # A redirect would repeat the Host and the path of a request that nobody should have sent.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    threads = trio.CapacityLimiter(1)
    schema = _Schema(threads)

    async def health() -> Response:
        return _json({"status": "closing"}, 503) if backend.closing else _json({"status": "ok"})

    async def version() -> Response:
        return _json({"name": NAME, "version": VERSION, "protocolVersion": PROTOCOL_VERSION})

    async def schema_json() -> Response:
        return Response(await schema.load(), content_type="application/schema+json")

    async def rpc() -> Response:
        identity = _identity()
        if identity is None:
            return _error(401, "auth_required", "this needs a token")
        if request.mimetype != "application/json":
            return _error(415, "unsupported_media_type", "send application/json")
        body = cast("bytes", await request.get_data(cache=False))
        client_ids = request.headers.getlist(CLIENT_ID_HEADER)
        if client_ids and not (len(client_ids) == 1 and CLIENT_ID.fullmatch(client_ids[0])):
            message = await trio.to_thread.run_sync(_readable, body, limiter=threads)
            if message is not None:
                return _invalid_client_id(message)
            client_ids = []  # the message is malformed itself, and is told that first
        try:
            reply = await backend.rpc(body, identity, client_ids[0].lower() if client_ids else None)
        except TokenEnded:
            return _error(401, "auth_required", "the token has ended")
        if reply is None:
            return Response(b"", 204, content_type="application/json")
        return Response(reply, content_type="application/json")

    async def metrics() -> Response:
        refused = _not_for_figures(_identity())
        if refused is not None:
            return refused
        text, content_type = await backend.metrics()
        return Response(text, content_type=content_type)

    def route(path: str, method: str, view: Any) -> None:
        app.add_url_rule(path, view_func=view, methods=[method], provide_automatic_options=False)

    route("/v1/health", "GET", health)
    route("/v1/version", "GET", version)
    route("/v1/schema.json", "GET", schema_json)
    route("/v1/rpc", "POST", rpc)
    route("/metrics", "GET", metrics)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _bug)
    app.after_request(_finish)
    return app


class _Schema:
    """The schema of every message. Making it takes long enough to hold up others, so it is made once, in a thread."""

    def __init__(self, threads: trio.CapacityLimiter) -> None:
        self._threads = threads
        self._made: bytes | None = None

    async def load(self) -> bytes:
        if self._made is None:
            self._made = await trio.to_thread.run_sync(_make_schema, limiter=self._threads)
        return self._made


def _make_schema() -> bytes:
    # Imported at the first request for it: a server that nobody asks for its schema starts sooner.
    from atrio_protocol.schema import schema_json  # noqa: PLC0415

    return schema_json()


def _identity() -> Identity | None:
    state = cast("dict[str, Any]", request.scope["state"])
    return state.get("identity")


def _not_for_figures(identity: Identity | None) -> Response | None:
    """The answer to somebody who may not see the figures of the whole server; None to who may."""
    if identity is None:
        return _error(401, "auth_required", "this needs a token")
    if "observe" not in identity.scopes:
        return _error(403, "forbidden", "this needs a token with the scope observe")
    if identity.workspace is not None:
        return _error(403, "forbidden", "these are figures of the whole server; this token is for one workspace")
    return None


def _readable(body: bytes) -> Message | None:
    try:
        return parse_message(body)
    except WireError:
        return None


def _invalid_client_id(message: Message) -> Response:
    if not isinstance(message, Request):
        return Response(b"", 204, content_type="application/json")
    error = InvalidClientId(f"{CLIENT_ID_HEADER} is no UUID").to_object()
    return Response(encode_error(message.id, error), content_type="application/json")


async def _http_error(exc: HTTPException) -> Response:
    # A redirect or an answer that somebody has made already is an HTTPException as well; there is none here.
    status = exc.code or 500
    return _error(
        status, exc.name.lower().replace(" ", "_"), f"{exc.name}: {request.method} is not served at this path"
    )


async def _bug(exc: Exception) -> Response:
    error_id = secrets.token_hex(4)
    log.error("web.bug", error_id=error_id, exc_info=exc)
    return _error(500, "internal", f"a bug of the server; its log has it as {error_id}")


async def _finish(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _error(status: int, error: str, message: str) -> Response:
    return _json({"error": error, "message": message}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")
