"""A server process under attack, somebody who uses it meanwhile, and proof that nothing of the attack is left.

`besieged` starts `atrio serve`, and has a canary talk to it all the time: a ping,
a prompt and its answer, over and over. An answer that is lost or takes longer
than `LOST_S` fails the test at once, wherever the attack stands; one that takes
longer than `LATE_S` is counted. Afterwards the server's own figures are back
where they were (connections, tasks, open files), it has not grown, and its log
has no error in it.
"""

import json
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from atrio_agent.coordinator import MAX_LOADED
from atrio_agent.streams import RINGS_BYTES
from door_rig import DoorClient
from wire.client import Wire, connect
from wire.http import http
from wire.process import Process, spawn
from wire.steps import new_session

__all__ = ["LOST_S", "Victim", "besieged", "in_turns"]

Json = dict[str, Any]

LATE_S = 1.0
LOST_S = 5.0
"""In seconds of this process, which stand still when the machine does: see `patiently`."""

SETTLED_S = 30.0
SESSION_BYTES = 20 * 1024
GROWTH_BYTES = RINGS_BYTES + MAX_LOADED * SESSION_BYTES + 64 * 1024 * 1024
"""How much more memory a server may have after any attack than when it was warm: full rings, all the sessions that it
may have loaded, and some."""

THREADS_MORE = 16
"""Threads that wait for more work end after ten seconds, which no test waits for."""

ECHO = {"name": "echo", "turns": [{"responses": [[{"say": "{{prompt}}"}]]}]}
FIGURE = re.compile(r"^(\w+)(?:\{\})? (\S+)$", re.MULTILINE)


@dataclass(kw_only=True)
class Victim(DoorClient):
    """A server under attack. As a client it is whoever attacks."""

    process: Process
    directory: Path
    log: Path
    late: int = 0
    answered: int = 0
    notes: list[str] = field(default_factory=list[str])

    async def figures(self) -> dict[str, float]:
        """What the server says of itself: numbers without labels."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = await http(self.process.http, "GET", "/metrics", headers=headers)
        assert answer.status == 200, answer
        return {name: float(value) for name, value in FIGURE.findall(answer.body.decode())}

    async def settled(self, before: dict[str, float]) -> dict[str, float]:
        """Wait until nothing is left of what was not there before; the figures then."""
        names = ["atrio_connections", "atrio_tasks", "process_open_fds"]
        now: dict[str, float] = {}
        with trio.move_on_after(SETTLED_S):
            while True:
                now = await self.figures()
                if all(now.get(name, 0) <= before.get(name, 0) for name in names):
                    return now
                await trio.sleep(0.1)
        more = {name: (before.get(name), now.get(name)) for name in names}
        raise AssertionError(f"the server keeps something of the attack (before, now): {more}")

    def complaints(self) -> list[str]:
        """Lines of the log that tell of a fault of the server's own."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if _is_fault(line)]


def _is_fault(line: str) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return True  # something that is not the log, such as a traceback, went to standard error
    return event.get("level") in {"error", "critical"} or "exception" in event


@asynccontextmanager
async def besieged(tmp_path: Path, *flags: str) -> AsyncGenerator[Victim]:
    """Run a server until the end of the block, with somebody who uses it; look at it then."""
    directory, log, script = tmp_path / "project", tmp_path / "log", tmp_path / "echo.json"
    directory.mkdir()
    script.write_text(json.dumps(ECHO))
    standard = ("--model", f"script:{script}", "--log-format", "json", "--allow-path", str(tmp_path))
    standard += ("--detach-grace", "0.2")
    async with spawn(tmp_path / "state", *standard, *flags, log=log) as process:
        port = int(process.http.rpartition(":")[2])
        victim = Victim(port=port, token=process.token, process=process, directory=directory, log=log)
        async with _canary(victim) as (wire, talk):
            for _ in range(3):
                await talk()  # what is loaded at first use is loaded now
            before = await victim.figures()
            over = False

            async def talk_on() -> None:
                while not over:
                    await talk()
                    await trio.sleep(0.02)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk_on, name="canary")
                yield victim
                over = True
            await _examine(victim, wire, before)
            await talk()
        process.signal(signal.SIGTERM)
        with trio.fail_after(30):
            assert await process.ended() == 0
    complaints = victim.complaints()
    assert not complaints, f"{len(complaints)} faults in the log, the first: {complaints[0][:4000]}"


async def _examine(victim: Victim, wire: Wire, before: dict[str, float]) -> None:
    for workspace in (await wire.call("workspace/list"))["workspaces"]:
        if workspace["path"] == str(victim.directory):  # what was done by HTTP would keep it for half a minute
            params = {"workspaceId": workspace["workspaceId"]}
            await victim.rpc(
                json.dumps({"jsonrpc": "2.0", "id": 1, "method": "workspace/close", "params": params}).encode()
            )
    after = await victim.settled(before)
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    assert grown < GROWTH_BYTES, f"the server has grown by {grown / 2**20:.0f} MiB"
    assert after["atrio_threads"] <= before["atrio_threads"] + THREADS_MORE


@asynccontextmanager
async def _canary(victim: Victim) -> AsyncGenerator[tuple[Wire, Callable[[], Awaitable[None]]]]:
    """Somebody with a session: their connection, and what has them say a ping and a prompt."""
    async with connect(victim.process.ws, victim.token, name="canary") as wire:
        canary = victim.directory.parent / "canary"
        canary.mkdir()
        opened = await wire.call("workspace/open", path=str(canary))
        session = await new_session(wire, opened["workspace"]["workspaceId"])
        count = 0

        async def talk() -> None:
            nonlocal count
            count += 1
            run_id = f"canary-{count}"
            await patiently(victim, "a ping", wire.call("ping"))
            await patiently(victim, "a prompt", wire.prompt(session, f"say {count}", runId=run_id))
            await patiently(victim, "the end of a run", _echoed(wire, session, run_id, f"say {count}"))
            wire.events.clear()
            wire.frames.clear()

        yield wire, talk


async def _echoed(wire: Wire, session: str, run_id: str, text: str) -> None:
    run = await wire.completed(session, run_id)
    assert run["text"] == text, run


async def patiently(victim: Victim, what: str, answer: Awaitable[Any]) -> None:
    """Wait for an answer of the server's to the canary.

    A machine that stands still holds up this process as well, so its patience is
    counted in turns of its own.
    """
    done = False

    async def wait() -> None:
        nonlocal done
        await answer
        done = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        began = trio.current_time()
        for _ in range(int(LOST_S / 0.05)):
            await trio.sleep(0.05)
        raise AssertionError(f"{what} was not answered; {victim.notes[-3:]}")
    assert done
    victim.answered += 1
    if trio.current_time() - began > LATE_S:
        victim.late += 1


async def in_turns(tasks: int, attack: Callable[[int], Awaitable[None]], attacks: Iterable[int]) -> None:
    """Make all attacks, so many at a time."""
    numbers = iter(attacks)

    async def worker() -> None:
        for number in numbers:
            await attack(number)

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(worker)
