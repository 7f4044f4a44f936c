"""The life of a workspace: who keeps it, who ends it, and what its end does in which order."""

import pytest
import trio

from atrio_server.service import Running
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.steps import CANCELLED_AT_A_CALL, GATED, PLAIN, new_session, rows, shape, terminals


async def cut(wire: Wire) -> None:
    """Lose the connection as a cable does: nothing is said."""
    await wire.ws._stream.aclose()
    await wire.closing()


async def gone(running: Running, workspace: str) -> None:
    """Wait until a workspace is closed."""
    for one in running.server.workspaces.all():
        if one.workspace_id == workspace:
            await one.closed.wait()


@pytest.mark.scenario("S1")
async def test_a_closing_workspace_cancels_waits_and_saves_before_it_ends(bench: Harness) -> None:
    stuck = {"responses": [[{"say": "on it"}, {"tool": "ls", "input": {}}]]}
    async with bench.serve(model=bench.script(stuck), keep_alive="clients") as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.call("test/hold", sessionId=session, point="tool.start")
            await wire.prompt(session, "go", runId="one")
            await wire.call("test/gates", wait="tool.start")
            async with connect(running.ws, running.token) as watcher:
                await watcher.attach(session)
                await watcher.call("workspace/open", path=str(bench.directory))
                await watcher.call("workspace/close", workspaceId=workspace)
                await wire.call("workspace/close", workspaceId=workspace)
            await gone(running, workspace)
            await wire.call("workspace/open", path=str(bench.directory))
            run = (await wire.call("run/get", runId="one"))["run"]
            assert (run["state"], run["stopReason"]) == ("completed", "cancelled")
            messages = await rows(wire, session)
            assert shape(messages) == CANCELLED_AT_A_CALL
            call, result = messages[1]["parts"][1], messages[2]["parts"][0]
            assert (call["status"], call["input"]) == ("cancelled", {})
            assert result["isError"] and result["toolCallId"] == call["toolCallId"]
            assert "cancelled" in result["content"][0]["text"]


@pytest.mark.scenario("S1")
async def test_the_end_of_a_workspace_is_told_in_order(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        async with connect(running.ws, running.token) as admin:
            await admin.call("server/shutdown", ifIdle=False)
            assert await wire.closing() == 1001
        told = [frame for frame in wire.frames if "method" in frame]
        kinds = [event["type"] for frame in told for event in frame["params"].get("events", [])]
        assert kinds.index("workspace.closing") < kinds.index("run.completed")
        methods = [frame["method"] for frame in told]
        assert methods.index("session/detached") > max(i for i, m in enumerate(methods) if m == "session/events")
        assert [gone["reason"] for gone in wire.detached] in (
            ["workspace_closed", "closed"],
            ["closed", "workspace_closed"],
        )


@pytest.mark.scenario("S2")
async def test_the_final_writes_of_a_shutdown_succeed_in_a_cancelled_server(bench: Harness) -> None:
    model = bench.script(GATED)
    session = ""
    with trio.CancelScope() as everything:
        async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            everything.cancel()
            await trio.lowlevel.checkpoint()
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        run = (await wire.call("run/get", runId="one"))["run"]
        assert (run["state"], run["stopReason"]) == ("completed", "cancelled")
        assert shape(await rows(wire, session)) == [("user", None), ("assistant", "cancelled")]


@pytest.mark.scenario("S4")
async def test_a_client_that_comes_back_within_the_grace_finds_all_as_it_was(bench: Harness) -> None:
    model = bench.script(GATED)
    async with bench.serve(model=model, keep_alive="clients") as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            place, client_id = wire.place(session), wire.client_id
            await cut(wire)
        async with connect(running.ws, running.token, client_id=client_id) as again:
            opened = await again.call("workspace/open", path=str(bench.directory))
            assert opened["workspace"]["workspaceId"] == workspace
            assert [client["clientId"] for client in opened["snapshot"]["clients"]] == [client_id]
            attached = await again.attach(session, after=place)
            assert attached["stream"]["recovered"] and "snapshot" not in attached
            await again.call("test/release", gate="go")
            assert (await again.completed(session, "one"))["stopReason"] == "end_turn"


@pytest.mark.scenario("S5")
async def test_after_the_grace_an_idle_workspace_closes(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=0.0) as running:
        async with bench.open(running) as (wire, workspace):
            await cut(wire)
        await gone(running, workspace)
        async with connect(running.ws, running.token) as other:
            assert (await other.refused("workspace/get", workspaceId=workspace)).kind == "workspace_not_found"
            assert (await other.call("workspace/list"))["workspaces"] == []


@pytest.mark.scenario("S6")
async def test_an_explicit_close_of_the_last_claim_closes_at_once(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=3600.0) as running:
        async with bench.open(running) as (wire, workspace):
            await wire.call("workspace/close", workspaceId=workspace)
            await gone(running, workspace)
            assert (await wire.refused("workspace/get", workspaceId=workspace)).kind == "workspace_not_found"


@pytest.mark.scenario("S7")
async def test_a_run_goes_on_without_any_client_and_its_result_is_there_on_return(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED), detach_grace_s=0.0) as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            await cut(wire)
        async with connect(running.ws, running.token) as other:
            assert [w["workspaceId"] for w in (await other.call("workspace/list"))["workspaces"]] == [workspace]
            await other.call("test/release", gate="go")
            await gone(running, workspace)
            run = (await other.call("run/get", runId="one"))["run"]  # opens it again, with a hold
            assert (run["stopReason"], run["text"]) == ("end_turn", "done: gated")


