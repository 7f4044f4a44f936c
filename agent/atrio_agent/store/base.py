"""What the agent asks of a store, and nothing of how it is kept.

Writing is split in two. `Store.write_soon` is synchronous: it puts operations
into the order in which they will be committed and returns a `Commit`. Any
number of tasks may wait for that commit, and any of them may be cancelled: the
write happens all the same, because the store's own writer task does it.

Operations given in one call are atomic: all of them or none. Calls are
committed in the order in which they were made. Reading sees what is committed.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, dataclass_transform

import msgspec
import trio

from atrio_protocol.struct import UNSET, UnsetType
from atrio_protocol.things import Grant, Message, Run, Todo, Usage

__all__ = [
    "AcceptRun",
    "AppendText",
    "Commit",
    "CompleteRun",
    "DeleteSessions",
    "DropGrant",
    "FileVersionRow",
    "ForkSession",
    "Loaded",
    "MessagePage",
    "Op",
    "PutFileVersion",
    "PutGrant",
    "PutMessage",
    "PutRun",
    "PutSession",
    "PutTodos",
    "RunIdTaken",
    "RunIndex",
    "RunKey",
    "RunNotOpen",
    "RunPage",
    "SessionPage",
    "SessionRow",
    "Store",
    "StoreClosed",
    "StoreFailed",
    "WorkspaceRow",
    "WriteRefused",
]


class StoreFailed(Exception):
    """A write or read did not happen: disk full, I/O error, database damaged, given up at its deadline."""


class StoreClosed(StoreFailed):
    """Its workspace has ended; where that is opened again, another store takes its place."""


class WriteRefused(StoreFailed):
    """This call can never be stored as it is: trying it again is useless. None of its operations happened."""


class RunIdTaken(WriteRefused):
    """The run id of an `AcceptRun` is in use, as a rule by another session. None of the call's operations happened."""


class RunNotOpen(WriteRefused):
    """The run of a `CompleteRun` is completed already, or gone. None of the call's operations happened."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A value on its way into or out of the store."""


class SessionRow(Row, kw_only=True):
    """A session as it is stored. ``title_is_final``: a person or the model chose it."""

    session_id: str
    parent_session_id: str | None = None
    root_session_id: str | None = None
    title: str
    title_is_final: bool = False
    model: str | None = None
    message_count: int
    usage: Usage
    rev: int
    created_at: str
    updated_at: str


class RunKey(Row, kw_only=True):
    """What must be known of every run of a loaded session, to recognise a repeat."""

    run_id: str
    accept_seq: int
    digest: str


class FileVersionRow(Row, kw_only=True):
    """A change of a file. ``before`` and ``after`` are digests of what it held; None where it was not there."""

    session_id: str
    run_id: str
    tool_call_id: str
    path: str
    before: str | None
    after: str | None
    at: str


class PutSession(Row, kw_only=True):
    """Insert or replace a session. Ignored if the session was deleted before."""

    row: SessionRow


class AcceptRun(Row, kw_only=True):
    """Insert a run. ``digest`` identifies its prompt; ``client_made`` ids are unique in the state directory.

    With ``private_id`` that id may be in use in another workspace: it was made by somebody who is not to
    learn whether it is. Its session must be there: else the call is refused. One that is there, queued
    and with the same prompt, but was accepted earlier in its session, is replaced: whoever accepts
    knows all its runs, so that one was reported as not stored.
    """

    run: Run
    digest: str
    client_made: bool
    private_id: bool = False


class PutRun(Row, kw_only=True):
    """Replace a run. Ignored if it is completed or gone. A run without its ``prompt`` keeps the stored one."""

    run: Run


class CompleteRun(Row, kw_only=True):
    """Set a run to completed, where it is not. Fails the whole call (`RunNotOpen`) if it already is, or is gone."""

    run: Run


class PutMessage(Row, kw_only=True):
    """Insert or replace a whole message; text appended to it before is void. ``final``: make it searchable.

    Ignored if its session is not there (deleted, or never put).
    """

    message: Message
    final: bool = False


class AppendText(Row, kw_only=True):
    """Text that a message grew by since it was last put. ``field`` is what a delta of this part appends to.

    Ignored if the message is not there, or has its finish: then it is text that
    the message has, of a commit that was reported as failed.
    """

    message_id: str
    session_id: str
    part: int
    field: str  # "text", "inputText" or "output"
    text: str


