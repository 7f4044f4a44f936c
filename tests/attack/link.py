"""One attacker's WebSocket as plain bytes: what it sends is what it is told, and what comes is looked at closely.

Every answer must be one that the contract knows: a result, or an error of a kind
that the kind's code belongs to, and never `internal`. So must every close.
"""

import json
from typing import Any

import trio

from atrio_protocol.errors import ERRORS
from door_rig import WAIT_S, DoorClient, frame

__all__ = ["CLOSE_CODES", "Link", "check_answer", "open_link", "read_answer"]

Json = dict[str, Any]

CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013, 4408}
TEXT, CLOSE = 1, 8


class Link:
    """An open WebSocket. ``code`` is what the server closed it with; 1006 for no close frame, None while it is open."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.code: int | None = None
        self.answers: list[Json] = []
        self.wrong: list[str] = []
        self._news = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; nothing if the server has closed."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()

    async def say(self, text: bytes) -> None:
        """Send one text frame."""
        await self.send(frame(TEXT, text))

    async def ask(self, number: int, method: str, **params: Any) -> Json:
        """Send a good request and wait for its answer; nothing if the server closes instead."""
        message = {"jsonrpc": "2.0", "id": f"good-{number}", "method": method, "params": params}
        await self.say(json.dumps(message).encode())
        if not await self.until(f"good-{number}"):
            return {}
        return next(answer for answer in self.answers if answer["id"] == f"good-{number}")

    async def until(self, *keys: Any) -> bool:
        """Wait for an answer with one of these ids; whether it came before the close."""
        while not any(_same(answer["id"], key) for answer in self.answers for key in keys):
            if self.code is not None:
                return False
            await self._news.wait()
        return True

    async def closed(self) -> int:
        """Wait for the end."""
        while self.code is None:
            await self._news.wait()
        return self.code

    async def read(self) -> None:
        """Take what comes, until the server closes. Runs as a task."""
        received = bytearray()
        try:
            while data := await self.stream.receive_some(65536):
                received += data
                while (found := _first_frame(received)) is not None:
                    opcode, payload, size = found
                    del received[:size]
                    self._take(opcode, payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.code = self.code or 1006
        self._wake()

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else 1005
        elif opcode == TEXT:
            message = read_answer(payload)
            if "method" not in message:
                self.wrong += check_answer(message)
                self.answers.append(message)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def open_link(attacker: DoorClient) -> Link:
    """Shake hands."""
    stream = await attacker.connect()
    with trio.fail_after(WAIT_S):
        await stream.send_all(attacker.handshake())
        answered = b""
        while not answered.endswith(b"\r\n\r\n"):
            piece = await stream.receive_some(1)
            assert piece, answered
            answered += piece
    assert answered.startswith(b"HTTP/1.1 101"), answered
    return Link(stream)


def check_answer(message: Json) -> list[str]:
    """What is wrong with an answer."""
    error = message.get("error")
    if message.get("jsonrpc") != "2.0" or "id" not in message or ("result" in message) == (error is not None):
        return [f"no answer: {message}"[:400]]
    if error is None:
        return []
    kind = error["data"].get("kind")
    if kind not in ERRORS or ERRORS[kind].code != error["code"] or kind == "internal" or not error["message"]:
        return [f"no typed error: {message}"[:400]]
    return []


def read_answer(data: bytes) -> Json:
    """An answer, whose id is what was sent: of a number that is too long for Python, the digits."""
    return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 4_000 else digits)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _first_frame(data: bytearray) -> tuple[int, bytes, int] | None:
    """The first whole frame: opcode, payload, and how many bytes it takes."""
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
    if len(data) < start + size:
        return None
    return data[0] & 0x0F, bytes(data[start : start + size]), start + size
