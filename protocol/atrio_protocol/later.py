"""Methods of the contract that servers of this version do not have yet.

Their shapes are fixed, so a client may be written against them now; a server
that lacks one answers `method_not_found` and does not announce its capability.
A method moves to `atrio_protocol.methods` with the part that serves it.
"""

from atrio_protocol.methods import Empty, Method, RunResult, SessionParams
from atrio_protocol.struct import UNSET, UnsetType, WireStruct
from atrio_protocol.things import Permission, PermissionOutcome
from atrio_protocol.who import Author

__all__ = [
    "LATER_METHODS",
    "Grant",
    "PermissionGrantsResult",
    "PermissionListParams",
    "PermissionListResult",
    "PermissionRespondParams",
    "PermissionRespondResult",
    "PermissionRevokeParams",
    "ShellParams",
]


class ShellParams(SessionParams, kw_only=True):
    command: str
    run_id: str | None | UnsetType = UNSET


class PermissionListParams(WireStruct, kw_only=True):
    """One of the two."""

    workspace_id: str | None | UnsetType = UNSET
    session_id: str | None | UnsetType = UNSET


class PermissionListResult(WireStruct, kw_only=True):
    permissions: tuple[Permission, ...]


class PermissionRespondParams(WireStruct, kw_only=True):
    permission_id: str
    option_id: str


class PermissionRespondResult(WireStruct, kw_only=True):
    """``resolved``: this answer was the one that counted; else ``outcome`` and ``by`` tell of the one that did."""

    resolved: bool
    outcome: PermissionOutcome
    by: Author | UnsetType = UNSET


class Grant(WireStruct, kw_only=True):
    """Something that is allowed for good in one session: a tool, an action, and where."""

    grant_id: str
    name: str
    action: str
    path: str | UnsetType = UNSET
    by: Author
    at: str


class PermissionGrantsResult(WireStruct, kw_only=True):
    grants: tuple[Grant, ...]


class PermissionRevokeParams(WireStruct, kw_only=True):
    grant_id: str


LATER_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("session/shell", ShellParams, RunResult, "prompt"),
        Method("permission/list", PermissionListParams, PermissionListResult, "observe"),
        Method("permission/respond", PermissionRespondParams, PermissionRespondResult, "approve"),
        Method("permission/grants", SessionParams, PermissionGrantsResult, "approve"),
        Method("permission/revoke", PermissionRevokeParams, Empty, "approve"),
    )
}
"""Every method that the contract has and this version lacks, by name."""
