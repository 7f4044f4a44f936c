"""Every kind of error, provoked; and what it leaves unharmed: the connection, the runs, the other clients."""

import json
import random
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest
import trio

from atrio_agent import session as sessions
from atrio_agent.store.base import Commit, StoreFailed
from atrio_protocol.errors import ERRORS, RunError
from atrio_server import dispatch
from atrio_server.service import Running
from wire.client import Refused, Wire, connect
from wire.conftest import Harness
from wire.http import http
from wire.steps import GATED, PLAIN, new_session, terminals
from wire.tokens import make_token

HELLO = {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "0"}}

FAILING = [
    {"match": f"^fail {kind}$", "responses": [[{"say": "x"}, {"fail": {"kind": kind, "message": f"told {kind}"}}]]}
    for kind in ERRORS
    if issubclass(ERRORS[kind], RunError) and kind not in {"loop_detected", "agent_failed"}
]
ASKING = {"match": "^ask", "responses": [[{"tool": "shell", "input": {"command": "make"}}]]}
LOOPING = {"match": "^loop", "responses": [[{"tool": "ls", "input": {}}]]}


async def kinds_of_one_connection(
    wire: Wire, running: Running, workspace: str, bench: Harness, observer: str
) -> set[str]:
    """Provoke what one connection can provoke by itself; returns the kinds that came."""
    session = await new_session(wire, workspace)
    prompt = wire.prompt_params
    unknown = f"{workspace}-maaaaaaaaaaaaaaaa"
    refused: list[tuple[str, dict[str, Any]]] = [
        ("initialize", HELLO),
        ("no/method", {}),
        ("session/get", {"sessionId": 7}),
        ("session/get", {}),
        ("session/prompt", {"sessionId": session, "prompt": []}),
        ("session/prompt", prompt(session, "x" * 1_048_577)),
        ("session/prompt", prompt(session, "x", model="nobody/none")),
        ("session/prompt", prompt(session, "x", model="openai/gpt-5")),
        ("session/get", {"sessionId": f"{workspace}-saaaaaaaaaaaaaaaa"}),
        ("workspace/open", {}),
        ("workspace/open", {"path": str(bench.root / "nowhere")}),
        ("workspace/open", {"path": "relative"}),
        ("workspace/get", {"workspaceId": "waaaaaaaaaaaaa"}),
        ("run/get", {"runId": "no such run"}),
        ("message/get", {"messageId": unknown}),
        ("permission/respond", {"permissionId": unknown, "optionId": "allow_once"}),
    ]
    kinds: set[str] = set()
    for method, params in refused:
        refusal = await wire.refused(method, **params)
        assert refusal.code == ERRORS[refusal.kind].code
        assert refusal.data["retryable"] == ERRORS[refusal.kind].retryable
        kinds.add(refusal.kind)

    await wire.prompt(session, "ask", runId="asking")
    asked = (await wire.event(session, "permission.requested"))["permission"]
    refusal = await wire.refused("permission/respond", permissionId=asked["permissionId"], optionId="maybe")
    kinds.add(refusal.kind)
    await wire.call("session/cancel", sessionId=session, wait=True)

    await wire.prompt(session, "gated", runId="active")
    await wire.call("test/gates", wait="go", count=2)  # the canary waits there as well
    kinds.add((await wire.refused("session/prompt", **prompt(session, "other", runId="active"))).kind)
    kinds.add((await wire.refused("session/prompt", **prompt(session, "x", delivery="reject"))).kind)
    kinds.add((await wire.refused("server/shutdown", ifIdle=True)).kind)
    for number in range(100):
        await wire.send("session/prompt", **prompt(session, "q", runId=f"q{number}"))
    kinds.add((await wire.refused("session/prompt", **prompt(session, "q"))).kind)
    await wire.call("session/clear_queue", sessionId=session)

    for _ in range(1000):
        await wire.send("run/wait", runId="active")
    overloaded = await wire.refused("run/wait", runId="active")
    kinds.add(overloaded.kind)
    refusal = await wire.refused("session/cancel", sessionId=session, wait=True)
    assert refusal.kind == overloaded.kind  # and nothing was cancelled
    assert (await wire.call("run/get", runId="active"))["run"]["state"] == "running"

    async with connect(running.ws, running.token) as other:
        waiting = await other.send("run/wait", runId="active")
        await other.send_raw(
            json.dumps({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": waiting}})
        )
        kinds.add(await refusal_kind(other.reply(waiting)))
        kinds.add((await other.refused("session/view", workspaceId=workspace)).kind)
    async with connect(running.ws, observer) as watcher:
        kinds.add((await watcher.refused("session/cancel", sessionId=session)).kind)
    async with connect(running.ws, running.token, initialize=False) as fresh:
        kinds.add((await fresh.refused("ping")).kind)
        kinds.add((await fresh.refused("initialize", **{**HELLO, "protocolVersion": 2})).kind)
        kinds.add((await fresh.refused("initialize", **HELLO, clientId="not a uuid")).kind)
        for raw in ("{", "[]", "{}"):
            await fresh.send_raw(raw)
            await fresh.until(lambda fresh=fresh: None in fresh._replies)
            kinds.add(await refusal_kind(fresh.reply(None)))
    return kinds


async def refusal_kind(reply: Awaitable[Any]) -> str:
    """The kind of an answer that must be an error."""
    try:
        result = await reply
    except Refused as exc:
        return exc.kind
    raise AssertionError(f"not refused: {result}")


@pytest.mark.scenario("E1")
async def test_every_kind_of_error_can_be_met_and_harms_nobody(bench: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bench.script(*FAILING, ASKING, LOOPING, GATED, PLAIN)
    observer = make_token(bench, "observe")
    async with bench.serve(model=model, limit_s=90) as running, bench.open(running) as (canary, workspace):
        mine = await new_session(canary, workspace)
        await canary.prompt(mine, "gated", runId="canary")
        await canary.call("test/gates", wait="go")
        async with connect(running.ws, running.token) as wire:
            await wire.call("workspace/open", path=str(bench.directory))
            kinds = await kinds_of_one_connection(wire, running, workspace, bench, observer)
        kinds |= await kinds_of_failing_runs(canary, workspace, monkeypatch)
        kinds |= await kinds_of_a_failing_store(canary, running, workspace, monkeypatch)
        kinds.add(await kind_of_a_bug(canary, workspace, monkeypatch))
        kinds.add((await http(running.http, "GET", "/metrics")).json()["error"])
        kinds |= await kinds_of_closing(canary, running, mine)
        assert await canary.closing() == 1001
        assert set(ERRORS) - kinds == {"too_many_connections"}  # see tests/server/door/test_door_limits.py
        assert dict(terminals(canary, mine))["canary"] == "cancelled"  # by the shutdown, and by nothing before it


async def kinds_of_failing_runs(wire: Wire, workspace: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Runs that fail in every way; each error is in its own run and nowhere else."""
    kinds: set[str] = set()
    session = await new_session(wire, workspace)
    for kind in [turn["match"].removeprefix("^fail ").rstrip("$") for turn in FAILING]:
        run_id = (await wire.prompt(session, f"fail {kind}", runId=f"fail-{kind}"))["run"]["runId"]
        run = await wire.completed(session, run_id)
        assert run["error"]["message"] == f"told {kind}" and run["text"] == "x"
        kinds.add(run["error"]["data"]["kind"])
    await wire.prompt(session, "loop", runId="loop")
    kinds.add((await wire.completed(session, "loop"))["error"]["data"]["kind"])

    async def broken(_host: object) -> None:
        raise ZeroDivisionError("a bug in the loop")

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "run_turn", broken)
        await wire.prompt(session, "anything", runId="bug")
        kinds.add((await wire.completed(session, "bug"))["error"]["data"]["kind"])
    await wire.prompt(session, "fine", runId="fine")
    assert (await wire.completed(session, "fine"))["text"] == "fine"
    return kinds


async def kinds_of_a_failing_store(
    wire: Wire, running: Running, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """A store that takes nothing: the prompt is refused, named nowhere, and taken when the store is back."""
    session = await new_session(wire, workspace)
    store = running.server.workspaces.get(workspace).store
    with monkeypatch.context() as patch:

        def full(*ops: object) -> Any:
            commit = Commit()
            commit.settle(StoreFailed("the disk is full"))
            return commit

        patch.setattr(type(store), "write_soon", lambda _self, *ops: full(*ops))
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "x", runId="later"))
        assert refusal.data["retryable"] and refusal.code == -32020
        assert (await wire.refused("session/rename", sessionId=session, title="t")).kind == refusal.kind
    assert not wire.of_type(session, "run.accepted")
    accepted = await wire.prompt(session, "x", runId="later")
    assert not accepted["duplicate"]
    assert (await wire.completed(session, "later"))["stopReason"] == "end_turn"
    return {refusal.kind}


async def kind_of_a_bug(wire: Wire, workspace: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bug in a handler: `internal` with an id; the connection goes on."""

    async def broken(*_args: object) -> None:
        raise ZeroDivisionError("a bug in a handler")

    with monkeypatch.context() as patch:
        patch.setitem(dispatch.HANDLERS, "client/list", broken)
        refusal = await wire.refused("client/list", workspaceId=workspace)
    assert refusal.data["id"] and await wire.call("ping") == {}
    return refusal.kind


async def kinds_of_closing(wire: Wire, running: Running, session: str) -> set[str]:
    """What a closing workspace and a closing server say."""
    async with connect(running.ws, running.token) as late:
        await late.attach(session)
        await late.call("test/hold", sessionId=session, point="run.finish")
        workspace = running.server.workspaces.all()[0]
        workspace._refuse()
        closing = await late.refused("session/prompt", **late.prompt_params(session, "x"))
        await late.call("server/shutdown", ifIdle=False)
        await wire.call("test/gates", wait="run.finish")
        refusal = await late.refused("workspace/open", path="/")
        await late.call("test/release", gate="run.finish")
        return {closing.kind, refusal.kind}


@pytest.mark.scenario("E2")
async def test_a_bug_in_a_handler_has_an_id_that_the_log_has_too(
    bench: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):

        async def broken(*_args: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setitem(dispatch.HANDLERS, "client/list", broken)
        refusal = await wire.refused("client/list", workspaceId=workspace)
        assert (refusal.kind, refusal.code) == ("internal", -32603) and "secret detail" not in str(refusal)
        logged = capsys.readouterr().out
        assert refusal.data["id"] in logged and "ZeroDivisionError" in logged
        monkeypatch.undo()
        assert (await wire.call("client/list", workspaceId=workspace))["clients"]


BAD_FRAMES: list[tuple[str | bytes, str | None, Any]] = [
    ("", "parse_error", None),
    ("{", "parse_error", None),
    ("nonsense", "parse_error", None),
    ('{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800"}}', "parse_error", None),
    ("[]", "invalid_request", None),
    ('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', "invalid_request", None),
    ("7", "invalid_request", None),
    ("null", "invalid_request", None),
    ('{"id":3,"method":"ping"}', "invalid_request", 3),
    ('{"jsonrpc":"1.0","id":4,"method":"ping"}', "invalid_request", 4),
    ('{"jsonrpc":"2.0","id":"five"}', "invalid_request", "five"),
    ('{"jsonrpc":"2.0","id":6,"method":7}', "invalid_request", 6),
    ('{"jsonrpc":"2.0","id":8,"method":"ping","params":[]}', None, 8),
    ('{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}', "invalid_request", None),
    ('{"jsonrpc":"2.0","id":9,"id":9,"method":"ping"}', "invalid_request", 9),
    ('{"jsonrpc":"2.0","id":10,"method":"ping","params":{"a":1,"a":2}}', "invalid_request", 10),
    ('{"jsonrpc":"2.0","id":11,"method":"ping","params":' + '{"a":' * 70 + "1" + "}" * 70 + "}", "invalid_request", 11),
    ("[" * 100_000, "invalid_request", None),
]


@pytest.mark.scenario("E7")
async def test_rubbish_gets_a_typed_error_and_the_connection_goes_on(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, _):
        wire.skip_ids(100)
        for raw, kind, request_id in BAD_FRAMES:
            before = len(wire.frames)
            await wire.send_raw(raw)
            answer = await wire.until(
                lambda before=before: next((f for f in wire.frames[before:] if "error" in f), None)
            )
            assert answer["id"] == request_id, raw[:60]
            assert kind is None or answer["error"]["data"]["kind"] == kind, raw[:60]
            assert kind is not None or answer["error"]["data"]["kind"] in {"invalid_request", "invalid_params"}
        for number in ("1e999", "-1e999", "9" * 5000, "0." + "1" * 5000):
            raw = (
                '{"jsonrpc":"2.0","id":12,"method":"session/messages","params":{"sessionId":"x","limit":'
                + number
                + "}}"
            )
            await wire.send_raw(raw)
            refusal = await refusal_kind(wire.reply(12))
            assert refusal in {"invalid_params", "parse_error", "session_not_found"}
        assert await wire.call("ping") == {}


async def test_a_wrong_type_is_pointed_at(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        for method, params, path in [
            ("session/prompt", {"sessionId": session, "prompt": "text"}, "/prompt"),
            ("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": 5}]}, "/prompt/0/text"),
            ("session/prompt", {"sessionId": session, "prompt": [{"type": "text"}]}, "/prompt/0/text"),
            ("session/prompt", {"sessionId": session, "prompt": [{"type": "zzz"}]}, "/prompt/0/type"),
            ("session/prompt", {"sessionId": session}, "/prompt"),
            ("session/prompt", wire.prompt_params(session, "x", delivery="later"), "/delivery"),
            ("session/prompt", wire.prompt_params(session, "x", runId="r" * 129), "/runId"),
            ("session/cancel", {"sessionId": session, "scope": "some"}, "/scope"),
            ("session/messages", {"sessionId": session, "limit": 0}, "/limit"),
            ("session/messages", {"sessionId": session, "limit": "ten"}, "/limit"),
            ("session/attach", {"sessionId": session, "after": {"epoch": "e"}}, "/after/seq"),
            ("session/attach", {"sessionId": session, "historyLimit": 1001}, "/historyLimit"),
            ("session/list", {"workspaceId": workspace, "cursor": "made up"}, "/cursor"),
            ("workspace/open", {"path": ["a"]}, "/path"),
        ]:
            refusal = await wire.refused(method, **params)
            assert (refusal.kind, refusal.data["path"]) == ("invalid_params", path), (method, params)


async def test_ids_of_every_json_rpc_type_are_echoed_and_a_reused_one_is_refused(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        for request_id in ("1", '"one"', "-5", "1.5", "123456789012345678901234567890", '""', "null"):
            await wire.send_raw('{"jsonrpc":"2.0","id":' + request_id + ',"method":"ping"}')
            assert await wire.reply(json.loads(request_id)) == {}
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        waiting = '{"jsonrpc":"2.0","id":"w","method":"run/wait","params":{"runId":"one"}}'
        await wire.send_raw(waiting)
        await wire.send_raw(waiting)
        assert await refusal_kind(wire.reply("w")) == "invalid_request"
        await wire.call("test/release", gate="go")
        assert (await wire.reply("w"))["run"]["stopReason"] == "end_turn"
        assert await wire.call("ping") == {}


@pytest.mark.scenario("E3")
async def test_hostile_handshakes_end_their_own_connection_only(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(GATED), limit_s=90) as running,
        bench.open(running) as (canary, workspace),
    ):
        session = await new_session(canary, workspace)
        await canary.prompt(session, "gated", runId="canary")
        await canary.call("test/gates", wait="go")
        host, port = running.http.removeprefix("http://").split(":")
        good = (
            f"GET /v1/ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {running.token}\r\n\r\n"
        ).encode()
        hostile = [
            good + b"x",
            good.replace(b"dGhl", b"\xff\xff\xff\xff"),
            good.replace(b"\r\n\r\n", b"\r\nX: \xff\r\n\r\n"),
            good.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"),
            good.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
            good.replace(
                b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n\r\n"
            ),
            good.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
            good.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
            good.replace(b"Version: 13", b"Version: 12"),
            good.replace(b"Host:", b"Host: a\r\nHost:"),
            b"\0\0\0\0",
            b"GET",  # a slow one: it never ends
        ]
        seeded = random.Random(4)
        for _ in range(200):
            mutated = bytearray(good)
            for _ in range(seeded.randint(1, 6)):
                mutated[seeded.randrange(len(mutated))] = seeded.randrange(256)
            hostile.append(bytes(mutated))
        for number, octets in enumerate(hostile):
            stream = await trio.open_tcp_stream(host, int(port))
            with suppress(trio.BrokenResourceError):  # it may be refused before all of it is sent
                await stream.send_all(octets)
            if number % 20 == 0:
                assert await canary.call("ping") == {}
            await trio.aclose_forcefully(stream)
        await canary.call("test/release", gate="go")
        assert (await canary.completed(session, "canary"))["stopReason"] == "end_turn"


@pytest.mark.scenario("E4")
async def test_nobody_gets_in_without_token_or_from_elsewhere(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        port = running.http.rsplit(":", 1)[1]
        good = {"Authorization": f"Bearer {running.token}", "Host": f"127.0.0.1:{port}"}
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        for path, more in (("/v1/ws", upgrade), ("/v1/rpc", {})):
            for status, changes in [
                (401, {"Authorization": None}),
                (401, {"Authorization": "Bearer wrong"}),
                (401, {"Authorization": f"Bearer {running.token[:-1]}"}),
                (401, {"Authorization": f"Bearer {running.token}x"}),
                (401, {"Authorization": f"Bearer {running.token.swapcase()}"}),
                (403, {"Origin": "https://evil.example"}),
                (403, {"Origin": "null"}),
                (403, {"Origin": f"http://127.0.0.1.evil.example:{port}"}),
                (403, {"Origin": "http://127.0.0.1:1"}),
                (403, {"Host": "evil.example"}),
                (403, {"Host": f"evil.example:{port}"}),
                (403, {"Host": "evil.example", "Authorization": None}),
            ]:
                headers = {key: value for key, value in {**good, **more, **changes}.items() if value is not None}
                answer = await http(running.http, "GET" if more else "POST", path, headers=headers, body=b"")
                assert answer.status == status, (path, changes)
                assert "access-control-allow-origin" not in answer.headers
        assert (await http(running.http, "GET", f"/v1/rpc?token={running.token}")).status == 401
        assert (await http(running.http, "GET", "/v1/health")).json() == {"status": "ok"}
        assert (await http(running.http, "GET", "/v1/health", headers={"Host": "evil.example"})).status == 403


async def test_http_serves_one_request_with_one_answer(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        client_id = str(uuid.uuid4())
        auth = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}

        async def rpc(method: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
            answer = await http(running.http, "POST", "/v1/rpc", headers={**auth, **(headers or {})}, body=body)
            assert answer.status == 200
            return answer.json()

        result = (await rpc("workspace/open", path=str(bench.directory)))["result"]
        opened = result["workspace"]
        assert result["stream"]["head"] == result["stream"]["seq"] and result["snapshot"]["sessions"] == []
        session = (await rpc("session/new", workspaceId=opened["workspaceId"]))["result"]["session"]["sessionId"]
        prompt = {"sessionId": session, "prompt": [{"type": "text", "text": "hi"}], "runId": "one"}
        accepted = await rpc("session/prompt", headers={"Atrio-Client-Id": client_id}, **prompt)
        assert accepted["result"]["run"]["author"]["clientId"] == client_id
        assert (await rpc("run/wait", runId="one"))["result"]["run"]["text"] == "hi"
        assert (await rpc("session/attach", sessionId=session))["error"]["data"]["kind"] == "method_not_found"
        assert (await rpc("ping", headers={"Atrio-Client-Id": "nonsense"}))["error"]["data"][
            "kind"
        ] == "invalid_client_id"
        notification = json.dumps({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}})
        answer = await http(running.http, "POST", "/v1/rpc", headers=auth, body=notification.encode())
        assert (answer.status, answer.body) == (204, b"")
        answer = await http(running.http, "POST", "/v1/rpc", headers={**auth, "Content-Type": "text/plain"}, body=b"{}")
        assert answer.status == 415
        answer = await http(running.http, "GET", "/v1/schema.json")
        assert answer.status == 200 and "$schema" in answer.json()
        assert (await http(running.http, "GET", "/v1/version")).json()["protocolVersion"] == 1
