"""Wall-clock time as it stands on the wire: RFC 3339, UTC, milliseconds.

For people and records only. Nothing is ever decided by it; deadlines use
Trio's clock, and order comes from `seq`, `order` and `acceptSeq`.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache

__all__ = ["now"]


def now() -> str:
    """The current time, such as ``2026-11-20T09:30:00.125Z``."""
    return _spelled(time.time_ns() // 1_000_000)


@lru_cache(maxsize=1)  # every event bears the time, and a busy server has many in a millisecond
def _spelled(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
