"""Whether the state directory keeps what the store relies on: locks, syncs, and SQLite's write-ahead log.

A network file system often has one of them in name only. All of it is tried in a
directory of its own inside the state directory, which is gone afterwards; where
there is no state directory yet, nothing is tried.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Final

from atrio_agent.store.trial import PlaceUnusable, commit_time_s
from atrio_server.cli.checks.finding import Finding, ok, problem, warning

__all__ = ["check_storage"]

SLOW_S: Final = 0.1
"""A commit that takes longer is noticed by whoever waits for a prompt to be accepted."""

_ELSEWHERE: Final = "move the state directory to a disk of this machine (--state-dir, ATRIO_STATE_DIR)"


def check_storage(path: Path) -> Finding:
    """Whether locks hold, and commits are kept and quick."""
    name = "storage"
    if not path.is_dir():
        return ok(name, "tried once the state directory is there")
    with tempfile.TemporaryDirectory(prefix=".doctor.", dir=path) as place:
        if not _locks(Path(place, "lock")):
            return problem(name, "locks do not hold here: two servers could use it at once", _ELSEWHERE)
        try:
            commit_s = commit_time_s(Path(place, "try.db"))
        except PlaceUnusable as exc:
            return problem(name, str(exc), _ELSEWHERE)
    detail = f"locks hold, and a commit that is synced takes {commit_s * 1000:.1f} ms"
    if commit_s > SLOW_S:
        return warning(
            name, f"{detail}, which every prompt waits for", f"look at what else uses the disk, or {_ELSEWHERE}"
        )
    return ok(name, detail)


def _locks(file: Path) -> bool:
    """Whether a second one is kept out."""
    first, second = (os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there are none
    finally:
        os.close(first)
        os.close(second)
    return False
