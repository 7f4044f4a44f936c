"""Server-sent events as model providers send them: bytes in, payloads out.

Only ``data:`` lines matter here, one payload each; comments, ``event:`` and
``id:`` lines are dropped, since every provider repeats in the payload what it
says there. A payload spread over several ``data:`` lines, which the standard
allows and no provider sends, comes out as several.

Memory is bounded: a line that will not end is an error, not a buffer.
"""

from typing import Final

__all__ = ["MAX_LINE_BYTES", "LineTooLong", "SseReader"]

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line, in bytes, the line end not counted."""


class LineTooLong(Exception):
    """A line is over the limit. The reader must not be used any more."""


class SseReader:
    """Cuts blocks of any size into payloads. One per answer."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()

    def feed(self, block: bytes) -> list[bytes]:
        """Take a further block and return the payloads that are complete now.

        Raises:
            LineTooLong: Nothing of this block was returned.
        """
        # Only the block is searched, never what was kept: a line that comes byte by byte stays linear.
        end = block.rfind(b"\n")
        if end < 0:
            self._rest += block
            if len(self._rest) > self._max:
                raise LineTooLong(f"a line of over {self._max} bytes")
            return []
        lines = (bytes(self._rest) + block[:end]).split(b"\n")
        self._rest = bytearray(block[end + 1 :])
        if len(self._rest) > self._max or max(map(len, lines)) > self._max:
            raise LineTooLong(f"a line of over {self._max} bytes")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    def end(self) -> list[bytes]:
        """The payload of a last line that has no end, if there is one."""
        line, self._rest = bytes(self._rest), bytearray()
        return [line[5:].strip()] if line.startswith(b"data:") else []
