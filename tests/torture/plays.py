"""Small stories played with a real server, the same each time: what a mutation must not get away with.

Nothing in them is left to chance: gates and holds say where a run stands, and
each step waits for what the step before has brought about, also in a server
that is broken on purpose. A play judges nothing; it ends with everything asked
for, so that the checker can.
"""

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio

from torture.clients import Client, Gone, ask, open_client
from torture.rig import Rig, ServerProcess, open_session, read_all

__all__ = ["PLAYS", "TURNS"]

Json = dict[str, Any]

TURNS: Final[list[Json]] = [
    {"match": "^gated", "responses": [[{"say": "before "}, {"gate": "go"}, {"say": "after"}]]},
    {
        "match": "^steps",
        "responses": [[{"say": "one "}, {"gate": "step"}, {"tool": "ls", "input": {}}], [{"say": "two"}]],
    },
    {"match": "^fast", "responses": [[{"say": "tok ", "times": 200}]]},
    {"match": "^slow", "responses": [[{"say": "tok ", "times": 2000, "delayMs": 10}]]},
    {
        "match": "^flaky",
        "responses": [
            [
                {"think": "hm"},
                {"say": "ab", "chunk": 1, "times": 5},
                {"fail": {"kind": "provider_unreachable", "message": "cut", "after": 4}, "retryable": True},
            ],
            [{"say": "the second time"}],
        ],
    },
    {"responses": [[{"say": "you said {{prompt}}"}]]},
]

TOLD_S: Final = 1.6
"""How long a text has been told at a kill: longer than any stall of the machine excuses, and than a commit may take."""


@asynccontextmanager
async def two_clients(rig: Rig, server: ServerProcess) -> AsyncGenerator[tuple[Client, Client, str]]:
    """Two clients that read one session."""
    async with open_client(rig.history, server, name="a") as a, open_client(rig.history, server, name="b") as b:
        session = await open_session(a, rig.directory("one"))
        await b.call("workspace/open", path=rig.directory("one"))
        await b.call("session/attach", sessionId=session)
        yield a, b, session


async def caught_up(client: Client, other: Client, session: str) -> None:
    """Wait until a client has got as far as another one is now."""
    place = other.places[session]["seq"]
    await client.until(lambda: client.places[session]["seq"] >= place)


async def talk(rig: Rig) -> None:
    """Fast text, read live and once more from the beginning; a snapshot in the middle; a retry; repeated prompts."""
    async with rig.serve() as server, two_clients(rig, server) as (a, b, session):
        other = await open_session(a, rig.directory("two"))
        await a.prompt(session, "fast", runId="fast")
        for client in (a, b):
            await client.ended("fast")
        async with open_client(rig.history, server, name="c") as c:
            await c.call("session/attach", sessionId=session, after={**a.places[session], "seq": 0})
            await caught_up(c, a, session)
            await a.prompt(session, "slow", runId="slow")
            for seen in (1, 4):
                await a.until(lambda seen=seen: deltas_after_start(a, session) >= seen)
                await c.call("session/attach", sessionId=session)
            await c.until(lambda: c.types[-1] == (session, "message.delta"))
            await a.call("session/cancel", sessionId=session, runId="slow")
            await a.ended("slow")
            await a.prompt(session, "flaky", runId="flaky")
            await a.ended("flaky")
            await b.prompt(session, "fast", runId="fast")
            await b.prompt(other, "fast", runId="fast")
            await b.prompt(session, "steps", runId="steps")
            await b.call("test/gates", wait="step")
            await b.call("test/release", gate="step", all=True)
            await a.ended("steps")
            for client in (b, c):
                await caught_up(client, a, session)
        await read_all(rig.history, server, [session, other], ["fast", "slow", "flaky", "steps"])


def deltas_after_start(client: Client, session: str) -> int:
    """How many frames of text of the newest turn a client has got."""
    kinds = [kind for thing, kind in client.types if thing == session]
    start = len(kinds) - 1 - kinds[::-1].index("run.started") if "run.started" in kinds else len(kinds)
    return kinds[start:].count("message.delta")


async def queue(rig: Rig) -> None:
    """A turn at a gate; two prompts and a steer come meanwhile."""
    async with rig.serve() as server, two_clients(rig, server) as (a, b, session):
        await a.prompt(session, "steps", runId="first")
        await a.call("test/gates", wait="step")
        await a.prompt(session, "hello", runId="second")
        await b.prompt(session, "hello", runId="third")
        await b.prompt(session, "besides", runId="steer", delivery="steer")
        await a.call("test/release", gate="step", all=True)
        await a.ended("first", "second", "third")
        await caught_up(b, a, session)
        await read_all(rig.history, server, [session], ["first", "second", "third", "steer"])


