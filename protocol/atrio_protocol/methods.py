"""Every method: what it takes, what it answers, which scope it needs.

`METHODS` is the one table from which the server dispatches, the client types
its calls and the schema is made. A field that the contract gives an error of
its own for (`sessionId`, `path`) may be absent here, so that the handler can
say which one it was; every other missing field is `invalid_params`. An optional
field without a default takes null for absent, because many clients write it so.
"""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from atrio_protocol.content import ContentBlock
from atrio_protocol.limits import (
    HISTORY_LIMIT_DEFAULT,
    HISTORY_LIMIT_MAX,
    MAX_ID_CHARS,
    MAX_USER_NAME_CHARS,
    MAX_WATCHED,
    PAGE_LIMIT_MAX,
)
from atrio_protocol.struct import UNSET, Positive, UnsetType, Whole, WireStruct
from atrio_protocol.things import (
    Client,
    Delivery,
    Grant,
    McpState,
    Message,
    Permission,
    PermissionOutcome,
    Run,
    Session,
    Todo,
    Workspace,
)
from atrio_protocol.who import Author

__all__ = [
    "METHODS",
    "SCOPES",
    "AttachParams",
    "Attached",
    "AttachedStream",
    "CancelParams",
    "CancelRequestParams",
    "CancelResult",
    "Capabilities",
    "ClearQueueResult",
    "ClientListResult",
    "Empty",
    "ForkParams",
    "GatesParams",
    "GatesResult",
    "HoldParams",
    "InitializeParams",
    "InitializeResult",
    "Limits",
    "MessageGetParams",
    "MessageResult",
    "MessagesParams",
    "MessagesResult",
    "Method",
    "ModelInfo",
    "ModelListParams",
    "ModelListResult",
    "ModelPrice",
    "NoParams",
    "OpenParams",
    "OpenResult",
    "PeerInfo",
    "PermissionGrantsResult",
    "PermissionListParams",
    "PermissionListResult",
    "PermissionRespondParams",
    "PermissionRespondResult",
    "PermissionRevokeParams",
    "Position",
    "PromptParams",
    "PromptResult",
    "QueueResult",
    "ReleaseParams",
    "ReleaseResult",
    "RenameParams",
    "RequestsResult",
    "RunListParams",
    "RunListResult",
    "RunParams",
    "RunResult",
    "RunWaitParams",
    "Scope",
    "ServerInfoResult",
    "ServerShutdownParams",
    "SessionExportParams",
    "SessionExportResult",
    "SessionListParams",
    "SessionListResult",
    "SessionNewParams",
    "SessionParams",
    "SessionResult",
    "SessionSnapshot",
    "SetModelParams",
    "SummarizeParams",
    "ViewParams",
    "WaiterInfo",
    "WorkspaceListResult",
    "WorkspaceParams",
    "WorkspaceResult",
    "WorkspaceSnapshot",
]

Scope = Literal["observe", "prompt", "approve", "admin"]
SCOPES: tuple[Scope, ...] = ("observe", "prompt", "approve", "admin")

PageLimit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_LIMIT_MAX)]
HistoryLimit = Annotated[int, msgspec.Meta(ge=0, le=HISTORY_LIMIT_MAX)]


class NoParams(WireStruct, kw_only=True):
    pass


class Empty(WireStruct, kw_only=True):
    pass


class PeerInfo(WireStruct, kw_only=True):
    name: str
    version: str
    title: str | None | UnsetType = UNSET


class InitializeParams(WireStruct, kw_only=True):
    """``clientId`` names one client process over all its connections."""

    protocol_version: int
    client_info: PeerInfo
    client_id: Any | UnsetType = UNSET  # a malformed one has an error kind of its own
    user_name: Annotated[str, msgspec.Meta(max_length=MAX_USER_NAME_CHARS)] | None | UnsetType = UNSET


