"""Tokens that are revoked while their holders, and others, read and prompt: who is cut off, and who does not notice."""

import json
import random

import trio
from trio_websocket import ConnectionClosed

from atrio_server.service import Running
from atrio_server.token_store import revoke_token
from scale import Scale
from wire.client import Refused, Wire, connect
from wire.conftest import Harness
from wire.steps import new_session
from wire.tokens import make_token, until_it_works

TALKING = {"responses": [[{"say": "tok ", "times": 8, "delayMs": 3}]]}


class Holder:
    """A connection with a token, which prompts until it is cut off. ``accepted``: everybody's acknowledged runs."""

    def __init__(self, name: str, token: str, accepted: list[str]) -> None:
        self.name = name
        self.token = token
        self.accepted = accepted
        self.wire: Wire | None = None
        self.done = trio.Event()
        self.doomed = False

    async def live(self, url: str, session: str, attached: trio.Event, begin: trio.Event) -> None:
        """Attach, prompt, read on; a doomed one until it is cut off, and then it must hear nothing more."""
        async with connect(url, self.token, name=self.name) as self.wire:
            await self.wire.attach(session)
            attached.set()
            await begin.wait()
            try:
                for number in range(3):
                    run_id = f"{self.name}-{number}"
                    await self.wire.prompt(session, "go on", runId=run_id)
                    self.accepted.append(run_id)
            except (AssertionError, Refused, ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                if not self.doomed:
                    raise
            if self.doomed:
                assert await self.wire.closing() == 1008
                heard = json.dumps(self.wire.frames)
                await trio.sleep(0.1)
                assert json.dumps(self.wire.frames) == heard
            else:
                await self.done.wait()
                for run_id in self.accepted:  # everybody's, in an order without a gap, which the client sees to
                    await self.wire.completed(session, run_id)


async def test_who_is_revoked_under_load_hears_nothing_more_and_nobody_else_is_harmed(
    bench: Harness, scale: Scale
) -> None:
    rounds = scale.count(2, 100)
    with scale.trying("tokens revoked under load, rounds", rounds):
        async with bench.serve(model=bench.script(TALKING), limit_s=60 + 30 * rounds) as running:
            for number in range(rounds):
                rng = scale.rng("tokens revoked under load", number)
                async with bench.open(running, name="owner") as (owner, workspace):
                    session = await new_session(owner, workspace)
                    accepted = await _one_round(bench, running, rng, session, f"r{number}")
                    for run_id in accepted:
                        run = await owner.completed(session, run_id)
                        assert run["stopReason"] == "end_turn", (scale.seed, number, run)


async def _one_round(bench: Harness, running: Running, rng: random.Random, session: str, label: str) -> list[str]:
    accepted: list[str] = []
    holders: list[Holder] = []
    for bot in range(4):
        name = f"{label}-bot{bot}"
        token = make_token(bench, "prompt", name=name)
        await until_it_works(running, token)
        holders += [Holder(f"{name}.{each}", token, accepted) for each in range(rng.randint(1, 3))]
    doomed = rng.sample(range(4), 2)
    begin = trio.Event()
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            for holder in holders:
                holder.doomed = holder.name.partition(".")[0] in {f"{label}-bot{each}" for each in doomed}
                attached = trio.Event()
                nursery.start_soon(holder.live, running.ws, session, attached, begin)
                await attached.wait()
            begin.set()
            for each in doomed:
                await trio.sleep(rng.random() * 0.2)
                revoke_token(bench.state_dir, f"{label}-bot{each}")
            for holder in holders:
                if holder.doomed:
                    assert holder.wire is not None
                    await holder.wire.closing()
            for holder in holders:
                holder.done.set()
    for bot in set(range(4)) - set(doomed):
        revoke_token(bench.state_dir, f"{label}-bot{bot}")
    return accepted
