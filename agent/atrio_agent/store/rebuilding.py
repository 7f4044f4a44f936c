"""An index made again out of the databases that it is an index of.

For a state directory whose index is gone: moved away because it was damaged, or
left behind when the rest was copied. What is put back is where each workspace
is and which client-made run ids it has. A database that cannot be read is
passed over; opening its workspace says what is wrong with it.
"""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import structlog
import trio

from atrio_agent.store.base import RunIndex, StoreFailed
from atrio_agent.store.connection import DatabaseError, check_files, look_only
from atrio_agent.store.index import DATABASE_NAME

__all__ = ["rebuild_index"]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.store")

_RUNS = "SELECT run_id, session_id FROM runs WHERE client_made = 1"


async def rebuild_index(index: RunIndex, state_dir: Path, homes: Iterable[Path]) -> int:
    """Put into an index what the databases in these directories say.

    Args:
        index: Newly made, and used by nobody else yet.
        state_dir: Where the index is.
        homes: The workspaces' directories beneath it.

    Returns:
        How many workspaces were found.

    Raises:
        StoreFailed: The index cannot be written.
    """
    limiter = trio.CapacityLimiter(1)
    count = 0
    for home in homes:
        try:
            meta, runs = await trio.to_thread.run_sync(_read, home / DATABASE_NAME, limiter=limiter)
            workspace_id, path = meta["workspace_id"], meta["workspace_path"]
        except (DatabaseError, StoreFailed, OSError, KeyError) as error:
            log.warning("a workspace is not in the index", directory=str(home), reason=str(error))
            continue
        await index.register_workspace(workspace_id, path, str(home.relative_to(state_dir)))
        await trio.to_thread.run_sync(index.restore, workspace_id, runs, limiter=limiter)
        count += 1
    return count


def _read(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What a database says of itself, and its client-made runs with their sessions. Runs in a worker thread."""
    check_files(path)
    with closing(look_only(path)) as connection:
        return (
            dict(connection.execute("SELECT key, value FROM meta").fetchall()),
            dict(connection.execute(_RUNS).fetchall()),
        )
