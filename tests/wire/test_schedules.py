"""Whatever is done to a session, in whatever order: every accepted prompt ends once, in order, as it should.

Each example is a schedule of up to fourteen steps by two clients of one server,
one of which comes and goes. Some steps follow at once, others when everything
stands still; the store and the runs are stopped at gates in between. What must
hold is in `schedule_checks`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from atrio_protocol.things import Message
from socket_rig import Peer
from wire.in_memory import InMemory, open_in_memory
from wire.schedule_checks import Asked, Reader, becomes_now, check_session, covered_now, open_runs

Json = dict[str, Any]

ALICE = "6f1c1f3e-0000-4000-8000-00000000000a"
BOB = "6f1c1f3e-0000-4000-8000-00000000000b"

LIMIT_S = 100_000
"""Virtual seconds; a schedule that hangs ends."""

STILL_S = 0.2
"""After this long nothing moves any more but what stands at a gate."""

MOST_ROUNDS = 200
"""Each lets one step of every run go on that stands at a gate."""

NO_TOOL = {"tool": "none", "input": {}}
SCRIPT = {
    "turns": [
        {"match": "gated", "responses": [[{"gate": "go"}, {"say": "done: {{prompt}}", "chunk": 3}]]},
        {"match": "partial", "responses": [[{"say": "some "}, {"gate": "go"}, {"say": "more"}]]},
        {
            "match": "steps",
            "responses": [
                [{"say": "one"}, NO_TOOL, {"gate": "go"}],
                [{"gate": "go"}, NO_TOOL],
                [{"say": "three, "}, {"gate": "go"}, {"say": "the end"}],
            ],
        },
        {"match": "fail", "responses": [[{"say": "al"}, {"fail": {"kind": "provider_error"}}]]},
        {"match": "slow", "responses": [[{"say": "slowly", "chunk": 1, "delayMs": 30}]]},
        {"responses": [[{"say": "{{prompt}}", "chunk": 2}]]},
    ]
}
KINDS = ("gated", "partial", "steps", "steps", "fail", "slow", "plain")
POINTS = ("accept.commit", "run.start", "tool.start", "run.finish")


clients = st.sampled_from((ALICE, BOB))
prompts = st.fixed_dictionaries(
    {
        "do": st.just("prompt"),
        "by": clients,
        "kind": st.sampled_from(KINDS),
        "delivery": st.sampled_from((None, "queue", "steer", "steer", "interrupt", "reject")),
        "run": st.sampled_from((None, None, None, 0, 1, 2)),
    }
)
cancels = st.fixed_dictionaries(
    {
        "do": st.just("cancel"),
        "by": clients,
        "scope": st.sampled_from(("all", "mine")),
        "run": st.sampled_from((None, None, 0, 1, 2, 3)),
        "wait": st.booleans(),
    }
)
clears = st.fixed_dictionaries({"do": st.just("clear"), "by": clients})
others = st.fixed_dictionaries(
    {"do": st.sampled_from(("release", "release", "release", "toggle", "toggle", "hold store", "let store", "delete"))}
)
holds = st.fixed_dictionaries({"do": st.just("hold"), "point": st.sampled_from(POINTS)})
steps = st.tuples(
    st.one_of(prompts, prompts, prompts, others, others, cancels, clears, holds), st.sampled_from((True, True, False))
)

# An interrupt that finds somebody waiting: too rare to be left to chance.
GATED_PROMPT = {"do": "prompt", "by": ALICE, "kind": "gated", "delivery": "queue", "run": None}
INTERRUPTED = [
    (GATED_PROMPT, True),
    (GATED_PROMPT, True),
    (GATED_PROMPT | {"by": BOB, "delivery": "interrupt"}, True),
]


@dataclass(eq=False)
class Connected:
    """A client's connection, and what its frames answer."""

    peer: Peer
    client_id: str
    number: int
    reader: Reader
    asked: dict[Any, Asked] = field(default_factory=dict[Any, Asked])
    attaching: dict[Any, str] = field(default_factory=dict[Any, str])
    read: int = 0

    def catch_up(self) -> None:
        """Take what has come."""
        for _, frame in self.peer.frames[self.read :]:
            self.reader.feed(frame, self.attaching)
            if frame.get("id") in self.asked:
                self.asked[frame["id"]].answer = frame
        self.read = len(self.peer.frames)

    async def attach(self, session: str) -> None:
        place = self.reader.place(session)
        after = {} if place is None else {"after": place}
        self.attaching[await self.peer.send("session/attach", sessionId=session, **after)] = session


