"""Permissions: who is asked, who answers, what an answer allows, and what happens when nobody does."""

from typing import Any

import pytest

from wire.client import Wire
from wire.conftest import Harness
from wire.steps import PLAIN, new_session

Json = dict[str, Any]

WRITE = {
    "match": "^write",
    "responses": [[{"tool": "write", "input": {"path": "a.txt", "content": "new\n"}}], [{"say": "written"}]],
}


async def asked(wire: Wire, session: str, count: int = 1) -> Json:
    """Wait for so many questions in a session, and return the newest of them."""
    found = await wire.until(lambda: wire.of_type(session, "permission.requested")[count - 1 :])
    return found[0]["permission"]


async def answer(wire: Wire, permission: Json, option: str = "allow_once") -> Json:
    """Answer a question."""
    return await wire.call("permission/respond", permissionId=permission["permissionId"], optionId=option)


@pytest.mark.scenario("P1")
async def test_the_first_answer_wins_and_everybody_learns_of_it(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(WRITE, PLAIN)) as running,
        bench.open(running, name="A") as (a, workspace),
    ):
        session = await new_session(a, workspace)
        async with bench.open(running, name="B") as (b, _):
            await b.attach(session)
            await a.prompt(session, "write", runId="r1")
            permission = await asked(a, session)
            assert permission["name"] == "write"
            assert permission["diffs"][0]["newText"] == "new\n"
            assert not (bench.directory / "a.txt").exists()
            assert (await a.call("session/get", sessionId=session))["session"]["state"] == "requires_action"
            assert (await answer(a, permission))["resolved"] is True
            event = await b.event(session, "permission.resolved")
            assert (event["by"]["name"], event["outcome"]["kind"]) == ("A", "allow_once")
            late = await answer(b, permission, "reject_once")
            assert (late["resolved"], late["by"]["name"], late["outcome"]["kind"]) == (False, "A", "allow_once")
            assert (await b.completed(session, "r1"))["stopReason"] == "end_turn"
    assert (bench.directory / "a.txt").read_text() == "new\n"
