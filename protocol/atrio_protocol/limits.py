"""Numbers that both ends of the wire must agree on.

They are announced in the result of `initialize`; a client may rely on them and
the server enforces them. What only one end knows (time limits, budgets) is not
here.
"""

from typing import Final

__all__ = [
    "HISTORY_LIMIT_DEFAULT",
    "HISTORY_LIMIT_MAX",
    "INLINE_DIFF_BYTES",
    "INLINE_IMAGE_BYTES",
    "MAX_ATTACHMENTS",
    "MAX_COMMAND_CHARS",
    "MAX_CONNECTIONS",
    "MAX_DEPTH",
    "MAX_FRAME_BYTES",
    "MAX_ID_CHARS",
    "MAX_IN_FLIGHT",
    "MAX_PROMPT_BYTES",
    "MAX_QUEUED_PER_SESSION",
    "MAX_USER_NAME_CHARS",
    "MAX_WAITING",
    "MAX_WATCHED",
    "PAGE_BYTES",
    "PAGE_LIMIT_MAX",
    "PERMISSIONS_BYTES",
    "PROMPT_TEXT_CHARS",
    "REPLAY_EVENTS",
    "TOOL_OUTPUT_CHARS",
]

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest message either side may send, in UTF-8 bytes."""

MAX_DEPTH: Final = 64
"""Deepest nesting of arrays and objects in a message."""

MAX_PROMPT_BYTES: Final = 1024 * 1024
"""Largest sum of a prompt's text, in UTF-8 bytes."""

MAX_COMMAND_CHARS: Final = 32_768
"""Longest command that a shell is given."""

MAX_QUEUED_PER_SESSION: Final = 100
"""Prompts of one session that may wait at a time, the active one not counted."""

MAX_IN_FLIGHT: Final = 64
"""Requests of one connection that are worked on at a time."""

MAX_WAITING: Final = 1_000
"""Requests of one connection that may wait by design (`run/wait` and the like)."""

MAX_WATCHED: Final = 1_000
"""Runs that one attachment may watch."""

MAX_ATTACHMENTS: Final = 1_024
"""Streams that one connection may read at a time."""

MAX_CONNECTIONS: Final = 4_096
"""Open connections of one server."""

REPLAY_EVENTS: Final = 4_096
"""Most events that a stream keeps for readers that come back."""

PROMPT_TEXT_CHARS: Final = 2_000
"""Code points of a prompt that are repeated in its run."""

MAX_ID_CHARS: Final = 128
"""Longest client-made run id, in characters."""

MAX_USER_NAME_CHARS: Final = 64

HISTORY_LIMIT_DEFAULT: Final = 100
HISTORY_LIMIT_MAX: Final = 1_000

PAGE_LIMIT_MAX: Final = 1_000
"""Most that one page of a list may be asked for."""

PAGE_BYTES: Final = 512 * 1024
"""Where a snapshot or a page of messages stops, in encoded bytes."""

PERMISSIONS_BYTES: Final = 384 * 1024
"""What the questions of a snapshot or list may take before large things are left out of them, in encoded bytes."""

INLINE_IMAGE_BYTES: Final = 64 * 1024
"""Image data above this is left out of lists, snapshots and events."""

INLINE_DIFF_BYTES: Final = 256 * 1024
"""Where one of the two texts of a diff is larger, both are left out."""

TOOL_OUTPUT_CHARS: Final = 65_536
"""Code points of live tool output that its part keeps."""
