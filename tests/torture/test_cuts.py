"""Connections that are cut at any byte, in either direction, while clients prompt and read.

Clients come back and go on after what they have: plain ones that resume by
themselves, and the client library, which hides all of it. Whatever was not
answered is sent again by its run id.
"""

import json
import random
import uuid
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import msgspec
import trio

import atrio_server.client as library
from atrio_protocol.content import TextBlock
from atrio_protocol.methods import PromptParams, RunWaitParams
from atrio_server.client.link import dial_tcp
from scale import Scale
from torture.checker import require
from torture.clients import Client, Gone, open_client
from torture.facts import read
from torture.history import History
from torture.load import TURNS
from torture.progress import Progress
from torture.proxy import NEVER, Cut, CuttingProxy, open_proxy
from torture.rig import WAIT_S, Rig, ServerProcess, open_session, read_all

ROUND = 100
"""Cuts whose history is checked together."""

READERS = 5
KINDS = ("words", "hello", "tools", "hello", "words")
AT_ONCE = 2
"""Prompts that a client has open at a time."""


def next_cut(rng: random.Random) -> Cut:
    """Anywhere: in the handshake, soon after it, or after a while; one direction decides."""
    abrupt = rng.random() < 0.5
    if rng.random() < 0.3:
        up = rng.choice([rng.randrange(1, 450), rng.randrange(300, 1_500)])
        return Cut(up, NEVER.down, abrupt)
    down = rng.choice([rng.randrange(1, 400), rng.randrange(200, 2_000), rng.randrange(1_000, 8_000)])
    return Cut(NEVER.up, down, abrupt)


