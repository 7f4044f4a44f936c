"""What tests of permissions do: have a tool ask, wait for the question, answer it, count what became of it."""

import json
from typing import Any

from atrio_server.service import Running
from wire.client import Wire
from wire.http import http

__all__ = ["WRITE", "answer", "asked", "asking", "rpc", "shell", "write"]

Json = dict[str, Any]


def write(path: str, content: str = "new\n") -> Json:
    """A script's step that writes a file."""
    return {"tool": "write", "input": {"path": path, "content": content}}


def shell(command: str, **more: Any) -> Json:
    """A script's step that runs a command."""
    return {"tool": "shell", "input": {"command": command, **more}}


def asking(match: str, *calls: Json, then: str = "done") -> Json:
    """A script's turn whose first reply makes these calls."""
    return {"match": f"^{match}$", "responses": [list(calls), [{"say": then}]]}


WRITE = asking("write", write("a.txt"), then="written")


async def asked(wire: Wire, thing: str, count: int = 1) -> Json:
    """Wait for so many questions on a stream, and return the newest of them."""
    found = await wire.until(lambda: wire.of_type(thing, "permission.requested")[count - 1 :])
    return found[0]["permission"]


async def answer(wire: Wire, permission: Json, option: str = "allow_once") -> Json:
    """Answer a question."""
    return await wire.call("permission/respond", permissionId=permission["permissionId"], optionId=option)


async def rpc(running: Running, method: str, *, client_id: str | None = None, **params: Any) -> Json:
    """Send a request by HTTP and return its answer, an error too."""
    headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
    if client_id is not None:
        headers["Atrio-Client-Id"] = client_id
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    got = await http(running.http, "POST", "/v1/rpc", headers=headers, body=body)
    assert got.status == 200
    return got.json()
