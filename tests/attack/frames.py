"""WebSocket frames that no honest client sends, each kind with the code that it must be closed with.

``None`` for a code: the frames are odd but good, and the connection goes on. ``ANY``:
what comes of them depends on the numbers, but it is a code that the contract lists.
"""

import random
from collections.abc import Callable
from typing import Final

from atrio_protocol.limits import MAX_FRAME_BYTES
from door_rig import frame

__all__ = ["ANY", "FRAMES"]

ANY: Final = -1
MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GOOD: Final = b'{"jsonrpc":"2.0","id":"here","method":"ping"}'
FRAME_BITS: Final = (0x40, 0x20, 0x10)

Made = tuple[bytes, int | None]


def announced(first: int, size: int) -> bytes:
    """The head of a frame that says that so much follows."""
    length = bytes([0xFF]) + size.to_bytes(8, "big") if size > 65535 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([first]) + length + b"\1\2\3\4"


def reserved_bits(chance: random.Random) -> Made:
    data = bytearray(frame(chance.choice([TEXT, BINARY, PING]), b"hello"))
    data[0] |= chance.choice(FRAME_BITS)
    return bytes(data), 1002


def reserved_opcode(chance: random.Random) -> Made:
    return frame(chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b"x" * chance.choice([0, 5, 200])), 1002


def unmasked(chance: random.Random) -> Made:
    return frame(chance.choice([TEXT, BINARY, PING, CLOSE]), b"", masked=False), 1002


def binary(chance: random.Random) -> Made:
    return frame(BINARY, chance.randbytes(chance.choice([0, 1, 1000]))), 1003


def binary_in_pieces(chance: random.Random) -> Made:
    data = frame(BINARY, b"x", fin=False) + frame(MORE, b"", fin=False) * chance.randint(0, 2000)
    return data + (frame(MORE, b"y") if chance.random() < 0.5 else b""), 1003


def no_beginning(chance: random.Random) -> Made:
    return frame(MORE, b"x", fin=chance.random() < 0.5), 1002


def no_end(chance: random.Random) -> Made:
    return frame(TEXT, b"{", fin=False) + frame(chance.choice([TEXT, BINARY]), b"}"), 1002


def interleaved(chance: random.Random) -> Made:
    data, rest = b"", GOOD
    opcode = TEXT
    while rest:
        size = chance.randint(0, 9)
        data += frame(opcode, rest[:size], fin=False) + frame(
            chance.choice([PING, PONG]), b"p" * chance.randint(0, 125)
        )
        rest, opcode = rest[size:], MORE
    return data + frame(opcode, b""), None


def huge_control(chance: random.Random) -> Made:
    return frame(chance.choice([PING, PONG, CLOSE]), b"x" * chance.choice([126, 5000])), 1002


def control_in_pieces(chance: random.Random) -> Made:
    return frame(chance.choice([PING, PONG, CLOSE]), b"", fin=False), 1002


def no_utf8(chance: random.Random) -> Made:
    bad = chance.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80", b"\xe2\x82"])
    return frame(TEXT, b'"' + bad), 1007


def no_utf8_over_pieces(chance: random.Random) -> Made:
    text = "«€🦀»".encode()
    cut = chance.randrange(1, len(text))
    bad = text[cut:][:1] + b"\xff"
    pings = frame(PING, b"between") * chance.randint(0, 3)
    return frame(TEXT, text[:cut], fin=False) + pings + frame(MORE, bad, fin=False) + frame(MORE, b"x"), 1007


def utf8_over_pieces(chance: random.Random) -> Made:
    text = '{"jsonrpc":"2.0","id":"here","method":"ping","params":{"x":"«€🦀»"}}'.encode()
    pieces = [text[at : at + 1] for at in range(len(text))]
    middle = b"".join(frame(MORE, piece, fin=False) for piece in pieces[1:])
    return frame(TEXT, pieces[0], fin=False) + middle + frame(MORE, b"", fin=True), None


def announced_too_much(chance: random.Random) -> Made:
    size = chance.choice([MAX_FRAME_BYTES + 1, 1 << 31, 1 << 40, (1 << 63) - 1])
    return announced(chance.choice([0x81, 0x82, 0x01]), size), 1009


def announced_in_pieces(chance: random.Random) -> Made:
    first = chance.randint(1, 5000)
    return frame(TEXT, b"x" * first, fin=False) + announced(0x00, MAX_FRAME_BYTES - first + 1), 1009


def announced_beyond_63_bits(chance: random.Random) -> Made:
    return announced(0x81, (1 << 63) + chance.randrange(1 << 40)), 1002


def length_in_too_many_bytes(chance: random.Random) -> Made:
    size = chance.choice([b"\xfe\0\5", b"\xfe\0\x7d", b"\xff" + (200).to_bytes(8, "big")])
    return b"\x81" + size + b"\0\0\0\0hello", 1002


def good_close(chance: random.Random) -> Made:
    code = chance.choice([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4408, 4999])
    return frame(CLOSE, code.to_bytes(2, "big") + "bye 🦀".encode()[: chance.choice([0, 3, 8])]), code


def empty_close(chance: random.Random) -> Made:
    return frame(CLOSE, b""), 1005


def bad_close(chance: random.Random) -> Made:
    code = chance.choice([0, 1, 999, 1004, 1005, 1006, 1015, 5000, 65535])
    return frame(CLOSE, chance.choice([code.to_bytes(2, "big"), b"\3", code.to_bytes(2, "big") + b"x" * 123])), 1002


def close_without_text(chance: random.Random) -> Made:
    return frame(CLOSE, b"\x03\xe8" + chance.choice([b"\xff", b"\xc3", b"\xed\xa0\x80"])), 1007


def thousands_of_pings(chance: random.Random) -> Made:
    return frame(PING, b"p" * chance.choice([0, 1, 125])) * chance.choice([20, 20, 20, 1000]), None


def pongs_that_nobody_asked_for(chance: random.Random) -> Made:
    return frame(PONG, chance.randbytes(20)) * 500, None


def rubbish(chance: random.Random) -> Made:
    return chance.randbytes(chance.choice([1, 2, 10, 300, 70_000])), ANY


def damaged(chance: random.Random) -> Made:
    data = bytearray(frame(TEXT, GOOD) * 3)
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data), ANY


def an_http_request(chance: random.Random) -> Made:
    return b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n", ANY


FRAMES: Final[dict[str, Callable[[random.Random], Made]]] = {
    made.__name__.replace("_", " "): made
    for made in (
        reserved_bits,
        reserved_opcode,
        unmasked,
        binary,
        binary_in_pieces,
        no_beginning,
        no_end,
        interleaved,
        huge_control,
        control_in_pieces,
        no_utf8,
        no_utf8_over_pieces,
        utf8_over_pieces,
        announced_too_much,
        announced_in_pieces,
        announced_beyond_63_bits,
        length_in_too_many_bytes,
        good_close,
        empty_close,
        bad_close,
        close_without_text,
        thousands_of_pings,
        pongs_that_nobody_asked_for,
        rubbish,
        damaged,
        an_http_request,
    )
}
