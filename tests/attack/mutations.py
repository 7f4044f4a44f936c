"""Request heads with accidents in them: what a fuzzer makes of good ones, the same for the same numbers."""

import random

from door_rig import DoorClient

__all__ = ["mutated_request", "with_accident"]

SPLICES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\x80",
    b": ",
    b",",
    b" ",
    b"\t",
    b";",
    b"\r\n ",
    b"%00",
    b"Upgrade: h2c\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n",
    b"Sec-WebSocket-Extensions: \xff\r\n",
    b"Sec-WebSocket-Protocol: atrio.v1, \xe4\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: evil.example\r\n",
    b"Origin: null\r\n",
    b"Origin: https://evil.example\r\n",
    b"Authorization: Bearer x\r\n",
    b"X-Long: " + b"x" * 20_000 + b"\r\n",
)
PATHS = ("/v1/health", "/v1/version", "/v1/schema.json", "/metrics", "/", "/v1/ws", "/nothing")
TAILS = (
    b"",
    b"",
    b"",
    b"x",
    b"\0",
    b"\x81\x80\0\0\0\0",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
)


def mutated_request(victim: DoorClient, chance: random.Random) -> bytes:
    """A good request after up to five accidents, and perhaps with something behind it."""
    data = bytearray(_good_request(victim, chance))
    for _ in range(chance.randint(0, 5)):
        data = with_accident(data, chance) or bytearray(b"x")
    return bytes(data) + chance.choice(TAILS)


def _good_request(victim: DoorClient, chance: random.Random) -> bytes:
    token = chance.choice([victim.token, victim.token, victim.token[:-1], None])
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    rpc = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    match chance.randrange(6):
        case 0:
            return victim.head("/v1/rpc", *rpc, method="POST", token=token) + body
        case 1:
            path = chance.choice(PATHS)
            return victim.head(path, token=token, method=chance.choice(["GET", "HEAD", "OPTIONS", "POST", "DELETE"]))
        case 2:
            return victim.handshake(f"Sec-WebSocket-Protocol: atrio.v1, atrio.token.{token}", token=None)
        case _:
            return victim.handshake(token=token)


def with_accident(data: bytearray, chance: random.Random) -> bytearray:
    """The bytes after one accident, at any place or to any line."""
    at = chance.randrange(len(data))
    lines = bytes(data).split(b"\r\n")
    match chance.randrange(9):
        case 0:
            data[at] = chance.randrange(256)
        case 1:
            data.insert(at, chance.randrange(256))
        case 2:
            del data[at : at + chance.randint(1, 12)]
        case 3:
            data[at:at] = data[at : at + chance.randint(1, 60)]
        case 4:
            data[at] ^= 1 << chance.randrange(8)
        case 5:
            data[at:at] = chance.choice(SPLICES)
        case 6:  # a line of a head where one may stand
            lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(SPLICES).rstrip(b"\r\n"))
            return bytearray(b"\r\n".join(lines))
        case 7:  # one line twice, or two in another order
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            return bytearray(b"\r\n".join(lines))
        case _:
            line = chance.randrange(len(lines))
            lines[line] = chance.choice([lines[line].upper(), lines[line].lower(), lines[line][::-1], b""])
            return bytearray(b"\r\n".join(lines))
    return data
