"""What a store makes of what the last process left unfinished.

A crash is a store that is closed with its runs open: what is on the disk then is
the same. That a process really killed leaves that is tested with SQLite.
"""

from typing import Any

from atrio_agent.store.base import Op, PutRun, Store
from atrio_agent.store.recovery import INTERRUPTED, REV_STEP
from atrio_protocol.content import ImageBlock, TextBlock
from atrio_protocol.parts import Part, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Run
from store_rig import State
from store_samples import (
    ALICE,
    accept,
    append,
    complete,
    finish,
    put,
    put_session,
    run,
    session_row,
    stored,
    text_of,
    tool_call,
    tool_result,
)

TIME = "2026-11-20T10:00:00.000Z"


async def crash(state: State, *ops: Op) -> None:
    """Store these and go away."""
    async with await state.open() as store:
        await store.write_soon(put_session("s1"), *ops).wait()


def running(run_id: str, accept_seq: int = 1, **changes: Any) -> tuple[Op, Op]:
    begun = run(run_id, accept_seq=accept_seq, state="running", started_at=TIME, **changes)
    return accept(run_id, accept_seq=accept_seq), PutRun(run=begun)


async def ended(store: Store, run_id: str) -> Run:
    found = await store.run(run_id)
    assert found is not None
    assert (found.state, found.stop_reason, found.prompt) == ("completed", "interrupted", UNSET)
    assert found.finished_at is not UNSET
    return found


def roles(messages: tuple[Message, ...]) -> list[str]:
    return [found.role for found in messages]


def reason(found: Message) -> str | None:
    return None if found.finish is UNSET else found.finish.reason


def calls(found: Message) -> list[ToolCallPart]:
    return [part for part in found.parts if isinstance(part, ToolCallPart)]


def results(found: Message) -> list[tuple[str, bool, str]]:
    return [
        (
            part.tool_call_id,
            part.is_error,
            "".join(block.text for block in part.content if isinstance(block, TextBlock)),
        )
        for part in found.parts
        if isinstance(part, ToolResultPart)
    ]


async def test_a_run_that_was_streaming_keeps_its_partial_text(state: State) -> None:
    await crash(
        state,
        *running("r1"),
        put("m1", "do r1", role="user", run_id="r1", order=1, final=True),
        put("m2", "so ", run_id="r1", order=2),
        append("m2", "far"),
    )

    async with await state.open() as store:
        user, answer = await stored(store)
        found = await ended(store, "r1")
        hits = await store.sessions(query="so far", limit=5, cursor=None, children=False)

    assert reason(user) is None
    assert text_of(answer) == "so far"
    assert reason(answer) == "interrupted"
    assert (found.text, found.message_id, found.prompt_message_id) == ("so far", "m2", "m1")
    assert len(hits.sessions) == 1


async def test_a_run_that_waited_is_not_run_again_and_has_both_messages(state: State) -> None:
    prompt = (TextBlock(text="look"), ImageBlock(mime_type="image/png", data="A" * 200_000))
    await crash(
        state,
        put("m1", "older", role="user", order=41, final=True),
        accept("r2", accept_seq=2, prompt=prompt),
        accept("r1", accept_seq=1),
    )

    async with await state.open() as store:
        messages = await stored(store)
        first, second = await ended(store, "r1"), await ended(store, "r2")
        whole = await store.message(str(second.prompt_message_id))
        history = await store.history("s1")
        loaded = await store.load("s1")

    assert [found.order for found in messages] == [41, 42, 43, 44, 45]
    assert roles(messages) == ["user", "user", "assistant", "user", "assistant"]
    assert [found.run_id for found in messages[1:]] == ["r1", "r1", "r2", "r2"]
    assert [reason(found) for found in messages[1:]] == [None, "interrupted", None, "interrupted"]
    assert whole is not None
    assert (whole.parts, whole.author) == (prompt, ALICE)
    assert (first.text, first.message_id) == ("", messages[2].message_id)
    assert [found.message_id for found in history] == ["m1"]
    assert loaded is not None
    assert (loaded.row.message_count, loaded.last_order, loaded.last_accept_seq) == (5, 45, 2)


