"""A client-made run id is unique in the state directory, whatever races or crashes."""

import pytest

from atrio_agent.store.base import DeleteSessions, RunIdTaken, Store, StoreFailed
from atrio_protocol.ids import new_id, workspace_id_for
from store_rig import SqliteState, State, end_of_process
from store_samples import accept, complete, put_session

ONE, TWO = workspace_id_for("one"), workspace_id_for("two")


async def session(store: Store, *session_ids: str) -> None:
    await store.write_soon(*map(put_session, session_ids)).wait()


async def test_a_run_is_found_by_the_id_that_its_client_made(state: State) -> None:
    async with await state.open("one") as store:
        await session(store, "s1")
        await store.write_soon(accept("mine", client_made=True), accept("ours", accept_seq=2)).wait()

        assert await state.index.find_run("mine") == (ONE, "s1")
        assert await state.index.find_run("ours") is None
        assert await state.index.find_run("nobody's") is None


async def test_another_session_cannot_have_the_id(state: State) -> None:
    async with await state.open() as store:
        await session(store, "s1", "s2")
        first = store.write_soon(accept("mine", client_made=True))
        neighbour = store.write_soon(accept("other", "s2", client_made=True))
        second = store.write_soon(accept("mine", "s2", accept_seq=2, client_made=True))

        await first.wait()
        await neighbour.wait()
        with pytest.raises(RunIdTaken):
            await second.wait()
        assert await state.index.find_run("mine") == (ONE, "s1")


async def test_a_completed_run_keeps_its_id(state: State) -> None:
    async with await state.open() as store:
        await session(store, "s1")
        await store.write_soon(accept("mine", client_made=True), complete("mine")).wait()

        with pytest.raises(RunIdTaken):
            await store.write_soon(accept("mine", accept_seq=2, client_made=True)).wait()


