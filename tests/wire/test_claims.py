"""Who keeps a workspace open: claims of connections, their grace, holds, and views that come with them."""

import gc
import json
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atrio_agent.store.base import Store
from atrio_server import workspace as workspace_module
from atrio_server.service import Running
from atrio_server.workspace import Workspace
from wire.client import Refused, Wire, connect
from wire.conftest import Harness
from wire.http import http
from wire.steps import GATED, PLAIN, new_session


async def cut(wire: Wire) -> None:
    """Lose the connection as a cable does: nothing is said."""
    await wire.ws._stream.aclose()
    await wire.closing()


async def lost(running: Running, workspace: str, client_id: str, connections: int) -> None:
    """Wait until the server knows of only so many connections."""
    while len(running.server.connections) > connections:
        await trio.lowlevel.checkpoint()
    assert client_id in [c.client_id for c in running.server.workspaces.get(workspace).presence.clients()]


async def gone(running: Running, workspace: str) -> None:
    """Wait until a workspace is closed."""
    for one in running.server.workspaces.all():
        if one.workspace_id == workspace:
            await one.closed.wait()


async def rpc(running: Running, method: str, **params: Any) -> Any:
    """One request over HTTP."""
    answer = await http(
        running.http,
        "POST",
        "/v1/rpc",
        headers={"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"},
        body=json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(),
    )
    return answer.json()["result"]


@pytest.mark.scenario("S6")
async def test_a_claim_that_was_taken_over_ends_at_once_with_an_explicit_close(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=3600.0) as running:
        async with bench.open(running) as (wire, workspace):
            client_id = wire.client_id
            await cut(wire)
        await lost(running, workspace, client_id, 0)
        async with connect(running.ws, running.token, client_id=client_id) as again:
            await again.call("workspace/open", path=str(bench.directory))
            await again.call("workspace/close", workspaceId=workspace)
            await gone(running, workspace)
            assert (await again.refused("workspace/get", workspaceId=workspace)).kind == "workspace_not_found"


@pytest.mark.scenario("S4")
async def test_a_close_by_one_socket_leaves_the_other_one_its_grace(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED), keep_alive="clients", detach_grace_s=3600.0) as running:
        async with bench.open(running) as (wire, workspace):
            client_id = wire.client_id
            session = await new_session(wire, workspace)
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            async with connect(running.ws, running.token, client_id=client_id) as other:
                await other.call("workspace/open", path=str(bench.directory))
                await cut(wire)
                await lost(running, workspace, client_id, 1)
                await other.call("workspace/close", workspaceId=workspace)
                found = (await other.call("workspace/get", workspaceId=workspace))["workspace"]
                assert (found["state"], found["clients"]) == ("open", 1)
                again = await other.call("workspace/open", path=str(bench.directory))
                assert again["workspace"]["clients"] == 1
                assert (await other.call("run/get", runId="one"))["run"]["state"] == "running"


@pytest.mark.scenario("M9")
async def test_a_view_is_kept_over_a_reconnect_and_told_to_nobody_again(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=3600.0) as running:
        async with bench.open(running) as (ann, workspace), connect(running.ws, running.token) as bob:
            session = await new_session(ann, workspace)
            await bob.call("workspace/open", path=str(bench.directory), view=session)
            await ann.event(workspace, "client.viewing")
            await cut(bob)
            await lost(running, workspace, bob.client_id, 1)
            async with connect(running.ws, running.token, client_id=bob.client_id) as again:
                opened = await again.call("workspace/open", path=str(bench.directory))
                views = {client["clientId"]: client.get("sessionId") for client in opened["snapshot"]["clients"]}
                assert views == {ann.client_id: None, bob.client_id: session}
                await again.call("workspace/close", workspaceId=workspace)
            await ann.event(workspace, "client.left")
            told = ann.of_type(workspace, "client.joined", "client.viewing", "client.left")
            assert [event["type"] for event in told] == ["client.joined", "client.viewing", "client.left"]
            assert (await ann.call("session/get", sessionId=session))["session"]["viewers"] == 0


