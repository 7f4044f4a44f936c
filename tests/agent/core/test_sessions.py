"""Sessions as things: what a cancel covers, deleting, unloading, titles, snapshots."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent import coordinator
from atrio_agent.coordinator import UNLOAD_AFTER_S, UNLOAD_EARLY_S
from atrio_agent.models.base import Finish, ModelEvent, ModelRequest, TextDelta
from atrio_agent.snapshot import messages_page, take_snapshot
from atrio_agent.store.base import DeleteSessions, PutSession, StoreFailed
from atrio_agent.streams import REPLAY_EVENTS
from atrio_agent.tools.redact import Redactor
from atrio_agent.tools.registry import read_only_tools
from atrio_protocol.errors import Overloaded, QueueFull, SessionBusy, SessionNotFound
from atrio_protocol.events import Notice
from atrio_protocol.limits import MAX_QUEUED_PER_SESSION
from atrio_protocol.things import Usage
from core_rig import ALICE, BOB, Core, PlayedModel, events_of, open_core, terminals

GATED = {"match": "gated", "responses": [[{"say": "some "}, {"gate": "go"}, {"say": "more"}]]}
STEPS = {
    "match": "steps",
    "responses": [[{"say": "one"}, {"tool": "none"}, {"gate": "go"}], [{"gate": "go"}, {"say": "two"}]],
}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}


class Titled(PlayedModel):
    """A model that answers, and whose titles are something special: a bug, or slow."""

    def __init__(self, *, title: str | None, after_s: float = 0) -> None:
        self.title = title
        self.after_s = after_s

    async def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        await trio.sleep(self.after_s if request.purpose == "title" else 0)
        if request.purpose == "title" and self.title is None:
            raise ValueError("a bug")
        yield TextDelta(self.title or "yes" if request.purpose == "title" else "yes")
        yield Finish("end_turn")


async def untitled(core: Core) -> Any:
    """A session that nobody has named."""
    session = await core.coordinator.new_session(title=None, model=None)
    core.session = session
    return session


async def test_a_bug_in_naming_a_session_ends_nothing(autojump_clock: MockClock) -> None:
    async with open_core(model=Titled(title=None)) as core:
        await untitled(core)
        first = core.prompt("hello there")
        await first.done.wait()
        await trio.sleep(1)
        second = core.prompt("again")
        await second.done.wait()
        assert [reason for _, reason in terminals(core.events)] == ["end_turn", "end_turn"]
        assert core.session.profile.row.title == "hello there"


async def test_a_title_that_comes_after_the_deletion_is_not_told(autojump_clock: MockClock) -> None:
    async with open_core(model=Titled(title="Late", after_s=10)) as core:
        session = await untitled(core)
        await core.prompt("hello").done.wait()
        await core.coordinator.delete_soon(session).wait()
        await trio.sleep(20)
        types = [event["type"] for event in events_of(core.coordinator.ground.stream)]
        assert types[-1] == "session.deleted"
        assert session.session_id not in core.disk.sessions


async def test_a_title_that_cannot_be_stored_is_taken_back_and_told_to_nobody(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        profile = core.session.profile
        core.disk.fail_commits(having=PutSession)
        change = profile.set_title_soon("new")
        profile.refresh()  # as by anything else that happens meanwhile
        with pytest.raises(StoreFailed):
            await change.wait()
        told = [event["session"]["title"] for event in core.events if event["type"] == "session.updated"]
        assert (profile.row.title, "new" in told) == ("core", False)


async def test_a_title_that_cannot_be_stored_leaves_a_later_one_alone(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        core.disk.hold_commits()
        first = core.session.profile.set_title_soon("first")
        await trio.sleep(0.1)
        second = core.session.profile.set_title_soon("second")
        core.disk.fail_commits(having=PutSession)
        core.disk.open_gate()
        with pytest.raises(StoreFailed):
            await first.wait()
        await second.wait()
        assert core.session.profile.row.title == "second"
        assert core.disk.sessions[core.session.session_id].row.title == "second"


async def test_a_title_is_shown_once_it_is_stored(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        profile = core.session.profile
        core.disk.hold_commits()
        change = profile.set_title_soon("new")
        await core.disk.wait_for_commit()
        shown = profile.view()
        assert (shown.title, shown.rev) == ("core", profile.row.rev)
        core.prompt("hello")
        core.disk.release_commit()
        await change.wait()
        assert (profile.view().title, profile.view().rev > shown.rev) == ("new", True)
        core.disk.open_gate()
    told = {event["session"]["rev"]: event["session"]["title"] for event in core.events if "session" in event}
    assert all(title == ("core" if rev <= shown.rev else "new") for rev, title in told.items())


async def test_the_last_of_several_titles_that_could_be_stored_stays(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        profile = core.session.profile
        core.disk.hold_commits()
        stored = profile.set_title_soon("stored")
        await core.disk.wait_for_commit()
        lost = profile.set_title_soon("lost")
        core.disk.release_commit()
        await stored.wait()
        assert profile.view().title == "stored"
        core.disk.fail_commits(having=PutSession)
        core.disk.open_gate()
        with pytest.raises(StoreFailed):
            await lost.wait()
        await trio.sleep(1)
        assert (profile.row.title, profile.view().title) == ("stored", "stored")
        assert core.disk.sessions[core.session.session_id].row.title == "stored"


async def test_of_titles_that_are_stored_together_the_last_one_stays(autojump_clock: MockClock) -> None:
    with trio.fail_after(300):
        async with open_core() as core:
            profile = core.session.profile
            for at in range(30):  # which of the two hears first that it is stored is left to chance
                changes = [profile.set_title_soon(f"{word} {at}") for word in ("first", "second")]
                for change in changes:
                    await change.wait()
                assert profile.view().title == profile.row.title == f"second {at}"


async def test_a_session_whose_deletion_fails_is_there_again(autojump_clock: MockClock) -> None:
    async with open_core(GATED, PLAIN) as core:
        run = core.prompt("gated")
        await trio.sleep(0.1)
        core.disk.fail_commits(having=DeleteSessions)
        deletion = core.coordinator.delete_soon(core.session)
        with pytest.raises(SessionNotFound):
            await core.coordinator.session(core.session.session_id)
        with pytest.raises(StoreFailed):
            await deletion.wait()
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        assert await core.coordinator.session(core.session.session_id) is core.session
        again = core.prompt("again")
        await again.done.wait()
        assert terminals(core.events)[-1] == (again.run_id, "end_turn")


async def test_a_session_that_is_deleted_while_it_is_loaded_is_not_found(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        await trio.sleep(UNLOAD_AFTER_S * 1.2)
        session_id = core.session.session_id
        assert core.coordinator.loaded(session_id) is None
        found: list[Any] = []

        async def look() -> None:
            try:
                found.append(await core.coordinator.session(session_id))
            except SessionNotFound:
                found.append(None)

        async def delete() -> None:
            while (session := core.coordinator.loaded(session_id)) is None:
                await trio.lowlevel.checkpoint()
            core.coordinator.delete_soon(session)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete)
            for _ in range(8):
                nursery.start_soon(look)
        # Whoever got it before the deletion has it; who was on the way is told that there is none.
        assert all(one is None or one.session_id == session_id for one in found)
        assert len(found) == 8


async def test_no_session_is_let_go_of_while_something_of_it_cannot_be_stored(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        session_id = core.session.session_id
        core.disk.fail_commits(int(UNLOAD_AFTER_S * 3))  # one try a second
        core.session.profile.count_beside(Usage(input_tokens=7))
        await trio.sleep(UNLOAD_AFTER_S * 2)
        assert core.store.is_behind
        assert await core.coordinator.session(session_id) is core.session
        await trio.sleep(UNLOAD_AFTER_S * 3)
        assert not core.store.is_behind
        again = await core.coordinator.session(session_id)
        assert again is not core.session
        assert again.profile.row.usage.input_tokens == 7


async def test_an_idle_session_is_let_go_of_and_read_again(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        run = core.prompt("hi", run_id="mine")
        await run.done.wait()
        await trio.sleep(UNLOAD_AFTER_S * 1.2)
        again = await core.coordinator.session(core.session.session_id)
        assert again is not core.session and again.stream.epoch != core.session.stream.epoch
        assert again.inbox.recognise("mine", run.prompt, "prompt") is not None
        assert again.inbox.accept_seq == 1
        later = again.accept(prompt=run.prompt, run_id=None, delivery="queue", author=ALICE, model_id=None, meta=None)
        await later.done.wait()
        page = await messages_page(again, core.store, before=None, limit=100)
        assert [message.order for message in page.messages] == [1, 2, 3, 4]


async def test_a_session_that_works_is_never_let_go_of(autojump_clock: MockClock) -> None:
    async with open_core(GATED) as core:
        run = core.prompt("gated")
        await trio.sleep(UNLOAD_AFTER_S * 3)
        assert core.coordinator.loaded(core.session.session_id) is core.session
        core.gates.release("go")
        await run.done.wait()


async def test_a_session_whose_title_is_being_made_or_stored_is_not_let_go_of(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back to a session that was read again meanwhile would be written over what that one has."""
    async with open_core(model=Titled(title="Late", after_s=UNLOAD_EARLY_S * 2)) as core:
        session = await untitled(core)
        await core.prompt("hello").done.wait()
        await trio.sleep(UNLOAD_EARLY_S * 1.5)
        with monkeypatch.context() as patched:
            patched.setattr(coordinator, "MAX_LOADED", 1)
            with pytest.raises(Overloaded):
                await core.coordinator.new_session(title="one too many", model=None)
        assert core.coordinator.loaded(session.session_id) is session
        await trio.sleep(UNLOAD_EARLY_S)
        assert session.profile.row.title == "Late"
        core.disk.hold_commits()
        change = session.profile.set_title_soon("stored late")
        await trio.sleep(UNLOAD_AFTER_S * 1.5)
        assert core.coordinator.loaded(session.session_id) is session
        core.disk.open_gate()
        await change.wait()
        await trio.sleep(UNLOAD_AFTER_S * 1.5)
        assert core.coordinator.loaded(session.session_id) is None


