"""An MCP server for tests, in plain lines: quick to start, and as naughty as it is told.

It knows the tools below, and as arguments: `dies-at-start`, `silent`, `once FILE`
(the first process to make FILE dies on its first call), `stubborn` (ignores
requests to end, and has a child that left its session) and `pages`. What it is told is written, a line
each, to the file that MCP_TEST_LOG names.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

MiB = 1024 * 1024
WORDS = sys.argv[1:]
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
ECHO: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
}
NAMES = ["echo", "die", "hang", "huge", "garbage", "shapes", "refuse", "wrong", "many", "ask", "more", "with.dot"]
extra: list[str] = []


def note(text: str) -> None:
    """Write down what happened, for the test."""
    if path := os.environ.get("MCP_TEST_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def stay() -> None:
    """Stay, whatever signals come."""
    while True:
        signal.pause()


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request: Any, result: dict[str, Any]) -> None:
    send({"id": request, "result": result})


def text(request: Any, said: str, **more: Any) -> None:
    answer(request, {"content": [{"type": "text", "text": said}], **more})


def listed(params: dict[str, Any]) -> dict[str, Any]:
    names = [*NAMES, *extra]
    tools = [
        {"name": name, "description": f"Does {name}.", "inputSchema": ECHO if name == "echo" else EMPTY}
        for name in names
    ]
    if "pages" not in WORDS:
        return {"tools": tools}
    at = int(params.get("cursor") or 0)
    page: dict[str, Any] = {"tools": tools[at : at + 5]}
    return page | ({"nextCursor": str(at + 5)} if at + 5 < len(tools) else {})


def call(request: Any, name: str, given: dict[str, Any]) -> None:
    match name:
        case "echo":
            text(request, f"{given['text']} from {Path.cwd()}")
        case "die":
            sys.stderr.write("my last words, " + os.environ.get("SECRET_KEY", "no key") + "\n")
            sys.stderr.flush()
            os._exit(7)
        case "hang":
            note("hanging")
        case "huge":
            text(request, "x" * (50 * MiB))
        case "many":
            answer(request, {"content": [{"type": "text", "text": "x"}] * 20_000})
        case "garbage":
            sys.stdout.write("Starting up!\n\n{]\n[1, 2]\n" + '{"jsonrpc": "2.0", "id": 999, "result": 5}\n')
            text(request, "after the garbage")
        case "wrong":
            answer(request, {"content": "this is no list"})
        case "refuse":
            send({"id": request, "error": {"code": -32602, "message": "not like this"}})
        case "shapes":
            png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
            content = [
                {"type": "text", "text": "y" * 40_000},
                {"type": "image", "mimeType": "image/png", "data": png},
                {"type": "image", "mimeType": "image/png", "data": "bm8gaW1hZ2U="},
                {"type": "audio", "mimeType": "audio/wav", "data": "AAAA"},
                {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "inside"}},
                {"type": "resource_link", "uri": "file:///b.txt", "name": "b"},
            ]
            answer(request, {"content": content, "structuredContent": {"found": 3}, "isError": True})
        case "ask":
            send({"id": "r1", "method": "roots/list"})
            send({"id": "s1", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
            heard = [json.loads(sys.stdin.readline()) for _ in range(2)]
            text(request, json.dumps({one["id"]: one.get("result") or "refused" for one in heard}))
        case "more":
            extra.append("another")
            send({"method": "notifications/tools/list_changed"})
            text(request, "there is more now")
        case _:
            text(request, f"{name} was called")


def serve() -> None:
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        request, params = message.get("id"), message.get("params") or {}
        match message.get("method"):
            case "initialize":
                answer(
                    request,
                    {
                        "protocolVersion": params["protocolVersion"],
                        "capabilities": {"tools": {"listChanged": True}},
                        "serverInfo": {"name": "naughty", "version": "1"},
                    },
                )
            case "tools/list":
                answer(request, listed(params))
            case "tools/call":
                if "once" in WORDS and not (flag := Path(WORDS[WORDS.index("once") + 1])).exists():
                    flag.touch()
                    os._exit(3)
                call(request, params["name"], params.get("arguments") or {})
            case "notifications/cancelled":
                note(f"cancelled {params['requestId']}")
            case _:
                pass


if "dies-at-start" in WORDS:
    sys.stderr.write("cannot find my configuration\n")
    sys.exit(4)
if "stubborn" in WORDS:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    far = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork() and os._exit(0)\n"
    far += "print(os.getpid(), flush=True)\nwhile True: time.sleep(0.05)"
    child = subprocess.Popen([sys.executable, "-c", far], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    note(f"pid {int(child.stdout.readline())}")
    child.wait()
note(f"pid {os.getpid()}")
if "silent" in WORDS:
    stay()
serve()
if "stubborn" in WORDS:
    stay()