async def test_a_prompt_that_was_not_kept_is_made_of_its_text(state: State) -> None:
    await crash(state, accept("r1", prompt=UNSET))

    async with await state.open() as store:
        user, _ = await stored(store)

    assert user.parts == (TextBlock(text="do r1"),)


async def test_tool_calls_that_were_cut_short_are_cancelled_and_get_a_result(state: State) -> None:
    await crash(
        state,
        *running("r1"),
        put("m1", "do r1", role="user", run_id="r1", order=1),
        put(
            "m2",
            "let me look",
            tool_call("t1", input={"path": "a"}, status="completed"),
            tool_call("t2", input={"path": "b"}, status="in_progress", output="half a li", output_from=7),
            tool_call("t3", input={"path": "c"}),
            run_id="r1",
            order=2,
            finish=finish("tool_use"),
            final=True,
        ),
        put("m3", None, tool_result("t1"), role="tool", run_id="r1", order=3),
    )

    async with await state.open() as store:
        messages = await stored(store)
        found = await ended(store, "r1")

    assert roles(messages) == ["user", "assistant", "tool", "assistant"]
    assert [(call.tool_call_id, call.status, call.input) for call in calls(messages[1])] == [
        ("t1", "completed", {"path": "a"}),
        ("t2", "cancelled", {"path": "b"}),
        ("t3", "cancelled", {"path": "c"}),
    ]
    assert all(call.output is UNSET and call.output_from is UNSET for call in calls(messages[1]))
    assert reason(messages[1]) == "tool_use"
    assert results(messages[2]) == [("t1", False, "content"), ("t2", True, INTERRUPTED), ("t3", True, INTERRUPTED)]
    assert reason(messages[3]) == "interrupted"
    assert (found.text, found.message_id) == ("let me look", "m2")


async def test_a_tool_call_whose_input_was_not_complete_has_an_empty_one(state: State) -> None:
    await crash(
        state,
        *running("r1"),
        put("m1", "do r1", role="user", run_id="r1", order=1),
        put("m2", None, tool_call("t1", input_text='{"pa'), run_id="r1", order=2),
        append("m2", 'th": "b', field="inputText"),
    )

    async with await state.open() as store:
        _, answer, tool = await stored(store)
        found = await ended(store, "r1")

    (call,) = calls(answer)
    assert (call.status, call.input, call.input_text) == ("cancelled", {}, UNSET)
    assert reason(answer) == "interrupted"
    assert (tool.role, tool.run_id, results(tool)) == ("tool", "r1", [("t1", True, INTERRUPTED)])
    assert (found.text, found.message_id) == ("", "m2")


async def test_a_result_that_was_stored_before_its_call_changed_decides_the_call(state: State) -> None:
    parts: tuple[Part, ...] = (tool_call("t1", input={}, status="in_progress"), tool_call("t2", status="in_progress"))
    await crash(
        state,
        *running("r1"),
        put("m1", "do r1", role="user", run_id="r1", order=1),
        put("m2", None, *parts, run_id="r1", order=2, finish=finish("tool_use"), final=True),
        put("m3", None, tool_result("t1"), tool_result("t2", is_error=True), role="tool", run_id="r1", order=3),
    )

    async with await state.open() as store:
        messages = await stored(store)

    assert [call.status for call in calls(messages[1])] == ["completed", "failed"]
    assert results(messages[2]) == [("t1", False, "content"), ("t2", True, "content")]


async def test_a_folded_run_ends_with_what_its_turn_said(state: State) -> None:
    await crash(
        state,
        *running("r1"),
        accept("r2", accept_seq=2),
        PutRun(run=run("r2", accept_seq=2, state="running", folded_into="r1")),
        put("m1", "do r1", role="user", run_id="r1", order=1, final=True),
        put("m2", "do r2", role="user", run_id="r2", order=2, final=True),
        put("m3", "for both", run_id="r1", order=3),
    )

    async with await state.open() as store:
        messages = await stored(store)
        folded = await ended(store, "r2")
        history = await store.history("s1")

    assert roles(messages) == ["user", "user", "assistant"]
    assert (folded.text, folded.message_id, folded.prompt_message_id) == ("for both", "m3", "m2")
    assert folded.folded_into == "r1"
    assert len(history) == 3