class DeleteSessions(Row, kw_only=True):
    """Delete sessions with all that is theirs, and free their run ids."""

    session_ids: tuple[str, ...]


class ForkSession(Row, kw_only=True):
    """Insert a session with copies of another one's messages and todos; its ``message_count`` is what was copied.

    Copied is what a model may have seen, with an order below ``below``, up to
    ``through`` and the results of calls made there. Text appended to a message
    is not: below ``below`` there must be none. ``workspace_id`` begins the ids
    of the copies. The source must be there: else the call is refused.
    """

    row: SessionRow
    source_id: str
    below: int
    through: int | None
    workspace_id: str


class PutFileVersion(Row, kw_only=True):
    """Keep what a file held before and after a change; None where it was not there. Old versions may have to go.

    Ignored if the session is not there.
    """

    session_id: str
    run_id: str
    tool_call_id: str
    path: str
    before: bytes | None
    after: bytes | None
    at: str


class PutTodos(Row, kw_only=True):
    """Replace a session's todos. Ignored if the session is not there."""

    session_id: str
    todos: tuple[Todo, ...]


class PutGrant(Row, kw_only=True):
    """Insert or replace a grant. Ignored if its session is not there."""

    grant: Grant


class DropGrant(Row, kw_only=True):
    """Delete a grant. Ignored if it is not there."""

    grant_id: str


Op = (
    PutSession
    | AcceptRun
    | PutRun
    | CompleteRun
    | PutMessage
    | AppendText
    | PutFileVersion
    | PutTodos
    | PutGrant
    | DropGrant
    | ForkSession
    | DeleteSessions
)


class Commit:
    """The fate of one `Store.write_soon`."""

    __slots__ = ("_done", "error")

    def __init__(self) -> None:
        self._done = trio.Event()
        self.error: StoreFailed | None = None

    @property
    def settled(self) -> bool:
        """Whether it is decided, either way."""
        return self._done.is_set()

    def settle(self, error: StoreFailed | None = None) -> None:
        """Called once, by whoever commits."""
        self.error = error
        self._done.set()

    async def wait(self) -> None:
        """Wait until it is durable.

        Raises:
            StoreFailed: It did not happen, and nothing of it is stored.
        """
        await self._done.wait()
        if self.error is not None:
            raise self.error


class Loaded(Row, kw_only=True):
    """All that a session needs in memory to go on."""

    row: SessionRow
    runs: tuple[RunKey, ...]
    last_order: int
    last_accept_seq: int


class SessionPage(Row, kw_only=True):
    sessions: tuple[SessionRow, ...]
    next_cursor: str | UnsetType = UNSET


class MessagePage(Row, kw_only=True):
    """Messages, oldest first. ``more``: there are older ones."""

    messages: tuple[Message, ...]
    more: bool


class RunPage(Row, kw_only=True):
    """Runs, newest first. ``more``: there are older ones."""

    runs: tuple[Run, ...]
    more: bool


class WorkspaceRow(Row, kw_only=True):
    """A workspace that the state directory knows. ``directory`` holds its database."""

    workspace_id: str
    path: str
    directory: str
    created_at: str


