"""The n-th write of the store fails, or is done and reported as failed: whichever it is, every promise holds.

Once in memory, in virtual time, and once with SQLite, whose connection a test
makes lie. Each try is a conversation of its own that sends again what was
refused, as a client should; what it saw is then compared with what is stored.
"""

import contextlib
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.store.memory import open_memory_store
from scale import Scale
from socket_rig import Peer
from wire.client import Refused, Wire, connect
from wire.conftest import Harness
from wire.in_memory import open_in_memory
from wire.steps import rows, terminals

Json = dict[str, Any]

WORDS: Final = "tok tok tok "
TURNS: Final = (
    {"match": "^steer", "responses": [[{"say": "steered"}]]},
    {"responses": [[{"say": "tok ", "times": 3, "delayMs": 60}]]},
)
MODES: Final = ("before", "after", "unknown")


def prompts_for(writes: int) -> int:
    """How many prompts it takes until so many writes have been made: each takes about four, or three on a slow disk."""
    return writes // 3 + 1


def refused_for_storage(error: Json) -> bool:
    """Whether a request may be sent again as it is; any other refusal is wrong here."""
    assert (error["data"]["kind"], error["data"]["retryable"]) == ("storage_unavailable", True), error
    return True


# In memory.


async def insist_in_memory(peer: Peer, method: str, **params: Any) -> Json:
    """Send a request until it is not refused for want of storage."""
    while True:
        answer = await peer.answer(await peer.send(method, **params))
        if "result" in answer:
            return answer["result"]
        refused_for_storage(answer["error"])


async def converse_in_memory(path: Path, prompts: int, number: int, *, is_lie: bool) -> None:
    """Prompt, with one failing write; then restart and compare."""
    async with open_in_memory(path, {"turns": list(TURNS)}) as server:
        peer = await server.connect("6f1c0a52-7d0e-4f6b-9a55-6d3f0a1b2c3d")
        server.disk.fail_commits(after=number - 1, is_lie=is_lie)
        made = await insist_in_memory(peer, "session/new", workspaceId=server.workspace_id, title="titled")
        session: str = made["session"]["sessionId"]
        await peer.call("session/attach", sessionId=session)
        for one in range(prompts):
            prompt = [{"type": "text", "text": f"prompt {one}"}]
            await insist_in_memory(peer, "session/prompt", sessionId=session, prompt=prompt, runId=f"r{one}")
        for one in range(prompts):
            run = (await peer.call("run/wait", runId=f"r{one}"))["run"]
            assert (run["stopReason"], run["text"]) == ("end_turn", WORDS), run
        events = peer.events(session)
        for kind in ("run.accepted", "run.completed"):
            told = [event["run"]["runId"] for event in events if event["type"] == kind]
            assert told == [f"r{one}" for one in range(prompts)], f"{kind}: {told}"
        asked = await peer.call("test/requests", sessionId=session)
        assert len(asked["requests"]) == prompts
        assert server.disk.commits >= number, "the fault was never met"
        disk, workspace_id = server.disk, server.workspace_id
    async with open_memory_store(disk=disk, workspace_id=workspace_id) as store:
        page = await store.messages(session, before=None, limit=1_000, max_bytes=1 << 30)
        said = ["".join(part.text for part in row.parts) for row in page.messages if row.role == "assistant"]  # type: ignore[union-attr]  # texts alone
        assert said == [WORDS] * prompts
        stored = (await store.runs(session, before=None, limit=100)).runs
        assert [(run.run_id, run.stop_reason) for run in reversed(stored)] == [
            (f"r{one}", "end_turn") for one in range(prompts)
        ]


@pytest.mark.parametrize("is_lie", [False, True])
async def test_whichever_write_fails_each_prompt_is_accepted_once_and_ends_once(
    is_lie: bool, scale: Scale, tmp_path: Path, autojump_clock: MockClock
) -> None:
    count = scale.count(50, 100)
    what = "a write that is done and reported as failed" if is_lie else "a write that fails"
    with scale.trying(f"{what}, in memory", count):
        for number in range(1, count + 1):
            try:
                with trio.fail_after(10_000):
                    await converse_in_memory(tmp_path, prompts_for(count), number, is_lie=is_lie)
            except BaseException as exc:
                exc.add_note(f"write {number}")
                raise