async def test_another_workspace_cannot_have_the_id(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2")
        await one.write_soon(accept("mine", client_made=True)).wait()

        refused = two.write_soon(accept("mine", "s2", client_made=True))
        neighbour = two.write_soon(accept("other", "s2", client_made=True))

        with pytest.raises(RunIdTaken):
            await refused.wait()
        await neighbour.wait()
        assert await two.run("mine") is None
        assert await state.index.find_run("mine") == (ONE, "s1")


async def test_another_workspace_cannot_have_the_id_while_its_owner_is_closed(state: State) -> None:
    async with await state.open("one") as one:
        await session(one, "s1")
        await one.write_soon(accept("mine", client_made=True)).wait()

    async with await state.open("two") as two:
        await session(two, "s2")
        with pytest.raises(RunIdTaken):
            await two.write_soon(accept("mine", "s2", client_made=True)).wait()


async def test_of_two_workspaces_that_claim_at_once_one_wins(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2")
        for number in range(50):
            commits = [
                one.write_soon(accept(f"r{number}", "s1", number, client_made=True)),
                two.write_soon(accept(f"r{number}", "s2", number, client_made=True)),
            ]
            won: list[str] = []
            for store, session_id, commit in zip((one, two), ("s1", "s2"), commits, strict=True):
                try:
                    await commit.wait()
                except RunIdTaken:
                    assert await store.run(f"r{number}") is None
                else:
                    won.append(session_id)
            assert len(won) == 1
            found = await state.index.find_run(f"r{number}")
            assert found is not None
            assert found[1] == won[0]


async def test_a_private_id_tells_nothing_of_other_workspaces_and_takes_nothing_from_them(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2", "s3")
        await one.write_soon(accept("mine", client_made=True)).wait()

        # One call, as the writer may collect them: the free id is claimed, the other one's is left alone.
        await two.write_soon(
            accept("mine", "s2", client_made=True, private_id=True),
            accept("free", "s2", 2, client_made=True, private_id=True),
        ).wait()

        assert await state.index.find_run("mine") == (ONE, "s1")
        assert await state.index.find_run("free") == (TWO, "s2")
        assert (await one.run("mine")).session_id == "s1"  # type: ignore[union-attr]  # it is there
        assert (await two.run("mine")).session_id == "s2"  # type: ignore[union-attr]  # it is there
        with pytest.raises(RunIdTaken):  # in the own workspace it is told as ever
            await two.write_soon(accept("mine", "s3", client_made=True, private_id=True)).wait()

        await two.write_soon(complete("mine"), DeleteSessions(session_ids=("s2",))).wait()
        assert await state.index.find_run("mine") == (ONE, "s1")


async def test_a_private_id_is_claimed_where_it_can_be(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2")
        await one.write_soon(accept("mine", client_made=True, private_id=True)).wait()
        with pytest.raises(RunIdTaken):
            await two.write_soon(accept("mine", "s2", client_made=True)).wait()


async def test_a_claim_whose_run_never_came_to_be_is_taken_over(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(two, "s2")
        # As if the process had ended between the two commits.
        assert state.index.claim(ONE, {"mine": "s1"}) == {}
        state.index.settle(ONE, ["mine"])
        assert await one.run("mine") is None

        await two.write_soon(accept("mine", "s2", client_made=True)).wait()

        assert await state.index.find_run("mine") == (TWO, "s2")


async def test_a_claim_of_the_same_workspace_that_came_to_nothing_is_taken_over(state: State) -> None:
    async with await state.open() as store:
        await session(store, "s1", "s2")
        assert state.index.claim(ONE, {"mine": "s1"}) == {}
        state.index.settle(ONE, ["mine"])

        await store.write_soon(accept("mine", "s2", client_made=True)).wait()

        assert await state.index.find_run("mine") == (ONE, "s2")


async def test_a_call_that_fails_for_another_reason_leaves_its_id_free(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2")
        with pytest.raises(StoreFailed):
            await one.write_soon(accept("mine", client_made=True), complete("nobody")).wait()

        await two.write_soon(accept("mine", "s2", client_made=True)).wait()


async def test_a_deleted_session_frees_its_ids(state: State) -> None:
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1")
        await session(two, "s2")
        await one.write_soon(accept("mine", client_made=True), complete("mine")).wait()
        await one.write_soon(DeleteSessions(session_ids=("s1",))).wait()

        assert await state.index.find_run("mine") is None
        await two.write_soon(accept("mine", "s2", client_made=True)).wait()
        assert await state.index.find_run("mine") == (TWO, "s2")


async def test_an_id_may_be_freed_and_taken_in_one_commit(state: State) -> None:
    async with await state.open() as store:
        await session(store, "s1", "s2")
        await store.write_soon(accept("mine", client_made=True)).wait()

        store.write_soon(DeleteSessions(session_ids=("s1",)))
        await store.write_soon(accept("mine", "s2", client_made=True)).wait()

        found = await store.run("mine")
        assert found is not None
        assert found.session_id == "s2"
        assert await state.index.find_run("mine") == (ONE, "s2")


async def test_a_client_cannot_take_an_id_that_a_server_made(state: State) -> None:
    ours = new_id(ONE, "r")
    async with await state.open("one") as one, await state.open("two") as two:
        await session(one, "s1", "s3")
        await session(two, "s2")
        await one.write_soon(accept(ours)).wait()

        for store, session_id in ((two, "s2"), (one, "s3")):
            with pytest.raises(RunIdTaken):
                await store.write_soon(accept(ours, session_id, client_made=True)).wait()


async def test_a_client_may_make_an_id_that_only_looks_like_ours(state: State) -> None:
    looks_like_ours = new_id(ONE, "r")
    async with await state.open("one"), await state.open("two") as two:
        await session(two, "s2")
        await two.write_soon(accept(looks_like_ours, "s2", client_made=True)).wait()

        assert await state.index.find_run(looks_like_ours) == (TWO, "s2")


async def test_a_workspace_that_is_known_keeps_when_it_was_made(state: State) -> None:
    first = await state.index.register_workspace(ONE, "/somewhere", "one")
    again = await state.index.register_workspace(ONE, "/somewhere", "one-moved")
    await state.index.register_workspace(TWO, "/elsewhere", "two")

    assert again.created_at == first.created_at
    assert [row.directory for row in await state.index.workspaces()] == ["one-moved", "two"]
    assert await state.index.workspace_path(ONE) == "/somewhere"
    assert await state.index.workspace_path(workspace_id_for("unknown")) is None


async def test_an_id_that_another_workspace_has_claimed_and_not_decided_is_taken(sqlite_state: SqliteState) -> None:
    index = sqlite_state.index
    async with await sqlite_state.open("one"):
        assert index.claim(ONE, {"mine": "s1"}) == {}

        assert isinstance(index.claim(TWO, {"mine": "s2"})["mine"], RunIdTaken)
        assert index.claim(TWO, {"mine": "s2"}, private=["mine"]) == {}
        index.settle(TWO, ["mine"])  # it is not this one's to settle
        assert isinstance(index.claim(TWO, {"mine": "s2"})["mine"], RunIdTaken)
        index.settle(ONE, ["mine"])
        assert index.claim(TWO, {"mine": "s2"}) == {}


async def test_of_several_claims_none_is_made_if_one_cannot_be(sqlite_state: SqliteState) -> None:
    index = sqlite_state.index
    assert index.claim(ONE, {"a": "s1"}) == {}

    assert list(index.claim(TWO, {"a": "s2", "b": "s2"})) == ["a"]

    assert await index.find_run("b") is None


async def test_what_the_index_lost_is_put_back_after_a_crash(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open("one") as store:
        await session(store, "s1")
        await store.write_soon(accept("mine", client_made=True)).wait()
        store.set_close_deadline(0)  # long past: it is left as a crash leaves it
    end_of_process(store)
    sqlite_state.index.free(ONE, {"mine": "s1"})
    assert await sqlite_state.index.find_run("mine") is None

    async with await sqlite_state.open("one"):
        assert await sqlite_state.index.find_run("mine") == (ONE, "s1")


async def test_a_damaged_neighbour_refuses_the_id_and_nothing_else(sqlite_state: SqliteState) -> None:
    async with await sqlite_state.open("one") as one:
        await session(one, "s1")
        await one.write_soon(accept("mine", client_made=True)).wait()
    sqlite_state.path("one").write_bytes(b"this is no database at all" * 100)

    async with await sqlite_state.open("two") as two:
        await session(two, "s2")
        unknown = two.write_soon(accept("mine", "s2", client_made=True))
        neighbour = two.write_soon(accept("other", "s2", client_made=True))
        with pytest.raises(StoreFailed) as caught:
            await unknown.wait()
        await neighbour.wait()

    assert not isinstance(caught.value, RunIdTaken)