class RunIndex(Protocol):
    """What a state directory knows of all its workspaces: where they are, and whose a client-made run id is.

    The async methods are for everybody and may raise `StoreFailed`. The others
    are for stores, which call them where they commit: in their own threads.
    """

    async def register_workspace(self, workspace_id: str, path: str, directory: str) -> WorkspaceRow:
        """Make a workspace known before its store is opened; one that is known keeps its ``created_at``.

        ``directory`` is absolute, or relative to the state directory.
        """
        ...

    async def workspace_path(self, workspace_id: str) -> str | None:
        """The directory that a workspace works in, or None if no such workspace is known."""
        ...

    async def workspaces(self) -> Sequence[WorkspaceRow]:
        """Every known workspace, the oldest first."""
        ...

    async def find_run(self, run_id: str) -> tuple[str, str] | None:
        """The workspace and session that a client-made run id was claimed for.

        A claim may have come to nothing, so only the workspace's store says
        whether there is such a run. Ask here first: a client's id may look
        like one of ours.
        """
        ...

    def claim(
        self, workspace_id: str, wanted: Mapping[str, str], *, private: Collection[str] = ()
    ) -> dict[str, StoreFailed]:
        """Claim run ids (with their sessions) whose rows this workspace is about to commit.

        Args:
            workspace_id: Who claims them.
            wanted: The ids.
            private: Those of them that are left unclaimed where they cannot be had.

        Returns:
            Those that cannot be had, with the reason; if there are any, none
            was claimed. Else all are durably claimed, and no other workspace
            gets one before `settle`, nor after it if its run is there.
        """
        ...

    def settle(self, workspace_id: str, run_ids: Collection[str]) -> None:
        """Say that the commit of these claims is decided. A claim without a run is void."""
        ...

    def free(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        """Give up run ids (with their sessions) whose rows are gone. Never raises: what stays is void."""
        ...

    def restore(self, workspace_id: str, runs: Mapping[str, str]) -> None:
        """Put back what a loss of power took from the index alone: these runs (with their sessions) are there.

        Raises:
            StoreFailed: None was put back.
        """
        ...


class Store(Protocol):
    """One workspace's store. Every query may raise `StoreFailed`."""

    def write_soon(self, *ops: Op) -> Commit:
        """Put these operations into the order of commits. Committed as soon as the writer gets to it.

        After the store was closed, the commit fails with `StoreFailed`.
        """
        ...

    def write_later(self, *ops: Op) -> None:
        """As `write_soon`, but nobody waits and the writer may take up to 50 ms to collect more.

        Meant for text that still grows. If it cannot be written, it is kept and
        tried again with the next write, in order.
        """
        ...

    @property
    def is_behind(self) -> bool:
        """Whether something could not be written so far: queries do not know of it, and it is tried again."""
        ...

    def set_close_deadline(self, at: float) -> None:
        """Say by when (Trio's clock) closing must be over; six seconds after its beginning if never called.

        What is not written by then fails with `StoreFailed`, and the database
        is left as it is, for the next opening to recover.
        """
        ...

    async def load(self, session_id: str) -> Loaded | None:
        """A session with what is needed to go on, or None if there is none.

        Its ``rev`` is above every one that was given out before the store was
        opened, also those that were never stored.
        """
        ...

    async def sessions(self, *, query: str | None, limit: int, cursor: str | None, children: bool) -> SessionPage:
        """Sessions, newest updated first; ``query`` is searched in titles and messages.

        ``children`` includes sessions that have a parent. A cursor that is not
        one of ours is a `ValueError`.
        """
        ...

    async def messages(self, session_id: str, *, before: int | None, limit: int, max_bytes: int) -> MessagePage:
        """The newest messages with an order below ``before``, at most ``limit`` and ``max_bytes`` encoded.

        At least one, if there is one. Never begins with a tool message: it
        reaches back to that message's assistant message, over the limits if need be.
        Large images are left out.
        """
        ...

    async def message(self, message_id: str) -> Message | None:
        """One message, whole."""
        ...

    async def history(self, session_id: str) -> tuple[Message, ...]:
        """The messages that a model is to know: from the newest finished summary on, whole,
        without those of runs that ended before they started. Oldest first.
        """
        ...

    async def run(self, run_id: str) -> Run | None:
        """One run, with its whole prompt if it is not completed."""
        ...

    async def runs(self, session_id: str, *, before: int | None, limit: int) -> RunPage:
        """Runs with an accept number below ``before``, newest first, without their whole prompts."""
        ...

    async def descendants(self, session_id: str) -> Sequence[str]:
        """The ids of the sessions below this one, however deep."""
        ...

    async def file_versions(self, session_id: str) -> tuple[FileVersionRow, ...]:
        """The changes of files that a session keeps, oldest first."""
        ...

    async def file_content(self, digest: str) -> bytes | None:
        """What a file held, by the digest in a version; None if no version that is kept has it."""
        ...

    async def todos(self, session_id: str) -> tuple[Todo, ...]:
        """A session's todos, in their order."""
        ...

    async def grants(self, session_id: str) -> tuple[Grant, ...]:
        """What is allowed for good in a session, oldest first."""
        ...

    async def grant(self, grant_id: str) -> Grant | None:
        """One of them, of whichever session."""
        ...