class Capabilities(WireStruct, kw_only=True):
    """What this server can do; absent means it cannot."""

    steer: Empty | UnsetType = UNSET
    interrupt: Empty | UnsetType = UNSET
    fork: Empty | UnsetType = UNSET
    shell: Empty | UnsetType = UNSET
    summarize: Empty | UnsetType = UNSET
    test_hooks: Empty | UnsetType = UNSET


class Limits(WireStruct, kw_only=True):
    max_frame_bytes: int
    max_prompt_bytes: int
    max_queued_per_session: int
    max_in_flight: int
    replay_events: int
    max_connections: int


class InitializeResult(WireStruct, kw_only=True):
    protocol_version: int
    server_info: PeerInfo
    client_id: str
    capabilities: Capabilities
    limits: Limits
    scopes: tuple[Scope, ...]


class CancelRequestParams(WireStruct, kw_only=True):
    request_id: msgspec.Raw


class Position(WireStruct, kw_only=True):
    """Where a reader is: the last event it has of a stream."""

    epoch: str
    seq: Whole


class AttachedStream(WireStruct, kw_only=True):
    epoch: str
    seq: int
    recovered: bool
    head: int


class OpenParams(WireStruct, kw_only=True):
    path: str | None | UnsetType = UNSET
    create: bool = False
    after: Position | None | UnsetType = UNSET
    view: str | None | UnsetType = UNSET


class WorkspaceSnapshot(WireStruct, kw_only=True):
    sessions: tuple[Session, ...]
    next_cursor: str | UnsetType = UNSET
    clients: tuple[Client, ...]
    permissions: tuple[Permission, ...]


class OpenResult(WireStruct, kw_only=True):
    workspace: Workspace
    stream: AttachedStream | UnsetType = UNSET
    snapshot: WorkspaceSnapshot | UnsetType = UNSET


class WorkspaceParams(WireStruct, kw_only=True):
    workspace_id: str


class WorkspaceResult(WireStruct, kw_only=True):
    """``mcp``: the workspace's MCP servers, where any are configured; ``problems``: sentences on its configuration."""

    workspace: Workspace
    mcp: tuple[McpState, ...] | UnsetType = UNSET
    problems: tuple[str, ...] | UnsetType = UNSET


class WorkspaceListResult(WireStruct, kw_only=True):
    workspaces: tuple[Workspace, ...]


class SessionNewParams(WireStruct, kw_only=True):
    workspace_id: str
    title: str | None | UnsetType = UNSET
    model: str | None | UnsetType = UNSET


class SessionResult(WireStruct, kw_only=True):
    session: Session


class SessionListParams(WireStruct, kw_only=True):
    workspace_id: str
    query: str | None | UnsetType = UNSET
    limit: PageLimit = 50
    cursor: str | None | UnsetType = UNSET
    children: bool = False


class SessionListResult(WireStruct, kw_only=True):
    sessions: tuple[Session, ...]
    next_cursor: str | UnsetType = UNSET


class SessionParams(WireStruct, kw_only=True):
    session_id: str | None | UnsetType = UNSET


class RenameParams(SessionParams, kw_only=True):
    title: str


class SetModelParams(SessionParams, kw_only=True):
    model_id: str


class MessagesParams(SessionParams, kw_only=True):
    before: Whole | None | UnsetType = UNSET
    limit: PageLimit = 100


class MessagesResult(WireStruct, kw_only=True):
    messages: tuple[Message, ...]
    more: bool


class MessageGetParams(WireStruct, kw_only=True):
    message_id: str


class MessageResult(WireStruct, kw_only=True):
    message: Message


class ForkParams(SessionParams, kw_only=True):
    """``message_id``: the last message of the fork; all of them when absent."""

    message_id: str | None | UnsetType = UNSET


class SessionExportParams(SessionParams, kw_only=True):
    format: Literal["json", "markdown"]


class SessionExportResult(WireStruct, kw_only=True):
    content: str


