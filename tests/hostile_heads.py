"""Heads that no honest client sends, and what each is answered with. Sent to a door alone, and to a whole server.

Many of these end a process that lets hypercorn or trio-websocket read from the network.
"""

from collections.abc import Callable

from door_rig import KEY, OWN, DoorClient

Attack = Callable[[DoorClient], bytes]

SAMPLE = "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"


def ws(*lines: str, path: str = "/v1/ws", method: str = "GET") -> Attack:
    """A handshake of exactly these lines, with a good token."""
    return lambda door: door.head(path, *lines, method=method, token=OWN)


def without(name: str, *lines: str) -> Attack:
    """A handshake with one of its lines left out or replaced."""
    return ws(*(line for line in SAMPLE if not line.startswith(name)), *lines)


def raw(text: str, tail: bytes = b"") -> Attack:
    """Exactly this, with the server's host in place of HOST and the token in that of TOKEN."""
    return lambda door: (
        text.replace("HOST", f"127.0.0.1:{door.port}").replace("TOKEN", door.token).encode("latin-1") + tail
    )


def plain(*lines: str, path: str = "/v1/health", method: str = "GET", tail: bytes = b"") -> Attack:
    return lambda door: door.head(path, *lines, method=method, token=OWN) + tail


ATTACKS: dict[str, tuple[int, Attack]] = {
    # What follows a handshake
    "one byte after the handshake": (400, lambda door: door.handshake() + b"x"),
    "a frame after the handshake": (400, lambda door: door.handshake() + b"\x81\x80\0\0\0\0"),
    "16 KiB after the handshake": (400, lambda door: door.handshake() + b"x" * 16384),
    "a request after the handshake": (400, lambda door: door.handshake() + door.head()),
    "a byte after the handshake, without a token": (400, lambda door: door.handshake(token=None) + b"x"),
    "a handshake with a body": (400, lambda door: door.handshake("Content-Length: 3") + b"abc"),
    "a handshake that announces a body": (400, lambda door: door.handshake("Content-Length: 3")),
    "a handshake with a chunked body": (
        400,
        lambda door: door.handshake("Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
    ),
    "a handshake that announces chunks": (400, lambda door: door.handshake("Transfer-Encoding: chunked")),
    # What it asks for
    "websocket and h2c in two lines": (400, ws(*SAMPLE, "Upgrade: h2c")),
    "h2c and websocket in two lines": (400, ws("Upgrade: h2c", *SAMPLE)),
    "websocket and h2c in one line": (400, without("Upgrade", "Upgrade: websocket, h2c")),
    "websocket twice": (400, ws(*SAMPLE, "Upgrade: websocket")),
    "h2c alone": (400, without("Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")),
    "h2c at a plain path": (400, plain("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMA")),
    "h2c without Connection": (400, plain("Upgrade: h2c")),
    "TLS": (400, plain("Upgrade: TLS/1.0", "Connection: Upgrade")),
    "an empty Upgrade": (400, without("Upgrade", "Upgrade:")),
    "websocket at a plain path": (400, ws(*SAMPLE, path="/v1/health")),
    "websocket at an unknown path": (400, ws(*SAMPLE, path="/v2/ws")),
    "websocket at the path with a slash": (400, ws(*SAMPLE, path="/v1/ws/")),
    "websocket at the path, encoded": (400, ws(*SAMPLE, path="/v1/%77s")),
    "websocket by POST": (400, ws(*SAMPLE, method="POST")),
    "websocket by HEAD": (400, ws(*SAMPLE, method="HEAD")),
    "websocket by OPTIONS": (400, ws(*SAMPLE, method="OPTIONS")),
    "websocket in HTTP/1.0": (
        400,
        raw("GET /v1/ws HTTP/1.0\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\n" + "\r\n".join(SAMPLE) + "\r\n\r\n"),
    ),
    "no Connection": (400, without("Connection")),
    "Connection without upgrade": (400, without("Connection", "Connection: keep-alive")),
    "no handshake where one is due": (426, plain(path="/v1/ws")),
    "Connection: upgrade alone where a handshake is due": (426, plain("Connection: upgrade", path="/v1/ws")),
    "a POST where a handshake is due": (426, plain("Content-Length: 0", path="/v1/ws", method="POST")),
    # Its key and version
    "no key": (400, without("Sec-WebSocket-Key")),
    "an empty key": (400, without("Sec-WebSocket-Key", "Sec-WebSocket-Key:")),
    "two keys": (400, ws(*SAMPLE, f"Sec-WebSocket-Key: {KEY}")),
    "a key of 15 bytes": (400, without("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA")),
    "a key of 17 bytes": (400, without("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=")),
    "a key that is no base64": (400, without("Sec-WebSocket-Key", "Sec-WebSocket-Key: ????????????????????????")),
    "a key with a comma": (400, without("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY},{KEY}")),
    "a key of 8 KiB": (400, without("Sec-WebSocket-Key", "Sec-WebSocket-Key: " + "A" * 8192)),
    "no version": (426, without("Sec-WebSocket-Version")),
    "version 8": (426, without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")),
    "version 0": (426, without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 0")),
    "version 13, 8": (426, without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8")),
    "two versions": (426, ws(*SAMPLE, "Sec-WebSocket-Version: 8")),
    "a version that is no number": (426, without("Sec-WebSocket-Version", "Sec-WebSocket-Version: thirteen")),
    # Extensions are not looked at, so that none can be wrong
    "a bad parameter of permessage-deflate": (
        101,
        ws(*SAMPLE, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"),
    ),
    "permessage-deflate with a bare window": (
        101,
        ws(*SAMPLE, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x"),
    ),
    "an extension that is only punctuation": (101, ws(*SAMPLE, 'Sec-WebSocket-Extensions: ;;,,==,";"')),
    # Characters
    **{
        f"{name} with a byte over 127": (400, ws(*SAMPLE, f"{name}: \xff"))
        for name in (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Extensions",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Accept",
            "Upgrade",
            "Connection",
            "Authorization",
            "Origin",
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "X-Anything",
        )
    },
    "a header's name with a byte over 127": (400, plain("X-\xe4: 1")),
    "a path with a byte over 127": (400, raw("GET /\xe4 HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "a method with a byte over 127": (400, raw("G\xcbT / HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "UTF-8 in a header": (400, plain("X-Name: \xc3\xa4")),
    "NUL in a value": (400, plain("X-Name: a\x00b")),
    "NUL in a name": (400, plain("X\x00: 1")),
    "NUL in the path": (400, raw("GET /\x00 HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "an escape in a value": (400, plain("X-Name: \x1b[31m")),
    "DEL in a value": (400, plain("X-Name: \x7f")),
    "a vertical tab": (400, plain("X-Name: a\x0bb")),
    "a lone CR in a value": (400, plain("X-Name: a\rb")),
    "a lone LF in a value": (400, plain("X-Name: a\nb: c")),
    "lines that end with LF": (400, raw("GET /v1/health HTTP/1.1\nHost: HOST\n\n")),
    "one line that ends with LF": (400, raw("GET /v1/health HTTP/1.1\nHost: HOST\r\n\r\n")),
    "an end of CR CR LF": (400, raw("GET /v1/health HTTP/1.1\r\nHost: HOST\r\n\r\r\n")),
    "an end of LF LF": (400, raw("GET /v1/health HTTP/1.1\r\nHost: HOST\r\n\n\n")),
    "a folded line": (400, plain("X-Name: a\r\n b")),
    "a folded line with a tab": (400, plain("X-Name: a\r\n\tb")),
    "a first header that is folded": (400, raw("GET /v1/health HTTP/1.1\r\n Host: HOST\r\n\r\n")),
    "a TLS greeting": (400, raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
    "a preface of HTTP/2": (400, raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    "an SSH greeting": (400, raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
    "a RESP command": (400, raw("*1\r\n$4\r\nPING\r\n\r\n")),
    # The request line
    "an empty first line": (400, raw("\r\nGET /v1/health HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "nothing but the end": (400, raw("\r\n\r\n")),
    "no version of HTTP": (400, raw("GET /v1/health\r\nHost: HOST\r\n\r\n")),
    "HTTP/0.9": (400, raw("GET /v1/health HTTP/0.9\r\nHost: HOST\r\n\r\n")),
    "HTTP/2.0": (400, raw("GET /v1/health HTTP/2.0\r\nHost: HOST\r\n\r\n")),
    "HTTP/1.2": (400, raw("GET /v1/health HTTP/1.2\r\nHost: HOST\r\n\r\n")),
    "http/1.1 in lower case": (400, raw("GET /v1/health http/1.1\r\nHost: HOST\r\n\r\n")),
    "two spaces in the request line": (400, raw("GET  /v1/health HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "a space in the path": (400, raw("GET /v1 /health HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "a whole URL as target": (400, raw("GET http://HOST/v1/health HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "an asterisk as target": (400, raw("OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "a tunnel": (400, raw("CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    "a trace": (400, plain(method="TRACE")),
    "a method in lower case": (400, plain(method="get")),
    "a method of our own": (400, plain(method="ATRIO")),
    "a path without a slash": (400, raw("GET v1/health HTTP/1.1\r\nHost: HOST\r\n\r\n")),
    # Headers that are there twice, or not at all
    "no Host": (400, raw("GET /v1/health HTTP/1.1\r\n\r\n")),
    "no Host in HTTP/1.0": (400, raw("GET /v1/health HTTP/1.0\r\n\r\n")),
    "Host twice": (400, plain("Host: localhost")),
    "the same Host twice": (400, raw("GET /v1/health HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n")),
    "Authorization twice": (400, plain("Authorization: Bearer x")),
    "Origin twice": (400, plain("Origin: http://localhost", "Origin: http://localhost")),
    "a header without a colon": (400, plain("X-Name")),
    "a header without a name": (400, plain(": value")),
    "a space before the colon": (400, plain("X-Name : value")),
    "two lengths that differ": (400, plain("Content-Length: 3", "Content-Length: 4", tail=b"abcd")),
    "a length and chunks": (400, plain("Content-Length: 3", "Transfer-Encoding: chunked", tail=b"0\r\n\r\n")),
    "a negative length": (400, plain("Content-Length: -1")),
    "a length with a plus": (400, plain("Content-Length: +1")),
    "a length in hex": (400, plain("Content-Length: 0x10")),
    "a length of 5,000 digits": (400, plain("Content-Length: " + "9" * 5000)),
    "a length of 20 digits": (413, plain("Content-Length: 99999999999999999999")),
    "an encoding that nobody knows": (400, plain("Transfer-Encoding: gzip, chunked")),
    "chunks in two lines": (400, plain("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")),
    "chunks in HTTP/1.0": (400, raw("GET /v1/health HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "a chunk of no size": (400, plain("Transfer-Encoding: chunked", path="/v1/rpc", method="POST", tail=b"x\r\n")),
    "a chunk of endless size": (
        400,
        plain("Transfer-Encoding: chunked", path="/v1/rpc", method="POST", tail=b"f" * 40 + b"\r\n"),
    ),
    # Size
    "a line of 16 KiB": (431, plain("X-Name: " + "x" * 16384)),
    "a path of 16 KiB": (431, plain(path="/" + "x" * 16384)),
    "a thousand lines too many": (431, plain(*["X-Name: 0123456"] * 1000)),
    "16 KiB without an end": (431, raw("GET / HTTP/1.1\r\nX: " + "x" * 20000)),
    "2,000 short lines": (200, plain(*["X: 1"] * 2000)),
}
