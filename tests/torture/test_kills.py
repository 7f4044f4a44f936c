"""kill -9, again and again: in the middle of work, of a recovery and of a shutdown."""

import random
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio

from scale import Scale
from torture.checker import require
from torture.clients import Gone, ask
from torture.facts import read
from torture.history import History
from torture.load import TURNS, Load
from torture.progress import Progress
from torture.rig import WAIT_S, Rig, ServerProcess, read_all

CLIENTS = 4
PARTS = 2
"""State directories that the kills under load are shared out to."""

DIRECTORIES = ("one", "two", "three")


async def load_until(rig: Rig, server: ServerProcess, rng: random.Random, seconds: float, end: str) -> Load:
    """Let clients work for a while, then end the server: ``kill``, or ``stop`` and kill in the middle of that."""
    load = Load(rig.history, server, rng, [rig.directory(name) for name in DIRECTORIES])

    async def end_it() -> None:
        await trio.sleep(seconds)
        if end == "stop":
            server.signal(signal.SIGTERM)
            await trio.sleep(rng.random() * 0.2)
        await server.kill()

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_it)
            await load.run(CLIENTS)
    return load


def broken_databases(state_dir: Path) -> list[str]:
    """What SQLite finds wrong, and runs that are still open, in the databases of a server that has ended."""
    found: list[str] = []
    for path in [state_dir / "index.db", *state_dir.glob("workspaces/*/atrio.db")]:
        with closing(sqlite3.connect(path)) as db:
            found += [f"{path}: {row}" for row in db.execute("PRAGMA integrity_check").fetchall() if row != ("ok",)]
            if path.name == "atrio.db":
                found += [f"{path}: {row}" for row in db.execute("SELECT run_id FROM runs WHERE state != 'completed'")]
    return found


@pytest.mark.scenario("S16")
@pytest.mark.parametrize("part", range(PARTS))
async def test_whatever_was_acknowledged_outlives_a_kill_under_load(tmp_path: Path, scale: Scale, part: int) -> None:
    kills = scale.count(20, 1_000) // PARTS
    progress = Progress(f"kill -9 under load, part {part}", kills, is_long=scale.is_long)
    losses_s: list[float] = []
    ends: dict[str, str] = {}
    load: Load | None = None
    rig = Rig(tmp_path / "rig", History(), *TURNS)
    with scale.trying("kill -9 under load", kills):
        for number in range(kills + 1):
            rng = scale.rng("kill under load", part, number)
            async with rig.serve() as server:
                if load is not None:
                    with rig.history.kept(tmp_path / f"kill-{number}.jsonl"):
                        await read_all(rig.history, server, load.sessions, load.runs)
                        checked = require(rig.history)
                    losses_s += checked.losses_s
                    ends |= {run.run_id: str(run.end) for run in checked.facts.runs.values()}
                    progress.at(number, f"{len(ends)} runs, most text lost {max(losses_s, default=0):.3f} s")
                rig.begin(History(f"{scale.seed}, kill {number} of part {part}"), server)
                if number < kills:
                    load = await load_until(rig, server, rng, rng.uniform(0.2, 0.7), "kill")
                    continue
                with rig.history.kept(tmp_path / "all.jsonl"):
                    await check_all_again(rig, server, ends)
                    server.signal(signal.SIGTERM)
                    assert await server.gone() == 0
    assert broken_databases(rig.state_dir) == []
    assert ends


async def check_all_again(rig: Rig, server: ServerProcess, ends: dict[str, str]) -> None:
    """Every run that was ever told is still there, as it was told then."""
    await read_all(rig.history, server, [], ends)
    known = read(rig.history.entries).runs
    assert {run_id: str(run.end) for run_id, run in known.items()} == ends


async def test_a_kill_in_a_shutdown_or_a_recovery_leaves_all_to_the_next_start(tmp_path: Path, scale: Scale) -> None:
    kills = scale.count(10, 200)
    progress = Progress("kill -9 in shutdowns and recoveries", kills, is_long=scale.is_long)
    rig = Rig(tmp_path / "rig", History(), *TURNS)
    load: Load | None = None
    with scale.trying("kill -9 during shutdown and recovery", kills):
        for number in range(kills // 2 + 1):
            rng = scale.rng("kill in recovery", number)
            async with rig.serve() as server:
                if load is not None:
                    with rig.history.kept(tmp_path / f"kills-{number}.jsonl"):
                        await read_all(rig.history, server, load.sessions, load.runs)
                        require(rig.history)
                    progress.at(2 * number)
                if number == kills // 2:
                    server.signal(signal.SIGTERM)
                    assert await server.gone() == 0
                    break
                rig.begin(History(f"{scale.seed}, round {number}"), server)
                load = await load_until(rig, server, rng, rng.uniform(0.2, 0.5), "stop")
            async with rig.serve() as server:
                await recover_until(rig, server, rng)
    assert broken_databases(rig.state_dir) == []


async def recover_until(rig: Rig, server: ServerProcess, rng: random.Random) -> None:
    """Open the workspaces, which recovers them, and kill the server in the middle of that."""

    async def open_workspace(name: str) -> None:
        with suppress(Gone):
            await ask(rig.history, server, "workspace/open", path=rig.directory(name))

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for name in DIRECTORIES:
                nursery.start_soon(open_workspace, name)
            await trio.sleep(rng.random() * 0.08)
            await server.kill()
