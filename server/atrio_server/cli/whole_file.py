"""Write a result into a file so that it is there whole or not at all.

Whether it can be written is found out before the work that it is the result of;
a run must not end in an answer that nobody gets.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from atrio_server.cli.failure import Exit, Failure

__all__ = ["check_writable", "write_whole"]


def check_writable(name: str) -> None:
    """Find out beforehand whether `write_whole` can do its work.

    Raises:
        Failure: It cannot.
    """
    path = Path(name)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise Failure(Exit.USAGE, f"cannot write {name}: give -o a file in a directory that can be written")


def write_whole(name: str, text: str) -> None:
    """Replace the file's content, and keep its mode. A link is followed: the user named it.

    Raises:
        OSError: It could not be written. What was there before is still there.
    """
    path = Path(name).resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else _usual_mode()
    draft, draft_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(draft, "w", encoding="utf-8", errors="replace") as file:
            file.write(text if text.endswith("\n") else text + "\n")
            file.flush()
            os.fchmod(file.fileno(), mode)
        Path(draft_name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(draft_name).unlink()
        raise


def _usual_mode() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
