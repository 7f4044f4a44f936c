"""What `atrio run` sends: words, standard input and files, as content blocks.

Everything is read before anything is sent, and an input that cannot be read is
the end of the command, so that no run starts with half of what it was meant to
be about.
"""

import base64
import os
import select
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceContents, TextBlock
from atrio_protocol.limits import MAX_FRAME_BYTES, MAX_PROMPT_BYTES
from atrio_protocol.struct import UNSET
from atrio_server.cli.app import STDIN
from atrio_server.cli.failure import Exit, Failure
from atrio_server.cli.output import say

__all__ = ["read_prompt"]

FIRST_BYTE_S: Final = 3.0
"""How long a pipe that may hold context is given to say something.

A command started by another program often inherits a pipe that nobody writes to
and nobody closes; waiting for its end would be for ever.
"""

IMAGES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


def read_prompt(words: Sequence[str], files: Sequence[str]) -> tuple[ContentBlock, ...]:
    """Put a prompt together: the words, then what standard input holds, then the files.

    Raises:
        Failure: There is nothing to send, or something cannot be read or is too large.
    """
    asked_for = STDIN in words
    # What is not UTF-8 on the command line becomes readable enough.
    text = " ".join(word for word in words if word != STDIN).encode(errors="surrogateescape").decode(errors="replace")
    blocks: list[ContentBlock] = [TextBlock(text=text)] if text.strip() else []
    piped = _read_stdin(sys.stdin, patient=asked_for or not blocks)
    if asked_for and piped is None:
        say("type the prompt; Ctrl-D ends it")
        piped = sys.stdin.read(MAX_PROMPT_BYTES + 1)
    if piped and piped.strip():
        blocks.append(TextBlock(text=piped))
    blocks += [_file_block(name) for name in files]
    if not blocks:
        raise Failure(Exit.USAGE, 'there is nothing to ask; say it as in: atrio run "map this project"')
    size = sum(len(block.text.encode()) for block in blocks if isinstance(block, TextBlock))
    if size > MAX_PROMPT_BYTES:
        raise Failure(Exit.USAGE, f"the prompt is longer than {MAX_PROMPT_BYTES} bytes; attach it with -f instead")
    return tuple(blocks)


def _read_stdin(stdin: TextIO | None, *, patient: bool) -> str | None:
    """What is piped in; None if nothing can be. Without patience, only if it begins soon."""
    if stdin is None or stdin.closed or stdin.isatty():
        return None
    try:
        kind = os.fstat(stdin.fileno()).st_mode
    except OSError:
        return None
    if stat.S_ISCHR(kind):
        return None  # such as /dev/null
    if not patient and not stat.S_ISREG(kind):
        ready, _, _ = select.select([stdin], [], [], FIRST_BYTE_S)
        if not ready:
            say(f"nothing came on standard input for {FIRST_BYTE_S:.0f} s; going on without it (or use: < /dev/null)")
            return None
    data = stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    return data.decode(errors="replace")


def _file_block(name: str) -> ContentBlock:
    path = Path(name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FRAME_BYTES + 1)
    except OSError as exc:
        raise Failure(Exit.USAGE, f"cannot attach {name}: {exc.strerror}") from None
    if len(data) > MAX_FRAME_BYTES:
        raise Failure(Exit.USAGE, f"cannot attach {name}: it is larger than {MAX_FRAME_BYTES} bytes")
    uri = path.absolute().as_uri()
    if image := _image_type(data):
        return ImageBlock(mime_type=image, data=base64.b64encode(data).decode(), uri=uri)
    import mimetypes

    guessed = mimetypes.guess_type(name)[0] or UNSET
    try:
        return ResourceBlock(resource=ResourceContents(uri=uri, mime_type=guessed, text=data.decode()))
    except UnicodeDecodeError:
        blob = base64.b64encode(data).decode()
        return ResourceBlock(resource=ResourceContents(uri=uri, mime_type=guessed, blob=blob))


def _image_type(data: bytes) -> str | None:
    for start, mime_type in IMAGES.items():
        if data.startswith(start):
            return mime_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