class Schedule:
    """One schedule as it goes on."""

    def __init__(self, server: InMemory) -> None:
        self.server = server
        self.readers = {ALICE: Reader(), BOB: Reader()}
        self.connected: dict[str, Connected] = {}
        self.asked: list[Asked] = []
        self.deleted: dict[str, Asked] = {}
        self.session = ""
        self.sessions: list[str] = []
        self.still = False
        self.alone = False
        self.held_at_start = False
        self.held_at_accept = False
        self.store_held = False
        self._connections = 0

    async def connect(self, client_id: str) -> None:
        peer = await self.server.connect(client_id)
        self._connections += 1
        self.connected[client_id] = Connected(peer, client_id, self._connections, self.readers[client_id])

    async def new_session(self) -> None:
        made = await self.connected[ALICE].peer.call("session/new", workspaceId=self.server.workspace_id)
        self.session = made["session"]["sessionId"]
        self.sessions.append(self.session)
        for connected in self.connected.values():
            await connected.attach(self.session)

    async def settle(self) -> None:
        await trio.sleep(STILL_S)
        for connected in self.connected.values():
            connected.catch_up()
        self.still = True

    async def do(self, step: Json, wait: bool) -> None:
        name = step["do"].replace(" ", "_")
        self.alone = wait  # nothing else is done before this has come to rest
        if step.get("by", ALICE) in self.connected:
            await getattr(self, f"_{name}")(**{key: value for key, value in step.items() if key != "do"})
            self.still = False
        if wait:
            await self.settle()

    async def ask(self, by: str, method: str, **params: Any) -> Asked:
        """Send a request, with what is known for sure of its answer."""
        connected = self.connected[by]
        params["sessionId"] = self.session
        seen = len(self.readers[ALICE].logs.get(self.session, ()))
        asked = Asked(method, params, self.session, by, connected.number, seen)
        self._foretell(asked)
        self.still = False
        self.asked.append(asked)
        connected.asked[await connected.peer.send(method, **params)] = asked
        return asked

    def _foretell(self, asked: Asked) -> None:
        waiters = [waiter for waiter in self.server.gates.waiters() if waiter.session_id == self.session]
        stuck = any(waiter.gate == "accept.commit" for waiter in waiters)
        if not self.still or not self.alone or stuck or self.store_held:
            return
        log = self.readers[ALICE].logs[self.session]
        if asked.method == "session/prompt":
            asked.becomes = becomes_now(log, asked)
            asked.at_once = not self.held_at_accept
            return
        asked.covers = covered_now(log, asked, taken=[one.run_id for one in waiters])
        asked.up_to = max((event["run"]["acceptSeq"] for event in log if event["type"] == "run.accepted"), default=0)

    async def _prompt(self, by: str, kind: str, delivery: str | None, run: int | None) -> None:
        params: Json = {"prompt": [{"type": "text", "text": kind}]}
        if delivery is not None:
            params["delivery"] = delivery
        if run is not None:
            params["runId"] = self._name(run)
        await self.ask(by, "session/prompt", **params)

    async def _cancel(self, by: str, scope: str, run: int | None, wait: bool) -> None:
        params: Json = {"scope": scope, "wait": wait}
        if run is not None:
            params["runId"] = self._name(run)
        await self.ask(by, "session/cancel", **params)

    async def _clear(self, by: str) -> None:
        await self.ask(by, "session/clear_queue")

    async def _release(self) -> None:
        self.server.gates.release("go")
        for point in POINTS:
            self.server.gates.release(point)

    async def _toggle(self) -> None:
        """Bob goes, or comes back where he left off."""
        bob = self.connected.pop(BOB, None)
        if bob is None:
            await self.connect(BOB)
            await self.connected[BOB].attach(self.session)
        else:
            bob.catch_up()
            bob.peer.close()

    async def _hold_store(self) -> None:
        self.store_held = True
        self.server.disk.hold_commits()

    async def _let_store(self) -> None:
        self.store_held = False
        self.server.disk.open_gate()

    async def _hold(self, point: str) -> None:
        self.held_at_start |= point == "run.start"
        self.held_at_accept |= point == "accept.commit"
        self.server.gates.hold(point, self.session)  # type: ignore[arg-type]  # drawn from the points there are

    async def _delete(self) -> None:
        await self._let_store()  # a session is made below
        self.deleted[self.session] = await self.ask(ALICE, "session/delete")
        late = await self.ask(ALICE, "session/prompt", prompt=[{"type": "text", "text": "late"}])
        await self.new_session()
        await trio.sleep(STILL_S)
        self.connected[ALICE].catch_up()
        assert late.refusal == "session_not_found"

    def _name(self, run: int) -> str:
        return f"{self.session}-{run}"

    async def finish(self) -> None:
        """Let everything go on until nothing is left to do."""
        await self._let_store()
        for _ in range(MOST_ROUNDS):
            await self.settle()
            logs = self.readers[ALICE].logs
            if not self.server.gates.waiters() and not any(open_runs(log) for log in logs.values()):
                break
            for gate in ("go", *POINTS):
                self.server.gates.release(gate, everyone=True)
        if BOB not in self.connected:
            await self._toggle()
        await self.settle()
        # Whoever is still connected is answered; what hung at the gates hangs no more.
        for connected in self.connected.values():
            assert all(asked.answer is not None for asked in connected.asked.values())

    async def check(self) -> None:
        alice, bob = self.readers[ALICE], self.readers[BOB]
        for session in self.sessions:
            asked = [one for one in self.asked if one.session == session]
            deletion = self.deleted.get(session)
            log = alice.logs[session]
            check_session(log, asked, deleted=deletion is not None, held_at_start=self.held_at_start)
            if deletion is not None:
                assert deletion.result == {} and log[-1]["type"] == "session.deleted"
                assert alice.ended[session] == "deleted"
            else:
                await self._check_stored(session, log)
                mine, his = alice.states[session], bob.states[session]
                assert [_told(message) for message in mine.messages] == [_told(message) for message in his.messages]
                assert (mine.runs, mine.session) == (his.runs, his.session)
        disk = self.server.disk
        kept = {kept.run.session_id for kept in disk.runs.values()} | set(disk.sessions)
        kept |= {kept.message.session_id for kept in disk.messages.values()}
        assert kept == {self.session}, "something deleted is there"

    async def _check_stored(self, session: str, log: list[Json]) -> None:
        """The store says at the end what the stream has said."""
        peer = self.connected[ALICE].peer
        stored = {run["runId"]: run for run in (await peer.call("run/list", sessionId=session, limit=1000))["runs"]}
        ended = {event["run"]["runId"]: event["run"] for event in log if event["type"] == "run.completed"}
        assert stored == ended
        listed = (await peer.call("session/messages", sessionId=session, limit=1000))["messages"]
        messages = msgspec.convert(listed, tuple[Message, ...])
        seen = self.readers[ALICE].states[session].messages
        assert [_told(message) for message in messages] == [_told(message) for message in seen]
        orders = [message.order for message in messages]
        assert orders == sorted(set(orders))
        view = (await peer.call("session/get", sessionId=session))["session"]
        assert (view["state"], view["queued"], view["messageCount"]) == ("idle", 0, len(listed))


def _told(message: Message) -> tuple[object, ...]:
    return message.message_id, message.order, message.role, message.run_id, message.parts, message.finish


@pytest.mark.scenario("T12")
@settings(
    max_examples=1000, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
)  # to explain takes minutes
@example(schedule=INTERRUPTED)
@given(schedule=st.lists(steps, min_size=5, max_size=14))
async def test_every_accepted_prompt_ends_once_and_in_order_whatever_is_done(
    schedule: list[tuple[Json, bool]], autojump_clock: MockClock, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_in_memory(tmp_path, SCRIPT) as server:
            play = Schedule(server)
            await play.connect(ALICE)
            await play.connect(BOB)
            await play.new_session()
            for step, wait in schedule:
                await play.do(step, wait)
            await play.finish()
            await play.check()
