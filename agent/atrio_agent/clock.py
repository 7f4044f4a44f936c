"""Wall-clock time as it stands on the wire: RFC 3339, UTC, milliseconds.

For people and records only. Nothing is ever decided by it; deadlines use
Trio's clock, and order comes from `seq`, `order` and `acceptSeq`.
"""

from datetime import UTC, datetime

__all__ = ["now"]


def now() -> str:
    """The current time, such as ``2026-11-20T09:30:00.125Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