# In SQLite.


class Lying(sqlite3.Connection):
    """A connection to ``…/w<n>-<mode>-…/atrio.db`` whose n-th commit is reported as failed.

    ``before``: it was not done. ``after``: it was. ``unknown``: it was, and for
    a moment the database does not say so either.
    """

    commits: ClassVar[Counter[str]] = Counter()
    met: ClassVar[set[str]] = set()
    may_lie = True
    _place = ""
    _number = 0
    _mode = ""
    _silent = 0

    def place(self, path: str) -> None:
        if found := re.search(r"/w(\d+)-(before|after|unknown)-[^/]*/atrio\.db$", path):
            self._place, self._number, self._mode = found[0], int(found[1]), found[2]

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]  # positional only, too
        if self._silent and "'batch'" in sql and sql.startswith("SELECT"):
            self._silent -= 1
            raise failure(sqlite3.SQLITE_IOERR)
        if sql != "COMMIT" or not self._place or not self.may_lie:
            return super().execute(sql, *args)
        self.commits[self._place] += 1
        if self.commits[self._place] != self._number:
            return super().execute(sql, *args)
        self.met.add(self._place)
        if self._mode == "before":
            raise failure(sqlite3.SQLITE_FULL)
        super().execute(sql, *args)
        self._silent = self._mode == "unknown"
        raise failure(sqlite3.SQLITE_IOERR)


def failure(code: int) -> sqlite3.OperationalError:
    """What the real one would raise."""
    error = sqlite3.OperationalError("a test has said so")
    error.sqlite_errorcode = code
    return error


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect

    def connect_to(path: Any, *args: Any, **more: Any) -> sqlite3.Connection:
        connection = real(path, *args, **more, **({} if "factory" in more else {"factory": Lying}))
        if isinstance(connection, Lying):
            connection.place(str(path))
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to)
    monkeypatch.setattr("atrio_agent.store.writer.RETRY_S", 0.1)
    monkeypatch.setattr("atrio_agent.session.RETRY_S", 0.1)
    Lying.commits.clear()
    Lying.met.clear()
    Lying.may_lie = True


async def insist(wire: Wire, method: str, **params: Any) -> Any:
    """Send a request until it is not refused for want of storage."""
    while True:
        try:
            return await wire.call(method, **params)
        except Refused as exc:
            if exc.kind != "storage_unavailable":
                raise
            await trio.sleep(0.01)


async def converse(bench: Harness, ws: str, token: str, name: str, prompts: int) -> str:
    """Prompt in a workspace of this name; returns the session."""
    directory = bench.root / name
    directory.mkdir()
    async with connect(ws, token) as wire:
        opened = await insist(wire, "workspace/open", path=str(directory))
        made = await insist(wire, "session/new", workspaceId=opened["workspace"]["workspaceId"], title="titled")
        session: str = made["session"]["sessionId"]
        await wire.attach(session)
        wanted = [f"{name}-r{one}" for one in range(prompts)]
        for run_id in wanted:
            await insist(wire, "session/prompt", **wire.prompt_params(session, run_id, runId=run_id))
        for run_id in wanted:
            assert (await wire.completed(session, run_id))["text"] == WORDS
        assert terminals(wire, session) == [(run_id, "end_turn") for run_id in wanted]
        assert [event["run"]["runId"] for event in wire.of_type(session, "run.accepted")] == wanted
        asked = await wire.call("test/requests", sessionId=session)
        assert len(asked["requests"]) == prompts
    return session


