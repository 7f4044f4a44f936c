"""The token of a state directory: made once, kept in a file that only its owner reads.

The file appears whole or not at all: a reader, a crash and a second maker see
either no token or a complete one. Further tokens, with fewer scopes, are in
`atrio_server.token_store`.

Nothing here prints or logs a token. The invariant: what is returned was read
from, or written to, a regular file of ours with mode 0600.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from atrio_server.token_files import TokenFileUnsafe, opened_state_dir, put_file, read_file, write_draft

__all__ = ["TOKEN", "TOKEN_FILE", "TokenFileUnsafe", "fresh_token", "load_or_make_token", "load_token", "rotate_token"]

TOKEN_FILE: Final = "token"  # noqa: S105  the name of its file
"""Its name in the state directory."""

TOKEN_BYTES: Final = 32
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
"""What a token looks like."""


def fresh_token() -> str:
    """A token that nobody has had before."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def load_token(state_dir: Path) -> str:
    """Return the token of a state directory.

    Raises:
        FileNotFoundError: There is none yet.
        TokenFileUnsafe: The directory or the file may be in other hands.
        OSError: It could not be read.
    """
    with opened_state_dir(state_dir) as directory:
        return _read(directory, state_dir)


def load_or_make_token(state_dir: Path) -> str:
    """Return the token of a state directory; make it if there is none yet.

    Two makers at once end up with the same token.

    Raises:
        TokenFileUnsafe: The directory or the file may be in other hands. Nothing was changed.
        OSError: The file could not be read or written. There is a complete token or none.
    """
    with opened_state_dir(state_dir) as directory:
        try:
            return _read(directory, state_dir)
        except FileNotFoundError:
            pass
        draft = write_draft(directory, TOKEN_FILE, _fresh_line())
        try:
            # A link fails where the name is taken, and so the first maker wins.
            with suppress(FileExistsError):
                os.link(draft, TOKEN_FILE, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.unlink(draft, dir_fd=directory)
        os.fsync(directory)
        return _read(directory, state_dir)


def rotate_token(state_dir: Path) -> str:
    """Replace the token by a fresh one and return it. A link of that name is replaced, not followed.

    Raises:
        TokenFileUnsafe: The directory may be in other hands. Nothing was changed.
        OSError: It could not be written. The old token or the new one is there, whole.
    """
    with opened_state_dir(state_dir) as directory:
        put_file(directory, TOKEN_FILE, _fresh_line())
        return _read(directory, state_dir)


def _read(directory: int, state_dir: Path) -> str:
    path = state_dir / TOKEN_FILE
    way_out = "delete it, and the next start makes another (chmod 600 keeps this one)"
    text = read_file(directory, path, if_open_to_others=way_out, max_bytes=1024).decode("ascii", "replace")
    text = text.removesuffix("\n")
    if not TOKEN.fullmatch(text):
        raise TokenFileUnsafe(f"{path} holds no token; delete it, and the next start makes one")
    return text


def _fresh_line() -> bytes:
    return fresh_token().encode("ascii") + b"\n"