class ViewParams(WireStruct, kw_only=True):
    workspace_id: str
    session_id: str | None = None


class ClientListResult(WireStruct, kw_only=True):
    clients: tuple[Client, ...]


class AttachParams(SessionParams, kw_only=True):
    after: Position | None | UnsetType = UNSET
    history_limit: HistoryLimit = HISTORY_LIMIT_DEFAULT
    watch: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_WATCHED)] = ()


class SessionSnapshot(WireStruct, kw_only=True):
    session: Session
    messages: tuple[Message, ...]
    more: bool
    todos: tuple[Todo, ...]
    runs: tuple[Run, ...]
    permissions: tuple[Permission, ...]


class Attached(WireStruct, kw_only=True):
    stream: AttachedStream
    snapshot: SessionSnapshot | UnsetType = UNSET


class PromptParams(SessionParams, kw_only=True):
    prompt: tuple[ContentBlock, ...]
    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)] | None | UnsetType = UNSET
    delivery: Delivery | None | UnsetType = UNSET
    model: str | None | UnsetType = UNSET
    meta: dict[str, Any] | None | UnsetType = msgspec.field(name="_meta", default=UNSET)


class PromptResult(WireStruct, kw_only=True):
    run: Run
    duplicate: bool
    position: int


class SummarizeParams(SessionParams, kw_only=True):
    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)] | None | UnsetType = UNSET


class ShellParams(SessionParams, kw_only=True):
    command: str
    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)] | None | UnsetType = UNSET


class CancelParams(SessionParams, kw_only=True):
    run_id: str | None | UnsetType = UNSET
    scope: Literal["all", "mine"] = "all"
    wait: bool = False


class CancelResult(WireStruct, kw_only=True):
    up_to: int
    cancelled: tuple[str, ...]


class ClearQueueResult(WireStruct, kw_only=True):
    cancelled: tuple[str, ...]


class QueueResult(WireStruct, kw_only=True):
    runs: tuple[Run, ...]


class RunParams(WireStruct, kw_only=True):
    run_id: str


class RunResult(WireStruct, kw_only=True):
    run: Run


class RunWaitParams(RunParams, kw_only=True):
    timeout_ms: Whole | None | UnsetType = UNSET


class RunListParams(SessionParams, kw_only=True):
    before: Whole | None | UnsetType = UNSET
    limit: PageLimit = 50


class RunListResult(WireStruct, kw_only=True):
    runs: tuple[Run, ...]
    more: bool


class ModelPrice(WireStruct, kw_only=True):
    """What a million tokens cost."""

    input: float
    output: float
    currency: str


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


class PermissionGrantsResult(WireStruct, kw_only=True):
    grants: tuple[Grant, ...]


class PermissionRevokeParams(WireStruct, kw_only=True):
    grant_id: str


class ModelInfo(WireStruct, kw_only=True):
    model_id: str
    provider: str
    name: str
    context_size: int | UnsetType = UNSET
    takes_images: bool | UnsetType = UNSET
    price: ModelPrice | UnsetType = UNSET
    default: bool
    reason: str | UnsetType = UNSET


class ModelListParams(WireStruct, kw_only=True):
    workspace_id: str | None | UnsetType = UNSET


class ModelListResult(WireStruct, kw_only=True):
    models: tuple[ModelInfo, ...]


class ServerInfoResult(WireStruct, kw_only=True):
    version: str
    pid: int
    uptime_ms: int
    workspaces: int
    connections: int
    runs_active: int


class ServerShutdownParams(WireStruct, kw_only=True):
    if_idle: bool


class GatesParams(WireStruct, kw_only=True):
    wait: str | None | UnsetType = UNSET
    count: Positive = 1
    timeout_ms: Whole | None | UnsetType = UNSET


class WaiterInfo(WireStruct, kw_only=True):
    gate: str
    session_id: str
    run_id: str


