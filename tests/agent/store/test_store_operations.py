"""What is written can be read, in both stores in the same way."""

import pytest

from atrio_agent.store.base import DeleteSessions, PutRun, RunNotOpen, Store, StoreFailed, WriteRefused
from atrio_protocol.content import ImageBlock, TextBlock
from atrio_protocol.parts import ReasoningPart, ToolCallPart
from atrio_protocol.struct import UNSET
from store_samples import (
    MAX_BYTES,
    accept,
    append,
    complete,
    finish,
    message,
    put,
    put_session,
    run,
    session_row,
    stored,
    text_of,
    texts,
    tool_call,
)


async def test_a_session_is_loaded_with_what_it_needs_to_go_on(store: Store) -> None:
    await store.write_soon(
        put_session("s1", title="first", rev=7),
        accept("r1", accept_seq=3),
        accept("r2", accept_seq=9),
        put("m1", "hello", order=4),
        put("m2", "there", order=6),
    ).wait()

    loaded = await store.load("s1")

    assert loaded is not None
    assert loaded.row == session_row("s1", title="first", rev=7)
    assert [(key.run_id, key.accept_seq, key.digest) for key in loaded.runs] == [
        ("r1", 3, "digest of r1"),
        ("r2", 9, "digest of r2"),
    ]
    assert (loaded.last_order, loaded.last_accept_seq) == (6, 9)


async def test_a_session_without_anything_begins_at_nought(store: Store) -> None:
    await store.write_soon(put_session("s1")).wait()

    loaded = await store.load("s1")

    assert loaded is not None
    assert (loaded.runs, loaded.last_order, loaded.last_accept_seq) == ((), 0, 0)
    assert await store.load("s2") is None


async def test_a_call_without_operations_is_stored_at_once(store: Store) -> None:
    commit = store.write_soon()

    assert commit.settled
    await commit.wait()


async def test_the_operations_of_a_call_happen_together_or_not_at_all(store: Store) -> None:
    await store.write_soon(put_session("s1")).wait()

    commit = store.write_soon(put("m1", "not to be seen"), complete("r1"), put_session("s2"))

    with pytest.raises(RunNotOpen):
        await commit.wait()
    assert await stored(store) == ()
    assert await store.load("s2") is None


async def test_a_call_that_is_refused_leaves_its_neighbours(store: Store) -> None:
    await store.write_soon(put_session("s1"), accept("r1")).wait()

    commits = [store.write_soon(put(f"m{order}", order=order)) for order in range(1, 20)]
    refused = store.write_soon(complete("nobody"), put("never"))
    commits += [store.write_soon(complete("r1"))]
    commits += [store.write_soon(put(f"m{order}", order=order)) for order in range(20, 40)]

    for commit in commits:
        await commit.wait()
    with pytest.raises(RunNotOpen):
        await refused.wait()
    assert [found.order for found in await stored(store)] == list(range(1, 40))


async def test_a_run_is_completed_once(store: Store) -> None:
    await store.write_soon(put_session("s1"), accept("r1")).wait()
    first = store.write_soon(complete("r1", stop_reason="cancelled"))
    second = store.write_soon(complete("r1", stop_reason="end_turn"))

    await first.wait()
    with pytest.raises(RunNotOpen):
        await second.wait()

    found = await store.run("r1")
    assert found is not None
    assert found.stop_reason == "cancelled"


async def test_a_completed_run_is_not_put_again(store: Store) -> None:
    await store.write_soon(put_session("s1"), accept("r1"), complete("r1")).wait()

    await store.write_soon(PutRun(run=run("r1", state="running"))).wait()

    found = await store.run("r1")
    assert found is not None
    assert found.state == "completed"


async def test_a_run_has_its_whole_prompt_until_it_is_completed(store: Store) -> None:
    prompt = (TextBlock(text="look"), ImageBlock(mime_type="image/png", data="A" * 200_000))
    await store.write_soon(put_session("s1"), accept("r1", prompt=prompt)).wait()
    await store.write_soon(PutRun(run=run("r1", state="running", prompt=UNSET))).wait()

    running = await store.run("r1")
    listed = await store.runs("s1", before=None, limit=10)
    await store.write_soon(complete("r1")).wait()
    completed = await store.run("r1")

    assert running is not None
    assert (running.state, running.prompt) == ("running", prompt)
    assert listed.runs[0].prompt is UNSET
    assert completed is not None
    assert completed.prompt is UNSET
    assert await store.run("r2") is None


