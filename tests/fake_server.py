"""A server of the protocol that is small enough to be told how to fail.

It keeps a log of events per session and sends each event as a frame of its own,
so that a test can cut a connection at every frame boundary. It is written from
the contract alone and shares no code with the server: what a client gets from
it are plain dicts turned into JSON. It runs over memory streams (virtual time)
or over TCP (for commands in their own process).
"""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from atrio_server.client.nursery import open_plain_nursery

Json = dict[str, Any]
TOKEN = "a-token"
AT = "2026-11-20T09:30:00.000Z"
USAGE = {"inputTokens": 0, "outputTokens": 0, "contextTokens": 0, "estimated": True}


def session_json(session_id: str, title: str = "a session") -> Json:
    return {
        "sessionId": session_id,
        "workspaceId": "w1",
        "title": title,
        "state": "idle",
        "queued": 0,
        "viewers": 1,
        "messageCount": 0,
        "usage": USAGE,
        "rev": 1,
        "createdAt": AT,
        "updatedAt": AT,
    }


class RpcError(Exception):
    """An answer that is an error."""

    def __init__(self, kind: str, code: int, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(kind)
        self.object = {"code": code, "message": message or kind, "data": {"kind": kind, "retryable": retryable}}


@dataclass
class FakeSession:
    """A log of events, and what a snapshot says."""

    session_id: str
    epoch: str = "e1"
    log: list[Json] = field(default_factory=list[Json])
    dropped: int = 0
    runs: dict[str, Json] = field(default_factory=dict[str, Json])
    messages: list[Json] = field(default_factory=list[Json])
    title: str = "a session"

    @property
    def head(self) -> int:
        return self.dropped + len(self.log)

    def publish(self, event_type: str, **body: Any) -> None:
        self.log.append({"type": event_type, "seq": self.head + 1, "at": AT, **body})

    def since(self, seq: int) -> list[Json]:
        return self.log[seq - self.dropped :]

    def forget(self, epoch: str | None = None) -> None:
        """Lose the events so far, as when a ring is full, or (with a new epoch) at a restart."""
        self.dropped = 0 if epoch else self.head
        self.log = []
        self.epoch = epoch or self.epoch


class FakeServer:
    """Everything that a test may set is a public attribute."""

    def __init__(self) -> None:
        self.sessions: dict[str, FakeSession] = {"s1": FakeSession("s1")}
        self.asked: list[tuple[str, Json]] = []
        self.hellos: list[Json] = []
        self.connections = 0
        self.token = TOKEN
        self.version = "0.1.0"
        self.cut_after: Callable[[int], int | None] = lambda connection: None
        """After how many frames the n-th connection (from 0) is cut; None is never."""
        self.refused_dials = 0
        """How many of the next tries to connect find nobody."""
        self.refuse_tcp = False
        """Hangs up on whoever connects."""
        self.model: Json = {"modelId": "m1", "provider": "fake", "name": "m1", "default": True, "reason": "KEY is set."}
        """The only model there is."""
        self.position = 0
        """What an answer to a prompt says of the queue."""
        self.deaf = False
        """Reads everything and answers nothing."""
        self.swallow: set[str] = set()
        """Methods that are carried out once without their answer: the connection is cut instead."""
        self.answers: dict[str, Callable[[Json], Json]] = {
            "model/list": lambda _: {"models": [self.model]},
            "session/get": lambda params: {"session": session_json(params["sessionId"])},
            "session/delete": self._delete,
        }
        """Methods with an answer of the test's own, or one that no connection has a part in."""
        self.on_prompt: Callable[[FakeSession, Json], object] = say_pong
        self.news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._live: set[FakeConnection] = set()

    async def dial(self, _url: str) -> trio.abc.Stream:
        """Connect by memory streams, while `run` is running."""
        await trio.lowlevel.checkpoint()
        if self.refused_dials > 0:
            self.refused_dials -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        assert self._nursery is not None
        self._nursery.start_soon(self.serve_stream, ours)
        return theirs

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve what `dial` connects."""
        async with open_plain_nursery() as nursery:
            self._nursery = nursery
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def serving_tcp(self) -> AsyncGenerator[str]:
        """Serve TCP on a free port of the loopback; yields the URL."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with open_plain_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.serve_stream, listeners)
            yield f"ws://127.0.0.1:{port}/v1/ws"
            nursery.cancel_scope.cancel()

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        if self.refuse_tcp:
            await trio.aclose_forcefully(stream)
            return
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            if dict(request.headers).get(b"authorization") == f"Bearer {self.token}".encode():
                await self._serve(await request.accept(), stream)
            else:
                await request.reject(401)
                await stream.aclose()
            nursery.cancel_scope.cancel()

    async def _serve(self, socket: WebSocketConnection, stream: trio.abc.Stream) -> None:
        connection = FakeConnection(self, socket, stream, self.cut_after(self.connections))
        self.connections += 1
        self._live.add(connection)
        try:
            await connection.run()
        finally:
            self._live.discard(connection)

    def _delete(self, params: Json) -> Json:
        del self.sessions[params["sessionId"]]
        for connection in self._live:
            connection.cursors.pop(params["sessionId"], None)
        return {}

    def publish(self, session_id: str, event_type: str, **body: Any) -> None:
        self.sessions[session_id].publish(event_type, **body)
        self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def drop_all(self) -> None:
        """Cut every connection."""
        await trio.lowlevel.checkpoint()
        for connection in list(self._live):
            await trio.aclose_forcefully(connection.stream)

    async def note_all(self, method: str, **params: Any) -> None:
        """Send a notification to everybody."""
        await trio.lowlevel.checkpoint()
        for connection in list(self._live):
            connection.cursors.pop(params.get("sessionId", ""), None)
            await connection.send({"method": method, "params": params})


class FakeConnection:
    def __init__(
        self, server: FakeServer, socket: WebSocketConnection, stream: trio.abc.Stream, cut_after: int | None
    ) -> None:
        self.server = server
        self.socket = socket
        self.stream = stream
        self.cut_after = cut_after
        self.sent = 0
        self.cursors: dict[str, int] = {}
        self.sending = trio.Lock()
        self.ids: set[Any] = set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._push)
            try:
                while True:
                    await self._take(json.loads(await self.socket.get_message()))
            except ConnectionClosed:
                nursery.cancel_scope.cancel()

    async def send(self, message: Json) -> None:
        async with self.sending:
            if self.cut_after is not None and self.sent >= self.cut_after:
                await trio.aclose_forcefully(self.stream)
            self.sent += 1
            await self.socket.send_message(json.dumps({"jsonrpc": "2.0", **message}))

    async def _take(self, message: Json) -> None:
        await trio.lowlevel.checkpoint()
        method, params = message["method"], message.get("params", {})
        server = self.server
        server.asked.append((method, params))
        assert message.get("id") not in self.ids, "a request's id is used once"
        if "id" in message:
            self.ids.add(message["id"])
        if server.deaf or "id" not in message:
            return
        try:
            answer: Json = {"result": self._answer(method, params)}
        except RpcError as exc:
            answer = {"error": exc.object}
        if method in server.swallow:
            server.swallow.discard(method)
            await trio.aclose_forcefully(self.stream)
        await self.send({"id": message["id"], **answer})
        if method == "session/attach" and "result" in answer:
            self.cursors[params["sessionId"]] = answer["result"]["stream"]["seq"]
        server.wake()

    async def _push(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            while True:
                await trio.lowlevel.checkpoint()
                news = self.server.news
                for session_id in list(self.cursors):
                    if session_id not in self.cursors:
                        continue
                    session = self.server.sessions[session_id]
                    for event in session.since(self.cursors[session_id]):
                        if session_id not in self.cursors:
                            break
                        self.cursors[session_id] = event["seq"]
                        frame = {"sessionId": session_id, "epoch": session.epoch, "events": [event]}
                        await self.send({"method": "session/events", "params": frame})
                if news is self.server.news:
                    await news.wait()
        except ConnectionClosed:
            pass

    def _answer(self, method: str, params: Json) -> Json:
        server = self.server
        if method in server.answers:
            return server.answers[method](params)
        match method:
            case "initialize":
                server.hellos.append(params)
                return hello_json(params, server.version)
            case "workspace/open":
                workspace = {
                    "workspaceId": "w1",
                    "path": params["path"],
                    "state": "open",
                    "createdAt": AT,
                    "clients": 1,
                }
                sessions = [session_json(session.session_id, session.title) for session in server.sessions.values()]
                return {
                    "workspace": workspace,
                    "stream": {"epoch": "w", "seq": 0, "recovered": False, "head": 0},
                    "snapshot": {"sessions": sessions, "clients": [], "permissions": []},
                }
            case "session/new":
                session_id = f"s{len(server.sessions) + 1}"
                server.sessions[session_id] = FakeSession(session_id)
                return {"session": session_json(session_id)}
            case "session/attach":
                return self._attach(params)
            case "session/prompt":
                return self._prompt(params)
            case "session/cancel":
                session = self._session(params)
                return {"upTo": 1, "cancelled": cancel(session, params.get("runId"))}
            case "run/get":
                for session in server.sessions.values():
                    if params["runId"] in session.runs:
                        return {"run": session.runs[params["runId"]]}
                raise RpcError("run_not_found", -32002)
            case "ping" | "session/detach":
                return {}
            case _:
                raise RpcError("method_not_found", -32601)

    def _session(self, params: Json) -> FakeSession:
        session = self.server.sessions.get(params.get("sessionId", ""))
        if session is None:
            raise RpcError("session_not_found", -32002, "There is no such session.")
        return session

    def _attach(self, params: Json) -> Json:
        session = self._session(params)
        after = params.get("after")
        if after and after["epoch"] == session.epoch and session.dropped <= after["seq"] <= session.head:
            return {"stream": {**after, "recovered": True, "head": session.head}}
        wanted = params.get("watch", [])
        snapshot = {
            "session": session_json(session.session_id),
            "messages": session.messages,
            "more": False,
            "todos": [],
            "runs": [r for r in session.runs.values() if r["state"] != "completed" or r["runId"] in wanted],
            "permissions": [],
        }
        stream = {"epoch": session.epoch, "seq": session.head, "recovered": False, "head": session.head}
        return {"stream": stream, "snapshot": snapshot}

    def _prompt(self, params: Json) -> Json:
        session = self._session(params)
        run_id = params.get("runId") or f"run-{len(session.runs)}"
        duplicate = run_id in session.runs
        if not duplicate:
            session.runs[run_id] = run_json(session.session_id, run_id, params["prompt"][0]["text"])
            session.publish("run.accepted", run=session.runs[run_id])
            accepted = session.runs[run_id]
            self.server.on_prompt(session, accepted)
            return {"run": accepted, "duplicate": False, "position": self.server.position}
        return {"run": session.runs[run_id], "duplicate": True, "position": 0}


def hello_json(params: Json, version: str) -> Json:
    return {
        "protocolVersion": 1,
        "serverInfo": {"name": "atrio", "version": version},
        "clientId": params["clientId"],
        "capabilities": {"steer": {}},
        "limits": {
            "maxFrameBytes": 4194304,
            "maxPromptBytes": 1048576,
            "maxQueuedPerSession": 100,
            "maxInFlight": 64,
            "replayEvents": 4096,
            "maxConnections": 4096,
        },
        "scopes": ["observe", "prompt", "approve", "admin"],
    }


def run_json(session_id: str, run_id: str, text: str, **more: Any) -> Json:
    return {
        "runId": run_id,
        "sessionId": session_id,
        "acceptSeq": 1,
        "state": "queued",
        "delivery": "queue",
        "kind": "prompt",
        "author": {"clientId": "c", "name": "somebody"},
        "promptText": text,
        "attachments": [],
        "acceptedAt": AT,
        **more,
    }


def message_json(session: FakeSession, message_id: str, run_id: str, text: str, **more: Any) -> Json:
    return {
        "messageId": message_id,
        "sessionId": session.session_id,
        "runId": run_id,
        "order": session.head + 1,
        "role": "assistant",
        "parts": [{"type": "text", "text": text}],
        "summary": False,
        "createdAt": AT,
        "updatedAt": AT,
        **more,
    }


def begin(session: FakeSession, run: Json, pieces: list[str]) -> str:
    """Start a run and stream these pieces of text; returns the id of their message."""
    started = {**run, "state": "running", "startedAt": AT}
    session.runs[run["runId"]] = started
    session.publish("run.started", run=started)
    message_id = f"m-{run['runId']}"
    session.publish("message.created", message=message_json(session, message_id, run["runId"], ""))
    offset = 0
    for piece in pieces:
        session.publish("message.delta", messageId=message_id, part=0, offset=offset, text=piece)
        offset += len(piece)
    return message_id


def end(session: FakeSession, run_id: str, text: str, stop_reason: str = "end_turn", **more: Any) -> None:
    """End a run, telling of it as a server does."""
    message_id = f"m-{run_id}"
    finish = {"finish": {"reason": stop_reason, "at": AT}}
    message = message_json(session, message_id, run_id, text, **finish)
    session.messages.append(message)
    session.publish("message.completed", message=message)
    completed = {
        **session.runs[run_id],
        "state": "completed",
        "stopReason": stop_reason,
        "text": text,
        "messageId": message_id,
        "finishedAt": AT,
        **more,
    }
    session.runs[run_id] = completed
    session.publish("run.completed", run=completed)


def say_pong(session: FakeSession, run: Json) -> None:
    """The usual answer to a prompt."""
    begin(session, run, ["po", "ng", " ", "pong"])
    end(session, run["runId"], "pong pong")


def stall(session: FakeSession, run: Json) -> None:
    """Answer a prompt by never coming to an end."""
    begin(session, run, ["po"])


def cancel(session: FakeSession, run_id: str | None) -> list[str]:
    """Cancel one run, or all that are open."""
    open_runs = [r for r in session.runs.values() if r["state"] != "completed" and run_id in {None, r["runId"]}]
    for run in open_runs:
        end(session, run["runId"], "po", "cancelled", cancelledBy=run["author"])
    return [run["runId"] for run in open_runs]