@pytest.mark.usefixtures("lying")
async def test_whichever_commit_of_sqlite_fails_or_lies_each_prompt_is_accepted_once_and_ends_once(
    bench: Harness, scale: Scale
) -> None:
    count = scale.count(50, 100)
    prompts = prompts_for(count)
    names = [f"w{number}-{mode}" for number in range(1, count + 1) for mode in MODES]
    if not scale.is_long:  # each write, and each way at each stage
        names = [name for place, name in enumerate(names) if place % 3 == (place // 3) % 3]
    sessions: dict[str, str] = {}
    settings: Json = {"model": bench.script(*TURNS), "limit_s": 100 + len(names), "detach_grace_s": 0.0}
    turns = trio.CapacityLimiter(10)

    async def one(ws: str, token: str, name: str) -> None:
        async with turns:
            try:
                sessions[name] = await converse(bench, ws, token, name, prompts)
            except BaseException as exc:
                exc.add_note(f"commit {name}")
                raise

    with scale.trying("a commit of SQLite that fails or lies", len(names)):
        async with bench.serve(**settings) as running, trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, running.ws, running.token, name)
        Lying.may_lie = False
        async with bench.serve(**settings) as running, connect(running.ws, running.token) as wire:
            for name, session in sessions.items():
                for number in range(prompts):
                    run = (await wire.call("run/get", runId=f"{name}-r{number}"))["run"]
                    assert (run["state"], run["stopReason"], run["text"]) == ("completed", "end_turn", WORDS), name
                texts = [row["parts"][0]["text"] for row in await rows(wire, session) if row["role"] == "assistant"]
                assert texts == [WORDS] * prompts, name
                assert (await wire.call("session/list", workspaceId=await of(wire, bench, name)))["sessions"]
    assert len(Lying.met) >= len(names) * 9 // 10, "most faults must have been met"


async def of(wire: Wire, bench: Harness, name: str) -> str:
    """The workspace of a name."""
    opened = await wire.call("workspace/open", path=str(bench.root / name))
    return opened["workspace"]["workspaceId"]


@pytest.mark.usefixtures("lying")
async def test_an_acceptance_that_was_reported_as_failed_and_is_stored_never_runs_by_itself(
    bench: Harness,
) -> None:
    directory = bench.root / "w0-unknown"
    directory.mkdir()
    settings: Json = {"model": bench.script(*TURNS)}
    async with bench.serve(**settings) as running, connect(running.ws, running.token) as wire:
        workspace = (await wire.call("workspace/open", path=str(directory)))["workspace"]["workspaceId"]
        # With a title it is given none later, by a commit that could stand before the one that is to fail.
        made = await wire.call("session/new", workspaceId=workspace, title="titled")
        session = made["session"]["sessionId"]
        await wire.attach(session)
        (place,) = Lying.commits
        for run_id, again in (("sent-again", True), ("left", False)):
            (connection,) = lying_connections(running)
            connection._number = Lying.commits[place] + 1
            refusal = await wire.refused("session/prompt", **wire.prompt_params(session, run_id, runId=run_id))
            assert refusal.kind == "storage_unavailable"
            if again:
                sent = await wire.prompt(session, run_id, runId=run_id)
                assert not sent["duplicate"]
                assert (await wire.completed(session, run_id))["stopReason"] == "end_turn"
        assert [event["run"]["runId"] for event in wire.of_type(session, "run.accepted")] == ["sent-again"]
        assert len((await wire.call("test/requests", sessionId=session))["requests"]) == 1
    async with bench.serve(**settings) as running, connect(running.ws, running.token) as wire:
        await wire.call("workspace/open", path=str(directory))
        await wire.attach(session)
        # It is in the database, so it has its end there; it was never begun, and sent again it is that run.
        run = (await wire.call("run/get", runId="left"))["run"]
        assert run["stopReason"] == "interrupted" and "startedAt" not in run
        sent = await wire.prompt(session, "left", runId="left")
        assert sent["duplicate"] and sent["run"]["stopReason"] == "interrupted"
        with contextlib.suppress(Refused):
            assert (await wire.call("test/requests", sessionId=session))["requests"] == []
        assert terminals(wire, session) == []


def lying_connections(running: Any) -> list[Lying]:
    """The connections that the open workspaces write with."""
    stores = [workspace.store for workspace in running.server.workspaces.all()]
    return [store._database._opened.write_connection for store in stores]