async def test_runs_are_listed_from_the_newest(store: Store) -> None:
    await store.write_soon(
        put_session("s1"), put_session("s2"), accept("other", "s2"), *(accept(f"r{n}", accept_seq=n) for n in range(7))
    ).wait()

    newest = await store.runs("s1", before=None, limit=3)
    rest = await store.runs("s1", before=newest.runs[-1].accept_seq, limit=10)

    assert [found.accept_seq for found in newest.runs] == [6, 5, 4]
    assert newest.more
    assert [found.accept_seq for found in rest.runs] == [3, 2, 1, 0]
    assert not rest.more


async def test_a_run_of_a_session_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(WriteRefused):
        await store.write_soon(accept("r1")).wait()

    assert await store.run("r1") is None


async def test_text_is_appended_to_the_part_that_grows(store: Store) -> None:
    parts = (ReasoningPart(text="let"), tool_call("t1", input_text='{"pa'), tool_call("t2"))
    await store.write_soon(put_session("s1"), put("m1", "so ", *parts)).wait()

    await store.write_soon(
        append("m1", "far "),
        append("m1", " me see", part=1),
        append("m1", 'th": 1}', part=2, field="inputText"),
        append("m1", "line 1\n", part=3, field="output"),
        append("m1", "so good"),
        append("m1", "line 2\n", part=3, field="output"),
        append("m1", "for a part that is not there", part=9),
        append("m1", "of another kind", part=0, field="output"),
    ).wait()

    found = await store.message("m1")
    assert found is not None
    text, reasoning, first, second = found.parts
    assert text == TextBlock(text="so far so good")
    assert reasoning == ReasoningPart(text="let me see")
    assert isinstance(first, ToolCallPart)
    assert first.input_text == '{"path": 1}'
    assert isinstance(second, ToolCallPart)
    assert second.output == "line 1\nline 2\n"
    assert await stored(store) == (found,)
    assert await store.history("s1") == (found,)


async def test_a_message_that_is_put_again_has_nothing_appended(store: Store) -> None:
    await store.write_soon(put_session("s1"), put("m1", "one"), append("m1", " two")).wait()

    await store.write_soon(put("m1", "anew"), append("m1", " and on")).wait()

    assert await texts(store) == ["anew and on"]


async def test_text_that_is_strange_is_kept_as_it_is(store: Store) -> None:
    strange = "a\x00b\u2028\U0001d11e\"'\\; DROP TABLE messages; --\r\n\ufeffä"
    await store.write_soon(put_session("s1", title=strange), put("m1", strange), append("m1", strange)).wait()

    loaded = await store.load("s1")

    assert loaded is not None
    assert loaded.row.title == strange
    assert text_of(await store.message("m1")) == strange * 2


async def test_what_cannot_be_stored_is_refused_and_harms_nobody(store: Store) -> None:
    await store.write_soon(put_session("s1"), put("m1")).wait()
    half_a_pair = store.write_soon(append("m1", "\ud800"))
    neighbour = store.write_soon(append("m1", "fine"))

    with pytest.raises(WriteRefused):
        await half_a_pair.wait()
    await neighbour.wait()
    assert await texts(store) == ["fine"]


async def test_what_belongs_to_a_deleted_session_does_not_come_back(store: Store) -> None:
    await store.write_soon(
        put_session("s1"), put_session("s2"), accept("r1"), put("m1", "findme", final=True), append("m1", "more")
    ).wait()
    await store.write_soon(put("m2", "findme", session_id="s2", final=True)).wait()

    await store.write_soon(DeleteSessions(session_ids=("s1",))).wait()
    await store.write_soon(
        put_session("s1", title="findme"), put("m1", "findme", final=True), append("m1", "x"), PutRun(run=run("r1"))
    ).wait()

    assert await store.load("s1") is None
    assert await store.message("m1") is None
    assert await store.run("r1") is None
    assert await stored(store) == ()
    found = await store.sessions(query="findme", limit=10, cursor=None, children=True)
    assert [row.session_id for row in found.sessions] == ["s2"]
    with pytest.raises(StoreFailed):
        await store.write_soon(complete("r1")).wait()
    with pytest.raises(WriteRefused):
        await store.write_soon(accept("r1")).wait()


