"""Clients that do what clients do, at random and all at once, until their server is gone or they are told to stop.

Every client has a connection and reads several sessions of several workspaces,
sends prompts of every delivery without waiting for answers, cancels, attaches
anew in the middle, resumes, asks and repeats itself. Nothing here looks at what
comes of it.
"""

import random
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from torture.clients import Client, Gone, Refused, Server, ask, open_client
from torture.history import History
from torture.rig import open_session

__all__ = ["TURNS", "Load", "ignoring_closing"]

Json = dict[str, Any]

TURNS: Final[list[Json]] = [
    {"match": "^slow", "responses": [[{"say": "tok ", "times": 500, "delayMs": 4}]]},
    {"match": "^words", "responses": [[{"say": "a few words for {{prompt}} ", "chunk": 3, "delayMs": 2}]]},
    {
        "match": "^tools",
        "responses": [
            [{"think": "let me look ", "times": 4, "delayMs": 3}, {"tool": "ls", "input": {}}],
            [{"say": "and "}, {"tool": "glob", "input": {"pattern": "*"}}, {"tool": "ls", "input": {"path": "no"}}],
            [{"say": "seen"}],
        ],
    },
    {
        "match": "^shell",
        "responses": [[{"tool": "shell", "input": {"command": "echo one; sleep 0.05; echo two"}}], [{"say": "ran"}]],
    },
    {
        "match": "^flaky",
        "responses": [
            [
                {"think": "hm"},
                {"say": "ab", "chunk": 1, "times": 5},
                {"fail": {"kind": "provider_unreachable", "message": "cut", "after": 4}, "retryable": True},
            ],
            [{"say": "the second time {{prompt}}", "chunk": 4, "delayMs": 1}],
        ],
    },
    {"match": "^bad", "responses": [[{"say": "half a "}, {"fail": {"kind": "provider_error", "message": "no"}}]]},
    {"responses": [[{"say": "you said {{prompt}}"}]]},
]
"""What the scripted model does: by the first word of a prompt."""

KINDS = ("slow", "words", "tools", "shell", "flaky", "bad", "hello", "hello", "hello")
DELIVERIES = ("queue", "queue", "queue", "steer", "steer", "interrupt", "reject", None)


@contextmanager
def ignoring_closing() -> Generator[None]:
    """A server that closes takes nothing new."""
    try:
        yield
    except Refused as exc:
        if exc.kind not in {"server_closing", "workspace_closing"}:
            raise


class Load:
    """What a number of clients did: the sessions they made and the runs they asked for."""

    def __init__(self, history: History, server: Server, rng: random.Random, directories: list[str]) -> None:
        self.history = history
        self.server = server
        self.rng = rng
        self.directories = directories
        self.sessions: list[str] = []
        self.runs: dict[str, Json] = {}
        """The parameters of each prompt that was sent, by its run id."""
        self.operations = 0
        self._tag = f"{rng.getrandbits(32):08x}"

    async def run(self, clients: int, *, pause_s: float = 0.01) -> None:
        """Let so many clients work until the server is gone or this is cancelled. The first makes the sessions."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.history.watch_stalls, Path(self.directories[0]).parent)
            async with trio.open_nursery() as working:
                for number in range(clients):
                    working.start_soon(self._client, f"c{number}", pause_s)
            nursery.cancel_scope.cancel()

    async def _client(self, name: str, pause_s: float) -> None:
        rng = random.Random(f"{self._tag}{name}")
        try:
            async with open_client(self.history, self.server, name=name) as client:
                for directory in self.directories:
                    await client.send("workspace/open", path=directory)
                with ignoring_closing():
                    self.sessions.append(await open_session(client, rng.choice(self.directories)))
                for session in self.sessions:
                    await client.send("session/attach", sessionId=session)
                while self.sessions:
                    await self._step(client, rng)
                    self.operations += 1
                    await trio.sleep(rng.random() * 2 * pause_s)
        except Gone:
            pass

    async def _step(self, client: Client, rng: random.Random) -> None:
        session = rng.choice(self.sessions)
        which = rng.random()
        if which < 0.45:
            await self._prompt(client, rng, session)
        elif which < 0.53:
            await client.send("session/cancel", sessionId=session, scope=rng.choice(["all", "all", "mine"]))
        elif which < 0.56 and self.runs:
            run_id = rng.choice(list(self.runs))
            of = self.runs[run_id]["sessionId"]
            await client.send("session/cancel", sessionId=of, runId=run_id, wait=rng.random() < 0.5)
        elif which < 0.58:
            await client.send("session/clear_queue", sessionId=session)
        elif which < 0.68:
            after = client.places.get(session)
            await client.ask("session/attach", sessionId=session, **({"after": after} if after else {}))
        elif which < 0.74:
            await client.send("session/attach", sessionId=session)
        elif which < 0.77:
            await client.send("session/detach", sessionId=session)
            await client.send("session/attach", sessionId=session)
        elif which < 0.83 and self.runs:
            await client.send("session/prompt", **self.runs[rng.choice(list(self.runs))])
        elif which < 0.88 and self.runs:
            await client.send("run/get", runId=rng.choice(list(self.runs)))
        elif which < 0.91:
            await client.send("session/queue", sessionId=session)
        elif which < 0.94:
            await ask(self.history, self.server, "session/messages", sessionId=session, limit=20)
        elif which < 0.96 and len(self.sessions) < 12:
            with ignoring_closing():
                self.sessions.append(await open_session(client, rng.choice(self.directories)))
        else:
            await client.answer(await self._prompt(client, rng, session))

    async def _prompt(self, client: Client, rng: random.Random, session: str) -> int:
        run_id = self._name(rng)
        delivery = rng.choice(DELIVERIES)
        text = f"{rng.choice(KINDS)} {run_id}"
        more = {} if delivery is None else {"delivery": delivery}
        params = client.prompt_params(session, text, runId=run_id, **more)
        self.runs[run_id] = params
        return await client.send("session/prompt", **params)

    def _name(self, rng: random.Random) -> str:
        return f"{self._tag}-{len(self.runs)}-{rng.getrandbits(24):06x}"
