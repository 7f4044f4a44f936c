"""Time that goes wrong: a wall clock that jumps a day, a server that is stopped for half a minute, a disk that is slow.

The stop costs half a minute of waiting and no work, so the other tries of its
kind are made beside it, in the same test.
"""

import signal
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.process import Process, spawn
from wire.steps import PLAIN, new_session, rows, terminals

Json = dict[str, Any]

LIMIT_S: Final = 110
DAY_S: Final = 86_400
STOP_S: Final = 30.0

SHIFTED: Final = """
import os, runpy, time
from pathlib import Path
real_ns, real = time.time_ns, time.time
def shift():
    try:
        return int(Path(os.environ["TEST_CLOCK"]).read_text() or 0)
    except FileNotFoundError:
        return 0
time.time_ns = lambda: real_ns() + shift() * 1_000_000_000
time.time = lambda: real() + shift()
runpy.run_module("atrio_server", run_name="__main__", alter_sys=True)
"""
"""A server whose wall clock goes wrong by the seconds in a file."""

SLOW: Final = {"match": "^slow", "responses": [[{"say": "tok ", "times": 40, "delayMs": 50}]]}
GATED: Final = {"match": "^gated", "responses": [[{"gate": "go"}, {"say": "done"}]]}
TURNS: Final = (SLOW, GATED, PLAIN)


async def opened(wire: Wire, path: Path) -> str:
    """Open a workspace; returns its id."""
    workspace: str = (await wire.call("workspace/open", path=str(path)))["workspace"]["workspaceId"]
    return workspace


# A clock that jumps.


async def listed(wire: Wire, workspace: str, limit: int = 50) -> list[str]:
    """The titles of a workspace's sessions, newest first, page by page."""
    found: list[str] = []
    cursor: Json = {}
    while True:
        page = await wire.call("session/list", workspaceId=workspace, limit=limit, **cursor)
        found += [session["title"] for session in page["sessions"]]
        if "nextCursor" not in page:
            return found
        cursor = {"cursor": page["nextCursor"]}


async def jump(bench: Harness) -> None:
    """Work on while the clock is a day ahead, a day behind and right again; then the same after a restart."""
    clock = bench.root / "clock"
    state = bench.root / "clock-state"
    flags = ("--test-hooks", "--model", bench.script(*TURNS))
    program: Json = {"program": ("-c", SHIFTED), "environ": {"TEST_CLOCK": str(clock)}}
    order: list[str] = []
    async with spawn(state, *flags, **program) as server, connect(server.ws, server.token) as wire:
        workspace = await opened(wire, bench.directory)
        session = await new_session(wire, workspace, title="all along")
        await wire.prompt(session, "gated", runId="across")
        await wire.call("test/gates", wait="go")
        waiting = await wire.send("run/wait", runId="across", timeoutMs=60_000)
        for name, shift in (("ahead", DAY_S), ("behind", -DAY_S), ("right", 0)):
            clock.write_text(str(shift))
            other = await new_session(wire, workspace, title=name)
            await wire.prompt(other, f"in {name}", runId=name)
            assert (await wire.completed(other, name))["text"] == f"in {name}"
            await wire.prompt(session, f"queued {name}", runId=f"queued-{name}")
            order.append(name)
        # Nothing ran into a time-out, neither of the server nor of the request.
        assert (await wire.call("run/get", runId="across"))["run"]["state"] == "running"
        await wire.call("test/release", gate="go")
        assert (await wire.reply(waiting))["run"]["stopReason"] == "end_turn"
        ids = ["across", *(f"queued-{name}" for name in order)]
        for run_id in ids:
            await wire.completed(session, run_id)
        assert terminals(wire, session) == [(run_id, "end_turn") for run_id in ids]
        accepted = [event["run"]["acceptSeq"] for event in wire.of_type(session, "run.accepted")]
        assert accepted == sorted(set(accepted))
        messages = await rows(wire, session)
        assert [row["order"] for row in messages] == sorted({row["order"] for row in messages})
        assert [row["parts"][0]["text"] for row in messages if row["role"] == "user"] == [
            "gated",
            *(f"queued {name}" for name in order),
        ]
        # Sessions are listed by what the clock said, the newest first; also page by page, and none is left out.
        newest = ["ahead", "all along", "right", "behind"]
        assert await listed(wire, workspace) == await listed(wire, workspace, limit=1) == newest
        server.signal(signal.SIGKILL)
        await server.ended()
    clock.write_text(str(-DAY_S))
    async with spawn(state, *flags, **program) as server, connect(server.ws, server.token) as wire:
        workspace = await opened(wire, bench.directory)
        await wire.attach(session)
        await wire.prompt(session, "after", runId="after")
        run = await wire.completed(session, "after")
        assert run["acceptSeq"] > accepted[-1]
        assert (await rows(wire, session))[-2]["parts"][0]["text"] == "after"
        assert sorted(await listed(wire, workspace, limit=1)) == sorted(newest)


# A server that is stopped.


