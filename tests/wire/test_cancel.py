"""Cancelling: it covers exactly what was accepted before it, and nothing else notices."""

import pytest

from wire.client import connect
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, STREAMING, new_session, rows, shape


@pytest.mark.scenario("A11")
async def test_a_run_cancelled_before_it_starts_never_reaches_the_model(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.start")
        run_id = (await wire.prompt(session, "never"))["run"]["runId"]
        cancelled = await wire.call("session/cancel", sessionId=session)
        assert cancelled == {"upTo": 1, "cancelled": [run_id]}
        run = await wire.completed(session, run_id)
        assert run["stopReason"] == "cancelled" and "error" not in run and "startedAt" not in run
        assert (await wire.call("test/requests", sessionId=session))["requests"] == []
        assert shape(await rows(wire, session)) == [("user", None), ("assistant", "cancelled")]
        assert not wire.of_type(session, "run.started")
        types = [event["type"] for event in wire.events[session] if event["type"] != "session.updated"]
        assert types == [
            "run.accepted",
            *["message.created", "message.completed"] * 2,
            "run.completed",
        ]


@pytest.mark.scenario("A11")
async def test_a_cancel_answers_only_when_the_acceptance_it_covers_is_stored(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="accept.commit")
        prompt = await wire.send("session/prompt", **wire.prompt_params(session, "never", runId="r1"))
        await wire.call("test/gates", wait="accept.commit")
        cancel = await wire.send("session/cancel", sessionId=session)
        await wire.call("ping")
        assert all(frame.get("id") not in (prompt, cancel) for frame in wire.frames)
        await wire.call("test/release", gate="accept.commit")
        assert (await wire.reply(prompt))["run"]["runId"] == "r1"
        assert (await wire.reply(cancel))["cancelled"] == ["r1"]
        assert (await wire.completed(session, "r1"))["stopReason"] == "cancelled"
        assert (await wire.call("test/requests", sessionId=session))["requests"] == []


@pytest.mark.scenario("A12")
async def test_a_cancel_of_an_idle_session_does_nothing_to_what_comes_after(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        assert await wire.call("session/cancel", sessionId=session) == {"upTo": 0, "cancelled": []}
        run_id = (await wire.prompt(session, "hello"))["run"]["runId"]
        assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"
        assert await wire.call("session/cancel", sessionId=session) == {"upTo": 1, "cancelled": []}


@pytest.mark.scenario("A13")
async def test_one_cancel_covers_all_that_were_accepted_and_none_had_started(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.start")
        await wire.prompt(session, "a", runId="a")
        await wire.prompt(session, "b", runId="b")
        assert await wire.call("session/cancel", sessionId=session) == {"upTo": 2, "cancelled": ["a", "b"]}
        for run_id in "ab":
            assert (await wire.completed(session, run_id))["stopReason"] == "cancelled"
        assert shape(await rows(wire, session)) == [("user", None), ("assistant", "cancelled")] * 2
        assert (await wire.call("test/requests", sessionId=session))["requests"] == []


@pytest.mark.scenario("A14")
async def test_a_prompt_accepted_after_a_cancel_is_not_touched_by_it(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.start")
        for run_id in "ab":
            await wire.prompt(session, run_id, runId=run_id)
        # Sent in one go, so that nothing but the order of the frames separates them.
        cancel = await wire.send("session/cancel", sessionId=session)
        prompt = await wire.send("session/prompt", **wire.prompt_params(session, "c", runId="c"))
        assert (await wire.reply(cancel))["cancelled"] == ["a", "b"]
        assert (await wire.reply(prompt))["run"]["acceptSeq"] == 3
        assert (await wire.completed(session, "c"))["stopReason"] == "end_turn"
        for run_id in "ab":
            assert (await wire.completed(session, run_id))["stopReason"] == "cancelled"


@pytest.mark.scenario("A15")
async def test_a_cancel_covers_the_active_run_and_what_is_queued_behind_it(bench: Harness) -> None:
    async with bench.serve(model=bench.script(STREAMING, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "stream", runId="active")
        await wire.prompt(session, "follow", runId="follow")
        await wire.call("test/gates", wait="go")
        assert (await wire.call("session/cancel", sessionId=session))["cancelled"] == ["active", "follow"]
        active = await wire.completed(session, "active")
        assert (active["stopReason"], active["text"]) == ("cancelled", "partial ")
        assert active["cancelledBy"]["clientId"] == wire.client_id
        follow = await wire.completed(session, "follow")
        assert follow["stopReason"] == "cancelled"
        assert not [event for event in wire.of_type(session, "run.started") if event["run"]["runId"] == "follow"]
        ends = [event["run"]["runId"] for event in wire.of_type(session, "run.completed")]
        assert ends == ["active", "follow"]


@pytest.mark.scenario("A16")
async def test_cancelling_twice_is_cancelling_once(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.call("test/hold", sessionId=session, point="run.finish")
        for _ in range(2):
            assert await wire.call("session/cancel", sessionId=session) == {"upTo": 1, "cancelled": ["one"]}
        await wire.call("test/gates", wait="run.finish")
        await wire.call("test/release", gate="run.finish")
        assert (await wire.completed(session, "one"))["stopReason"] == "cancelled"
        assert (await wire.call("session/cancel", sessionId=session))["cancelled"] == []
        assert len(wire.of_type(session, "run.completed")) == 1
        assert shape(await rows(wire, session)) == [("user", None), ("assistant", "cancelled")]


@pytest.mark.scenario("A17")
async def test_a_prompt_sent_while_the_cancelled_run_unwinds_gets_its_turn(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="old")
        await wire.call("test/gates", wait="go")
        await wire.call("test/hold", sessionId=session, point="run.finish")
        await wire.call("session/cancel", sessionId=session)
        await wire.call("test/gates", wait="run.finish")
        # A steer would fold into the active run; one that unwinds takes none.
        accepted = await wire.prompt(session, "new")
        assert accepted["position"] == 1
        await wire.call("test/release", gate="run.finish")
        run = await wire.completed(session, accepted["run"]["runId"])
        assert (run["stopReason"], run["text"]) == ("end_turn", "new")
        assert "foldedInto" not in run


@pytest.mark.scenario("A18")
async def test_a_cancel_before_the_first_piece_leaves_an_empty_cancelled_answer(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.call("session/cancel", sessionId=session)
        run = await wire.completed(session, "one")
        messages = await rows(wire, session)
        assert shape(messages) == [("user", None), ("assistant", "cancelled")]
        assert messages[1]["parts"] == [] and messages[1]["messageId"] == run["messageId"]
        assert "error" not in run and run["text"] == ""
        assert not [event for event in wire.events[session] if event["type"] == "notice"]


@pytest.mark.scenario("A23")
async def test_clearing_the_queue_leaves_the_active_run_alone(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="active")
        await wire.call("test/gates", wait="go")
        for run_id in ("q1", "q2"):
            await wire.prompt(session, run_id, runId=run_id)
        assert (await wire.call("session/clear_queue", sessionId=session))["cancelled"] == ["q1", "q2"]
        for run_id in ("q1", "q2"):  # at once, while the active run still waits at its gate
            assert (await wire.completed(session, run_id))["stopReason"] == "cancelled"
        queue = (await wire.call("session/queue", sessionId=session))["runs"]
        assert [run["runId"] for run in queue] == ["active"]
        await wire.call("test/release", gate="go")
        assert (await wire.completed(session, "active"))["stopReason"] == "end_turn"


async def test_both_streams_tell_at_once_that_fewer_runs_wait(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="active")
        await wire.call("test/gates", wait="go")
        for run_id in ("q1", "q2"):
            await wire.prompt(session, run_id, runId=run_id)

        async def waits(count: int) -> None:
            for stream in (session, workspace):  # the active run still waits at its gate
                await wire.until(
                    lambda stream=stream: wire.of_type(stream, "session.updated")[-1]["session"]["queued"] == count
                )

        await wire.call("session/cancel", sessionId=session, runId="q1")
        await waits(1)
        await wire.call("session/clear_queue", sessionId=session)
        await waits(0)


@pytest.mark.scenario("A21")
async def test_a_cancel_splits_the_queue_at_its_mark(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="active")
        await wire.call("test/gates", wait="go")
        sent = [
            await wire.send("session/prompt", **wire.prompt_params(session, "q1", runId="q1")),
            await wire.send("session/cancel", sessionId=session),
            await wire.send("session/prompt", **wire.prompt_params(session, "q2", runId="q2")),
        ]
        _, cancel, _ = [await wire.reply(request) for request in sent]
        assert cancel == {"upTo": 2, "cancelled": ["active", "q1"]}
        assert (await wire.completed(session, "q2"))["stopReason"] == "end_turn"
        assert (await wire.completed(session, "q1"))["stopReason"] == "cancelled"


@pytest.mark.scenario("A29")
async def test_cancelling_one_queued_run_leaves_the_others(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="active")
        await wire.call("test/gates", wait="go")
        for run_id in ("q1", "q2", "q3"):
            await wire.prompt(session, run_id, runId=run_id)
        assert (await wire.call("session/cancel", sessionId=session, runId="q2"))["cancelled"] == ["q2"]
        assert (await wire.completed(session, "q2"))["stopReason"] == "cancelled"
        assert (await wire.call("session/cancel", sessionId=session, runId="q2"))["cancelled"] == []
        assert (await wire.refused("session/cancel", sessionId=session, runId="zz")).kind == "run_not_found"
        await wire.call("test/release", gate="go")
        for run_id in ("active", "q1", "q3"):
            assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"


@pytest.mark.scenario("A36")
@pytest.mark.parametrize("first", ["cancel", "decide"])
async def test_a_cancel_near_the_end_is_named_and_cancels_or_is_neither(bench: Harness, first: str) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="run.finish")
        await wire.prompt(session, "late", runId="late")
        await wire.call("test/gates", wait="run.finish")
        if first == "cancel":
            cancelled = await wire.call("session/cancel", sessionId=session)
            await wire.call("test/release", gate="run.finish")
        else:
            await wire.call("test/release", gate="run.finish")
            cancelled = await wire.call("session/cancel", sessionId=session)
        run = await wire.completed(session, "late")
        named = "late" in cancelled["cancelled"]
        assert named == (run["stopReason"] == "cancelled")
        assert run["text"] == "late"
        if first == "cancel":
            assert named


@pytest.mark.scenario("M2")
async def test_everybody_sees_who_cancelled_and_nobody_an_error(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running, name="ann") as (ann, workspace):
        async with connect(running.ws, running.token, name="bob") as bob:
            session = await new_session(ann, workspace)
            await bob.attach(session)
            await bob.prompt(session, "gated", runId="his")
            await ann.call("test/gates", wait="go")
            await ann.call("session/cancel", sessionId=session)
            for wire in (ann, bob):
                run = await wire.completed(session, "his")
                assert (run["stopReason"], run["cancelledBy"]["name"], run["author"]["name"]) == (
                    "cancelled",
                    "ann",
                    "bob",
                )
                assert not wire.of_type(session, "notice")


async def test_cancelling_mine_leaves_what_others_queued(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (ann, workspace):
        async with connect(running.ws, running.token, name="bob") as bob:
            session = await new_session(ann, workspace)
            await bob.prompt(session, "gated", runId="active")
            await ann.call("test/gates", wait="go")
            await ann.prompt(session, "hers", runId="hers")
            await bob.prompt(session, "his", runId="his")
            cancelled = await ann.call("session/cancel", sessionId=session, scope="mine")
            assert cancelled == {"upTo": 3, "cancelled": ["active", "hers"]}
            assert (await ann.completed(session, "his"))["stopReason"] == "end_turn"


async def test_a_cancel_with_wait_answers_when_all_have_completed(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.call("test/hold", sessionId=session, point="run.finish")
        cancel = await wire.send("session/cancel", sessionId=session, wait=True)
        await wire.call("test/gates", wait="run.finish")
        assert all(frame.get("id") != cancel for frame in wire.frames)
        await wire.call("test/release", gate="run.finish")
        assert (await wire.reply(cancel))["cancelled"] == ["one"]
        assert (await wire.call("run/get", runId="one"))["run"]["state"] == "completed"


async def test_a_cancel_may_be_a_notification(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "gated", runId="one")
        await wire.call("test/gates", wait="go")
        await wire.send_raw('{"jsonrpc":"2.0","method":"session/cancel","params":{"sessionId":"' + session + '"}}')
        assert (await wire.completed(session, "one"))["stopReason"] == "cancelled"


async def test_messages_are_published_in_their_order_also_while_the_queue_is_cleared(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        for turn in range(10):
            await wire.prompt(session, "gated", runId=f"active{turn}")
            await wire.call("test/gates", wait="go")
            await wire.prompt(session, "never", runId=f"queued{turn}")
            await wire.send("session/clear_queue", sessionId=session)
            await wire.send("test/release", gate="go")
            assert (await wire.completed(session, f"queued{turn}"))["stopReason"] == "cancelled"
            assert (await wire.completed(session, f"active{turn}"))["stopReason"] == "end_turn"
        orders = [event["message"]["order"] for event in wire.of_type(session, "message.created")]
        assert orders == list(range(1, 41))
