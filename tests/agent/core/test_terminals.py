"""Every accepted prompt has exactly one end, whichever commit fails and whatever breaks."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_agent import session as session_module
from atrio_agent.ending import Ending
from atrio_agent.lifetime import Deadlines
from atrio_agent.store.base import CompleteRun, StoreFailed, WriteRefused
from atrio_protocol.errors import WorkspaceClosing
from core_rig import BOB, Core, open_core, terminals

GATED = {"match": "gated", "responses": [[{"say": "some "}, {"gate": "go"}, {"say": "more"}]]}
STEPS = {"match": "steps", "responses": [[{"say": "one"}, {"tool": "none"}], [{"gate": "go"}, {"say": "two"}]]}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}


async def go_on(core: Core) -> None:
    """Let everything go on until nothing is left to do."""
    while core.session.inbox:
        core.gates.release("go", everyone=True)
        await trio.sleep(0.5)


@pytest.mark.parametrize("nth", range(30))
async def test_whichever_commit_fails_each_stored_prompt_ends_once(nth: int, autojump_clock: MockClock) -> None:
    async with open_core(GATED, STEPS, PLAIN) as core:
        core.disk.fail_commits(after=nth)
        accepted = [core.prompt("steps"), core.prompt("plain", delivery="interrupt"), core.prompt("gated")]
        await trio.sleep(0.3)
        accepted += [core.prompt("steered", delivery="steer"), core.prompt("late")]
        await trio.sleep(0.3)
        core.session.inbox.cancel(by=BOB, mine=True)
        accepted.append(core.prompt("last"))
        await trio.sleep(0.3)
        await go_on(core)
        stored = [run for run in accepted if run.commit.error is None]
        assert sorted(run_id for run_id, _ in terminals(core.events)) == sorted(run.run_id for run in stored)
        for run in accepted:
            kept = await core.store.run(run.run_id)
            if run.commit.error is not None:
                assert kept is None
            else:
                assert kept is not None and run.outcome is not None
                assert (kept.state, kept.stop_reason, kept.text) == ("completed", run.outcome.reason, run.text)


async def test_an_end_that_cannot_be_stored_is_told_once_and_tried_again(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        core.disk.fail_commits(5, having=CompleteRun)
        run = core.prompt("hi")
        later = core.prompt("later")
        await trio.sleep(4.5)
        assert terminals(core.events) == []
        assert [event["title"] for event in core.events if event["type"] == "notice"] == [
            "The end of the run cannot be stored; trying again every second."
        ]
        assert core.session.inbox.cancel(by=BOB).runs == (later,)  # the first one's end is decided
        view = run.view()
        assert view.state == "running"
        assert not any((view.text, view.message_id, view.finished_at, view.stop_reason))
        await run.done.wait()
        assert terminals(core.events)[0] == (run.run_id, "end_turn")
        await go_on(core)
        assert terminals(core.events)[1:] == [(later.run_id, "cancelled")]


async def test_an_end_that_was_stored_though_its_commit_was_reported_failed_is_sent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as core:
        write_soon = core.store.write_soon
        lies = 1

        def write_and_lie(*ops: Any) -> Any:
            nonlocal lies
            commit = write_soon(*ops)
            if lies and any(isinstance(op, CompleteRun) for op in ops):
                lies -= 1
                told = type(commit)()
                told.settle(StoreFailed("It is not known whether it was written."))
                return told
            return commit

        monkeypatch.setattr(core.store, "write_soon", write_and_lie)
        run = core.prompt("hi")
        await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "end_turn")]


async def test_an_end_that_can_never_be_stored_does_not_hold_up_the_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as core:
        write_soon = core.store.write_soon
        refused: set[str] = set()

        def refuse(*ops: Any) -> Any:
            if any(isinstance(op, CompleteRun) and op.run.run_id in refused for op in ops):
                commit = type(write_soon())()
                commit.settle(WriteRefused("no"))
                return commit
            return write_soon(*ops)

        monkeypatch.setattr(core.store, "write_soon", refuse)
        bad = core.prompt("bad")
        refused.add(bad.run_id)
        good = core.prompt("good")
        await good.done.wait()
        assert bad.done.is_set() and not bad.completed
        assert terminals(core.events) == [(good.run_id, "end_turn")]
        assert not core.session.inbox


@pytest.mark.parametrize("at", ["_start", "fold_into"])
async def test_a_bug_in_a_turn_ends_that_run_alone(
    at: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as core:
        real = getattr(core.session, at)
        bugs = 1

        def broken(run: Any) -> Any:
            nonlocal bugs
            if bugs:
                bugs -= 1
                raise ValueError("a bug")
            return real(run)

        monkeypatch.setattr(core.session, at, broken)
        first, second = core.prompt("first"), core.prompt("second")
        await second.done.wait()
        assert terminals(core.events) == [(first.run_id, "error"), (second.run_id, "end_turn")]


async def test_a_bug_in_the_session_itself_leaves_no_prompt_without_its_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core(GATED, PLAIN) as core:
        active, queued, cancelled = core.prompt("gated"), core.prompt("queued"), core.prompt("cancelled")
        await trio.sleep(0.1)
        core.disk.hold_commits()
        core.session.inbox.cancel_run(cancelled, by=BOB)  # its end is on its way to the store
        await trio.sleep(0.1)
        prompted = core.session.profile.prompted
        bugs = 1

        def broken(prompt: Any) -> None:
            nonlocal bugs
            if bugs:
                bugs -= 1
                raise ValueError("a bug")
            prompted(prompt)

        monkeypatch.setattr(core.session.profile, "prompted", broken)
        late = core.prompt("late")
        core.disk.open_gate()
        await trio.sleep(0.3)
        await go_on(core)
        ends = dict(terminals(core.events))
        assert len(ends) == len(terminals(core.events)) == 4
        assert ends[cancelled.run_id] == "cancelled"
        assert ends[active.run_id] == "error"
        assert ends[queued.run_id] == ends[late.run_id] == "end_turn"
        assert late.run_id in [event["run"]["runId"] for event in core.events if event["type"] == "run.accepted"]
        assert core.session.scribe.stored_below == core.session.scribe.last_order + 1


async def test_a_bug_in_the_ending_does_not_hang_the_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core(GATED, PLAIN) as core:
        real = session_module.ending_of
        bad = ""

        def broken(scribe: Any, run: Any, outcome: Any) -> Ending:
            if run.run_id == bad:
                raise ValueError("a bug")
            return real(scribe, run, outcome)

        monkeypatch.setattr(session_module, "ending_of", broken)
        first = core.prompt("gated")
        bad = first.run_id
        await trio.sleep(0.1)
        steered = core.prompt("steered", delivery="steer")
        second = core.prompt("second")
        await go_on(core)
        assert first.done.is_set() and not first.completed
        assert terminals(core.events)[-1] == (second.run_id, "end_turn") or steered.completed
        assert not core.session.inbox


async def test_half_a_character_from_a_model_costs_no_turn_its_end(autojump_clock: MockClock) -> None:
    half = {"responses": [[{"say": "a\ud800b"}, {"tool": "no\ud800ne", "rawInput": '{"a": "\ud800"}'}], [{"say": "c"}]]}
    async with open_core(half) as core:
        run = core.prompt("hi")
        with trio.fail_after(10):
            await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "end_turn")]


async def test_runs_that_do_not_end_in_time_are_left_to_recovery(autojump_clock: MockClock) -> None:
    async with open_core(GATED) as core:
        run = core.prompt("gated")
        await trio.sleep(0.1)
        core.disk.hold_commits()
        begun = trio.current_time()
        await core.coordinator.quiesce(Deadlines.for_one_workspace())
        assert trio.current_time() - begun == 5
        assert terminals(core.events) == [] and not run.done.is_set()
        core.disk.open_gate()
    assert run.done.is_set()


async def test_quiescing_ends_everything_as_cancelled_and_takes_nothing_more(autojump_clock: MockClock) -> None:
    async with open_core(GATED) as core:
        runs = [core.prompt("gated") for _ in range(3)]
        await trio.sleep(0.1)
        runs.append(core.prompt("gated"))  # its commit is under way
        await core.coordinator.quiesce(Deadlines.for_one_workspace())
        assert terminals(core.events) == [(run.run_id, "cancelled") for run in runs]
        with pytest.raises(WorkspaceClosing):
            core.prompt("late")
