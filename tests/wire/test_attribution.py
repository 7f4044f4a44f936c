"""Who did what: every client is told, by id and name, live and afterwards, also from the store."""

from typing import Any

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import WRITE, answer, asked
from wire.steps import GATED, PLAIN, new_session, rows

Json = dict[str, Any]

NAMES = {"ann": "3f2b8c1e-6a57-4b0e-9d53-0000000000a1", "bob": "3f2b8c1e-6a57-4b0e-9d53-0000000000b2"}
CLEA = "3f2b8c1e-6a57-4b0e-9d53-0000000000c3"


def who(author: Json) -> tuple[str, str]:
    return author["clientId"], author["name"]


async def test_three_clients_see_who_prompted_answered_cancelled_and_cleared(bench: Harness) -> None:
    ann_is, bob_is, clea_is = (NAMES["ann"], "ann"), (NAMES["bob"], "bob"), (CLEA, "clea")
    async with bench.serve(model=bench.script(WRITE, GATED, PLAIN)) as running:
        async with (
            bench.open(running, name="ann", client_id=NAMES["ann"]) as (ann, workspace),
            connect(running.ws, running.token, name="bob", client_id=NAMES["bob"]) as bob,
            connect(running.ws, running.token, name="clea", client_id=CLEA) as clea,
        ):
            session = await new_session(ann, workspace)
            everybody = (ann, bob, clea)
            for wire in (bob, clea):
                await wire.call("workspace/open", path=str(bench.directory))
                await wire.attach(session)

            # Ann asks, Bob allows for good: all three see both, on both streams, and in the grant.
            await ann.prompt(session, "write", runId="r1")
            question = await asked(bob, session)
            await answer(bob, question, "allow_always")
            for wire in everybody:
                run = await wire.completed(session, "r1")
                assert who(run["author"]) == ann_is and "cancelledBy" not in run
                for thing in (session, workspace):
                    assert who((await wire.event(thing, "permission.resolved"))["by"]) == bob_is
                (grant,) = (await wire.call("permission/grants", sessionId=session))["grants"]
                assert who(grant["by"]) == bob_is

            # Bob prompts and has two wait; Clea clears the queue, Ann cancels what runs.
            await bob.prompt(session, "gated", runId="r2")
            await bob.prompt(session, "later", runId="r3")
            await ann.prompt(session, "later still", runId="r4")
            await ann.call("test/gates", wait="go")
            assert (await clea.call("session/clear_queue", sessionId=session))["cancelled"] == ["r3", "r4"]
            await ann.call("session/cancel", sessionId=session, wait=True)
            ends = {"r2": (bob_is, ann_is), "r3": (bob_is, clea_is), "r4": (ann_is, clea_is)}
            for wire in everybody:
                for run_id, end in ends.items():
                    assert both(await wire.completed(session, run_id)) == end
                    assert both((await wire.event(workspace, "run.completed", runId=run_id))["run"]) == end

            # An interrupt cancels in the name of who sent it.
            await ann.prompt(session, "gated", runId="r5")
            await ann.call("test/gates", wait="go")
            await clea.prompt(session, "now", runId="r6", delivery="interrupt")
            for wire in everybody:
                assert both(await wire.completed(session, "r5")) == (ann_is, clea_is)
                await wire.completed(session, "r6")
            await messages_say_who(ann, session)
            stored = [(await ann.call("run/get", runId=run_id))["run"] for run_id in ("r2", "r3", "r4", "r5")]

    # What is stored says the same after a restart.
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running, name="dan") as (dan, _):
        again = [(await dan.call("run/get", runId=run["runId"]))["run"] for run in stored]
        assert [both(run) for run in again] == [both(run) for run in stored]
        (grant,) = (await dan.call("permission/grants", sessionId=session))["grants"]
        assert who(grant["by"]) == bob_is
        await messages_say_who(dan, session)


def both(run: Json) -> tuple[tuple[str, str], tuple[str, str]]:
    """Whose run it was, and who cancelled it."""
    return who(run["author"]), who(run["cancelledBy"])


async def messages_say_who(wire: Wire, session: str) -> None:
    """Each prompt's message has its author, and the call that was allowed who allowed it."""
    messages = await rows(wire, session)
    authors = [who(message["author"])[1] for message in messages if message["role"] == "user"]
    assert sorted(authors) == sorted(["ann", "bob", "bob", "ann", "ann", "clea"])
    (call,) = [part for message in messages for part in message["parts"] if part["type"] == "tool_call"]
    assert who(call["permission"]["by"])[1] == "bob"
