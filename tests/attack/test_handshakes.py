"""What comes before a connection is one: hostile heads, and good ones after accidents, by the thousand.

What each hostile head is answered with is tested of the door alone too; here they
meet the whole server, all at once, with somebody at work in it.
"""

from pathlib import Path

import pytest
import trio

from attack.mutations import mutated_request
from attack.rig import Victim, besieged, in_turns
from door_rig import parse_answer, read_answer
from hostile_heads import ATTACKS
from scale import Scale

STATUSES = {101, 200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 426, 431}
"""What a request may be answered with. 503 would say that the attack took the places of others."""

LIMIT_S = 60.0
SLOW = 40
"""Connections that say a byte now and then, meanwhile."""


async def ask(victim: Victim, data: bytes, cuts: tuple[int, ...] = (), *, finish: bool = False) -> tuple[int, bytes]:
    """Send bytes, cut where they are told to be; the status of the answer, or 0, and all that came."""
    async with await victim.connect() as stream:
        with trio.fail_after(LIMIT_S):
            try:
                for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                    await stream.send_all(data[start:end])
                    await trio.lowlevel.checkpoint()
                if finish:
                    await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # refused before all was said; the answer is there nevertheless
            received = b""
            try:
                while piece := bytes(await stream.receive_some(65536)):
                    received += piece
                    if received.startswith(b"HTTP/1.1 101"):
                        break
            except trio.BrokenResourceError:
                pass
    return parse_answer(received).status, received


async def slow_stranger(victim: Victim, number: int) -> None:
    """Send a head one byte at a time, until the server has had enough."""
    head = victim.handshake(token=None if number % 2 else victim.token)
    async with await victim.connect() as stream:
        with trio.move_on_after(LIMIT_S):
            try:
                for byte in head:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.3)
            except trio.BrokenResourceError:
                return
            answer = await read_answer(stream)
            raise AssertionError(f"a slow head was taken: {answer}")


@pytest.mark.scenario("E3")
async def test_every_hostile_head_gets_its_answer_while_somebody_works(tmp_path: Path, scale: Scale) -> None:
    names = list(ATTACKS)
    wrong: list[str] = []
    async with besieged(tmp_path) as victim:

        async def attack(number: int) -> None:
            name = names[number % len(names)]
            wanted, make = ATTACKS[name]
            victim.notes.append(name)
            status, received = await ask(victim, make(victim))
            if status != wanted or b"access-control-" in received.lower() or victim.token.encode() in received:
                wrong.append(f"{name}: {received[:200]!r} instead of {wanted}")

        rounds = scale.count(1, 10)
        with scale.trying("hostile heads, and slow strangers beside them", rounds * len(names)):
            async with trio.open_nursery() as nursery:
                for number in range(SLOW):
                    nursery.start_soon(slow_stranger, victim, number)
                await in_turns(8, attack, range(rounds * len(names)))
                # Those that are still slow have been heard long enough by then.
    assert wrong == []


@pytest.mark.scenario("E3")
async def test_mutated_requests_are_answered_or_cut_off_while_somebody_works(tmp_path: Path, scale: Scale) -> None:
    seen: dict[int, int] = {}
    wrong: list[str] = []
    async with besieged(tmp_path) as victim:

        async def attack(number: int) -> None:
            chance = scale.rng("handshake", number)
            data = mutated_request(victim, chance)
            cuts = tuple(sorted(chance.sample(range(len(data)), min(len(data), chance.choice([0, 0, 1, 3])))))
            victim.notes.append(f"handshake {number}")
            status, received = await ask(victim, data, cuts, finish=True)
            seen[status] = seen.get(status, 0) + 1
            if (status not in STATUSES and (status or received)) or victim.token.encode() in received:
                wrong.append(f"seed {scale.seed}, handshake {number}: {data[:400]!r} got {received[:200]!r}")

        count = scale.count(500, 20_000)
        with scale.trying("mutated handshakes and requests", count):
            await in_turns(8, attack, range(count))
    assert wrong == []
    assert {101, 200, 400, 401, 403} <= set(seen), seen
