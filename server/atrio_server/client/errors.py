"""What can go wrong between a client and its server, besides what the server itself answers.

    ClientError
    ├─ ServerGone     the server cannot be reached, or was lost for longer than the client waits
    ├─ ReplyLost      the connection broke before an answer that must not be asked for twice
    ├─ FrameTooLarge  the message is over what the server takes; it was not sent
    ├─ AnswerBroken   the server's answer is not what the contract says
    └─ StreamBroken   the server's events do not follow one another

Errors that the server answers with are `atrio_protocol.errors.WireError`s, and
so are a refused token (`AuthRequired`) and a refused Origin or Host (`Forbidden`).
"""

__all__ = ["AnswerBroken", "ClientError", "FrameTooLarge", "ReplyLost", "ServerGone", "StreamBroken"]


class ClientError(Exception):
    """Something between this client and its server failed."""


class ServerGone(ClientError):
    """There is no server to talk to any more. What it had accepted, it goes on with."""


class ReplyLost(ClientError):
    """The connection broke after the request was sent. Whether it was carried out is not known."""


class FrameTooLarge(ClientError):
    """The message is larger than the server takes. Nothing was sent."""


class AnswerBroken(ClientError):
    """The server's answer is not what the contract says. The request was carried out."""


class StreamBroken(ClientError):
    """The server left a gap or repeated itself in a stream. What was read before it is whole."""
