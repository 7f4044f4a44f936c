"""A client for tests, as plain as can be: what is sent and what comes, and nothing hidden.

It checks one thing by itself on every frame: on one attachment the next event's
first number is always the last one plus one.
"""

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket_url
from wsproto.utilities import LocalProtocolError

__all__ = ["Refused", "Wire", "connect"]

Json = dict[str, Any]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['data'].get('kind')}: {error['message']}")
        self.code: int = error["code"]
        self.kind: str = error["data"]["kind"]
        self.data: Json = error["data"]


class Wire:
    """One connection."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self.client_id = ""
        self.frames: list[Json] = []
        self.events: dict[str, list[Json]] = defaultdict(list)
        """Every event received, by session or workspace id, over all attachments."""
        self.detached: list[Json] = []
        self.closed_code: int | None = None
        self._place: dict[str, int] = {}
        self._epochs: dict[str, str] = {}
        self._replies: dict[Any, Json] = {}
        self._ids = 0
        self._news = trio.Event()

    def skip_ids(self, up_to: int) -> None:
        """Leave the ids up to this one to frames that a test writes by itself."""
        self._ids = max(self._ids, up_to)

    async def send(self, method: str, **params: Any) -> int:
        """Send a request and return its id."""
        self._ids += 1
        request_id = self._ids
        await self.send_raw(json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}))
        return request_id

    async def send_raw(self, text: str | bytes) -> None:
        """Send a frame as it is."""
        await self.ws.send_message(text)

    async def reply(self, request_id: Any) -> Any:
        """Wait for the answer to a request."""
        await self.until(lambda: request_id in self._replies)
        answer = self._replies.pop(request_id)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its answer."""
        return await self.reply(await self.send(method, **params))

    async def refused(self, method: str, **params: Any) -> Refused:
        """Send a request that must be refused, and return why."""
        try:
            result = await self.call(method, **params)
        except Refused as exc:
            return exc
        raise AssertionError(f"{method} was not refused: {result}")

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until something that arrived makes ``true`` so, and return what it says."""
        while not (found := true()):
            if self.closed_code is not None:
                raise AssertionError(f"the connection closed ({self.closed_code}) while waiting")
            await self._news.wait()
        return found

    async def closing(self) -> int:
        """Wait until the server has closed the connection, and return the code."""
        while self.closed_code is None:
            await self._news.wait()
        return self.closed_code

    def of_type(self, thing_id: str, *types: str) -> list[Json]:
        """The events of these types, as received."""
        return [event for event in self.events[thing_id] if event["type"] in types]

    async def event(self, thing_id: str, kind: str, **run: Any) -> Json:
        """Wait for an event of a type; with ``runId=…`` for the one of that run."""

        def found() -> Json | None:
            for event in self.of_type(thing_id, kind):
                about = event.get("run") or event
                if all(about.get(name) == value for name, value in run.items()):
                    return event
            return None

        return await self.until(found)

    async def completed(self, session_id: str, run_id: str) -> Json:
        """Wait for a run's terminal on its session's stream, and return the run."""
        return (await self.event(session_id, "run.completed", runId=run_id))["run"]

    async def attach(self, session_id: str, **params: Any) -> Any:
        """Attach to a session."""
        return await self.call("session/attach", sessionId=session_id, **params)

    async def prompt(self, session_id: str, text: str, **params: Any) -> Any:
        """Send a prompt of one text and return the answer."""
        return await self.call("session/prompt", **self.prompt_params(session_id, text, **params))

    @staticmethod
    def prompt_params(session_id: str, text: str, **params: Any) -> Json:
        """The parameters of a prompt of one text."""
        return {"sessionId": session_id, "prompt": [{"type": "text", "text": text}], **params}

    async def read(self) -> None:
        """Take what comes until the connection ends. Runs as a task of `connect`."""
        try:
            while True:
                self._take(json.loads(await self.ws.get_message()))
        except ConnectionClosed as exc:
            self.closed_code = exc.reason.code if exc.reason else 1006
        finally:
            self._wake()

    def _take(self, frame: Json) -> None:
        self.frames.append(frame)
        method = frame.get("method")
        if method in ("session/events", "workspace/events"):
            self._take_events(frame["params"])
        elif method in ("session/detached", "workspace/detached"):
            self.detached.append(frame["params"])
        elif "id" in frame:
            self._replies[frame["id"]] = frame
            stream = (frame.get("result") or {}).get("stream") if isinstance(frame.get("result"), dict) else None
            if stream:
                self._begin(frame["result"], stream)
        self._wake()

    def _begin(self, result: Json, stream: Json) -> None:
        snapshot = result.get("snapshot") or {}
        thing = result.get("workspace", {}).get("workspaceId") or snapshot.get("session", {}).get("sessionId")
        if thing is None:  # resumed: the id is not repeated, the epoch tells
            thing = next((known for known, epoch in self._epochs.items() if epoch == stream["epoch"]), None)
        if thing is not None:
            self._epochs[thing] = stream["epoch"]
            self._place[thing] = stream["seq"]

    def _take_events(self, params: Json) -> None:
        thing = params.get("sessionId") or params["workspaceId"]
        for event in params["events"]:
            expected = self._place.get(thing)
            first = event.get("firstSeq", event["seq"])
            if expected is not None and self._epochs.get(thing) == params["epoch"]:
                assert first == expected + 1, f"a gap: {first} after {expected} in {thing}"
            self._epochs[thing] = params["epoch"]
            self._place[thing] = event["seq"]
            self.events[thing].append({**event, "epoch": params["epoch"]})

    def place(self, thing_id: str) -> Json:
        """Where this reader is in a stream, as `after` takes it."""
        return {"epoch": self._epochs[thing_id], "seq": self._place[thing_id]}

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def connect(
    ws_url: str, token: str, *, client_id: str | None = None, name: str = "test", initialize: bool = True
) -> AsyncGenerator[Wire]:
    """Open a connection, introduce ourselves, and read until the end of the block."""
    # trio-websocket's client answers a ping that crosses its own close, and fails at it.
    with ignoring_late_pings():
        async with _connect(ws_url, token, client_id=client_id, name=name, initialize=initialize) as wire:
            yield wire


@contextmanager
def ignoring_late_pings() -> Generator[None]:
    """Let the library's reader fail at what comes after its own close."""
    try:
        yield
    except* LocalProtocolError:
        pass


@asynccontextmanager
async def _connect(
    ws_url: str, token: str, *, client_id: str | None, name: str, initialize: bool
) -> AsyncGenerator[Wire]:
    headers = [(b"Authorization", f"Bearer {token}".encode())]
    async with trio.open_nursery() as nursery:
        ws = await connect_websocket_url(nursery, ws_url, extra_headers=headers, max_message_size=MAX_MESSAGE_BYTES)
        try:
            wire = Wire(ws)
            nursery.start_soon(wire.read)
            if initialize:
                params: Json = {"protocolVersion": 1, "clientInfo": {"name": name, "version": "0"}}
                if client_id:
                    params["clientId"] = client_id
                wire.client_id = (await wire.call("initialize", **params))["clientId"]
            yield wire
        finally:
            with trio.move_on_after(2, shield=True):
                await ws.aclose()
            await trio.aclose_forcefully(ws._stream)
            nursery.cancel_scope.cancel()