async def cancel(rig: Rig) -> None:
    """A cancel of a turn and of what waits, with a prompt right behind it; and one that waits for the end."""
    async with rig.serve() as server, two_clients(rig, server) as (a, b, session):
        await a.prompt(session, "gated", runId="first")
        await a.call("test/gates", wait="go")
        await a.prompt(session, "hello", runId="second")
        await b.prompt(session, "hello", runId="third")
        cancelling = await a.send("session/cancel", sessionId=session)
        later = await a.send("session/prompt", **a.prompt_params(session, "hello", runId="later"))
        for request_id in (cancelling, later):
            await a.answer(request_id)
        await a.ended("later")
        await a.call("test/hold", sessionId=session, point="run.finish")
        await a.prompt(session, "gated", runId="held")
        await a.call("test/gates", wait="go")
        cancelling = await a.send("session/cancel", sessionId=session, wait=True)
        await a.call("ping")
        await b.call("test/release", gate="go", all=True)  # if it was not cancelled after all
        await b.call("test/gates", wait="run.finish")
        await trio.sleep(0.05)  # what comes after is told by a clock that is cut to milliseconds
        await b.call("test/release", gate="run.finish", all=True)
        await a.answer(cancelling)
        await a.ended("held")
        await read_all(rig.history, server, [session], ["first", "second", "third", "later", "held"])


async def crash(rig: Rig) -> None:
    """A kill with a run that is over, one that talks, one that waits, and a prompt that is being stored."""
    runs = ["over", "open", "waiting", "talking"]
    async with rig.serve() as server, two_clients(rig, server) as (a, _, session):
        talking = await open_session(a, rig.directory("two"))
        storing = await open_session(a, rig.directory("one"))
        await a.prompt(session, "hello", runId="over")
        await a.ended("over")
        await a.prompt(session, "gated", runId="open")
        await a.call("test/gates", wait="go")
        await a.prompt(session, "hello", runId="waiting")
        await a.call("test/hold", sessionId=storing, point="accept.commit")
        await a.send("session/prompt", **a.prompt_params(storing, "hello", runId="stored"))
        await a.call("test/gates", wait="accept.commit")
        await a.prompt(talking, "slow", runId="talking")
        await a.until(lambda: (talking, "message.delta") in a.types)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.history.watch_stalls, rig.root)
            await told_without_a_stall(rig)
            place = a.places[session]
            await server.kill()
            await a.closing()
            nursery.cancel_scope.cancel()  # not before the kill: a stall that ends there counts as well
    async with rig.serve() as server, open_client(rig.history, server, name="d") as d:
        await d.call("session/attach", sessionId=session, after=place)
        if "result" in await d.ask("run/get", runId="stored"):
            runs.append("stored")
        for run_id in runs:
            await d.ask("run/get", runId=run_id)
        await d.prompt(session, "hello", runId="after")
        with trio.move_on_after(QUEUE_STUCK_S):
            await d.ended("after")
        await read_all(rig.history, server, [session, talking, storing], [*runs, "after"], method="run/get")


async def told_without_a_stall(rig: Rig) -> None:
    """Let a text be told for a while in which the machine does not stand still; gives up where it does so always."""
    for _ in range(8):
        before = len(rig.history.entries)
        await trio.sleep(TOLD_S)
        await trio.lowlevel.checkpoint()  # a stall to the very end is noted first
        stalled_s = sum(entry["s"] for entry in rig.history.entries[before:] if entry["what"] == "stall")
        if stalled_s < TOLD_S / 4:
            return


QUEUE_STUCK_S: Final = 30


async def crash_twice(rig: Rig) -> None:
    """A kill with runs open, and another one in the recovery that follows."""
    async with rig.serve() as server, two_clients(rig, server) as (a, _, session):
        await a.prompt(session, "gated", runId="open")
        await a.call("test/gates", wait="go")
        await a.prompt(session, "hello", runId="waiting")
        await server.kill()
        await a.closing()
    async with rig.serve() as server:
        with suppress(Gone):
            await ask(rig.history, server, "workspace/open", path=rig.directory("one"))
        await server.kill()
    async with rig.serve() as server:
        await read_all(rig.history, server, [session], ["open", "waiting"], method="run/get")


async def stop(rig: Rig) -> None:
    """SIGTERM with a turn at a gate and a prompt that waits."""
    async with rig.serve() as server, two_clients(rig, server) as (a, b, session):
        await a.prompt(session, "gated", runId="open")
        await a.call("test/gates", wait="go")
        await b.prompt(session, "hello", runId="waiting")
        server.signal(signal.SIGTERM)
        for client in (a, b):
            await client.closing()
        await server.gone()
    async with rig.serve() as server:
        await read_all(rig.history, server, [session], ["open", "waiting"], method="run/get")


PLAYS: dict[str, Callable[[Rig], Awaitable[None]]] = {
    "talk": talk,
    "queue": queue,
    "cancel": cancel,
    "crash": crash,
    "crash_twice": crash_twice,
    "stop": stop,
}
"""All plays."""
