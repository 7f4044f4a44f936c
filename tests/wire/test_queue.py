"""The queue: whose turn is next, what folds, and what a repeat is."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from atrio_protocol.limits import MAX_QUEUED_PER_SESSION
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, new_session, rows, shape, terminals

TWO_STEPS = {
    "match": "^work",
    "responses": [
        [{"gate": "go"}, {"tool": "ls", "input": {}}],
        [{"say": "seen: {{prompt}}"}],
    ],
}


@asynccontextmanager
async def busy(bench: Harness, first: str = "gated") -> AsyncGenerator[tuple[Wire, str]]:
    """A session whose run ``active`` waits at the gate ``go``."""
    model = bench.script(GATED, TWO_STEPS, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, first, runId="active")
        await wire.call("test/gates", wait="go")
        yield wire, session


@pytest.mark.scenario("A8")
async def test_a_run_counts_as_active_until_it_ends(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        assert (await wire.call("server/info"))["runsActive"] == 1
        await wire.call("test/release", gate="go")
        await wire.completed(session, "active")
        assert (await wire.call("server/info"))["runsActive"] == 0


@pytest.mark.scenario("A19")
async def test_a_prompt_without_a_run_id_folds_into_the_running_turn(bench: Harness) -> None:
    async with busy(bench, "work") as (wire, session):
        steered = (await wire.prompt(session, "and this"))["run"]
        assert steered["delivery"] == "steer"
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, "active")
        folded = await wire.completed(session, steered["runId"])
        assert folded["foldedInto"] == "active"
        assert [folded[key] for key in ("stopReason", "text", "messageId")] == [
            run[key] for key in ("stopReason", "text", "messageId")
        ]
        assert run["text"] == "seen: and this"
        event = await wire.event(session, "run.folded", runId=steered["runId"])
        assert event["foldedInto"] == "active"
        assert [run_id for run_id, _ in terminals(wire, session)] == [steered["runId"], "active"]
        assert [event["run"]["runId"] for event in wire.of_type(session, "run.started")] == ["active"]
        messages = await rows(wire, session)
        assert shape(messages) == [
            ("user", None),
            ("assistant", "tool_use"),
            ("tool", None),
            ("user", None),
            ("assistant", "end_turn"),
        ]
        assert messages[3]["parts"] == [{"type": "text", "text": "and this"}]
        request = (await wire.call("test/requests", sessionId=session))["requests"][-1]
        assert request["turns"][-1]["content"][-1]["text"] == "and this"


@pytest.mark.scenario("A20")
async def test_a_prompt_with_a_run_id_gets_a_turn_of_its_own(bench: Harness) -> None:
    async with busy(bench, "work") as (wire, session):
        accepted = await wire.prompt(session, "next", runId="queued")
        assert (accepted["run"]["delivery"], accepted["position"]) == ("queue", 1)
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, "queued")
        assert "foldedInto" not in run and run["text"] == "next"
        assert terminals(wire, session) == [("active", "end_turn"), ("queued", "end_turn")]


@pytest.mark.scenario("A22")
async def test_steered_prompts_fold_in_order_and_queued_ones_stay(bench: Harness) -> None:
    async with busy(bench, "work") as (wire, session):
        await wire.prompt(session, "s1", runId="s1", delivery="steer")
        await wire.prompt(session, "q1", runId="q1", delivery="queue")
        await wire.prompt(session, "s2", runId="s2", delivery="steer")
        await wire.prompt(session, "q2", runId="q2", delivery="queue")
        await wire.call("test/release", gate="go")
        await wire.completed(session, "q2")
        folds = [event["runId"] for event in wire.of_type(session, "run.folded")]
        assert folds == ["s1", "s2"]
        assert [run_id for run_id, _ in terminals(wire, session)] == ["s1", "s2", "active", "q1", "q2"]


@pytest.mark.scenario("A24")
async def test_fifty_prompts_over_ten_sockets_run_one_at_a_time_in_the_order_of_acceptance(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(connect(running.ws, running.token)) for _ in range(10)]

            async def send(one: Wire, number: int) -> None:
                await one.prompt(session, f"p{number}", runId=f"r{number}")

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(send, wires[number % 10], number)
        await wire.until(lambda: len(terminals(wire, session)) == 50)
        accepted = [event["run"]["runId"] for event in wire.of_type(session, "run.accepted")]
        turns = [
            (event["type"], event["run"]["runId"]) for event in wire.of_type(session, "run.started", "run.completed")
        ]
        assert turns == [(kind, run_id) for run_id in accepted for kind in ("run.started", "run.completed")]
        numbers = [event["run"]["acceptSeq"] for event in wire.of_type(session, "run.accepted")]
        assert numbers == sorted(numbers)


@pytest.mark.scenario("A25")
async def test_a_cancel_at_the_hand_over_covers_the_next_run(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        await wire.call("test/hold", sessionId=session, point="run.finish")
        await wire.prompt(session, "next", runId="next")
        await wire.call("test/release", gate="go")
        await wire.call("test/gates", wait="run.finish")
        release = await wire.send("test/release", gate="run.finish")
        cancel = await wire.send("session/cancel", sessionId=session)
        later = await wire.send("session/prompt", **wire.prompt_params(session, "later", runId="later"))
        await wire.reply(release)
        named = (await wire.reply(cancel))["cancelled"]
        assert "next" in named
        await wire.reply(later)
        assert (await wire.completed(session, "later"))["stopReason"] == "end_turn"
        ends = dict(terminals(wire, session))
        assert ends["next"] == "cancelled"
        assert (ends["active"] == "cancelled") == ("active" in named)
        assert len(terminals(wire, session)) == 3


@pytest.mark.scenario("A26")
async def test_two_sessions_run_at_once_and_a_cancel_knows_only_its_own(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        one, two = await new_session(wire, workspace), await new_session(wire, workspace)
        await wire.prompt(one, "gated", runId="one")
        await wire.prompt(two, "gated", runId="two")
        await wire.call("test/gates", wait="go", count=2)
        assert (await wire.call("session/cancel", sessionId=one))["cancelled"] == ["one"]
        assert (await wire.completed(one, "one"))["stopReason"] == "cancelled"
        await wire.call("test/release", gate="go", runId="two")
        assert (await wire.completed(two, "two"))["stopReason"] == "end_turn"


@pytest.mark.scenario("A27")
async def test_a_failed_run_hands_over_without_another_prompt(bench: Harness) -> None:
    failing = {
        "match": "^fail",
        "responses": [[{"gate": "go"}, {"fail": {"kind": "provider_error", "message": "no"}}]],
    }
    async with bench.serve(model=bench.script(failing, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "fail", runId="bad")
        await wire.prompt(session, "good", runId="good")
        await wire.call("test/gates", wait="go")
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, "bad")
        assert (run["stopReason"], run["error"]["data"]["kind"]) == ("error", "provider_error")
        assert (await wire.completed(session, "good"))["text"] == "good"


@pytest.mark.scenario("A28")
async def test_the_same_run_id_twice_is_one_run(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        again = await wire.prompt(session, "gated", runId="active")
        assert again["duplicate"] and again["run"]["state"] == "running"
        assert (await wire.refused("session/prompt", **wire.prompt_params(session, "other", runId="active"))).kind == (
            "idempotency_conflict"
        )
        workspace = (await wire.call("session/get", sessionId=session))["session"]["workspaceId"]
        elsewhere = await new_session(wire, workspace)
        assert (
            await wire.refused("session/prompt", **wire.prompt_params(elsewhere, "gated", runId="active"))
        ).kind == ("idempotency_conflict")
        await wire.call("test/release", gate="go")
        await wire.completed(session, "active")
        again = await wire.prompt(session, "gated", runId="active")
        assert again["duplicate"] and again["run"]["text"] == "done: gated"
        assert len(wire.of_type(session, "run.accepted")) == 1
        assert (await wire.call("run/list", sessionId=elsewhere))["runs"] == []


@pytest.mark.scenario("A30")
async def test_an_interrupt_ends_the_active_run_and_goes_before_the_queue(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        await wire.prompt(session, "q1", runId="q1")
        accepted = await wire.prompt(session, "now", runId="now", delivery="interrupt")
        assert accepted["position"] == 1
        await wire.completed(session, "q1")
        assert terminals(wire, session) == [("active", "cancelled"), ("now", "end_turn"), ("q1", "end_turn")]


@pytest.mark.scenario("A31")
async def test_reject_while_busy_is_refused_and_while_idle_accepted(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "x", delivery="reject"))
        assert (refusal.kind, refusal.code) == ("session_busy", -32010)
        await wire.call("test/release", gate="go")
        await wire.completed(session, "active")
        accepted = await wire.prompt(session, "x", delivery="reject", runId="r")
        assert accepted["position"] == 0
        assert (await wire.completed(session, "r"))["stopReason"] == "end_turn"


@pytest.mark.scenario("A32")
async def test_a_steer_with_nothing_running_is_a_turn_of_its_own(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "alone", runId="s", delivery="steer")
        run = await wire.completed(session, "s")
        assert (run["text"], run["stopReason"]) == ("alone", "end_turn") and "foldedInto" not in run
        await wire.event(session, "run.started", runId="s")


@pytest.mark.scenario("A33")
async def test_a_steer_that_comes_too_late_to_fold_is_a_turn_of_its_own(bench: Harness) -> None:
    async with busy(bench) as (wire, session):  # one model request only: there is no further step to fold at
        steered = (await wire.prompt(session, "too late"))["run"]["runId"]
        await wire.call("test/release", gate="go")
        run = await wire.completed(session, steered)
        assert run["text"] == "too late" and "foldedInto" not in run
        assert [run_id for run_id, _ in terminals(wire, session)] == ["active", steered]


@pytest.mark.scenario("A34")
async def test_a_full_queue_refuses_and_reserves_nothing(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        for number in range(MAX_QUEUED_PER_SESSION):
            await wire.prompt(session, f"q{number}", runId=f"q{number}")
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "over", runId="over"))
        assert (refusal.kind, refusal.code, refusal.data["retryable"]) == ("queue_full", -32020, True)
        assert (await wire.prompt(session, "q7", runId="q7"))["duplicate"]
        assert (await wire.refused("run/get", runId="over")).kind == "run_not_found"
        cleared = await wire.call("session/cancel", sessionId=session, runId="q0")
        assert cleared["cancelled"] == ["q0"]
        assert not (await wire.prompt(session, "over", runId="over"))["duplicate"]
        await wire.call("test/release", gate="go")
        assert (await wire.completed(session, "over"))["text"] == "over"
        assert len(terminals(wire, session)) == MAX_QUEUED_PER_SESSION + 2


@pytest.mark.scenario("A37")
async def test_interrupts_go_first_and_an_unfolded_steer_keeps_its_place(bench: Harness) -> None:
    async with busy(bench) as (wire, session):
        await wire.call("test/hold", sessionId=session, point="run.finish")
        await wire.prompt(session, "steer", runId="steer", delivery="steer")
        await wire.prompt(session, "queue", runId="queue", delivery="queue")
        await wire.prompt(session, "i1", runId="i1", delivery="interrupt")
        await wire.prompt(session, "i2", runId="i2", delivery="interrupt")
        await wire.call("test/gates", wait="run.finish")
        queue = [run["runId"] for run in (await wire.call("session/queue", sessionId=session))["runs"]]
        assert queue == ["active", "i1", "i2", "steer", "queue"]
        await wire.call("test/release", gate="run.finish")
        await wire.until(lambda: len(terminals(wire, session)) == 5)
        assert [run_id for run_id, _ in terminals(wire, session)] == ["active", "i1", "i2", "steer", "queue"]


@pytest.mark.scenario("A9")
async def test_a_run_goes_on_when_its_prompter_hangs_up_after_the_answer(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        async with connect(running.ws, running.token) as prompter:
            await prompter.prompt(session, "gated", runId="left")
        await wire.call("test/gates", wait="go")
        await wire.call("test/release", gate="go")
        assert (await wire.completed(session, "left"))["stopReason"] == "end_turn"


@pytest.mark.scenario("A10")
async def test_a_prompt_whose_answer_was_never_read_is_found_again_by_its_run_id(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.call("test/hold", sessionId=session, point="accept.commit")
        async with connect(running.ws, running.token) as prompter:
            await prompter.send("session/prompt", **wire.prompt_params(session, "gated", runId="lost"))
            await wire.call("test/gates", wait="accept.commit")
        await wire.call("test/release", gate="accept.commit")
        await wire.call("test/gates", wait="go")
        again = await wire.prompt(session, "gated", runId="lost")
        assert again["duplicate"]
        await wire.call("test/release", gate="go")
        assert (await wire.completed(session, "lost"))["stopReason"] == "end_turn"
        assert len(wire.of_type(session, "run.accepted")) == 1
