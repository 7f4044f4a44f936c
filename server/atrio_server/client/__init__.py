"""A client for Atrio servers, on Trio: typed calls, event streams that resume, a connection that mends itself.

    async with open_client(url, token, client_name="my-editor") as client:
        prompted = await client.call("session/prompt", PromptParams(...))
        with client.session(session_id) as events:
            async for item in events:
                ...

It needs `atrio_protocol`, trio and trio-websocket, and nothing of the server.
"""

from atrio_server.client.client import Client, open_client
from atrio_server.client.errors import AnswerBroken, ClientError, FrameTooLarge, ReplyLost, ServerGone, StreamBroken
from atrio_server.client.keep import Address
from atrio_server.client.link import Dial
from atrio_server.client.stream import Detached, EventStream, Resync, SessionStream, WorkspaceStream

__all__ = [
    "Address",
    "AnswerBroken",
    "Client",
    "ClientError",
    "Detached",
    "Dial",
    "EventStream",
    "FrameTooLarge",
    "ReplyLost",
    "Resync",
    "ServerGone",
    "SessionStream",
    "StreamBroken",
    "WorkspaceStream",
    "open_client",
]
