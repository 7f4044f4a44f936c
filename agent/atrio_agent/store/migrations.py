"""The tables of our databases, and how they came to be.

Each step is one transaction together with the note that it was taken, so that
a crash leaves a database between two steps, never within one. A step that has
been released is never edited; a change is a new step at the end.

This module imports sqlite-utils, which takes its time: import it in a worker
thread only. What the columns mean is said by `atrio_agent.store.tables`.
"""

from contextlib import closing
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from atrio_agent.store.base import StoreFailed

__all__ = ["INDEX_STEPS", "WORKSPACE_STEPS", "migrate"]

WORKSPACE_STEPS = Migrations("atrio.workspace")
"""The database of one workspace."""

INDEX_STEPS = Migrations("atrio.index")
"""The index of a state directory."""


def migrate(database: Database, steps: Migrations, path: Path) -> None:
    """Take every step that this database has not taken yet.

    Raises:
        StoreFailed: A newer version made it. Nothing was changed.
        sqlite3.Error: A step failed and was undone; those before it stay.
    """
    with closing(Database(memory=True)) as empty:
        known = {step.name for step in steps.pending(empty)}
    ahead = {step.name for step in steps.applied(database)} - known
    if ahead:
        raise StoreFailed(f"{path} was made by a newer version of Atrio (it has {min(ahead)}). Use that version.")
    steps.apply(database)


@WORKSPACE_STEPS(name="0001_first")
def _workspace_first(database: Database) -> None:
    meta = database.table("meta")
    meta.create({"key": str, "value": str}, pk="key", not_null={"value"}, strict=True)
    sessions = database.table("sessions")
    sessions.create(
        {
            "id": int,
            "session_id": str,
            "parent_session_id": str,
            "root_session_id": str,
            "title": str,
            "title_is_final": int,
            "model": str,
            "message_count": int,
            "usage": str,
            "rev": int,
            "generation": int,
            "touched": int,
            "created_at": str,
            "updated_at": str,
        },
        pk="id",
        not_null={
            "session_id",
            "title",
            "title_is_final",
            "message_count",
            "usage",
            "rev",
            "generation",
            "touched",
            "created_at",
            "updated_at",
        },
        strict=True,
    )
    sessions.create_index(["session_id"], unique=True)
    sessions.create_index(["updated_at", "touched"])
    sessions.create_index(["parent_session_id", "updated_at", "touched"])
    database.table("deleted").create({"session_id": str}, pk="session_id", strict=True)

    messages = database.table("messages")
    messages.create(
        {
            "id": int,
            "message_id": str,
            "session_id": str,
            "run_id": str,
            "position": int,
            "role": str,
            "summary": int,
            "finished": int,
            "updated_at": str,
            "body": str,
        },
        pk="id",
        not_null={"message_id", "session_id", "position", "role", "summary", "finished", "updated_at", "body"},
        strict=True,
    )
    messages.create_index(["message_id"], unique=True)
    messages.create_index(["session_id", "position"])
    execute = database.conn.execute
    execute("CREATE INDEX messages_unfinished ON messages (session_id) WHERE role = 'assistant' AND finished = 0")
    execute("CREATE INDEX messages_summaries ON messages (session_id, position) WHERE summary = 1")
    appended = database.table("appended")
    appended.create(
        {"id": int, "session_id": str, "message_id": str, "part": int, "field": str, "text": str},
        pk="id",
        not_null={"session_id", "message_id", "part", "field", "text"},
        strict=True,
    )
    appended.create_index(["session_id", "message_id"])

    runs = database.table("runs")
    runs.create(
        {
            "run_id": str,
            "session_id": str,
            "accept_seq": int,
            "state": str,
            "started": int,
            "client_made": int,
            "digest": str,
            "body": str,
            "prompt": str,
        },
        pk="run_id",
        not_null={"session_id", "accept_seq", "state", "started", "client_made", "digest", "body"},
        strict=True,
    )
    runs.create_index(["session_id", "accept_seq"])
    execute("CREATE INDEX runs_open ON runs (session_id, accept_seq) WHERE state != 'completed'")
    execute("CREATE INDEX runs_client_made ON runs (run_id, session_id) WHERE client_made = 1")

    texts = database.table("texts")
    texts.create(
        {"id": int, "source_id": str, "session_id": str, "text": str},
        pk="id",
        not_null={"source_id", "session_id", "text"},
        strict=True,
    )
    texts.create_index(["source_id"], unique=True)
    texts.create_index(["session_id"])
    texts.enable_fts(["text"], create_triggers=True, tokenize="unicode61 remove_diacritics 2")


@WORKSPACE_STEPS(name="0002_kept")
def _workspace_kept(database: Database) -> None:
    versions = database.table("file_versions")
    versions.create(
        {
            "id": int,
            "session_id": str,
            "run_id": str,
            "tool_call_id": str,
            "path": str,
            "before": str,
            "after": str,
            "size": int,
            "at": str,
        },
        pk="id",
        not_null={"session_id", "run_id", "tool_call_id", "path", "size", "at"},
        strict=True,
    )
    versions.create_index(["session_id"])
    versions.create_index(["before"])
    versions.create_index(["after"])
    database.table("contents").create({"digest": str, "data": bytes}, pk="digest", not_null={"data"}, strict=True)
    database.table("todos").create({"session_id": str, "body": str}, pk="session_id", not_null={"body"}, strict=True)
    grants = database.table("grants")
    grants.create(
        {"id": int, "grant_id": str, "session_id": str, "body": str},
        pk="id",
        not_null={"grant_id", "session_id", "body"},
        strict=True,
    )
    grants.create_index(["grant_id"], unique=True)
    grants.create_index(["session_id"])


@INDEX_STEPS(name="0001_first")
def _index_first(database: Database) -> None:
    runs = database.table("runs")
    runs.create(
        {"run_id": str, "workspace_id": str, "session_id": str},
        pk="run_id",
        not_null={"workspace_id", "session_id"},
        strict=True,
    )
    workspaces = database.table("workspaces")
    workspaces.create(
        {"workspace_id": str, "path": str, "directory": str, "created_at": str},
        pk="workspace_id",
        not_null={"path", "directory", "created_at"},
        strict=True,
    )
