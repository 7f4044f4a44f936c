"""A small server that speaks the OpenAI HTTP API: `/v1/chat/completions` (streamed) and `/v1/models`.

Tests run it inside their own event loop (`open_openai_mock`), the benchmark as a
process of its own: ``python tests/providers/openai_mock.py --port 0`` prints one
JSON line with its URL and ends when its standard input closes.

What a request gets is chosen by its model name: ``BEHAVIOUR,key=value,…``, such
as ``tokens,n=2000,rate=50,stamp=1``; the functions marked `behaviour` are the
list. An unknown name answers with the newest user text.

It understands only what an API client sends: one request after the other on a
connection. It keeps the last 1,000 requests for tests to look at.
"""

import argparse
import functools
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple, TypeVar

import h11
import msgspec
import trio

__all__ = [
    "CHAT_PATH",
    "Answer",
    "Behaviour",
    "MockOpenAI",
    "MockServer",
    "Seen",
    "behaviour",
    "named_behaviour",
    "open_mock",
    "open_openai_mock",
    "sse",
]

CHAT_PATH = "/v1/chat/completions"

_MAX_BODY_BYTES = 64 * 1024 * 1024
_WRITE_BYTES = 64 * 1024
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Seen(NamedTuple):
    """A request that came: its path, its headers in lower case, its decoded body."""

    path: str
    headers: dict[str, str]
    body: Any


class Answer:
    """One answer being written. ``complete`` once the connection may be used again."""

    def __init__(self, server: "MockServer", stream: trio.SocketStream, body: Any, options: dict[str, str]) -> None:
        self._stream = stream
        self.server = server
        self.body = body
        self.options = options
        self.complete = False

    def number(self, key: str, default: float) -> float:
        return float(self.options.get(key, default))

    async def error(self, status: int, message: str, *headers: str, code: str | None = None, param: str = "") -> None:
        """An error as OpenAI words it."""
        error = {"message": message, "type": "mock_error", "param": param or None, "code": code}
        await self.whole(status, "application/json", msgspec.json.encode({"error": error}), *headers)

    def failing(self) -> tuple[int, str, list[str]]:
        """What a ``status`` behaviour was told to answer: the status, the message and the headers."""
        headers: list[str] = []
        after = self.options.get("after")
        if after is not None:
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
            headers.append(f"Retry-After: {date if after == 'date' else after}")
        if "location" in self.options:
            headers.append(f"Location: {self.options['location']}")
        if "after-ms" in self.options:
            headers.append(f"retry-after-ms: {self.options['after-ms']}")
        message = self.options.get("message", "mock says no to sk-secret-key").replace("_", " ")
        return int(self.options["status"]), message, headers

    async def whole(self, status: int, kind: str, content: bytes, *headers: str) -> None:
        """An answer that is not streamed."""
        lines = [f"HTTP/1.1 {status} Mock", f"Content-Type: {kind}", f"Content-Length: {len(content)}", *headers]
        await self._stream.send_all("\r\n".join([*lines, "", ""]).encode() + content)
        self.complete = True

    async def begin(self, *events: bytes) -> None:
        await self._stream.send_all(_STREAM_HEAD + b"".join(map(_framed, events)))

    async def write(self, data: bytes) -> None:
        """Send what is already framed."""
        await self._stream.send_all(data)

    async def end(self, *events: bytes) -> None:
        await self._stream.send_all(b"".join(map(_framed, events)) + b"0\r\n\r\n")
        self.complete = True

    async def say(self, *events: bytes) -> None:
        """A whole streamed answer, each event in an HTTP chunk of its own as most servers send them."""
        await self.begin()
        await self.end(*events)

    async def until_client_leaves(self) -> None:
        await self._stream.receive_some(1)

    def reset(self) -> None:
        """Break the connection off, so that the client gets an error and not an end."""
        self._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._stream.socket.close()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@functools.lru_cache(maxsize=16)
def _many(data: bytes, count: int, *, one_chunk: bool) -> bytes:
    return _framed(data * count) if one_chunk else _framed(data) * count


def sse(data: bytes) -> bytes:
    """An event whose payload is ``data``."""
    return b"data: " + data + b"\n\n"


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [choice]}
    return sse(msgspec.json.encode(chunk))