async def stop(bench: Harness) -> None:
    """Stop a server for half a minute in the middle of everything."""
    flags = ("--test-hooks", "--model", bench.script(*TURNS))
    state = bench.root / "stop-state"
    async with spawn(state, *flags, log=bench.root / "stop-log") as server:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(connect(server.ws, server.token)) for _ in range(5)]
            wire = wires[0]
            workspace = await opened(wire, bench.directory)
            slow, gated = await new_session(wire, workspace), await new_session(wire, workspace)
            for other in wires[1:]:
                await opened(other, bench.directory)
                await other.attach(slow)
            await wire.prompt(gated, "gated", runId="gated")
            await wire.call("test/gates", wait="go")
            await wire.prompt(slow, "slow", runId="slow")
            await wire.event(slow, "message.delta")
            server.signal(signal.SIGSTOP)
            try:
                asked = [await other.send("ping") for other in wires]
                sent = await wire.send("session/prompt", **wire.prompt_params(slow, "meanwhile", runId="meanwhile"))
                late = await stack.enter_async_context(knocking(server))
                await trio.sleep(STOP_S)
            finally:
                server.signal(signal.SIGCONT)
            for other, ping in zip(wires, asked, strict=True):
                await other.reply(ping)
            assert not (await wire.reply(sent))["duplicate"]
            await late.wait()
            for other in wires:
                assert (await other.completed(slow, "slow"))["text"] == "tok " * 40
                assert (await other.completed(slow, "meanwhile"))["text"] == "meanwhile"
                assert not other.of_type(slow, "notice") and other.closed_code is None and not other.detached
            await wire.call("test/release", gate="go")
            assert (await wire.completed(gated, "gated"))["stopReason"] == "end_turn"
            # Long enough for what would close a connection late: its next ping and the time for the answer.
            for other in wires:
                assert await other.call("ping") == {}


@asynccontextmanager
async def knocking(server: Process) -> AsyncGenerator[trio.Event]:
    """Connect while nobody answers; what this gives is set when somebody has."""
    answered = trio.Event()

    async def knock() -> None:
        async with connect(server.ws, server.token) as wire:
            assert await wire.call("ping") == {}
            answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(knock)
        yield answered


async def test_a_server_that_stood_still_for_half_a_minute_goes_on_and_one_whose_clock_jumps_a_day_never_notices(
    bench: Harness,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, bench)
            nursery.start_soon(jump, bench)


# A disk that is slow.


class Slow(sqlite3.Connection):
    """A connection whose every commit takes a tenth of a second; a test may hold one longer."""

    commits = 0
    held = threading.Event()

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]  # positional only, too
        if sql == "COMMIT":
            type(self).commits += 1
            time.sleep(0.1)  # noqa: TID251  a worker thread's, and the point
            self.held.wait(30)
        return super().execute(sql, *args)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    real = sqlite3.connect

    def connect_to(path: Any, *args: Any, **more: Any) -> sqlite3.Connection:
        mine = {"factory": Slow} if str(path).endswith("atrio.db") and "factory" not in more else {}
        return real(path, *args, **more, **mine)

    monkeypatch.setattr(sqlite3, "connect", connect_to)
    Slow.commits = 0
    Slow.held.set()
    yield Slow
    Slow.held.set()


async def test_fifty_prompts_on_a_slow_disk_share_their_commits_and_hold_up_nobody(
    bench: Harness, slow: type[Slow]
) -> None:
    count = 50
    async with bench.serve(model=bench.script(PLAIN), limit_s=60) as running, AsyncExitStack() as stack:
        opened_ones = [await stack.enter_async_context(bench.open(running)) for _ in range(5)]
        wire, workspace = opened_ones[0]
        sessions = [await new_session(wire, workspace, title="titled") for _ in range(5)]
        before = slow.commits
        slow.held.clear()
        sent: list[tuple[Wire, int]] = []
        for number in range(count):
            sender = opened_ones[number % 5][0]
            params = sender.prompt_params(sessions[number // 5 % 5], f"p{number}", runId=f"p{number}")
            sent.append((sender, await sender.send("session/prompt", **params)))
        # While a commit takes as long as it likes, everything else is answered.
        for sender, _ in opened_ones:
            for _ in range(20):
                assert await sender.call("ping") == {}
            assert len((await sender.call("session/list", workspaceId=workspace))["sessions"]) == 5
        assert slow.commits <= before + 1
        slow.held.set()
        for sender, request_id in sent:
            assert not (await sender.reply(request_id))["duplicate"]
        accepting = slow.commits - before
        for number in range(count):
            run = (await wire.call("run/wait", runId=f"p{number}"))["run"]
            assert (run["stopReason"], run["text"]) == ("end_turn", f"p{number}")
    # One that was held, and a few for all the rest: by far not one for each.
    assert accepting <= 8, f"{accepting} commits for {count} prompts"
    async with bench.serve(model=bench.script(PLAIN)) as running, connect(running.ws, running.token) as wire:
        for number in range(count):
            assert (await wire.call("run/get", runId=f"p{number}"))["run"]["text"] == f"p{number}"