async def test_a_cancel_of_what_is_mine_takes_nobody_elses_steer_along(autojump_clock: MockClock) -> None:
    """The turn's loop may be past its last wait when the cancel comes: it must not fold any more."""
    async with open_core(STEPS, PLAIN) as core:
        main = core.prompt("steps")
        await trio.sleep(0.1)
        steered = core.prompt("other", delivery="steer", by=BOB)
        await trio.sleep(0.1)
        assert core.session.inbox.cancel(by=ALICE, mine=True).runs == (main,)
        core.session.fold_into(main)
        await steered.done.wait()
        assert terminals(core.events) == [(main.run_id, "cancelled"), (steered.run_id, "end_turn")]


async def test_an_interrupt_that_is_taken_back_before_it_is_stored_interrupts_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_core(GATED) as core:
        main = core.prompt("gated")
        await trio.sleep(0.1)
        interrupt = core.prompt("now", delivery="interrupt")
        assert core.session.inbox.clear_queue(by=ALICE).runs == (interrupt,)
        await interrupt.done.wait()
        core.gates.release("go")
        await main.done.wait()
        assert terminals(core.events) == [(interrupt.run_id, "cancelled"), (main.run_id, "end_turn")]


async def test_interrupts_go_first_each_by_its_number(autojump_clock: MockClock) -> None:
    async with open_core(GATED, PLAIN) as core:
        runs = {"first": core.prompt("gated")}
        await trio.sleep(0.1)
        for name, delivery in [("q1", "queue"), ("steer", "steer"), ("i1", "interrupt"), ("i2", "interrupt")]:
            runs[name] = core.prompt(name, delivery=delivery)  # type: ignore[arg-type]  # one of the deliveries
        names = {run.run_id: name for name, run in runs.items()}
        for run in runs.values():
            await run.done.wait()
        ends = [(names[run_id], reason) for run_id, reason in terminals(core.events)]
        assert [name for name, _ in ends] == ["first", "i1", "i2", "q1", "steer"]