def _text(text: str) -> bytes:
    return _event({"content": text})


def _usage(prompt: int, completion: int) -> bytes:
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return sse(msgspec.json.encode({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": tokens}))


def _call(index: int | None, call_id: str | None = None, name: str | None = None, arguments: Any = None) -> bytes:
    """A piece of a tool call; what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return _event({"tool_calls": [piece | {"function": function}]})


_DONE = sse(b"[DONE]")
_STOP = _event({}, "stop")
_CALLED = _event({}, "tool_calls")

Behaviour = Callable[[Answer], Awaitable[None]]
_BEHAVIOURS: dict[tuple[str, str], Behaviour] = {}


def behaviour(name: str, path: str = CHAT_PATH) -> Callable[[Behaviour], Behaviour]:
    """Register what a model name does where ``path`` is asked."""

    def register(function: Behaviour) -> Behaviour:
        _BEHAVIOURS[path, name] = function
        return function

    return register


def named_behaviour(path: str, name: str) -> Behaviour | None:
    """What a model name does there; that of ``echo`` if it is not known, None if the path is not."""
    return _BEHAVIOURS.get((path, name)) or _BEHAVIOURS.get((path, "echo"))


# What goes well.


@behaviour("echo")
async def _echo(answer: Answer) -> None:
    content = next(message["content"] for message in reversed(answer.body["messages"]) if message["role"] == "user")
    text = content if isinstance(content, str) else content[-1].get("text", "")
    pieces = [_text(word) for word in text.splitlines(keepends=True)]
    await answer.say(_event({"role": "assistant", "content": ""}), *pieces, _STOP, _usage(7, 3), _DONE)


@behaviour("tokens")
async def _tokens(answer: Answer) -> None:
    """``n`` pieces of ``text``, at ``rate`` a second or as fast as possible in large writes.

    With ``stamp=1`` the text is the monotonic clock in nanoseconds and a space: of
    every piece at a rate, of the first piece of each write otherwise. With
    ``block=1`` a fast answer puts each write into one HTTP chunk.
    """
    count, rate = int(answer.number("n", 20)), answer.number("rate", 0)
    stamped = "stamp" in answer.options
    plain = _text(answer.options.get("text", "tok "))
    await answer.begin()
    if rate:
        start = trio.current_time()
        for index in range(count):
            await trio.sleep_until(start + index / rate)
            await answer.write(_framed(_text(f"{time.monotonic_ns()} ") if stamped else plain))
    else:
        per_write = _WRITE_BYTES // len(plain)
        for first in range(0, count, per_write):
            size = min(per_write, count - first)
            stamp = _framed(_text(f"{time.monotonic_ns()} ")) if stamped else b""
            await answer.write(stamp + _many(plain, size - stamped, one_chunk="block" in answer.options))
    await answer.end(_STOP, _usage(7, count), _DONE)


@behaviour("together")
async def _together(answer: Answer) -> None:
    """Ends when ``n`` requests have come."""
    await answer.begin(_text("all "))
    await answer.server.wait_for_requests(int(answer.options["n"]))
    await answer.end(_text("here"), _STOP, _DONE)


@behaviour("reasoning")
async def _reasoning(answer: Answer) -> None:
    """Thinks, under the property that ``key`` names, then answers."""
    key = answer.options.get("key", "reasoning_content")
    await answer.say(_event({key: "let me "}), _event({key: "see"}), _text("42"), _STOP, _usage(5, 2), _DONE)


@behaviour("tools")
async def _tools(answer: Answer) -> None:
    """Two calls in pieces that alternate; with results it answers."""
    if any(message["role"] == "tool" for message in answer.body["messages"]):
        await answer.say(_text("42"), _STOP, _usage(9, 4), _DONE)
        return
    await answer.say(
        _text("looking"),
        _call(0, "call_a", "read", ""),
        _call(0, arguments='{"pa'),
        _call(1, "call_b", "ls", ""),
        _call(1, arguments='{"depth":'),
        _call(0, arguments='th":"a.py"}'),
        _call(1, arguments="2}"),
        _CALLED,
        _usage(9, 4),
        _DONE,
    )


@behaviour("tools-odd")
async def _tools_odd(answer: Answer) -> None:
    """Calls as some servers send them; ``shape`` names how."""
    pieces = {
        "no-index": (
            _call(None, "a", "read", '{"path":'),
            _call(None, None, None, '"x"}'),
            _call(None, "b", "ls", "{}"),
        ),
        "same-index": (_call(0, "a", "read", '{"path":"x"}'), _call(0, "b", "ls", "{}")),
        "same-id": (_call(0, "a", "read", '{"path":"x"}'), _call(1, "a", "ls", "{}")),
        "object": (_call(0, "a", "read", {"path": "x"}),),
        "no-id": (_call(0, None, "read", '{"path":"x"}'), _call(1, None, "ls", "{}")),
        "no-arguments": (_call(0, "a", "ls"),),
        "late-name": (_call(0, "a", None, '{"path":'), _call(0, None, "read", '"x"}')),
        "no-name": (_call(0, "a", None, "{}"),),
    }[answer.options["shape"]]
    await answer.say(*pieces, _event({}, answer.options.get("finish", "tool_calls")), _DONE)


@behaviour("finish")
async def _finish(answer: Answer) -> None:
    """One word, then the finish reason ``reason``; no usage."""
    await answer.say(_text("word"), _event({}, answer.options["reason"]), _DONE)


@behaviour("refusal")
async def _refusal(answer: Answer) -> None:
    await answer.say(_event({"refusal": "I will "}), _event({"refusal": "not."}), _STOP, _usage(3, 2), _DONE)


@behaviour("no-usage")
async def _no_usage(answer: Answer) -> None:
    await answer.say(_text("word"), _STOP, _DONE)


@behaviour("no-done")
async def _no_done(answer: Answer) -> None:
    """Says why it stops, and then ends (``how=end``) or breaks off (``how=cut``)."""
    await answer.begin(_text("all said"), _STOP)
    if answer.options["how"] == "end":
        await answer.end()


@behaviour("lingering")
async def _lingering(answer: Answer) -> None:
    """Says that it is done, and does not end."""
    await answer.begin(_text("all said"), _STOP, _DONE)
    await answer.until_client_leaves()


@behaviour("effort")
async def _effort(answer: Answer) -> None:
    """Takes tools only with ``reasoning_effort`` "none", as OpenAI's newer models do on this endpoint."""
    if answer.body.get("tools") and answer.body.get("reasoning_effort") != "none":
        await answer.error(400, "tools need reasoning_effort 'none' here", param="reasoning_effort")
    else:
        await answer.say(_text("fine"), _STOP, _DONE)


@behaviour("blind")
async def _blind(answer: Answer) -> None:
    """Refuses every request that holds an image."""
    contents = [message["content"] for message in answer.body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if any(part["type"] == "image_url" for part in parts):
        await answer.error(400, "Could not process image")
    else:
        await _echo(answer)


# What goes wrong.


@behaviour("status")
async def _status(answer: Answer) -> None:
    """The HTTP status ``status`` with the error code ``code``; ``after`` and ``after-ms`` are headers.

    ``after=date`` is an HTTP date ten seconds ahead. The message repeats the key,
    as no provider should.
    """
    status, message, headers = answer.failing()
    await answer.error(status, message, *headers, code=answer.options.get("code"))


@behaviour("big-error")
async def _big_error(answer: Answer) -> None:
    """An error page without end."""
    await answer.write(b"HTTP/1.1 500 Mock\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await answer.write(_framed(b"x" * _WRITE_BYTES))


@behaviour("html")
async def _html(answer: Answer) -> None:
    await answer.whole(200, "text/html", b"<html>Welcome</html>")


@behaviour("hang")
async def _hang(answer: Answer) -> None:
    """A first word, then silence."""
    await answer.begin(_text("first"))
    await answer.until_client_leaves()


@behaviour("mute")
async def _mute(answer: Answer) -> None:
    """Not even a head."""
    await answer.until_client_leaves()


@behaviour("cut")
async def _cut(answer: Answer) -> None:
    """A word, then the end of the connection; ``how`` is ``close``, ``reset`` or ``end`` (a proper end of the body)."""
    await answer.begin(_text("half"))
    match answer.options.get("how", "close"):
        case "end":
            await answer.end()
        case "reset":
            answer.reset()
        case _:
            pass


@behaviour("raw")
async def _raw(answer: Answer) -> None:
    """A word, then an event that is no chunk: ``what`` says which."""
    error = {"error": {"message": "mock broke", "type": "server_error", "code": answer.options.get("code")}}
    bad = {
        "malformed": b'{"choices": [{"delta": {"con',
        "wrong-type": b'{"choices": [{"delta": {"content": 7}}]}',
        "error": msgspec.json.encode(error),
        "error-status": b'{"error": {"message": "too many", "code": 429}}',
        "long": b'"' + b"x" * int(answer.number("bytes", 10 * 1024 * 1024)),
        "empty": b"[DONE]",
    }[answer.options["what"]]
    first = () if answer.options["what"] == "empty" else (_text("word"),)
    await answer.say(*first, sse(bad))


class MockServer:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: deque[Seen] = deque(maxlen=1_000)
        self.connections = 0
        """Connections open now."""
        self.accepted = 0
        """Connections there have been."""
        self._changed = trio.Event()

    async def wait_for_connections(self, count: int) -> None:
        """Wait until exactly this many connections are open."""
        while self.connections != count:
            await self._changed.wait()

    async def wait_for_requests(self, count: int) -> None:
        """Wait until at least this many requests have come."""
        while len(self.requests) < count:
            await self._changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection until the client leaves."""
        self._count(1)
        try:
            async with stream:
                while (seen := await _receive(stream)) is not None:
                    self.requests.append(seen)
                    self._notify()
                    if not await self.answer(seen, stream):
                        break
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # The client left in the middle, as tests ask of it.
        finally:
            self._count(-1)

    async def answer(self, seen: Seen, stream: trio.SocketStream) -> bool:
        """Answer a request; returns whether the connection may be used again."""
        name, *words = (seen.body or {}).get("model", "").split(",")
        answer = Answer(self, stream, seen.body, dict(word.split("=", 1) for word in words))
        found = named_behaviour(seen.path, name)
        if found is None:
            await self.other(seen, answer)
        else:
            await found(answer)
        return answer.complete

    async def other(self, seen: Seen, answer: Answer) -> None:
        """Answer a request for a path of which no behaviour is known."""
        await answer.error(404, f"no such path: {seen.path}")

    def _count(self, change: int) -> None:
        self.connections += change
        self.accepted += max(0, change)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _receive(stream: trio.SocketStream) -> Seen | None:
    # A fresh parser per request: what is sent back never passes through it.
    parser = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await stream.receive_some(_WRITE_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data) and len(body) < _MAX_BODY_BYTES:
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Seen(head.target.decode(), headers, msgspec.json.decode(body) if body else None)
        else:
            return None


class MockOpenAI(MockServer):
    """The OpenAI mock. ``url`` is what goes into ``OPENAI_BASE_URL``."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def other(self, seen: Seen, answer: Answer) -> None:
        if seen.path == "/v1/models":
            data = [{"id": name, "object": "model"} for path, name in _BEHAVIOURS if path == CHAT_PATH]
            await answer.whole(200, "application/json", msgspec.json.encode({"object": "list", "data": data}))
        else:
            await super().other(seen, answer)


Mock = TypeVar("Mock", bound=MockServer)


@asynccontextmanager
async def open_mock(kind: type[Mock], port: int = 0) -> AsyncGenerator[Mock]:
    """Run a server on a loopback port (0: a free one) until the context is left."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=512)
    mock = kind(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, mock.serve, listeners)
        try:
            yield mock
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_openai_mock(port: int = 0) -> AsyncGenerator[MockOpenAI]:
    """Run the server on a loopback port (0: a free one) until the context is left."""
    async with open_mock(MockOpenAI, port) as mock:
        yield mock


async def _main(port: int) -> None:
    async with open_openai_mock(port) as mock:
        sys.stdout.write(msgspec.json.encode({"url": mock.url}).decode() + "\n")
        sys.stdout.flush()
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin:
            async for _ in stdin:
                pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A mock of the OpenAI HTTP API on loopback.")
    parser.add_argument("--port", type=int, default=0)
    trio.run(_main, parser.parse_args().port)
