"""`atrio version` and `atrio schema`: what this is, without a server.

The two answer from what is installed, so they work where nothing else does and
import next to nothing.
"""

import sys

from atrio_protocol.version import PROTOCOL_VERSION, VERSION

__all__ = ["schema", "version"]


def version() -> int:
    """Print the version."""
    sys.stdout.write(f"atrio {VERSION} (protocol {PROTOCOL_VERSION})\n")
    return 0


def schema() -> int:
    """Print the JSON Schema of every message of the protocol."""
    from atrio_protocol.schema import schema_json

    sys.stdout.write(schema_json().decode().rstrip("\n") + "\n")
    return 0
