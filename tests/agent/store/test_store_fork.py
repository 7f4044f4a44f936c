"""A fork in the store: what is copied, and that its copies stand on their own."""

from collections.abc import Sequence

import pytest

from atrio_agent.store.base import DeleteSessions, ForkSession, PutTodos, Store, WriteRefused
from atrio_protocol.ids import workspace_id_for, workspace_id_of
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Todo
from store_rig import State
from store_samples import (
    ALICE,
    accept,
    complete,
    finish,
    put,
    put_session,
    session_row,
    stored,
    text_of,
    texts,
    tool_call,
    tool_result,
)

WORKSPACE = workspace_id_for("one")


def fork(*, below: int = 100, through: int | None = None, source: str = "s1", to: str = "s2") -> ForkSession:
    return ForkSession(row=session_row(to), source_id=source, below=below, through=through, workspace_id=WORKSPACE)


async def talk(store: Store) -> None:
    """A prompt, a step with a tool, an answer; and one that never started in between."""
    called = tool_call("t1", status="completed", input={})
    never = {"started_at": UNSET, "stop_reason": "cancelled"}
    await store.write_soon(
        put_session("s1", message_count=6),
        accept("r1"),
        accept("r2", accept_seq=2),
        put("m1", "look", order=1, role="user", run_id="r1", author=ALICE, final=True),
        put("m2", "looking", called, order=2, run_id="r1", finish=finish("tool_use"), final=True),
        put("m3", "never", order=3, role="user", run_id="r2", final=True),
        put("m4", None, order=4, run_id="r2", finish=finish("cancelled"), final=True),
        put("m5", None, tool_result("t1"), order=5, role="tool", run_id="r1", final=True),
        put("m6", "seen", order=6, run_id="r1", finish=finish(), final=True),
        complete("r2", accept_seq=2, **never),
        complete("r1"),
    ).wait()


def shape(messages: Sequence[Message]) -> list[tuple[int, str, str]]:
    return [(message.order, message.role, text_of(message)) for message in messages]


async def test_a_fork_has_what_a_model_has_seen_under_ids_of_its_own(store: Store) -> None:
    await talk(store)
    todos = (Todo(content="mend", status="pending"),)
    await store.write_soon(PutTodos(session_id="s1", todos=todos), fork()).wait()
    copies = await stored(store, "s2")
    assert shape(copies) == [
        (1, "user", "look"),
        (2, "assistant", "looking"),
        (3, "tool", ""),
        (4, "assistant", "seen"),
    ]
    assert all(workspace_id_of(copy.message_id) == WORKSPACE and copy.run_id is UNSET for copy in copies)
    assert copies[0].author == ALICE and copies[1].finish == finish("tool_use")
    assert await store.history("s2") == copies
    assert await store.todos("s2") == todos
    loaded = await store.load("s2")
    assert loaded is not None and (loaded.row.message_count, loaded.last_order, loaded.runs) == (4, 4, ())
    found = await store.sessions(query="looking", limit=10, cursor=None, children=False)
    assert {row.session_id for row in found.sessions} == {"s1", "s2"}


@pytest.mark.parametrize(
    ("through", "below", "expected"),
    [
        (1, 100, ["look"]),
        (2, 100, ["look", "looking", ""]),  # the result comes along
        (3, 100, ["look", "looking", ""]),  # a prompt that never began is none of it
        (5, 100, ["look", "looking", ""]),
        (6, 100, ["look", "looking", "", "seen"]),
        (0, 100, []),
        (None, 6, ["look", "looking", ""]),
        (None, 5, ["look"]),  # the call has no result yet
        (2, 3, ["look"]),
    ],
)
async def test_a_fork_never_parts_a_call_from_its_result(
    store: Store, through: int | None, below: int, expected: list[str]
) -> None:
    await talk(store)
    await store.write_soon(fork(through=through, below=below)).wait()
    assert await texts(store, "s2") == expected


async def test_a_fork_outlives_its_source_and_a_restart(state: State) -> None:
    async with await state.open() as store:
        await talk(store)
        await store.write_soon(fork()).wait()
        await store.write_soon(DeleteSessions(session_ids=("s1",))).wait()
    async with await state.open() as store:
        assert await texts(store, "s2") == ["look", "looking", "", "seen"]
        copies = await stored(store, "s2")
        assert await store.message(copies[0].message_id) == copies[0]
        await store.write_soon(fork(source="s2", to="s3", through=1)).wait()
        assert await texts(store, "s3") == ["look"]


async def test_a_fork_of_nothing_is_refused_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(WriteRefused):
        await store.write_soon(fork()).wait()
    assert await store.load("s2") is None
