"""What one turn does: retries, bounds, loops, and what the model gets to know of a broken past."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.context import turns_of
from atrio_agent.loop import MAX_TURN_REQUESTS
from atrio_agent.models.base import (
    AssistantTurn,
    Finish,
    ModelEvent,
    ModelRequest,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
    ToolResults,
    UserTurn,
)
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import ToolCallPart, ToolResultPart
from atrio_protocol.things import Message
from core_rig import PlayedModel, open_core, terminals

PATIENCE = {"kind": "provider_rate_limited", "retryable": True}


class Repeating(PlayedModel):
    """A model that calls a tool that is not there, again and again; the same one, or another each time."""

    def __init__(self, *, always_the_same: bool) -> None:
        self.always_the_same = always_the_same
        self.requests = 0

    async def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        await trio.lowlevel.checkpoint()
        if request.purpose != "turn":
            yield Finish("end_turn")
            return
        self.requests += 1
        yield ToolCallStart("1", "none")
        yield ToolCallArgs("1", "{}" if self.always_the_same else f'{{"n": {self.requests}}}')
        yield ToolCallEnd("1")
        yield Finish("tool_use")


async def run_of(*turns: dict[str, Any], **more: Any) -> tuple[Any, list[dict[str, Any]], float]:
    """Run one prompt; returns the run, the events and the seconds that it took."""
    async with open_core(*turns, **more) as core:
        begun = trio.current_time()
        run = core.prompt("hi")
        await run.done.wait()
        return run, core.events, trio.current_time() - begun


async def test_the_same_call_over_and_over_ends_the_turn(autojump_clock: MockClock) -> None:
    model = Repeating(always_the_same=True)
    run, events, _ = await run_of(model=model)
    assert terminals(events) == [(run.run_id, "error")]
    assert run.outcome.error.kind == "loop_detected"
    assert model.requests == 6


async def test_a_turn_makes_so_many_requests_and_no_more(autojump_clock: MockClock) -> None:
    model = Repeating(always_the_same=False)
    run, events, _ = await run_of(model=model)
    assert terminals(events) == [(run.run_id, "max_turn_requests")]
    assert model.requests == MAX_TURN_REQUESTS


async def test_a_request_is_sent_again_when_the_provider_says_so(autojump_clock: MockClock) -> None:
    failing = {"responses": [[{"say": "half"}, {"fail": PATIENCE | {"retryAfterMs": 7000}}], [{"say": "whole"}]]}
    run, events, took_s = await run_of(failing)
    assert terminals(events) == [(run.run_id, "end_turn")]
    assert run.text == "whole"
    assert 7 <= took_s < 8
    assert [event["type"] for event in events if event["type"] in ("message.reset", "notice")] == [
        "notice",
        "message.reset",
    ]


async def test_a_request_is_tried_three_times(autojump_clock: MockClock) -> None:
    run, events, took_s = await run_of({"responses": [[{"fail": PATIENCE}]]})
    assert terminals(events) == [(run.run_id, "error")]
    assert run.outcome.error.kind == "provider_rate_limited"
    assert 2.5 <= took_s < 3
    assert sum(event["type"] == "notice" for event in events) == 2


async def test_nobody_waits_for_a_provider_that_asks_for_more_than_a_minute(autojump_clock: MockClock) -> None:
    run, events, took_s = await run_of({"responses": [[{"fail": PATIENCE | {"retryAfterMs": 61_000}}]]})
    assert terminals(events) == [(run.run_id, "error")]
    assert took_s < 1


async def test_a_cancel_ends_the_wait_for_another_try(autojump_clock: MockClock) -> None:
    async with open_core({"responses": [[{"fail": PATIENCE | {"retryAfterMs": 50_000}}]]}) as core:
        run = core.prompt("hi")
        await trio.sleep(1)
        assert core.session.inbox.cancel(by=run.author).runs == (run,)
        await run.done.wait()
        assert trio.current_time() < 100_000 and terminals(core.events) == [(run.run_id, "cancelled")]


async def test_what_a_refused_answer_called_for_is_not_done(autojump_clock: MockClock) -> None:
    refused = [{"say": "I "}, {"tool": "ls", "input": {}}, {"finish": "refusal"}]
    run, events, _ = await run_of({"responses": [refused, [{"say": "never asked"}]]})
    assert terminals(events) == [(run.run_id, "refusal")]
    assert run.text == "I "
    parts = [event["value"] for event in events if event["type"] == "message.part"]
    assert [part["status"] for part in parts if "status" in part][-1] == "failed"


@pytest.mark.parametrize("_again", range(6))  # which of two that one commit wakes goes first is chance
async def test_a_turn_knows_all_of_the_turn_before_though_a_queued_prompt_was_cancelled_meanwhile(
    _again: int, autojump_clock: MockClock
) -> None:
    gated = {"match": "gated", "responses": [[{"say": "one"}, {"tool": "none"}, {"gate": "go"}], [{"say": "answer"}]]}
    async with open_core(gated, {"responses": [[{"say": "{{prompt}}"}]]}) as core:
        core.prompt("gated")
        queued = core.prompt("queued")
        await trio.sleep(0.1)
        core.disk.hold_commits()
        last = core.prompt("last")
        await trio.sleep(0.1)
        core.session.inbox.cancel_run(queued, by=queued.author)  # its messages come before the answer, in the order
        await trio.sleep(0.1)
        core.gates.release("go")
        await trio.sleep(0.1)
        core.disk.open_gate()  # both ends are in one commit
        await last.done.wait()
        asked = core.session.requests[-1]["turns"]
        assert [turn["role"] for turn in asked] == ["user", "assistant", "tool", "assistant", "user"]
        assert asked[3]["text"] == "answer"


def message(order: int, role: Any, *parts: Any) -> Message:
    return Message(
        message_id=f"m{order}",
        session_id="s",
        order=order,
        role=role,
        parts=parts,
        created_at="",
        updated_at="",
    )


def call(call_id: str) -> ToolCallPart:
    return ToolCallPart(tool_call_id=call_id, name="t", title="t", kind="other", input={}, status="completed")


def result(call_id: str, text: str = "found") -> ToolResultPart:
    return ToolResultPart(tool_call_id=call_id, name="t", content=(TextBlock(text=text),), is_error=False)


def test_each_call_has_one_result_directly_behind_it_and_in_order() -> None:
    turns = turns_of(
        [
            message(1, "user", TextBlock(text="a")),
            message(2, "user", TextBlock(text="b")),
            message(3, "assistant", call("1"), call("2"), call("3")),
            message(4, "tool", result("3"), result("1"), result("9")),
            message(5, "tool", result("1", "again")),
            message(6, "assistant", call("4")),
            message(7, "user", TextBlock(text="c")),
            message(8, "tool", result("4", "too late")),
            message(9, "assistant"),
        ]
    )
    assert [type(turn) for turn in turns] == [
        UserTurn,
        AssistantTurn,
        ToolResults,
        AssistantTurn,
        ToolResults,
        UserTurn,
    ]
    user, _, first, _, second, _ = turns
    assert isinstance(user, UserTurn) and len(user.content) == 2
    assert isinstance(first, ToolResults) and isinstance(second, ToolResults)
    assert [(output.call_id, output.is_error) for output in first.results] == [("1", False), ("2", True), ("3", False)]
    assert [(output.call_id, output.is_error) for output in second.results] == [("4", True)]


def test_what_says_nothing_is_left_out() -> None:
    assert turns_of([message(1, "user"), message(2, "assistant"), message(3, "tool", result("1"))]) == ()


async def test_a_model_that_says_nothing_still_leaves_an_answer(autojump_clock: MockClock) -> None:
    run, events, _ = await run_of({"responses": [[{"finish": "end_turn"}]]})
    assert terminals(events) == [(run.run_id, "end_turn")]
    assert run.text == "" and run.message_id is not None
