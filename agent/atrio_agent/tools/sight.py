"""What a file was when a session last saw it.

A change is only made to what was seen: time, size and hash must be the same.
Files that are too large to be changed are not looked at as a whole. Everything
here blocks: call it in a worker thread.
"""

import hashlib
import os
from typing import Final

from atrio_agent.tools.base import FileSeen

__all__ = ["MAX_CHANGED_BYTES", "content_of", "see", "seen_as"]

MAX_CHANGED_BYTES: Final = 10 * 1024 * 1024
"""A larger file is not changed."""

_CHUNK_BYTES: Final = 1024 * 1024


def seen_as(status: os.stat_result, content: bytes) -> FileSeen:
    """What is remembered of a file with this status and content."""
    return FileSeen(mtime_ns=status.st_mtime_ns, size=len(content), digest=hashlib.sha256(content).hexdigest())


def see(fd: int, status: os.stat_result) -> FileSeen | None:
    """Look at the whole of an open file.

    Returns:
        None where it is no longer as in ``status``, or too large to be changed.
    """
    if status.st_size > MAX_CHANGED_BYTES:
        return None
    content = content_of(fd)
    now = os.fstat(fd)
    if (now.st_mtime_ns, now.st_size) != (status.st_mtime_ns, len(content)):
        return None
    return seen_as(status, content)


def content_of(fd: int) -> bytes:
    """What an open file holds, up to one byte more than may be changed."""
    pieces: list[bytes] = []
    size_bytes = 0
    while size_bytes <= MAX_CHANGED_BYTES:
        piece = os.pread(fd, min(_CHUNK_BYTES, MAX_CHANGED_BYTES + 1 - size_bytes), size_bytes)
        if not piece:
            break
        pieces.append(piece)
        size_bytes += len(piece)
    return b"".join(pieces)
