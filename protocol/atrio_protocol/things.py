"""Workspaces, sessions, runs, messages, permissions, clients: what the wire talks about.

Each type is a snapshot, true at the moment it was made. Nothing here knows how
it comes about; who owns the living thing is in `atrio_agent` and `atrio_server`.
"""

from typing import Any, Literal

import msgspec

from atrio_protocol.content import Attachment, ContentBlock
from atrio_protocol.errors import ErrorObject
from atrio_protocol.parts import Diff, Part, lean_part
from atrio_protocol.struct import UNSET, UnsetType, WireStruct
from atrio_protocol.who import Author

__all__ = [
    "Client",
    "Cost",
    "Delivery",
    "FinishReason",
    "Grant",
    "McpState",
    "Message",
    "MessageFinish",
    "Permission",
    "PermissionKind",
    "PermissionOption",
    "PermissionOutcome",
    "Run",
    "RunKind",
    "Session",
    "SessionState",
    "StopReason",
    "Todo",
    "Usage",
    "Workspace",
    "lean_message",
]

Delivery = Literal["queue", "steer", "interrupt", "reject"]
RunKind = Literal["prompt", "summarize", "shell"]
SessionState = Literal["idle", "running", "requires_action"]
StopReason = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled", "error", "interrupted"]
FinishReason = Literal[
    "end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled", "error", "interrupted", "tool_use"
]


class Workspace(WireStruct, kw_only=True):
    workspace_id: str
    path: str
    state: Literal["open", "closing"]
    created_at: str
    clients: int


class McpState(WireStruct, kw_only=True):
    """How an MCP server of a workspace is. ``tools``: how many it offers; ``detail``: what is wrong, for people."""

    name: str
    transport: Literal["stdio", "http"]
    state: Literal["starting", "ready", "failed", "stopped", "disabled"]
    tools: int
    detail: str | UnsetType = UNSET


class Cost(WireStruct, kw_only=True):
    amount: float
    currency: str


class Usage(WireStruct, kw_only=True):
    """Tokens so far. ``contextTokens`` is what the newest request took."""

    input_tokens: int = 0
    output_tokens: int = 0
    context_tokens: int = 0
    context_size: int | UnsetType = UNSET
    cost: Cost | UnsetType = UNSET
    estimated: bool = False


class Session(WireStruct, kw_only=True):
    session_id: str
    workspace_id: str
    parent_session_id: str | UnsetType = UNSET
    root_session_id: str | UnsetType = UNSET
    title: str
    state: SessionState
    queued: int
    viewers: int
    message_count: int
    model: str | UnsetType = UNSET
    usage: Usage
    rev: int
    created_at: str
    updated_at: str


class Run(WireStruct, kw_only=True):
    """One accepted prompt. ``prompt`` is there only in `run/get` of an open run."""

    run_id: str
    session_id: str
    accept_seq: int
    state: Literal["queued", "running", "completed"]
    delivery: Delivery
    kind: RunKind
    author: Author
    prompt_text: str
    attachments: tuple[Attachment, ...]
    prompt_message_id: str | UnsetType = UNSET
    stop_reason: StopReason | UnsetType = UNSET
    error: ErrorObject | UnsetType = UNSET
    cancelled_by: Author | UnsetType = UNSET
    text: str | UnsetType = UNSET
    message_id: str | UnsetType = UNSET
    folded_into: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    accepted_at: str
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET
    prompt: tuple[ContentBlock, ...] | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = msgspec.field(name="_meta", default=UNSET)


class MessageFinish(WireStruct, kw_only=True):
    reason: FinishReason
    title: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    at: str


class Message(WireStruct, kw_only=True):
    message_id: str
    session_id: str
    run_id: str | UnsetType = UNSET
    order: int
    role: Literal["user", "assistant", "tool"]
    parts: tuple[Part, ...]
    finish: MessageFinish | UnsetType = UNSET
    model: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    summary: bool = False
    author: Author | UnsetType = UNSET
    created_at: str
    updated_at: str


def lean_message(message: Message) -> Message:
    """The message as lists, snapshots and events show it: large image data left out."""
    parts = tuple(lean_part(part) for part in message.parts)
    return message if parts == message.parts else msgspec.structs.replace(message, parts=parts)


class Todo(WireStruct, kw_only=True):
    content: str
    status: Literal["pending", "in_progress", "completed"]


class Client(WireStruct, kw_only=True):
    client_id: str
    name: str
    session_id: str | UnsetType = UNSET
    since: str


PermissionKind = Literal["allow_once", "allow_always", "reject_once", "reject_always"]


class PermissionOption(WireStruct, kw_only=True):
    option_id: str
    kind: PermissionKind
    name: str


class PermissionOutcome(WireStruct, kw_only=True):
    kind: Literal["allow_once", "allow_always", "reject_once", "reject_always", "cancelled", "expired", "policy"]
    option_id: str | UnsetType = UNSET


class Permission(WireStruct, kw_only=True):
    permission_id: str
    session_id: str
    root_session_id: str | UnsetType = UNSET
    run_id: str
    tool_call_id: str
    name: str
    title: str
    detail: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    input: dict[str, Any]
    diffs: tuple[Diff, ...] | UnsetType = UNSET
    options: tuple[PermissionOption, ...]
    requested_at: str
    expires_at: str | UnsetType = UNSET


class Grant(WireStruct, kw_only=True):
    """Something that is allowed for good in one session: a tool, an action, and where."""

    grant_id: str
    session_id: str
    name: str
    action: str
    path: str | UnsetType = UNSET
    by: Author
    at: str
