"""How many versions of files a session keeps, and what their contents are called.

Both stores go by this. Nothing here reads or writes.
"""

import hashlib
from typing import Final

__all__ = ["MAX_VERSIONS", "MAX_VERSIONS_BYTES", "digest_of"]

MAX_VERSIONS: Final = 500
"""Versions that a session keeps."""

MAX_VERSIONS_BYTES: Final = 64 * 1024 * 1024
"""What the kept versions of a session may hold, before and after, uncompressed. The newest one stays however large."""


def digest_of(content: bytes | None) -> str | None:
    """What a content is found by; None for a file that was not there."""
    return None if content is None else hashlib.sha256(content).hexdigest()
