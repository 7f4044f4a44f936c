"""Tool calls and sub-agents when something goes wrong: a store that fails, a bug, an end at a bad moment."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent.ask import Ask
from atrio_agent.coordinator import UNLOAD_AFTER_S
from atrio_agent.delegation import delegate
from atrio_agent.lifetime import Deadlines
from atrio_agent.permissions import PermissionRules
from atrio_agent.runs import LiveRun
from atrio_agent.session import Session
from atrio_agent.store.base import AcceptRun, CompleteRun, Op, PutSession
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, text_outcome
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.task import Task
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Location, ToolKind
from core_rig import ALICE, BOB, Core, events_of, open_core, terminals

HAVE = {"match": "^have", "responses": [[{"tool": "task", "input": {"prompt": "child"}}], [{"say": "all done"}]]}
CHILD = {"match": "^child", "responses": [[{"say": "half "}, {"gate": "child"}, {"say": "whole"}]]}
CALL = {"match": "^call", "responses": [[{"say": "now"}, {"tool": "odd"}], [{"say": "went on"}]]}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}


class Odd:
    """A tool that asks, and whose every step can be made to go wrong."""

    name: str = "odd"
    kind: ToolKind = "other"
    description: str = "Does something odd."
    input_type: type[ToolInput] = ToolInput

    def __init__(
        self, *, asking: Exception | None = None, running: Exception | None = None, stays: bool = False
    ) -> None:
        self._asking, self._running, self._stays = asking, running, stays
        self.ran = 0

    def title(self, given: ToolInput) -> str:  # noqa: ARG002  a tool's signature
        return "odd"

    def locations(self, given: ToolInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        return ()

    async def ask(self, given: ToolInput, place: Place) -> Ask:  # noqa: ARG002  a tool's signature
        if self._asking is not None:
            raise self._asking
        return Ask(action="execute", title="Do it", where="/nowhere")

    async def run(self, given: ToolInput, place: Place) -> ToolOutcome:  # noqa: ARG002  a tool's signature
        self.ran += 1
        if self._stays:
            try:
                await trio.sleep_forever()
            finally:
                if self._running is not None:
                    raise self._running
        if self._running is not None:
            raise self._running
        return text_outcome("odd indeed")


def results(core: Core) -> list[dict[str, Any]]:
    """The result of every call of the session."""
    return [
        part
        for event in core.events
        if event["type"] == "message.completed" and event["message"]["role"] == "tool"
        for part in event["message"]["parts"]
    ]


def resolved(core: Core) -> list[str]:
    return [event["outcome"]["kind"] for event in core.events if event["type"] == "permission.resolved"]


def allow(core: Core) -> None:
    (permission,) = core.session.permissions()
    core.coordinator.ground.broker.respond(permission.permission_id, "allow_once", BOB)


async def next_one_runs(core: Core) -> None:
    """The session is as good as new."""
    run = core.prompt("next")
    await run.done.wait()
    assert run.text == "next"
    assert core.session.permissions() == () and core.session.profile.view().state == "idle"


def with_task() -> Tools:
    return Tools([Task()])


async def at_its_tool(core: Core, text: str) -> LiveRun:
    """Begin a run that stands in front of its tool, with everything else stored."""
    core.gates.hold("tool.start", core.session.session_id)
    run = core.prompt(text)
    await core.gates.wait_for("tool.start", 1)
    await trio.sleep(1)
    return run


async def delegated(core: Core) -> tuple[LiveRun, Session, LiveRun]:
    """Begin a run whose sub-agent waits at its gate; gives the run, the child and its run."""
    run = core.prompt("have")
    await core.gates.wait_for("child", 1)
    (child,) = [session for session in core.coordinator.sessions() if session is not core.session]
    (child_run,) = child.inbox.open
    return run, child, child_run


@pytest.mark.parametrize("op", [PutSession, AcceptRun])
async def test_a_sub_agent_that_cannot_be_stored_is_an_error_result(op: type[Op], autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run = await at_its_tool(core, "have")
        core.disk.fail_commits(having=op)
        core.gates.release("tool.start")
        await run.done.wait()
        assert run.text == "all done"
        (result,) = results(core)
        assert result["isError"] and "No sub-agent could be started" in result["content"][0]["text"]
        await next_one_runs(core)


async def test_a_cancel_while_the_child_is_made_waits_for_no_child_and_runs_none(autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run = await at_its_tool(core, "have")
        core.disk.hold_commits()
        core.gates.release("tool.start")
        await core.disk.wait_for_commit()
        core.session.inbox.cancel(by=BOB)
        await wait_all_tasks_blocked()
        core.disk.open_gate()
        await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        await next_one_runs(core)
        assert core.coordinator.sessions() == [core.session]
        assert [*core.disk.sessions] == [core.session.session_id]
        created = [e for e in events_of(core.coordinator.ground.stream) if e["type"] == "session.created"]
        assert [event["session"]["sessionId"] for event in created] == [core.session.session_id]


async def test_a_root_that_nobody_has_loaded_is_told_to_wait_for_its_childs_question(
    autojump_clock: MockClock,
) -> None:
    async with open_core(HAVE, CALL, PLAIN, tools=with_task(), child_tools=Tools([Odd()])) as core:
        await core.prompt("have").done.wait()
        root_id = core.session.session_id
        (child_id,) = (each.session_id for each in core.coordinator.sessions() if each is not core.session)
        await trio.sleep(UNLOAD_AFTER_S * 1.2)
        assert core.coordinator.sessions() == []
        child = await core.coordinator.session(child_id)
        run = child.accept(
            prompt=(TextBlock(text="call"),), run_id=None, delivery="queue", author=ALICE, model_id=None, meta=None
        )
        await trio.sleep(1)
        (permission,) = child.permissions()
        assert (await core.coordinator.session(root_id)).permissions() == (permission,)
        core.coordinator.ground.broker.respond(permission.permission_id, "allow_once", BOB)
        await run.done.wait()
        await trio.sleep(1)
        states = [
            event["session"]["state"]
            for event in events_of(core.coordinator.ground.stream)
            if event["type"] == "session.updated" and event["session"]["sessionId"] == root_id
        ]
        assert states[-2:] == ["requires_action", "idle"]


@pytest.mark.parametrize("opens_after_s", [0, 2])
async def test_a_session_deleted_while_its_child_is_made_leaves_nothing(
    opens_after_s: float, autojump_clock: MockClock
) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run = await at_its_tool(core, "have")
        core.disk.hold_commits()
        core.gates.release("tool.start")
        await core.disk.wait_for_commit()
        errand = core.coordinator.delete_soon(core.session)
        await trio.sleep(opens_after_s)
        core.disk.open_gate()
        await errand.wait()
        assert run.done.is_set()
        await trio.sleep(1)
        assert terminals(events_of(core.coordinator.ground.stream)) == [(run.run_id, "cancelled")]
        assert core.coordinator.sessions() == [] and core.disk.sessions == {} and core.disk.runs == {}


async def test_a_session_deleted_while_its_child_runs_leaves_nothing(autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run, _, child_run = await delegated(core)
        await core.coordinator.delete_soon(core.session).wait()
        ends = terminals(events_of(core.coordinator.ground.stream))
        assert ends == [(child_run.run_id, "cancelled"), (run.run_id, "cancelled")]
        assert core.coordinator.sessions() == [] and core.disk.sessions == {} and core.disk.runs == {}


async def test_a_child_deleted_by_itself_is_an_error_result(autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run, child, _ = await delegated(core)
        await core.coordinator.delete_soon(child).wait()
        await run.done.wait()
        assert run.text == "all done" and results(core)[0]["isError"]
        await next_one_runs(core)


async def test_a_root_ends_after_its_child_though_the_child_can_be_stored_only_later(
    autojump_clock: MockClock,
) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run, child, child_run = await delegated(core)
        core.disk.fail_commits(3, having=CompleteRun)
        core.session.inbox.cancel(by=BOB)
        await run.done.wait()
        assert terminals(events_of(child.stream)) == [(child_run.run_id, "cancelled")]
        assert child_run.cancelled_by == BOB
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        await next_one_runs(core)


async def test_closing_ends_the_child_the_root_and_what_they_ask(autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, CALL, PLAIN, tools=Tools([Task(), Odd()])) as core:
        run, child, child_run = await delegated(core)
        other = await core.coordinator.new_session(title="other", model=None)
        asking = other.accept(
            prompt=(TextBlock(text="call"),), run_id=None, delivery="queue", author=ALICE, model_id=None, meta=None
        )
        await trio.sleep(1)
        assert len(other.permissions()) == 1
        began = trio.current_time()
        await core.coordinator.quiesce(Deadlines.for_one_workspace())
        assert trio.current_time() - began < 1
        assert [terminals(events_of(one.stream)) for one in (core.session, child, other)] == [
            [(one.run_id, "cancelled")] for one in (run, child_run, asking)
        ]
        assert core.coordinator.ground.broker.pending() == ()
        kinds = [event["outcome"]["kind"] for event in events_of(other.stream) if "outcome" in event]
        assert kinds == ["cancelled"]


async def test_no_child_is_made_once_the_workspace_closes(autojump_clock: MockClock) -> None:
    async with open_core(HAVE, CHILD, PLAIN, tools=with_task()) as core:
        run = await at_its_tool(core, "have")
        core.coordinator.closing = True
        with pytest.raises(ToolFailed, match="closing"):
            await delegate(core.session, run, "t", "child")
        core.coordinator.closing = False
        core.coordinator.ground.errands.close()
        with pytest.raises(ToolFailed, match="sub-agent"):
            await delegate(core.session, run, "t", "child")


@pytest.mark.parametrize("where", ["asking", "running"])
async def test_a_bug_in_a_tool_is_an_error_result_and_leaves_no_question(where: str, autojump_clock: MockClock) -> None:
    bug: dict[str, Any] = {where: ExceptionGroup("two", [ValueError("one"), KeyError("two")])}
    async with open_core(CALL, PLAIN, tools=Tools([Odd(**bug)])) as core:
        run = core.prompt("call")
        await trio.sleep(1)
        if where == "running":
            allow(core)
        await run.done.wait()
        assert run.text == "went on"
        (result,) = results(core)
        assert result["isError"] and "error in Atrio" in result["content"][0]["text"]
        assert resolved(core) == (["allow_once"] if where == "running" else [])
        await next_one_runs(core)


@pytest.mark.parametrize("bug", [None, ValueError("late")])
async def test_a_tool_that_breaks_while_it_is_cancelled_ends_its_run_as_cancelled(
    bug: Exception | None, autojump_clock: MockClock
) -> None:
    tool = Odd(running=bug, stays=True)
    async with open_core(CALL, PLAIN, tools=Tools([tool])) as core:
        run = core.prompt("call")
        await trio.sleep(1)
        allow(core)
        await trio.sleep(1)
        assert tool.ran == 1
        core.session.inbox.cancel(by=BOB)
        await run.done.wait()
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        await next_one_runs(core)


async def test_an_answer_in_the_step_of_a_cancel_runs_nothing_and_is_the_one_outcome(
    autojump_clock: MockClock,
) -> None:
    tool = Odd()
    async with open_core(CALL, PLAIN, tools=Tools([tool])) as core:
        run = core.prompt("call")
        await trio.sleep(1)
        allow(core)
        core.session.inbox.cancel(by=BOB)
        await run.done.wait()
        assert tool.ran == 0 and resolved(core) == ["allow_once"]
        assert terminals(core.events) == [(run.run_id, "cancelled")]
        await next_one_runs(core)


async def test_a_question_that_expires_is_no_permission(autojump_clock: MockClock) -> None:
    tool = Odd()
    rules = PermissionRules(timeout_s=5)
    async with open_core(CALL, PLAIN, tools=Tools([tool]), rules=rules) as core:
        run = core.prompt("call")
        await run.done.wait()
        assert tool.ran == 0 and resolved(core) == ["expired"]
        assert terminals(core.events) == [(run.run_id, "end_turn")]
        assert results(core)[0]["isError"]
        await next_one_runs(core)
