"""Who did something: the author of a prompt, a cancel, an answer.

An author is a client process, not a person and not a connection; it is stored
with what it did. Nothing here says what an author may do: that is its scopes.
"""

from atrio_protocol.struct import WireStruct

__all__ = ["SERVER", "Author"]


class Author(WireStruct, kw_only=True):
    """One client process over all its reconnects, and the name people see."""

    client_id: str
    name: str


SERVER = Author(client_id="00000000-0000-0000-0000-000000000000", name="atrio")
"""The author of what the server does by itself."""
