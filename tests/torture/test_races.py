"""Prompts and cancels that race: several connections, several sessions, one server, and nothing waits for anything.

What each cancel must and must not have covered is worked out afterwards, from
the order of requests and answers and from the times that the server wrote.
"""

import random
from pathlib import Path

import trio

from scale import Scale
from torture.checker import require
from torture.clients import Client, open_client
from torture.history import History
from torture.progress import Progress
from torture.rig import WAIT_S, Rig, ServerProcess, open_session, read_all

ROUND = 500
"""Operations whose history is checked together."""

SOCKETS = 4
SESSIONS = 4
OPEN = 24
"""Requests that a client sends before it waits for an answer."""

TURNS = [
    {"match": "^slow", "responses": [[{"say": "tok ", "times": 20, "delayMs": 3}]]},
    {"match": "^steps", "responses": [[{"say": "one "}, {"tool": "ls", "input": {}}], [{"say": "two"}]]},
    {"responses": [[{"say": "you said {{prompt}}"}]]},
]
KINDS = ("slow", "slow", "steps", "hello")
DELIVERIES = ("queue", "queue", "steer", "interrupt", "reject")


class Race:
    """Some clients that send prompts and cancels to the same sessions."""

    def __init__(self, rig: Rig, server: ServerProcess, rng: random.Random) -> None:
        self.rig = rig
        self.server = server
        self.rng = rng
        self.runs: list[str] = []
        self.sessions: list[str] = []
        self._tag = f"{rng.getrandbits(32):08x}"

    async def run(self, operations: int) -> None:
        """Send so many, wait for the end of all of it, and check it."""
        history = self.rig.history
        async with open_client(history, self.server, name="maker") as maker:
            for number in range(SESSIONS):
                self.sessions.append(await open_session(maker, self.rig.directory(("one", "two")[number % 2])))
            async with trio.open_nursery() as nursery:
                for number in range(SOCKETS):
                    own = random.Random(self.rng.getrandbits(64))
                    nursery.start_soon(self._client, f"racer{number}", operations // SOCKETS, own)
            await read_all(history, self.server, self.sessions, self.runs)
        require(history)

    async def _client(self, name: str, count: int, rng: random.Random) -> None:
        async with open_client(self.rig.history, self.server, name=name) as client:
            waiting = [await client.send("session/attach", sessionId=session) for session in self.sessions]
            for _ in range(count):
                waiting.append(await self._operate(client, rng))
                if len(waiting) > OPEN:
                    await client.answer(waiting.pop(0))
                if rng.random() < 0.2:
                    await trio.sleep(rng.random() * 0.02)
            for request_id in waiting:
                await client.answer(request_id)

    async def _operate(self, client: Client, rng: random.Random) -> int:
        session, which = rng.choice(self.sessions), rng.random()
        if which < 0.62 or not self.runs:
            run_id = f"{self._tag}-{len(self.runs)}"
            self.runs.append(run_id)
            text = f"{rng.choice(KINDS)} {run_id}"
            params = client.prompt_params(session, text, runId=run_id, delivery=rng.choice(DELIVERIES))
            return await client.send("session/prompt", **params)
        if which < 0.84:
            scope, wait = rng.choice(["all", "mine"]), rng.random() < 0.3
            return await client.send("session/cancel", sessionId=session, scope=scope, wait=wait)
        if which < 0.95:
            return await client.send("session/cancel", sessionId=session, runId=rng.choice(self.runs))
        return await client.send("session/clear_queue", sessionId=session)


async def test_a_cancel_covers_what_came_before_it_and_nothing_after(tmp_path: Path, scale: Scale) -> None:
    operations = scale.count(2_000, 100_000)
    progress = Progress("cancel and prompt races", operations, is_long=scale.is_long)
    rig = Rig(tmp_path / "rig", History(), *TURNS)
    with scale.trying("cancel and prompt races, operations", operations):
        async with rig.serve() as server:
            for start in range(0, operations, ROUND):
                rig.begin(History(f"{scale.seed}, operations from {start}"), server)
                with rig.history.kept(tmp_path / f"races-{start}.jsonl"), trio.fail_after(WAIT_S):
                    await Race(rig, server, scale.rng("races", start)).run(ROUND)
                progress.at(start + ROUND)