async def test_a_run_that_is_interrupted_in_the_moment_of_its_start_never_starts(autojump_clock: MockClock) -> None:
    async with open_core(PLAIN) as core:
        core.gates.hold("run.start", core.session.session_id)
        run = core.prompt("taken")
        await core.gates.wait_for("run.start", 1)
        core.gates.release("run.start")
        assert core.session.inbox.cancel(by=ALICE).runs == (run,)  # it has been let go on, and does not know yet
        await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        assert "run.started" not in {event["type"] for event in core.events}


async def test_a_full_queue_and_a_busy_session_refuse_and_reserve_nothing(autojump_clock: MockClock) -> None:
    async with open_core(GATED) as core:
        core.prompt("gated")
        await trio.sleep(0.1)
        with pytest.raises(SessionBusy):
            core.prompt("now or never", delivery="reject")
        for _ in range(MAX_QUEUED_PER_SESSION):
            core.prompt("gated")
        with pytest.raises(QueueFull):
            core.prompt("one more")
        assert core.session.inbox.accept_seq == MAX_QUEUED_PER_SESSION + 1
        assert len(core.session.inbox.clear_queue(by=ALICE).runs) == MAX_QUEUED_PER_SESSION
        core.prompt("there is room again")


async def test_a_snapshot_taken_while_runs_end_joins_the_events_after_it(autojump_clock: MockClock) -> None:
    async with open_core({"responses": [[{"say": "x", "times": 40, "delayMs": 1}]]}) as core:
        snapshots: list[Any] = []

        async def look() -> None:
            snapshots.append(await take_snapshot(core.session, core.store, history_limit=100, watch=(*ids,)))

        ids: list[str] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                ids.append(core.prompt("hi").run_id)
                for _ in range(25):
                    nursery.start_soon(look)
                    await trio.sleep(0.002)
            while core.session.inbox:
                nursery.start_soon(look)
                await trio.sleep(0.002)
        events = core.events
        for cursor, snapshot in snapshots:
            seen = [event for event in events if event["seq"] <= cursor.seq]
            done = [run_id for run_id, _ in terminals(seen)]
            assert [run.run_id for run in snapshot.runs if run.state == "completed"] == done
            created = [event["message"]["messageId"] for event in seen if event["type"] == "message.created"]
            assert [message.message_id for message in snapshot.messages] == created
            last = snapshot.messages[-1].parts if snapshot.messages else ()
            growing = [event for event in seen if event.get("messageId") == (created or [None])[-1]]
            if growing and last:
                assert last[0].text == "".join(event.get("text", "") for event in growing)