async def test_an_open_with_a_view_of_what_is_not_there_looks_at_nothing(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        for view in ("no such session", f"{workspace}-saaaaaaaaaaaaaaaa", "x" * 1_000_000):
            opened = await wire.call("workspace/open", path=str(bench.directory), view=view)
            assert [client.get("sessionId") for client in opened["snapshot"]["clients"]] == [None]


async def test_who_gives_up_while_a_workspace_opens_does_not_keep_it_for_ever(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_module, "HOLD_S", 0.0)
    async with bench.serve(model=bench.script(PLAIN)) as running:
        workspaces = running.server.workspaces
        with trio.CancelScope() as giving_up:

            def give_up_soon(_workspace: Workspace) -> Any:
                giving_up.cancel()
                return open_store(_workspace)

            open_store, workspaces._open_store = workspaces._open_store, give_up_soon
            await workspaces.open(str(bench.directory), create=False)
        assert giving_up.cancelled_caught
        while workspaces._by_id:
            await wait_all_tasks_blocked()


async def test_a_connection_keeps_nothing_of_the_workspaces_it_closed(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        async with connect(running.ws, running.token) as wire:
            seen: list[Callable[[], Workspace | None]] = []
            for _ in range(5):
                opened = await wire.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                seen.append(weakref.ref(running.server.workspaces.get(workspace)))
                await wire.call("workspace/close", workspaceId=workspace)
                await gone(running, workspace)
            (connection,) = running.server.connections.values()
            assert connection.caller.on_close == []
            # A thread that has just worked for one may still be about to let go of it.
            while any(one() for one in seen):
                await trio.sleep(0.01)
                gc.collect()


@asynccontextmanager
async def _slow_to_close(store: Any, may_close: trio.Event) -> AsyncGenerator[Store]:
    async with store as opened:
        try:
            yield opened
        finally:
            with trio.move_on_after(20, shield=True):
                await may_close.wait()


@pytest.mark.scenario("S11")
async def test_what_is_asked_while_the_store_closes_is_answered_by_a_fresh_workspace(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        workspaces, may_close = running.server.workspaces, trio.Event()
        open_store = workspaces._open_store
        workspaces._open_store = lambda workspace: _slow_to_close(open_store(workspace), may_close)
        async with bench.open(running) as (wire, workspace), connect(running.ws, running.token) as other:
            session = await new_session(wire, workspace)
            await wire.prompt(session, "hello", runId="one")
            await wire.completed(session, "one")
            await wire.call("workspace/close", workspaceId=workspace)
            old = running.server.workspaces._by_id[workspace]
            while old.state != "closed":
                await trio.lowlevel.checkpoint()
            assert (await wire.refused("workspace/get", workspaceId=workspace)).kind == "workspace_not_found"
            asked = [
                await other.send("run/get", runId="one"),
                await other.send("session/attach", sessionId=session),
                await other.send("session/prompt", **other.prompt_params(session, "again", runId="two")),
            ]
            may_close.set()
            assert (await other.reply(asked[0]))["run"]["text"] == "hello"
            assert (await other.reply(asked[1]))["stream"]["recovered"] is False
            assert (await other.reply(asked[2]))["run"]["runId"] == "two"
            assert (await other.completed(session, "two"))["stopReason"] == "end_turn"
            assert not other.detached


@pytest.mark.scenario("S11")
async def test_a_workspace_that_failed_is_given_to_nobody_while_it_goes(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        workspaces, may_close = running.server.workspaces, trio.Event()
        open_store = workspaces._open_store
        workspaces._open_store = lambda workspace: _slow_to_close(open_store(workspace), may_close)
        async with bench.open(running) as (wire, workspace):
            old = workspaces.get(workspace)

            def broken() -> float:
                raise RuntimeError("a bug")

            monkeypatch.setattr(old.presence, "next_loss_at", broken)
            old._wake()
            await wire.until(lambda: wire.detached)
            assert wire.detached == [{"workspaceId": workspace, "reason": "closed"}]
            opening = await wire.send("workspace/open", path=str(bench.directory))
            await wait_all_tasks_blocked()
            may_close.set()
            assert (await wire.reply(opening))["workspace"]["state"] == "open"
            assert workspaces.get(workspace) is not old
            assert (await wire.call("session/new", workspaceId=workspace))["session"]["workspaceId"] == workspace


async def test_an_open_by_http_holds_and_a_close_by_http_lets_go(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        workspace = (await rpc(running, "workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
        assert (await rpc(running, "workspace/get", workspaceId=workspace))["workspace"]["clients"] == 0
        assert await rpc(running, "workspace/close", workspaceId=workspace) == {}
        await gone(running, workspace)
        assert (await rpc(running, "workspace/list"))["workspaces"] == []


async def test_an_open_that_a_shutdown_overtakes_is_refused_and_the_workspace_closed(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, connect(running.ws, running.token) as wire:
        workspaces, opening, may_open = running.server.workspaces, trio.Event(), trio.Event()
        open_store = workspaces._open_store

        @asynccontextmanager
        async def open_slowly(workspace: Workspace) -> AsyncGenerator[Store]:
            opening.set()
            await may_open.wait()
            async with open_store(workspace) as store:
                yield store

        workspaces._open_store = open_slowly
        asked = await wire.send("workspace/open", path=str(bench.directory))
        await opening.wait()
        async with connect(running.ws, running.token) as admin:
            await admin.call("server/shutdown", ifIdle=True)
            while not workspaces.closing:
                await trio.lowlevel.checkpoint()
            may_open.set()
            with pytest.raises(Refused) as refusal:
                await wire.reply(asked)
            assert refusal.value.kind == "server_closing"
            assert await wire.closing() == 1001
        assert workspaces.all() == []
