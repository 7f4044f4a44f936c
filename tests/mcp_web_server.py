"""MCP servers by HTTP for tests. The first line of their output is their port; "hanging" tells of a call that hangs.

`sdk`: a server of the MCP SDK. Else one of our own, that asks for the header
`Authorization: Bearer let-me-in` and is as naughty as its tools say.
"""

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MiB = 1024 * 1024
NAMES = ["where", "huge", "hang", "forget", "stream", "broken"]
state = {"session": 1}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the signature of the base
        """Say nothing."""

    def do_GET(self) -> None:
        self.reply(405, b"")

    def do_DELETE(self) -> None:
        self.reply(204, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != "Bearer let-me-in":
            self.reply(401, b"who are you?")
            return
        request = body.get("id")
        if body["method"] == "initialize":
            result: dict[str, Any] = {
                "protocolVersion": body["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "web", "version": "1"},
            }
            self.answer(request, result)
        elif self.headers.get("mcp-session-id") != str(state["session"]):
            self.reply(404, b"")
        elif request is None:
            self.reply(202, b"")
        elif body["method"] == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
            self.answer(request, {"tools": tools})
        else:
            self.call(request, body["params"]["name"])

    def call(self, request: Any, name: str) -> None:
        said = {"content": [{"type": "text", "text": f"called {name}"}]}
        match name:
            case "huge":
                said["content"][0]["text"] = "x" * (50 * MiB)
            case "hang":
                print("hanging", flush=True)  # noqa: T201  the test waits for it
                self.rfile.read(1)
                return
            case "forget":
                state["session"] += 1
            case "stream":
                event = json.dumps({"jsonrpc": "2.0", "id": request, "result": said})
                self.reply(200, f"event: message\ndata: {event}\n\n".encode(), kind="text/event-stream")
                return
            case "broken":
                self.reply(200, b"{nothing", kind="application/json")
                return
            case _:
                pass
        self.answer(request, said)

    def answer(self, request: Any, result: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", "id": request, "result": result}).encode()
        self.reply(200, data, kind="application/json")

    def reply(self, status: int, data: bytes, *, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("mcp-session-id", str(state["session"]))
        self.end_headers()
        self.wfile.write(data)


def serve_plain() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)  # noqa: T201  the test waits for it
    server.serve_forever()


def serve_sdk() -> None:
    import uvicorn  # noqa: PLC0415  slow, and not needed by the other
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415

    server = MCPServer("real")

    @server.tool()
    def add(a: int, b: int) -> int:  # pyright: ignore[reportUnusedFunction]  the decorator keeps it
        """Add two numbers."""
        return a + b

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201  the test waits for it
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


if sys.argv[1:] == ["sdk"]:
    serve_sdk()
else:
    serve_plain()
