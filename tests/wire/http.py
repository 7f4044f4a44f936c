"""One HTTP request over a socket, as plain as can be."""

import json
from contextlib import suppress
from typing import Any, NamedTuple

import h11
import trio

__all__ = ["Answer", "http"]


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def http(
    base: str, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Send a request and read the answer to the end of the connection."""
    host, port = base.removeprefix("http://").split(":")
    sent = {"Host": f"{host}:{port}", **(headers or {})}
    if body or method == "POST":
        sent["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        with suppress(trio.BrokenResourceError):  # refused before it was all said; the answer is there nevertheless
            await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = h11.Connection(h11.CLIENT)
        answer.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        answer.send(h11.EndOfMessage())
        status, found, content = 0, dict[str, str](), b""
        while True:
            event = answer.next_event()
            if event is h11.NEED_DATA:
                answer.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                status = event.status_code
                found = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return Answer(status, found, content)