async def test_a_run_of_another_kind_that_never_began_leaves_no_message(state: State) -> None:
    await crash(state, accept("r1", kind="shell"), accept("r2", accept_seq=2, kind="summarize"))

    async with await state.open() as store:
        assert await stored(store) == ()
        assert (await ended(store, "r1")).message_id is UNSET
        await ended(store, "r2")


async def test_a_command_that_had_begun_has_an_answer_though_its_call_was_not_stored(state: State) -> None:
    await crash(
        state,
        accept("r1", kind="shell"),
        put("m1", "make", role="user", run_id="r1", order=1, final=True),
    )

    async with await state.open() as store:
        user, answer = await stored(store)
        found = await ended(store, "r1")

    assert (user.role, answer.role, reason(answer)) == ("user", "assistant", "interrupted")
    assert (found.text, found.message_id, found.prompt_message_id) == ("", answer.message_id, "m1")


async def test_what_was_complete_stays_as_it_is(state: State) -> None:
    await crash(
        state,
        accept("r1"),
        complete("r1", message_id="m2"),
        put("m1", "do r1", role="user", run_id="r1", order=1, final=True),
        put("m2", "done", tool_call("t1", input={}, status="completed"), run_id="r1", order=2, finish=finish()),
        put("m3", None, tool_result("t1"), role="tool", run_id="r1", order=3),
    )
    async with await state.open() as store:
        first = await stored(store), await store.run("r1")

    async with await state.open() as store:
        second = await stored(store), await store.run("r1")
        loaded = await store.load("s1")

    assert first == second
    assert loaded is not None
    assert loaded.row == session_row("s1", rev=1 + 2 * REV_STEP)


async def test_an_answer_that_nobody_finished_is_finished_though_its_run_is_complete(state: State) -> None:
    await crash(state, accept("r1"), complete("r1"), put("m1", "half", tool_call("t1"), run_id="r1"), put("m2", "lone"))

    async with await state.open() as store:
        messages = await stored(store)

    assert [(found.role, reason(found)) for found in messages] == [
        ("assistant", "interrupted"),
        ("assistant", "interrupted"),
        ("tool", None),
    ]


async def test_recovering_twice_changes_nothing_more(state: State) -> None:
    await crash(
        state,
        *running("r1"),
        accept("r2", accept_seq=2),
        put("m1", "do r1", role="user", run_id="r1", order=1),
        put("m2", "half", tool_call("t1"), run_id="r1", order=2),
    )
    async with await state.open() as store:
        first = await stored(store), await store.run("r1"), await store.run("r2")

    async with await state.open() as store:
        second = await stored(store), await store.run("r1"), await store.run("r2")

    assert first == second


async def test_rev_rises_above_what_was_never_stored(state: State) -> None:
    async with await state.open() as store:
        await store.write_soon(put_session("s1", rev=5), put_session("s2", rev=5), accept("r1")).wait()
        loaded = await store.load("s1")
        assert loaded is not None
        assert loaded.row.rev == 5

    async with await state.open() as store:
        listed = await store.sessions(query=None, limit=5, cursor=None, children=False)
        loaded = await store.load("s2")
        assert loaded is not None
        assert {row.rev for row in listed.sessions} == {5 + REV_STEP}
        assert loaded.row.rev == 5 + REV_STEP
        await store.write_soon(put_session("s2", rev=loaded.row.rev + 1)).wait()

    async with await state.open() as store:
        loaded = await store.load("s2")
        assert loaded is not None
        assert loaded.row.rev == 6 + 2 * REV_STEP
        untouched = await store.load("s1")
        assert untouched is not None
        assert untouched.row.rev == 5 + 2 * REV_STEP


async def test_a_session_goes_on_after_a_recovery(state: State) -> None:
    await crash(state, *running("r1"), put("m1", "do r1", role="user", run_id="r1", order=1))

    async with await state.open() as store:
        loaded = await store.load("s1")
        assert loaded is not None
        order, accept_seq = loaded.last_order + 1, loaded.last_accept_seq + 1
        await store.write_soon(
            accept("r2", accept_seq=accept_seq), put("m9", "next", role="user", run_id="r2", order=order)
        ).wait()
        messages = await stored(store)

    assert accept_seq == 2
    assert roles(messages) == ["user", "assistant", "user"]
