"""Clients that write down everything they send and get.

As plain as can be, like `wire.client`, but built to lose their server: a dead
connection is an answer like any other (`Gone`). They check nothing; the checker
does, from the history.
"""

import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from atrio_server.client.link import Dial, Unreachable, dial_tcp, open_link
from atrio_server.client.nursery import open_plain_nursery
from torture.history import History
from wire.client import ignoring_late_pings
from wire.http import http

__all__ = ["Client", "Gone", "Refused", "Server", "ask", "open_client"]

Json = dict[str, Any]


class Gone(Exception):
    """The connection is over; whatever was not answered may have happened or not."""


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Server:
    """How to reach a server: ``number`` counts the servers of one state directory."""

    def __init__(self, *, ws: str, http: str, token: str, number: int = 0) -> None:
        self.ws = ws
        self.http = http
        self.token = token
        self.number = number


class Client:
    """One connection. Made by `open_client`."""

    def __init__(self, history: History, ws: WebSocketConnection, conn: str, client_id: str) -> None:
        self.history = history
        self.ws = ws
        self.conn = conn
        self.client_id = client_id
        self.closed_code: int | None = None
        self.places: dict[str, Json] = {}
        """Where it has got to in each stream, as `after` takes it."""
        self.ends: dict[str, Json] = {}
        """The runs whose terminal it has seen, by id."""
        self.types: list[tuple[str, str]] = []
        """Thing and type of each event that came."""
        self._asked: dict[Any, Json] = {}
        self._replies: dict[Any, Json] = {}
        self._ids = 0
        self._news = trio.Event()

    async def send(self, method: str, **params: Any) -> int:
        """Send a request and return its id.

        Raises:
            Gone: The connection is over. The request may have been sent.
        """
        self._ids += 1
        request = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        self._asked[self._ids] = request
        self.history.note("send", conn=self.conn, id=self._ids, method=method, params=params)
        with suppress(ConnectionClosed):
            await self.ws.send_message(json.dumps(request))
            return request["id"]
        await self.closing()  # what had come before the close is read first
        raise Gone

    async def answer(self, request_id: int) -> Json:
        """Wait for the answer to a request: an object with ``result`` or ``error``.

        Raises:
            Gone: The connection is over.
        """
        await self.until(lambda: request_id in self._replies)
        return self._replies.pop(request_id)

    async def ask(self, method: str, **params: Any) -> Json:
        """Send a request and wait for its answer, whatever it is."""
        return await self.answer(await self.send(method, **params))

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request that must succeed, and return its result.

        Raises:
            Refused: It did not.
            Gone: The connection is over.
        """
        answer = await self.ask(method, **params)
        if "error" in answer:
            raise Refused(answer["error"]["data"]["kind"], answer["error"]["message"])
        return answer["result"]

    async def prompt(self, session_id: str, text: str, **params: Any) -> Json:
        """Send a prompt of one text and wait for the answer, whatever it is."""
        return await self.ask("session/prompt", **self.prompt_params(session_id, text, **params))

    @staticmethod
    def prompt_params(session_id: str, text: str, **params: Any) -> Json:
        """The parameters of a prompt of one text."""
        return {"sessionId": session_id, "prompt": [{"type": "text", "text": text}], **params}

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until something that arrived makes ``true`` so, and return what it says.

        Raises:
            Gone: The connection ended first.
        """
        while not (found := true()):
            if self.closed_code is not None:
                raise Gone
            await self._news.wait()
        return found

    async def ended(self, *run_ids: str) -> None:
        """Wait for the terminals of these runs on a stream that this client reads."""
        await self.until(lambda: all(run_id in self.ends for run_id in run_ids))

    async def closing(self) -> int:
        """Wait until the connection is over, and return its code; 1006 where there was none."""
        while self.closed_code is None:
            await self._news.wait()
        return self.closed_code

    async def read(self) -> None:
        """Take what comes until the connection ends. Runs as a task of `open_client`."""
        code = 1006
        try:
            while True:
                self._take(json.loads(await self.ws.get_message()))
        except ConnectionClosed as exc:
            code = exc.reason.code if exc.reason else 1006
        finally:
            self.over(code)

    def over(self, code: int) -> None:
        """Note that the connection is over, once."""
        if self.closed_code is None:
            self.closed_code = code
            self.history.note("closed", conn=self.conn, code=code)
            self.wake()

    def _take(self, frame: Json) -> None:
        method, params = frame.get("method", ""), frame.get("params", {})
        of = method.partition("/")[0]
        if method.endswith("/events"):
            thing = params[f"{of}Id"]
            self.history.note(
                "events", conn=self.conn, of=of, thing=thing, epoch=params["epoch"], events=params["events"]
            )
            for event in params["events"]:
                self.types.append((thing, event["type"]))
                if event["type"] == "run.completed" and of == "session":
                    self.ends[event["run"]["runId"]] = event["run"]
            self.places[thing] = {"epoch": params["epoch"], "seq": params["events"][-1]["seq"]}
        elif method.endswith("/detached"):
            self.history.note("detached", conn=self.conn, of=of, thing=params[f"{of}Id"], reason=params["reason"])
        elif "id" in frame:
            self._take_answer(frame)
        self.wake()

    def _take_answer(self, frame: Json) -> None:
        answer = {key: frame[key] for key in ("result", "error") if key in frame}
        self.history.note("reply", conn=self.conn, id=frame["id"], **answer)
        self._replies[frame["id"]] = answer
        request, result = self._asked.pop(frame["id"], {}), frame.get("result")
        if isinstance(result, dict) and "stream" in result:
            thing = result["workspace"]["workspaceId"] if "workspace" in result else request["params"]["sessionId"]
            self.places[thing] = {"epoch": result["stream"]["epoch"], "seq": result["stream"]["seq"]}

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def open_client(
    history: History,
    server: Server,
    *,
    name: str = "client",
    client_id: str | None = None,
    url: str | None = None,
    dial: Dial = dial_tcp,
    reads: bool = True,
) -> AsyncGenerator[Client]:
    """Connect, introduce ourselves, and read until the end of the block.

    Args:
        history: Where all of it is noted.
        server: Where to.
        name: The beginning of the connection's name in the history.
        client_id: Who it is, over several connections.
        url: Another way to the server than its own address.
        dial: Opens the byte stream there.
        reads: Whether it always reads; only then the checker expects it to have got everything.

    Raises:
        Gone: There was no connection, or it ended before we were introduced.
    """
    who = client_id or str(uuid.uuid4())
    try:
        with ignoring_late_pings():
            async with open_link(url or server.ws, server.token, dial) as link:
                client = Client(history, link._socket, history.conn(name), who)
                history.note("open", conn=client.conn, server=server.number, client=who, reads=reads)
                async with _reading(client):
                    hello = {"protocolVersion": 1, "clientInfo": {"name": name, "version": "0"}, "clientId": who}
                    await client.call("initialize", **hello)
                    yield client
    except Unreachable as exc:
        raise Gone from exc


@asynccontextmanager
async def _reading(client: Client) -> AsyncGenerator[None]:
    async with open_plain_nursery() as nursery:
        nursery.start_soon(client.read)
        try:
            yield
        finally:
            with trio.move_on_after(2, shield=True):
                await client.ws.aclose()
                await client.closing()  # what had come before is noted first
            nursery.cancel_scope.cancel()
            client.over(1000)


async def ask(history: History, server: Server, method: str, **params: Any) -> Json:
    """Ask by HTTP, and note it; returns an object with ``result`` or ``error``.

    Raises:
        Gone: No answer came.
    """
    conn = history.conn("http")
    history.note("open", conn=conn, server=server.number, client=None, reads=True)
    history.note("send", conn=conn, id=1, method=method, params=params)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    try:
        answered = await http(server.http, "POST", "/v1/rpc", headers=headers, body=body)
        frame = answered.json()
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as exc:
        history.note("closed", conn=conn, code=1006)
        raise Gone from exc
    answer = {key: frame[key] for key in ("result", "error") if key in frame}
    history.note("reply", conn=conn, id=1, **answer)
    history.note("closed", conn=conn, code=1000)
    return answer
