"""The version of the wire and of the software.

Two numbers that must never be mixed up: `PROTOCOL_VERSION` changes only when a
client written against the old wire would break; `VERSION` changes with every
release. Nothing here is read from installed metadata, so it costs no import.
"""

from typing import Final

__all__ = ["NAME", "PROTOCOL_VERSION", "VERSION"]

NAME: Final = "atrio"
VERSION: Final = "0.1.0"
PROTOCOL_VERSION: Final = 1
