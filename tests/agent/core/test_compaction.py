"""When a conversation is summed up, of what the summary is made, and what the model is told afterwards."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.models.base import (
    AssistantTurn,
    Finish,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolOutput,
    ToolResults,
    Turn,
    UsageReport,
    UserTurn,
)
from atrio_agent.models.estimate import estimate_turns
from atrio_agent.runs import LiveRun
from atrio_agent.store.memory import MemoryDisk
from atrio_agent.transcript import transcript_of
from atrio_protocol.content import ImageBlock, TextBlock, prompt_text
from atrio_protocol.errors import ContextOverflow, ProviderError, RunError
from core_rig import ALICE, Core, PlayedModel, open_core, terminals

CONTEXT = 1_000


class Playing(PlayedModel):
    """A model with a context of a thousand tokens; each answer is a list of events, or an error."""

    context_size = CONTEXT

    def __init__(self, *answers: Any, summaries: tuple[Any, ...] = ()) -> None:
        self.answers = list(answers)
        self.summaries = list(summaries)
        self.requests: list[ModelRequest] = []

    async def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        await trio.lowlevel.checkpoint()
        if request.purpose == "title":
            return
        self.requests.append(request)
        answers = self.answers if request.purpose == "turn" else self.summaries
        answer = answers.pop(0) if answers else [TextDelta("the summary"), UsageReport(500, 10)]
        for event in [answer] if isinstance(answer, Exception) else answer:
            if isinstance(event, Exception):
                raise event
            if event is STALL:
                await trio.sleep_forever()
            yield event
        yield Finish("end_turn")

    def purposes(self) -> list[str]:
        return [request.purpose for request in self.requests]


STALL: Any = object()


def says(text: str, tokens: int = 100) -> list[ModelEvent]:
    return [TextDelta(text), UsageReport(tokens, 1)]


def calls(text: str, tokens: int = 100) -> list[ModelEvent]:
    return [TextDelta(text), ToolCallStart("1", "none"), ToolCallEnd("1"), UsageReport(tokens, 1)]


def told(turns: tuple[Turn, ...]) -> list[tuple[str, str]]:
    """Each turn of a request as its role and text."""
    found: list[tuple[str, str]] = []
    for turn in turns:
        match turn:
            case UserTurn(content=content):
                found.append(("user", prompt_text(content)))
            case AssistantTurn(text=text):
                found.append(("assistant", text))
            case ToolResults():
                found.append(("tool", ""))
    return found


def summarize(core: Core, run_id: str | None = None) -> LiveRun:
    return core.session.accept(
        prompt=(), run_id=run_id, delivery="queue", author=ALICE, model_id=None, meta=None, kind="summarize"
    )


async def finished(core: Core, *prompts: str) -> LiveRun:
    run: LiveRun | None = None
    for prompt in prompts:
        run = core.prompt(prompt)
        await run.done.wait()
    assert run is not None
    return run


def notices(core: Core) -> list[str]:
    return [event["severity"] for event in core.events if event["type"] == "notice"]


async def test_a_turn_that_fills_the_context_is_summed_up_and_goes_on(autojump_clock: MockClock) -> None:
    model = Playing(says("hello"), calls("looking", 850), says("done"))
    async with open_core(model=model) as core:
        await finished(core, "hi")
        run = await finished(core, "fix it")
        assert terminals(core.events)[-1] == (run.run_id, "end_turn") and run.text == "done"
        assert model.purposes() == ["turn", "turn", "summary", "turn"]
        assert notices(core) == ["info"]
        text = "\n".join(words for _, words in told(model.requests[2].turns))
        assert all(words in text for words in ("hi", "hello", "fix it", "looking", "called none", "none failed"))
        assert model.requests[2].tools == () and len(told(model.requests[2].turns)) == 5
        after = told(model.requests[3].turns)
        assert [role for role, _ in after] == ["user", "assistant", "user", "assistant", "tool"]
        assert after[0][1].endswith("the summary\n\nhi") and after[2][1] == "fix it"
        # The session counts what it took, and the history is whole.
        usage = core.session.profile.row.usage
        assert (usage.input_tokens, usage.context_tokens) == (100 + 850 + 500 + 100, 101)
        messages = core.disk.messages_of(core.session.session_id)
        assert [message.summary for message in messages] == [False] * 5 + [True, False]
        assert [message.order for message in messages] == list(range(1, 8))
        summary = messages[5]
        assert summary.run_id == run.run_id and summary.finish and summary.finish.reason == "tool_use"
        # The next turn begins with the summary alone.
        await finished(core, "more")
        assert [role for role, _ in told(model.requests[4].turns)] == ["user", "assistant", "user"]


async def test_what_was_said_last_is_kept_word_for_word_as_far_as_it_fits(autojump_clock: MockClock) -> None:
    long = "old " * 300
    model = Playing(says(long), calls("first " + long, 200), calls("second", 900), says("done"))
    async with open_core(model=model) as core:
        await finished(core, "begin")
        await finished(core, "the prompt")
        after = told(model.requests[-1].turns)
        # The prompt again, though it does not fit; of the rest only the newest call with its result.
        assert [role for role, _ in after] == ["user", "assistant", "tool"]
        assert after[0][1].endswith("the summary\n\nthe prompt") and after[1][1] == "second"


@pytest.mark.parametrize(("tokens", "summed_up"), [(800, False), (801, True)])
async def test_a_turn_begins_with_a_summary_if_the_one_before_left_little_room(
    tokens: int, summed_up: bool, autojump_clock: MockClock
) -> None:
    model = Playing(says("a", tokens - 6), says("b"))
    async with open_core(model=model) as core:
        await finished(core, "x", "y")
        assert ("summary" in model.purposes()) == summed_up


async def test_a_first_prompt_that_is_too_long_is_not_summed_up(autojump_clock: MockClock) -> None:
    model = Playing(ContextOverflow("too long"))
    async with open_core(model=model) as core:
        run = await finished(core, "x" * 8_000)
        assert terminals(core.events) == [(run.run_id, "error")]
        assert run.outcome is not None and run.outcome.error is not None
        assert run.outcome.error.kind == "context_overflow" and model.purposes() == ["turn"]


async def test_a_provider_that_says_that_it_is_too_much_is_asked_again_after_a_summary(
    autojump_clock: MockClock,
) -> None:
    model = Playing(says("a"), ContextOverflow("too long"), says("b"))
    async with open_core(model=model) as core:
        run = await finished(core, "x", "y")
        assert (run.text, model.purposes()) == ("b", ["turn", "turn", "summary", "turn"])
        model.answers = [ContextOverflow("too long"), ContextOverflow("too long")]
        run = await finished(core, "z")
        assert run.outcome is not None and run.outcome.reason == "error"


async def test_a_turn_goes_on_when_no_summary_can_be_made(autojump_clock: MockClock) -> None:
    model = Playing(
        says("a", 900), calls("b", 950), says("c"), summaries=([TextDelta("hal"), ProviderError("broken")],)
    )
    async with open_core(model=model) as core:
        run = await finished(core, "x", "y")
        assert (run.text, model.purposes()) == ("c", ["turn", "summary", "turn", "turn"])
        assert notices(core) == ["info", "warning"]
        # What was said of it is no summary, and the model is not told of it.
        assert all("hal" not in text for _, text in told(model.requests[-1].turns))
        cut = [message for message in core.disk.messages_of(core.session.session_id) if message.summary]
        assert [message.finish.reason for message in cut if message.finish] == ["error"]
        model.answers = [ContextOverflow("too long")]
        model.summaries = [ProviderError("broken")]
        last = await finished(core, "z")
        assert last.outcome is not None and last.outcome.error is not None
        assert last.outcome.error.kind == "context_overflow"


async def test_a_summary_that_is_too_long_itself_is_made_of_less(autojump_clock: MockClock) -> None:
    overflow: RunError = ContextOverflow("too long")
    model = Playing(*(says("word " * 100) for _ in range(4)), summaries=(overflow, overflow))
    async with open_core(model=model) as core:
        await finished(core, "a", "b", "c", "d")
        run = summarize(core)
        await run.done.wait()
        assert (run.text, run.outcome and run.outcome.reason) == ("the summary", "end_turn")
        sizes = [estimate_turns(request.turns) for request in model.requests if request.purpose == "summary"]
        assert sizes[0] > sizes[1] > sizes[2]


async def test_a_summary_by_hand_has_no_prompt_and_stands_for_what_was_before(autojump_clock: MockClock) -> None:
    model = Playing(says("a"), says("b"), says("c"))
    async with open_core(model=model) as core:
        await finished(core, "x")
        run = summarize(core)
        await run.done.wait()
        assert core.session.profile.row.usage.context_tokens == 10
        await finished(core, "y")
        assert [role for role, _ in told(model.requests[-1].turns)] == ["user"]
        mine = [event for event in core.events if (event.get("run") or {}).get("runId") == run.run_id]
        assert [event["type"] for event in mine] == ["run.accepted", "run.started", "run.completed"]
        assert mine[-1]["run"]["kind"] == "summarize" and "promptMessageId" not in mine[-1]["run"]
        roles = [(message.role, message.summary) for message in core.disk.messages_of(core.session.session_id)]
        assert roles == [
            ("user", False), ("assistant", False), ("assistant", True), ("user", False), ("assistant", False)
        ]  # fmt: skip


async def test_two_summaries_in_a_row_are_one(autojump_clock: MockClock) -> None:
    model = Playing(says("a"))
    async with open_core(model=model) as core:
        empty = summarize(core)
        await empty.done.wait()
        assert (empty.text, notices(core), model.purposes()) == ("", ["info"], [])
        await finished(core, "x")
        first, second = summarize(core), summarize(core)
        await second.done.wait()
        assert (first.text, second.text) == ("the summary", "")
        assert model.purposes() == ["turn", "summary"] and notices(core) == ["info", "info"]
        await finished(core, "y")
        assert told(model.requests[-1].turns)[0][1].endswith("the summary\n\ny")


async def test_a_summary_that_is_cancelled_stands_for_nothing(autojump_clock: MockClock) -> None:
    model = Playing(says("a"), says("b"), summaries=([TextDelta("half"), STALL],))
    async with open_core(model=model) as core:
        await finished(core, "x")
        run, queued = summarize(core), summarize(core)
        await trio.sleep(1)
        core.session.inbox.cancel(by=ALICE)
        await run.done.wait()
        await queued.done.wait()
        assert terminals(core.events)[1:] == [(run.run_id, "cancelled"), (queued.run_id, "cancelled")]
        assert run.text == "half" and queued.message_id is None
        messages = core.disk.messages_of(core.session.session_id)
        assert [(message.role, message.summary) for message in messages][2:] == [("assistant", True)]
        await finished(core, "y")
        assert [text for _, text in told(model.requests[-1].turns)] == ["x", "a", "y"]


async def test_a_turn_that_is_cancelled_while_it_makes_room_has_no_summary_for_its_answer(
    autojump_clock: MockClock,
) -> None:
    model = Playing(calls("a", 900), summaries=([TextDelta("half"), STALL],))
    async with open_core(model=model) as core:
        run = core.prompt("x")
        await trio.sleep(1)
        core.session.inbox.cancel(by=ALICE)
        await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "cancelled")] and run.text == ""
        last = core.disk.messages_of(core.session.session_id)[-2:]
        assert [(message.summary, message.finish and message.finish.reason) for message in last] == [
            (True, "cancelled"),
            (False, "cancelled"),
        ]


async def test_a_steer_does_not_fold_into_a_summary(autojump_clock: MockClock) -> None:
    model = Playing(says("a"), says("b"), summaries=([TextDelta("half"), STALL],))
    async with open_core(model=model) as core:
        await finished(core, "x")
        run = summarize(core)
        await trio.sleep(1)
        steered = core.prompt("y", delivery="steer")
        await trio.sleep(1)
        core.session.inbox.cancel_run(run, by=ALICE)
        await steered.done.wait()
        assert terminals(core.events)[1:] == [(run.run_id, "cancelled"), (steered.run_id, "end_turn")]


async def test_a_summary_that_the_death_of_the_server_cut_short_stands_for_nothing(autojump_clock: MockClock) -> None:
    disk = MemoryDisk()
    model = Playing(says("a"), calls("b", 900), summaries=([TextDelta("half"), STALL], [TextDelta("half"), STALL]))
    async with open_core(model=model, disk=disk) as killed:
        await finished(killed, "x")
        by_hand = summarize(killed)
        await trio.sleep(1)
        # Opening the disk again is what a restart does; what the first process still writes gets nowhere.
        async with open_core(model=model, disk=disk) as core:
            await check_what_is_left(core, model, killed.session.session_id, by_hand.run_id)
            killed.store.set_close_deadline(trio.current_time())


async def check_what_is_left(core: Core, model: Playing, session_id: str, run_id: str) -> None:
    stored = await core.store.run(run_id)
    assert stored is not None and (stored.stop_reason, stored.text) == ("interrupted", "half")
    history = await core.store.history(session_id)
    assert [message.summary for message in history] == [False, False, True]
    session = await core.coordinator.session(session_id)
    run = session.accept(
        prompt=(TextBlock(text="y"),), run_id=None, delivery="queue", author=ALICE, model_id=None, meta=None
    )
    await trio.sleep(1)
    assert [text for _, text in told(model.requests[-1].turns)][:2] == ["x", "a"]
    session.inbox.cancel(by=None)
    await run.done.wait()


TURNS: tuple[Turn, ...] = (
    UserTurn((TextBlock(text="first"), ImageBlock(mime_type="image/png", data="AAAA"))),
    *(
        turn
        for number in range(20)
        for turn in (
            AssistantTurn(f"step {number}", "", (ToolCall("c", "read", {"path": "x" * 500}),)),
            ToolResults((ToolOutput("c", "read", (TextBlock(text="y" * 10_000),), is_error=False),)),
        )
    ),
    AssistantTurn("last"),
)


@pytest.mark.parametrize("budget_tokens", [100_000, 20_000, 5_000, 2_000, 500, 100])
def test_a_transcript_fits_and_keeps_its_beginning_and_its_end(budget_tokens: int) -> None:
    found = transcript_of(TURNS, ask="sum up", budget_tokens=budget_tokens)
    assert estimate_turns(found) <= budget_tokens + 20
    texts = [text for _, text in told(found)]
    assert texts[0].startswith("first") and texts[-2:] == ["last", "sum up"] and "[an image]" in texts[0]
    assert all(isinstance(turn, UserTurn | AssistantTurn) for turn in found)
    roles = [role for role, _ in told(found)]
    assert all((before, after) != ("user", "user") for before, after in itertools.pairwise(roles))
