"""The body of an HTTP/1.1 answer in chunked coding: bytes in, content out.

This is here because a streamed answer is thousands of tiny chunks, often one a
token, and taking them apart with a full HTTP parser costs more than all the
rest of reading them. It knows nothing of heads, trailers or connections: it
stops *before* the last chunk and leaves that, and all that follows, to whoever
parses HTTP for this connection.
"""

import re
from typing import Final

__all__ = ["ChunksMalformed", "Dechunker"]

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_MAX_SIZE_LINE_BYTES: Final = 4096


class ChunksMalformed(Exception):
    """The peer does not speak chunked coding. The connection is of no use any more."""


class Dechunker:
    """Takes the chunked coding off one body.

    ``ended`` is set once the last chunk was met; ``rest`` then holds it and what
    came after it, untouched.
    """

    def __init__(self) -> None:
        self.ended = False
        self.rest: bytes = b""
        self._left = 0
        self._line_end_due = False

    def feed(self, data: bytes) -> bytes:
        """Take further bytes and return the content in them, perhaps none.

        Raises:
            ChunksMalformed: Nothing of ``data`` was returned.
        """
        data, self.rest = self.rest + data, b""
        content: list[bytes] = []
        at = 0
        while True:
            if self._left:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._line_end_due = True
            if self._line_end_due:
                if len(data) - at < 2:
                    self.rest = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise ChunksMalformed("a chunk is longer than it says")
                at += 2
                self._line_end_due = False
            end = data.find(b"\r\n", at, at + _MAX_SIZE_LINE_BYTES)
            if end < 0:
                if len(data) - at >= _MAX_SIZE_LINE_BYTES:
                    raise ChunksMalformed("a chunk's size line does not end")
                self.rest = data[at:]
                break
            size = _SIZE.fullmatch(data, at, end)
            if size is None:
                raise ChunksMalformed("a chunk has no size")
            self._left = int(size[1], 16)
            if not self._left:
                self.ended = True
                self.rest = data[at:]
                break
            at = end + 2
        return b"".join(content)
