"""How ids look.

To a client an id is an opaque string. Inside, every id that the server makes
begins with its workspace's id, so that any of them finds its workspace without
a search: ``w<13>`` for a workspace, ``w<13>-<letter><16>`` for what is in it.
Client-made run ids follow no rule; they are found through an index.
"""

import base64
import hashlib
import re
import secrets
from typing import Final, Literal

__all__ = ["Letter", "new_id", "workspace_id_for", "workspace_id_of"]

Letter = Literal["s", "r", "m", "t", "p", "g"]
"""session, run, message, tool call, permission, grant"""

_OURS: Final = re.compile(r"(w[a-z2-7]{13})(?:-[a-z][a-z2-7]{16})?")


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().lower().rstrip("=")


def workspace_id_for(path: str) -> str:
    """The id of the workspace of this resolved directory; always the same one."""
    return "w" + _base32(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest())[:13]


def new_id(workspace_id: str, letter: Letter) -> str:
    """A fresh id (80 random bits) for something in this workspace."""
    return f"{workspace_id}-{letter}{_base32(secrets.token_bytes(10))}"


def workspace_id_of(any_id: str) -> str | None:
    """The workspace that an id of our making belongs to, or None if it is not of our making."""
    match = _OURS.fullmatch(any_id)
    return match[1] if match else None
