"""Questions and live output render the same for one who saw every event, who was cut, and who came late."""

import json
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from atrio_protocol.events import decode_event
from atrio_protocol.methods import Attached, OpenResult, Position, SessionSnapshot, WorkspaceSnapshot
from atrio_protocol.reducer import SessionState, WorkspaceState, apply_event, apply_workspace_event
from atrio_server.service import Running
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import answer, asked, shell, write
from wire.steps import new_session, rows

Json = dict[str, Any]

TODOS = {"tool": "todos", "input": {"todos": [{"content": "look", "status": "in_progress"}]}}
SHELL = shell("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")
TOOLS = {
    "match": "^tools$",
    "responses": [
        [{"say": "first "}, write("a.txt"), TODOS, SHELL],
        [{"say": "then "}, write("b.txt"), write("c.txt")],
    ],
}


def position(answered: Json) -> Position:
    """Where an attachment begins."""
    return msgspec.convert(answered["stream"], Position)


class Session:
    """What one reader makes of a session."""

    def __init__(self, attached: Json) -> None:
        snapshot = msgspec.convert(attached, Attached).snapshot
        assert isinstance(snapshot, SessionSnapshot)
        self.state = SessionState.from_snapshot(snapshot, position(attached))

    def take(self, wire: Wire, head: int) -> None:
        """Apply what a connection has received beyond what is known, up to this event."""
        session_id = self.state.session.session_id
        for event in [*wire.events[session_id]]:
            if self.state.seq < event["seq"] <= head:
                apply_event(self.state, decode_event(json.dumps(bare(event)).encode()))

    @property
    def after(self) -> Json:
        """Where to go on."""
        return {"epoch": self.state.epoch, "seq": self.state.seq}

    def shown(self) -> Json:
        """All that a client would draw."""
        state = self.state
        return {
            "messages": [undated(message) for message in state.messages],
            "permissions": [plain(one) for one in state.permissions.values()],
            "todos": [plain(todo) for todo in state.todos],
            "runs": sorted(state.runs),
            "state": state.session.state,
            "usage": plain(state.session.usage),
        }


def plain(value: object) -> Any:
    """As it is on the wire."""
    return json.loads(msgspec.json.encode(value))


def bare(event: Json) -> Json:
    """The event as it was sent."""
    return {key: value for key, value in event.items() if key != "epoch"}


def undated(message: Any) -> Json:
    """Without the time of its last change, which a change of a part does not repeat."""
    return {key: value for key, value in plain(message).items() if key != "updatedAt"}


def space_of(opened: Json) -> WorkspaceState:
    """What a snapshot of a workspace shows."""
    snapshot = msgspec.convert(opened, OpenResult).snapshot
    assert isinstance(snapshot, WorkspaceSnapshot)
    return WorkspaceState.from_snapshot(snapshot, position(opened))


def shown_in(space: WorkspaceState) -> Json:
    """What a client would draw of a workspace."""
    return {
        "permissions": [plain(one) for one in space.permissions.values()],
        "sessions": {one.session_id: one.state for one in space.sessions.values()},
    }


class Moments:
    """Readers of every kind, compared at moments when nothing moves."""

    def __init__(self, running: Running, bench: Harness, whole: Wire, session: str, workspace: str) -> None:
        self.running = running
        self.directory = str(bench.directory)
        self.whole = whole
        self.session = session
        self.workspace = workspace
        self.readers: list[tuple[Wire, Session]] = []

    async def begin(self, stack: AsyncExitStack) -> None:
        """Attach the one who sees all, and the one who is cut."""
        self.stack = stack
        self.all = Session(await self.whole.attach(self.session))
        self.cut = Session(await self.whole.attach(self.session))
        self.space = space_of(await self.whole.call("workspace/open", path=self.directory))

    async def compare(self) -> Json:
        """Let the cut one catch up on a new connection and a late one come; all show the same."""
        late = await self.stack.enter_async_context(connect(self.running.ws, self.running.token))
        attached = await late.attach(self.session)
        self.readers.append((late, Session(attached)))
        head = attached["stream"]["seq"]
        await self.whole.until(lambda: self.whole.place(self.session)["seq"] >= head)
        async with connect(self.running.ws, self.running.token) as again:
            resumed = await again.attach(self.session, after=self.cut.after)
            assert resumed["stream"]["recovered"]
            await again.until(
                lambda: (again.events[self.session] or [{"seq": self.cut.after["seq"]}])[-1]["seq"] >= head
            )
            self.cut.take(again, head)
        self.all.take(self.whole, head)
        expected = self.all.shown()
        assert self.cut.shown() == expected
        for wire, reader in self.readers:
            await wire.until(lambda reader=reader, wire=wire: self._has(wire, reader, head))
            reader.take(wire, head)
            assert reader.shown() == expected
        await self._compare_workspace()
        return expected

    def _has(self, wire: Wire, reader: Session, head: int) -> bool:
        return reader.state.seq >= head or any(event["seq"] >= head for event in wire.events[self.session])

    async def _compare_workspace(self) -> None:
        async with connect(self.running.ws, self.running.token, client_id=self.whole.client_id) as late:
            opened = await late.call("workspace/open", path=self.directory)
            head = opened["stream"]["seq"]
            await self.whole.until(lambda: self.whole.place(self.workspace)["seq"] >= head)
            for event in self.whole.events[self.workspace]:
                if self.space.seq < event["seq"] <= head:
                    apply_workspace_event(self.space, decode_event(json.dumps(bare(event)).encode()))
            assert shown_in(self.space) == shown_in(space_of(opened))


@pytest.mark.scenario("M13")
async def test_questions_and_output_render_the_same_however_they_were_read(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(TOOLS)) as running,
        bench.open(running) as (whole, workspace),
        AsyncExitStack() as stack,
    ):
        session = await new_session(whole, workspace)
        moments = Moments(running, bench, whole, session, workspace)
        await moments.begin(stack)
        await whole.prompt(session, "tools", runId="r1")

        first = await asked(whole, session)
        shown = await moments.compare()
        assert (shown["permissions"], shown["state"]) == ([first], "requires_action")

        await answer(whole, first, "allow_always")
        second = await asked(whole, session, 2)
        shown = await moments.compare()
        assert shown["permissions"] == [second] and len(shown["todos"]) == 1

        await answer(whole, second)
        await whole.event(session, "tool.output")
        shown = await moments.compare()
        assert (shown["permissions"], shown["state"]) == ([], "running")
        assert shown["messages"][1]["parts"][-1]["output"] == "one\n"

        await whole.call("permission/revoke", grantId=await only_grant(whole, session))
        (bench.directory / "go").touch()
        third = await asked(whole, session, 3)
        shown = await moments.compare()
        assert shown["permissions"] == [third] and "output" not in shown["messages"][1]["parts"][-1]

        await answer(whole, third, "reject_once")
        await whole.completed(session, "r1")
        await whole.until(lambda: whole.of_type(session, "session.updated")[-1]["session"]["state"] == "idle")
        shown = await moments.compare()
        assert (shown["permissions"], shown["runs"], shown["state"]) == ([], [], "idle")
        stored = [
            {key: value for key, value in row.items() if key != "updatedAt"} for row in await rows(whole, session)
        ]
        assert shown["messages"] == stored


async def only_grant(wire: Wire, session: str) -> str:
    """The one thing that was allowed for good."""
    (grant,) = (await wire.call("permission/grants", sessionId=session))["grants"]
    return grant["grantId"]