async def test_a_snapshot_that_was_lapped_is_taken_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as core:
        await core.prompt("hi").done.wait()
        await wait_all_tasks_blocked()
        read = core.store.messages
        reads = 0

        async def flooded(*args: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads == 1:
                for _ in range(REPLAY_EVENTS + 1):
                    core.session.stream.publish(Notice(severity="info", title="flood"))
            return await read(*args, **kwargs)

        monkeypatch.setattr(core.store, "messages", flooded)
        cursor, _ = await take_snapshot(core.session, core.store, history_limit=100, watch=())
        assert reads == 2 and cursor.seq == core.session.stream.seq and not cursor.lagged


async def test_no_messages_are_older_than_the_first(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        await core.prompt("hi").done.wait()
        assert await messages_page(core.session, core.store, before=0, limit=10) == ((), False)
        assert len((await messages_page(core.session, core.store, before=2, limit=10)).messages) == 1


async def test_what_is_told_of_a_workspace_holds_no_secret_of_the_server() -> None:
    async with open_core(tools=read_only_tools(Redactor(["sk-secret-key"]))) as core:
        core.coordinator.notify("error", "The MCP server tracker has failed", "It said: bad key sk-secret-key")
        (notice,) = [event for event in core.events if event["type"] == "notice"]
        assert notice["detail"] == "It said: bad key [redacted]"