@pytest.mark.scenario("S8")
async def test_with_keep_alive_clients_a_run_is_cancelled_after_the_grace(bench: Harness) -> None:
    model = bench.script(GATED)
    async with bench.serve(model=model, keep_alive="clients", detach_grace_s=0.0) as running:
        async with bench.open(running) as (wire, workspace):
            session = await new_session(wire, workspace)
            await wire.prompt(session, "gated", runId="one")
            await wire.call("test/gates", wait="go")
            await cut(wire)
        await gone(running, workspace)
        async with connect(running.ws, running.token) as other:
            assert (await other.call("run/get", runId="one"))["run"]["stopReason"] == "cancelled"


@pytest.mark.scenario("S9")
async def test_a_workspace_with_two_clients_survives_the_leaving_of_one(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=0.0) as running:
        async with bench.open(running) as (ann, workspace), connect(running.ws, running.token) as bob:
            await bob.call("workspace/open", path=str(bench.directory))
            await bob.call("workspace/close", workspaceId=workspace)
            await ann.event(workspace, "client.left")
            found = (await ann.call("workspace/get", workspaceId=workspace))["workspace"]
            assert (found["state"], found["clients"]) == ("open", 1)


@pytest.mark.scenario("S10")
async def test_two_sockets_of_one_client_are_one_client(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=0.0) as running:
        async with bench.open(running) as (one, workspace):
            async with connect(running.ws, running.token, client_id=one.client_id) as two:
                opened = await two.call("workspace/open", path=str(bench.directory))
                assert opened["workspace"]["clients"] == 1
                await two.call("workspace/close", workspaceId=workspace)
            found = (await one.call("workspace/get", workspaceId=workspace))["workspace"]
            assert (found["state"], found["clients"]) == ("open", 1)
            assert not one.of_type(workspace, "client.left", "client.joined")


@pytest.mark.scenario("S11")
async def test_an_open_that_races_the_last_close_gets_a_live_workspace(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        async with connect(running.ws, running.token) as one, connect(running.ws, running.token) as two:
            for _ in range(25):
                opened = await one.call("workspace/open", path=str(bench.directory))
                workspace = opened["workspace"]["workspaceId"]
                close = await one.send("workspace/close", workspaceId=workspace)
                opened = await two.call("workspace/open", path=str(bench.directory))
                assert opened["workspace"]["state"] == "open"
                await one.reply(close)
                made = await two.call("session/new", workspaceId=workspace)
                assert made["session"]["workspaceId"] == workspace
                await two.call("workspace/close", workspaceId=workspace)


@pytest.mark.scenario("S12")
async def test_sixteen_opens_of_one_directory_spelled_differently_are_one_workspace(bench: Harness) -> None:
    (bench.root / "link").symlink_to(bench.directory)
    (bench.directory / "sub").mkdir()
    spellings = [
        str(bench.directory),
        f"{bench.directory}/",
        f"{bench.directory}/sub/..",
        str(bench.root / "link"),
        f"{bench.root}/./link",
        f"{bench.root}/link/sub/../.",
        f"{bench.root}/project/./.",
        f"{bench.root}//project",
    ]
    found: list[str] = []
    async with bench.serve(model=bench.script(PLAIN)) as running:

        async def open_one(path: str) -> None:
            async with connect(running.ws, running.token) as wire:
                opened = await wire.call("workspace/open", path=path)
                found.append(opened["workspace"]["workspaceId"])
                assert opened["workspace"]["path"] == str(bench.directory.resolve())

        async with trio.open_nursery() as nursery:
            for path in spellings * 2:
                nursery.start_soon(open_one, path)
    assert len(found) == 16 and len(set(found)) == 1


async def test_an_http_open_holds_the_workspace_and_a_close_by_http_ends_the_hold(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN), detach_grace_s=0.0) as running:
        server = running.server
        async with connect(running.ws, running.token) as wire:
            opened = await wire.call("workspace/open", path=str(bench.directory))
            workspace = opened["workspace"]["workspaceId"]
            server.workspaces.get(workspace).hold()
            await wire.call("workspace/close", workspaceId=workspace)
            assert (await wire.call("workspace/get", workspaceId=workspace))["workspace"]["state"] == "open"


async def test_a_path_that_is_not_there_or_not_meant_is_refused_by_kind(bench: Harness) -> None:
    (bench.root / "file").write_text("x")
    async with bench.serve(model=bench.script(PLAIN), allow_paths=(bench.directory,)) as running:
        async with connect(running.ws, running.token) as wire:
            for params, kind in [
                ({}, "path_required"),
                ({"path": ""}, "path_required"),
                ({"path": None}, "path_required"),
                ({"path": 5}, "invalid_params"),
                ({"path": "relative"}, "path_not_allowed"),
                ({"path": str(bench.root)}, "path_not_allowed"),
                ({"path": str(bench.directory / "nowhere")}, "path_not_found"),
                ({"path": "/a\0b"}, "path_not_found"),
            ]:
                refusal = await wire.refused("workspace/open", **params)
                assert refusal.kind == kind, params
            made = await wire.call("workspace/open", path=str(bench.directory / "new"), create=True)
            assert made["workspace"]["path"] == str(bench.directory.resolve() / "new")


async def test_runs_left_by_a_stop_have_their_terminals_on_every_socket(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="active")
        await wire.prompt(session, "queued", runId="queued")
        async with connect(running.ws, running.token) as watcher:
            await watcher.attach(session)
            await wire.call("server/shutdown", ifIdle=False)
            for one in (wire, watcher):
                assert await one.closing() == 1001
                assert dict(terminals(one, session)) == {"active": "cancelled", "queued": "cancelled"}
