"""What many handlers do first: find the session or run that a request names.

Finding is the one wait that later requests of a connection share. What is found
is live: the caller acts on it before its next await.
"""

from collections.abc import Generator
from contextlib import contextmanager

from atrio_agent.lifetime import OwnerEnded
from atrio_agent.session import Session
from atrio_agent.store.base import StoreClosed, StoreFailed
from atrio_protocol.errors import SessionMissing, StorageUnavailable, WorkspaceClosing
from atrio_protocol.methods import SessionParams
from atrio_protocol.struct import given
from atrio_protocol.who import Author
from atrio_server.calls import Caller
from atrio_server.server import Server
from atrio_server.workspace import Workspace

__all__ = ["author_of", "find_session", "reading"]


async def find_session(server: Server, caller: Caller, params: SessionParams) -> tuple[Workspace, Session]:
    """The session that the parameters name, loaded.

    Raises:
        SessionMissing: They name none.
        SessionNotFound: There is no such session.
    """
    session_id = given(params.session_id, "")
    if not session_id:
        raise SessionMissing("The request must name a session (sessionId).", path="/sessionId")
    return await server.reach(caller).session(session_id)


def author_of(caller: Caller) -> Author:
    """Who asks. A socket has said so in `initialize`, an HTTP request in a header or not at all."""
    if caller.author is None:
        raise RuntimeError("a request before initialize reached a handler")
    return caller.author


@contextmanager
def reading(what: str) -> Generator[None]:
    """Turn a failure of the store, or of its owner that is ending, into the contract's error."""
    try:
        yield
    except StoreClosed as exc:
        raise WorkspaceClosing("The workspace closed before this was done; try again.") from exc
    except StoreFailed as exc:
        raise StorageUnavailable(f"The {what} cannot be read or stored now: {exc}") from exc
    except OwnerEnded as exc:
        raise WorkspaceClosing("The workspace closed before this was done; try again.") from exc
