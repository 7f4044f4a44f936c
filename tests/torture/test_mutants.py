"""The checker finds what is wrong: each mutation of the server breaks the rule that is named for it.

A server without mutations passes the same plays, so a rule that is broken there
is broken by the mutation. One that nothing finds means that a rule is missing.
"""

from pathlib import Path

import pytest
import trio

from torture.checker import RULES, check, require
from torture.clients import Gone, Refused
from torture.history import History
from torture.mutants import MUTANTS, Mutant
from torture.plays import PLAYS, TURNS
from torture.rig import WAIT_S, Rig

LAUNCHER = str(Path(__file__).with_name("mutant_server.py"))

AT_ONCE = 2
"""Mutations at a time; most of what one takes is the start of a server."""


@pytest.mark.parametrize("play", PLAYS)
async def test_a_server_in_order_passes_what_its_mutations_do_not(tmp_path: Path, play: str) -> None:
    missed: list[str] = []
    taking_part = trio.CapacityLimiter(AT_ONCE)

    async def check_one(mutant: Mutant) -> None:
        async with taking_part:
            rig = Rig(tmp_path / mutant.name, History(), *TURNS, program=(LAUNCHER, mutant.name))
            said = await play_broken(rig, play)
        broken = check(rig.history.entries).rules
        if mutant.rules.isdisjoint(broken) if mutant.rules else broken:
            rig.history.save(tmp_path / f"{mutant.name}.jsonl")
            missed.append(f"{mutant.name}: {sorted(mutant.rules)} expected, {sorted(broken)} broken {said}")

    async def check_none() -> None:
        rig = Rig(tmp_path / "in_order", History(play), *TURNS)
        async with taking_part:
            with rig.history.kept(tmp_path / "in_order.jsonl"), trio.fail_after(WAIT_S):
                await PLAYS[play](rig)
        require(rig.history)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_none)
        for mutant in MUTANTS.values():
            if mutant.play == play:
                nursery.start_soon(check_one, mutant)
    assert not missed, f"{missed}; their histories are in {tmp_path}"


async def play_broken(rig: Rig, play: str) -> str:
    """Play with a server that is broken; what else goes wrong is told, and no proof of anything."""
    said = ""
    with trio.move_on_after(WAIT_S) as patience:
        try:
            await PLAYS[play](rig)
        except* (Gone, Refused) as exc:
            said = f"({exc.exceptions[0]!r})"
    return "(it never ended)" if patience.cancelled_caught else said


def test_enough_mutations_are_tried_and_every_rule_they_name_is_one() -> None:
    assert sum(bool(mutant.rules) for mutant in MUTANTS.values()) >= 14
    assert {rule for mutant in MUTANTS.values() for rule in mutant.rules} <= RULES.keys()
    assert {mutant.play for mutant in MUTANTS.values()} == PLAYS.keys()