class Reader:
    """What a client knows over all its connections: where it is, and its open prompts, answered or not."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.place: dict[str, Any] = {}
        self.open: dict[str, bool] = {}

    @property
    def unanswered(self) -> list[str]:
        """What has to be sent again."""
        return [run_id for run_id, answered in self.open.items() if not answered]

    def learn(self, client: Client) -> None:
        """Keep what a connection has brought."""
        if self.session in client.places:
            self.place = {"after": client.places[self.session]}
        for run_id in client.ends.keys() & self.open.keys():
            del self.open[run_id]


class Round:
    """Some clients of one server, until enough connections were cut; then all of them catch up."""

    def __init__(self, rig: Rig, server: ServerProcess, rng: random.Random) -> None:
        self.rig = rig
        self.server = server
        self.rng = rng
        self.tag = f"{rng.getrandbits(32):08x}"
        self.cutting = True
        self.runs: list[str] = []
        self.sessions: list[str] = []

    async def run(self, cuts: int) -> None:
        """Work until so many were cut, and check what came of it."""
        history = self.rig.history
        async with open_client(history, self.server, name="maker") as maker:
            self.sessions = [await open_session(maker, self.rig.directory("one")) for _ in range(2)]
            async with open_proxy(self.server.ws, self._allowance) as proxy, trio.open_nursery() as nursery:
                for number in range(READERS):
                    nursery.start_soon(self._reader, number, proxy)
                library_over = trio.Event()
                nursery.start_soon(self._library, proxy, maker, library_over)
                await proxy.cut(cuts)
                self.cutting = False
                proxy.cut_all()
                await library_over.wait()
            await read_all(history, self.server, self.sessions, self.runs)

    def _allowance(self) -> Cut:
        return next_cut(self.rng) if self.cutting else NEVER

    async def _reader(self, number: int, proxy: CuttingProxy) -> None:
        """A client that resumes where it was, and repeats what was not answered."""
        reader = Reader(self.sessions[number % 2])
        who = str(uuid.UUID(int=self.rng.getrandbits(128)))
        while True:
            client: Client | None = None
            try:
                async with open_client(
                    self.rig.history, self.server, name=f"reader{number}", client_id=who, dial=proxy.dial
                ) as client:
                    await self._work(client, reader, who)
                    return
            except Gone:
                if client is not None:
                    reader.learn(client)

    async def _work(self, client: Client, reader: "Reader", who: str) -> None:
        """One connection of a client. It ends with `Gone`, but for the last, which nobody cuts."""
        await client.call("session/attach", sessionId=reader.session, **reader.place)
        for run_id in reader.unanswered:
            await self._prompt(client, reader, run_id)
        while self.cutting:
            if len(reader.open) < AT_ONCE:
                run_id = f"{who[:8]}-{len(self.runs)}"
                self.runs.append(run_id)
                reader.open[run_id] = False
                await self._prompt(client, reader, run_id)
            else:
                await client.until(lambda: client.ends.keys() & reader.open.keys())
                reader.learn(client)
        await client.ended(*reader.open)

    async def _prompt(self, client: Client, reader: "Reader", run_id: str) -> None:
        kind = KINDS[int(run_id.rpartition("-")[2]) % len(KINDS)]
        answer = await client.prompt(reader.session, f"{kind} {run_id}", runId=run_id)
        assert "result" in answer, answer
        reader.open[run_id] = True

    async def _library(self, proxy: CuttingProxy, maker: Client, over: trio.Event) -> None:
        """The client library reads a session and prompts; its reading is noted as one attachment over all cuts."""
        history, session = self.rig.history, self.sessions[0]
        conn, ids = history.conn("library"), iter(range(1, 1 << 30))
        ways = chain([dial_tcp], repeat(proxy.dial))  # the first connection is not one that it mends

        async def dial(url: str) -> trio.abc.Stream:
            return await next(ways)(url)

        async with library.open_client(
            self.server.ws, self.server.token, client_name="library", give_up_s=WAIT_S, dial=dial
        ) as client:
            history.note("open", conn=conn, server=self.server.number, client=client.client_id, reads=True)

            async def prompt() -> None:
                while self.cutting:
                    run_id = f"{self.tag}-library-{len(self.runs)}"
                    self.runs.append(run_id)
                    params = Client.prompt_params(session, f"words {run_id}", runId=run_id)
                    asked = next(ids)
                    history.note("send", conn=conn, id=asked, method="session/prompt", params=params)
                    text = TextBlock(text=f"words {run_id}")
                    result = await client.call(
                        "session/prompt", PromptParams(session_id=session, prompt=(text,), run_id=run_id)
                    )
                    history.note("reply", conn=conn, id=asked, result=json.loads(msgspec.json.encode(result)))
                    await client.call("run/wait", RunWaitParams(run_id=run_id))

            async def read_on() -> None:
                with client.session(session) as stream:
                    async for item in stream:
                        said = json.loads(stream.raw)
                        if isinstance(item, library.Resync):
                            asked = next(ids)
                            about = {"sessionId": session}
                            history.note("send", conn=conn, id=asked, method="session/attach", params=about)
                            history.note("reply", conn=conn, id=asked, result=said)
                            continue
                        assert stream.position is not None
                        epoch = stream.position.epoch
                        history.note("events", conn=conn, of="session", thing=session, epoch=epoch, events=[said])
                        if not self.cutting and stream.position.seq >= maker.places[session]["seq"]:
                            return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_on)
                await prompt()
                # One more event, so that the reading above looks once more whether it is at the end.
                await maker.prompt(session, "hello and goodbye", runId=(last := f"{self.tag}-last-{len(self.runs)}"))
                self.runs.append(last)
        over.set()


async def test_nothing_is_missed_or_done_twice_wherever_connections_are_cut(tmp_path: Path, scale: Scale) -> None:
    cuts = scale.count(300, 10_000)
    progress = Progress("connection cuts", cuts, is_long=scale.is_long)
    rig = Rig(tmp_path / "rig", History(), *TURNS)
    with scale.trying("connection cuts at random bytes", cuts):
        async with rig.serve() as server:
            for start in range(0, cuts, ROUND):
                rig.begin(History(f"{scale.seed}, cuts from {start}"), server)
                with rig.history.kept(tmp_path / f"cuts-{start}.jsonl"), trio.fail_after(WAIT_S):
                    await Round(rig, server, scale.rng("cuts", start)).run(min(ROUND, cuts - start))
                    require(rig.history)
                    assert resumed(rig.history)
                progress.at(start + ROUND)


def resumed(history: History) -> int:
    """How often somebody went on where he was: without that the test would show nothing."""
    return sum(reading.snapshot is None for reading in read(history.entries).readings)
