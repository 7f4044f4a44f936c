"""What was allowed for good: who did, how long it holds, and how it is taken back."""

from typing import Any

from atrio_agent.store.base import DropGrant
from wire.client import Wire
from wire.conftest import Harness
from wire.questions import answer, asked, asking, rpc, write
from wire.steps import new_session, unstorable

Json = dict[str, Any]

TURNS = [asking(name, write(f"{name}.txt")) for name in ("one", "two", "three", "four")]


async def grants(wire: Wire, session: str) -> list[Json]:
    """What was allowed for good in a session."""
    return (await wire.call("permission/grants", sessionId=session))["grants"]


async def granted(wire: Wire, session: str) -> Json:
    """Have a session ask, allow it for good, and return the grant."""
    await wire.prompt(session, "one", runId=f"one-{session}")
    await answer(wire, await asked(wire, session), "allow_always")
    await wire.completed(session, f"one-{session}")
    (grant,) = await grants(wire, session)
    return grant


async def unasked(wire: Wire, session: str, text: str) -> bool:
    """Whether a prompt runs to its end without a question; one that is asked is rejected."""
    before = len(wire.of_type(session, "permission.requested"))
    run_id = (await wire.prompt(session, text, delivery="queue"))["run"]["runId"]

    def over() -> bool:
        ends = [event["run"]["runId"] for event in wire.of_type(session, "run.completed")]
        return run_id in ends or len(wire.of_type(session, "permission.requested")) > before

    await wire.until(over)
    if len(wire.of_type(session, "permission.requested")) == before:
        return True
    await answer(wire, await asked(wire, session, before + 1), "reject_once")
    await wire.completed(session, run_id)
    return False


async def test_a_grant_is_listed_and_taken_back(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running, name="A") as (wire, workspace):
        session, other = await new_session(wire, workspace), await new_session(wire, workspace)
        grant = await granted(wire, session)
        assert (grant["name"], grant["action"], grant["path"]) == ("write", "write", str(bench.directory))
        assert grant["by"]["name"] == "A" and grant["at"].endswith("Z")
        assert await grants(wire, other) == []
        assert await unasked(wire, session, "two")
        assert await wire.call("permission/revoke", grantId=grant["grantId"]) == {}
        assert await grants(wire, session) == []
        assert (await wire.refused("permission/revoke", grantId=grant["grantId"])).kind == "permission_not_found"
        assert not await unasked(wire, session, "three")


async def test_a_grant_survives_a_restart_and_its_revocation_as_well(bench: Harness) -> None:
    model = bench.script(*TURNS)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        first = await granted(wire, session)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        # Nothing has loaded the session: the first thing that is asked of it is its grants.
        assert await grants(wire, session) == [first]
        await wire.attach(session)
        assert await unasked(wire, session, "two")
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        # Nor here, where the grant is named alone.
        assert (await rpc(running, "permission/revoke", grantId=first["grantId"]))["result"] == {}
        assert await grants(wire, session) == []
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        assert await grants(wire, session) == []
        assert (await wire.refused("permission/revoke", grantId=first["grantId"])).kind == "permission_not_found"
        await wire.attach(session)
        assert not await unasked(wire, session, "three")


async def test_a_grant_goes_with_its_session(bench: Harness) -> None:
    model = bench.script(*TURNS)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        grant = await granted(wire, session)
        await wire.call("session/delete", sessionId=session)
        assert (await wire.refused("permission/revoke", grantId=grant["grantId"])).kind == "permission_not_found"
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        assert (await wire.refused("permission/revoke", grantId=grant["grantId"])).kind == "permission_not_found"


async def test_a_grant_that_is_taken_back_during_its_call_ends_nothing_that_runs(bench: Harness) -> None:
    model = bench.script(asking("both", write("1.txt"), write("2.txt")))
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "both", runId="r1")
        permission = await asked(wire, session)
        await wire.call("test/hold", sessionId=session, point="tool.start")
        await answer(wire, permission, "allow_always")
        await wire.call("test/gates", wait="tool.start")  # before the second call
        (grant,) = await grants(wire, session)
        await wire.call("permission/revoke", grantId=grant["grantId"])
        await wire.call("test/release", gate="tool.start")
        assert (bench.directory / "1.txt").exists()
        await answer(wire, await asked(wire, session, 2))
        assert (await wire.completed(session, "r1"))["text"] == "done"


async def test_a_grant_that_cannot_be_taken_back_holds_until_it_can_be(bench: Harness) -> None:
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        grant = await granted(wire, session)
        store = running.server.workspaces.get(workspace).store
        with unstorable(store, DropGrant):
            assert (await wire.refused("permission/revoke", grantId=grant["grantId"])).kind == "storage_unavailable"
        assert await grants(wire, session) == [grant]
        assert await unasked(wire, session, "two")
        assert await wire.call("permission/revoke", grantId=grant["grantId"]) == {}
        assert await grants(wire, session) == []