class GatesResult(WireStruct, kw_only=True):
    waiting: tuple[str, ...]
    waiters: tuple[WaiterInfo, ...]


class ReleaseParams(WireStruct, kw_only=True):
    gate: str
    run_id: str | None | UnsetType = UNSET
    all: bool = False


class ReleaseResult(WireStruct, kw_only=True):
    released: int


class HoldParams(SessionParams, kw_only=True):
    point: Literal["accept.commit", "run.start", "tool.start", "run.finish"]


class RequestsResult(WireStruct, kw_only=True):
    requests: tuple[dict[str, Any], ...]


class Method(NamedTuple):
    """One row of the contract. ``whole_server``: not for a token that is for one workspace alone."""

    name: str
    params: type[WireStruct]
    result: type[WireStruct]
    scope: Scope
    over_http: bool = True
    test_hook: bool = False
    whole_server: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("initialize", InitializeParams, InitializeResult, "observe", over_http=False),
        Method("ping", NoParams, Empty, "observe"),
        Method("workspace/open", OpenParams, OpenResult, "observe"),
        Method("workspace/close", WorkspaceParams, Empty, "observe"),
        Method("workspace/list", NoParams, WorkspaceListResult, "observe"),
        Method("workspace/get", WorkspaceParams, WorkspaceResult, "observe"),
        Method("session/new", SessionNewParams, SessionResult, "prompt"),
        Method("session/list", SessionListParams, SessionListResult, "observe"),
        Method("session/get", SessionParams, SessionResult, "observe"),
        Method("session/rename", RenameParams, SessionResult, "prompt"),
        Method("session/fork", ForkParams, SessionResult, "prompt"),
        Method("session/delete", SessionParams, Empty, "admin"),
        Method("session/messages", MessagesParams, MessagesResult, "observe"),
        Method("message/get", MessageGetParams, MessageResult, "observe"),
        Method("session/export", SessionExportParams, SessionExportResult, "observe"),
        Method("session/view", ViewParams, Empty, "observe"),
        Method("client/list", WorkspaceParams, ClientListResult, "observe"),
        Method("session/attach", AttachParams, Attached, "observe", over_http=False),
        Method("session/detach", SessionParams, Empty, "observe", over_http=False),
        Method("session/prompt", PromptParams, PromptResult, "prompt"),
        Method("session/summarize", SummarizeParams, RunResult, "prompt"),
        Method("session/shell", ShellParams, RunResult, "prompt"),
        Method("session/cancel", CancelParams, CancelResult, "prompt"),
        Method("session/queue", SessionParams, QueueResult, "observe"),
        Method("session/clear_queue", SessionParams, ClearQueueResult, "prompt"),
        Method("session/set_model", SetModelParams, SessionResult, "prompt"),
        Method("run/get", RunParams, RunResult, "observe"),
        Method("run/list", RunListParams, RunListResult, "observe"),
        Method("run/wait", RunWaitParams, RunResult, "observe"),
        Method("permission/list", PermissionListParams, PermissionListResult, "observe"),
        Method("permission/respond", PermissionRespondParams, PermissionRespondResult, "approve"),
        Method("permission/grants", SessionParams, PermissionGrantsResult, "approve"),
        Method("permission/revoke", PermissionRevokeParams, Empty, "approve"),
        Method("model/list", ModelListParams, ModelListResult, "observe"),
        Method("server/info", NoParams, ServerInfoResult, "observe"),
        Method("server/shutdown", ServerShutdownParams, Empty, "admin", whole_server=True),
        Method("test/gates", GatesParams, GatesResult, "admin", test_hook=True, whole_server=True),
        Method("test/release", ReleaseParams, ReleaseResult, "admin", test_hook=True, whole_server=True),
        Method("test/hold", HoldParams, Empty, "admin", test_hook=True),
        Method("test/requests", SessionParams, RequestsResult, "admin", test_hook=True),
    )
}
"""Every method of this version, by name."""
