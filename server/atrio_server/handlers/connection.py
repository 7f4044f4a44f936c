"""`initialize` and `ping`: the connection itself.

`initialize` decides who the author of everything is that this connection does;
that it comes first, and once, is the dispatcher's rule.
"""

import uuid

from atrio_protocol.errors import InvalidClientId, UnsupportedProtocol
from atrio_protocol.limits import (
    MAX_CONNECTIONS,
    MAX_FRAME_BYTES,
    MAX_IN_FLIGHT,
    MAX_PROMPT_BYTES,
    MAX_QUEUED_PER_SESSION,
    REPLAY_EVENTS,
)
from atrio_protocol.methods import (
    SCOPES,
    Capabilities,
    Empty,
    InitializeParams,
    InitializeResult,
    Limits,
    NoParams,
    PeerInfo,
)
from atrio_protocol.struct import UNSET, given
from atrio_protocol.version import NAME, PROTOCOL_VERSION, VERSION
from atrio_protocol.who import Author
from atrio_server.calls import Caller
from atrio_server.server import Server

__all__ = ["client_id_from", "initialize", "ping"]

MAX_NAME_CHARS = 64


async def initialize(server: Server, caller: Caller, params: InitializeParams) -> InitializeResult:
    """Agree on the protocol and say who the client is."""
    if params.protocol_version != PROTOCOL_VERSION:
        raise UnsupportedProtocol(
            f"This server speaks protocol version {PROTOCOL_VERSION}, not {params.protocol_version}.",
            supported=[PROTOCOL_VERSION],
        )
    info = params.client_info
    name = given(params.user_name, "") or given(info.title, "") or info.name
    client_id = client_id_from(params.client_id)
    caller.author = Author(client_id=client_id, name=name[:MAX_NAME_CHARS])
    return InitializeResult(
        protocol_version=PROTOCOL_VERSION,
        server_info=PeerInfo(name=NAME, version=VERSION),
        client_id=client_id,
        capabilities=Capabilities(
            steer=Empty(),
            interrupt=Empty(),
            fork=Empty(),
            shell=Empty(),
            summarize=Empty(),
            test_hooks=Empty() if server.test_hooks else UNSET,
        ),
        limits=Limits(
            max_frame_bytes=MAX_FRAME_BYTES,
            max_prompt_bytes=MAX_PROMPT_BYTES,
            max_queued_per_session=MAX_QUEUED_PER_SESSION,
            max_in_flight=MAX_IN_FLIGHT,
            replay_events=REPLAY_EVENTS,
            max_connections=MAX_CONNECTIONS,
        ),
        scopes=tuple(scope for scope in SCOPES if scope in caller.scopes),
    )


async def ping(_server: Server, _caller: Caller, _params: NoParams) -> Empty:
    """Answer."""
    return Empty()


def client_id_from(value: object) -> str:
    """A client's id as it is kept; a new one where none was given.

    Raises:
        InvalidClientId: It is not a UUID.
    """
    if value is UNSET or value is None:
        return str(uuid.uuid4())
    if isinstance(value, str) and len(value) == 36:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise InvalidClientId("The client id must be a UUID, such as one made by uuid4.", path="/clientId")