async def test_descendants_are_found_however_deep(store: Store) -> None:
    await store.write_soon(
        put_session("s1"),
        put_session("s2", parent_session_id="s1", root_session_id="s1"),
        put_session("s3", parent_session_id="s2", root_session_id="s1"),
        put_session("s4", parent_session_id="s1", root_session_id="s1"),
        put_session("s5"),
    ).wait()

    assert set(await store.descendants("s1")) == {"s2", "s3", "s4"}
    assert list(await store.descendants("s3")) == []


async def test_a_model_knows_what_was_said_since_the_last_summary(store: Store) -> None:
    await store.write_soon(
        put_session("s1"),
        put("m1", "old", order=1, role="user"),
        put("m2", "summary one", order=2, summary=True, finish=finish()),
        put("m3", "between", order=3, role="user"),
        put("m4", "summary two", order=4, summary=True, finish=finish()),
        put("m5", "new", order=5, role="user"),
        put("m6", "a summary cut short", order=6, summary=True, finish=finish("cancelled")),
    ).wait()

    assert [found.message_id for found in await store.history("s1")] == ["m4", "m5", "m6"]


async def test_a_model_does_not_know_of_runs_that_never_began(store: Store) -> None:
    time = "2026-11-20T10:00:00.000Z"
    await store.write_soon(
        put_session("s1"),
        *(accept(f"r{n}", accept_seq=n) for n in range(1, 5)),
        put("m1", "began", order=1, run_id="r1"),
        put("m2", "cancelled in the queue", order=2, run_id="r2"),
        put("m3", "folded", order=3, run_id="r3"),
        put("m4", "still open", order=4, run_id="r4"),
        complete("r1", accept_seq=1, started_at=time),
        complete("r2", accept_seq=2, started_at=UNSET, stop_reason="cancelled"),
        complete("r3", accept_seq=3, started_at=UNSET, folded_into="r1"),
    ).wait()

    assert [found.message_id for found in await store.history("s1")] == ["m1", "m3", "m4"]


async def test_large_images_are_left_out_of_pages_but_not_of_the_message(store: Store) -> None:
    image = ImageBlock(mime_type="image/png", data="A" * 200_000)
    whole = message("m1", "look", image, role="user")
    await store.write_soon(put_session("s1"), put("m1", "look", image, role="user")).wait()

    page = await store.messages("s1", before=None, limit=10, max_bytes=MAX_BYTES)

    assert page.messages[0].parts[1] == ImageBlock(mime_type="image/png", bytes=150_000)
    assert await store.message("m1") == whole
    assert await store.history("s1") == (whole,)


@pytest.mark.parametrize("before", [None, 2**63, 2**200])
async def test_any_number_may_be_asked_for(store: Store, before: int | None) -> None:
    await store.write_soon(put_session("s1"), accept("r1"), put("m1")).wait()

    assert len((await store.messages("s1", before=before, limit=2**70, max_bytes=MAX_BYTES)).messages) == 1
    assert len((await store.runs("s1", before=before, limit=2**70)).runs) == 1
    assert (await store.messages("s1", before=-(2**70), limit=-5, max_bytes=-1)).messages == ()
    assert (await store.runs("s1", before=-(2**70), limit=-5)).runs == ()


async def test_a_finished_page_holds_the_newest_and_says_whether_there_is_more(store: Store) -> None:
    await store.write_soon(put_session("s1"), *(put(f"m{order}", order=order) for order in range(1, 11))).wait()

    newest = await store.messages("s1", before=None, limit=4, max_bytes=MAX_BYTES)
    older = await store.messages("s1", before=newest.messages[0].order, limit=100, max_bytes=MAX_BYTES)
    one = await store.messages("s1", before=None, limit=100, max_bytes=1)

    assert [found.order for found in newest.messages] == [7, 8, 9, 10]
    assert newest.more
    assert [found.order for found in older.messages] == [1, 2, 3, 4, 5, 6]
    assert not older.more
    assert [found.order for found in one.messages] == [10]
    assert one.more
