"""What many wire tests do and look at."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from atrio_agent.store.base import Commit, Op, Store, StoreFailed
from wire.client import Wire

__all__ = [
    "CANCELLED_AT_A_CALL",
    "GATED",
    "PLAIN",
    "STREAMING",
    "new_session",
    "rows",
    "shape",
    "terminals",
    "unstorable",
]

GATED = {"match": "^gated", "responses": [[{"gate": "go"}, {"say": "done: {{prompt}}"}]]}
STREAMING = {"match": "^stream", "responses": [[{"say": "partial "}, {"gate": "go"}, {"say": "rest"}]]}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}

CANCELLED_AT_A_CALL = [("user", None), ("assistant", "tool_use"), ("tool", None), ("assistant", "cancelled")]
"""The `shape` of a session whose only run was cancelled while it called a tool."""


async def new_session(wire: Wire, workspace: str, **params: Any) -> str:
    """Make a session and attach to it; returns its id."""
    session: str = (await wire.call("session/new", workspaceId=workspace, **params))["session"]["sessionId"]
    await wire.attach(session)
    return session


async def rows(wire: Wire, session: str) -> list[dict[str, Any]]:
    """The session's messages."""
    return (await wire.call("session/messages", sessionId=session))["messages"]


def shape(messages: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Each message as its role and finish reason."""
    return [(message["role"], message.get("finish", {}).get("reason")) for message in messages]


def terminals(wire: Wire, session: str) -> list[tuple[str, str]]:
    """Each terminal on the session's stream, as run id and stop reason, in order."""
    return [(event["run"]["runId"], event["run"]["stopReason"]) for event in wire.of_type(session, "run.completed")]


@contextmanager
def unstorable(store: Store, kind: type[Op]) -> Generator[None]:
    """Let every commit with such an operation fail as on a full disk, until the end of the block."""
    write_soon = type(store).write_soon

    def full(self: Any, *ops: Op) -> Commit:
        if not any(isinstance(op, kind) for op in ops):
            return write_soon(self, *ops)
        commit = Commit()
        commit.settle(StoreFailed("the disk is full"))
        return commit

    with mock.patch.object(type(store), "write_soon", full):
        yield
