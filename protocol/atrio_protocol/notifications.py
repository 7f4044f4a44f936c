"""Calls that want no answer, in either direction.

From the server: the events of what a connection is attached to, and the end of
an attachment. From a client: giving up a request that still waits; a cancel may
be sent as a notification too. One that is not known is ignored by whoever gets it.
"""

from typing import Literal

import msgspec

from atrio_protocol.methods import CancelParams, CancelRequestParams
from atrio_protocol.struct import WireStruct

__all__ = [
    "CLIENT_NOTIFICATIONS",
    "SERVER_NOTIFICATIONS",
    "SessionDetached",
    "SessionEvents",
    "WorkspaceDetached",
    "WorkspaceEvents",
]


class SessionEvents(WireStruct, kw_only=True):
    """What happened in a session, in order."""

    session_id: str
    epoch: str
    events: tuple[msgspec.Raw, ...]


class WorkspaceEvents(WireStruct, kw_only=True):
    """What happened in a workspace, in order."""

    workspace_id: str
    epoch: str
    events: tuple[msgspec.Raw, ...]


class SessionDetached(WireStruct, kw_only=True):
    """The server ended the attachment. After ``lagged`` the client attaches again."""

    session_id: str
    reason: Literal["lagged", "deleted", "workspace_closed"]


class WorkspaceDetached(WireStruct, kw_only=True):
    """The server ended the attachment. After ``lagged`` the client opens again."""

    workspace_id: str
    reason: Literal["lagged", "closed"]


SERVER_NOTIFICATIONS: dict[str, type[WireStruct]] = {
    "session/events": SessionEvents,
    "workspace/events": WorkspaceEvents,
    "session/detached": SessionDetached,
    "workspace/detached": WorkspaceDetached,
}
"""What a server sends by itself, by method."""

CLIENT_NOTIFICATIONS: dict[str, type[WireStruct]] = {
    "$/cancel_request": CancelRequestParams,
    "session/cancel": CancelParams,
}
"""What a client may send without an id, by method."""
