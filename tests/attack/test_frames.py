"""Frames that no honest client sends, whole and in drips: each gets its close code, and nobody else notices."""

import json
import random
from pathlib import Path

import pytest
import trio

from attack.frames import ANY, FRAMES
from attack.link import CLOSE_CODES, Link, open_link
from attack.rig import Victim, besieged, in_turns
from door_rig import frame
from scale import Scale

LIMIT_S = 60.0
TEXT = 1
HELLO = {"protocolVersion": 1, "clientInfo": {"name": "attacker", "version": "0"}}
BEGIN = {"jsonrpc": "2.0", "id": "begin", "method": "initialize", "params": HELLO}
AFTERWARDS = frame(TEXT, b'{"jsonrpc":"2.0","id":"after","method":"ping"}')


async def send_it(link: Link, data: bytes, chance: random.Random) -> None:
    """Send bytes as one write, in pieces, or byte by byte."""
    match chance.randrange(4):
        case 0 if len(data) < 400:
            for at in range(len(data)):
                await link.send(data[at : at + 1])
                await trio.lowlevel.checkpoint()
        case 1:
            cut = chance.randrange(len(data))
            await link.send(data[:cut])
            await trio.sleep(0.001)
            await link.send(data[cut:])
        case _:
            await link.send(data)


async def attack(victim: Victim, name: str, chance: random.Random) -> list[str]:
    """One connection with one attack; what is wrong with how it went."""
    data, code = FRAMES[name](chance)
    leaves = code == ANY and chance.random() < 0.3  # without waiting for an answer
    link = await open_link(victim)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.read)
            with trio.fail_after(LIMIT_S):
                if chance.random() < 0.8:
                    await link.say(json.dumps(BEGIN).encode())
                await send_it(link, data, chance)
                if code is None:
                    await link.send(AFTERWARDS)
                    await link.until("after")
                elif not leaves:
                    if code == ANY:
                        await link.stream.send_eof()
                    elif chance.random() < 0.3:
                        await link.send(AFTERWARDS * 2000)  # who is being closed may still be sending
                    await link.closed()
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        link.stream.socket.close()
    allowed = CLOSE_CODES | {1006} if code == ANY else {code}
    return link.wrong + ([] if leaves or link.code in allowed else [f"closed with {link.code} instead of {code}"])


@pytest.mark.scenario("E6")
async def test_odd_frames_end_in_a_listed_close_code_while_somebody_works(tmp_path: Path, scale: Scale) -> None:
    names = list(FRAMES)
    wrong: list[str] = []
    async with besieged(tmp_path) as victim:

        async def one(number: int) -> None:
            name = names[number % len(names)]
            where = f"seed {scale.seed}, frames {number}: {name}"
            victim.notes.append(where)
            try:
                faults = await attack(victim, name, scale.rng("frames", number))
            except* trio.TooSlowError:
                faults = ["no end"]
            wrong.extend(f"{where}: {fault}" for fault in faults)

        count = scale.count(1_000, 20_000)
        with scale.trying("connections with odd frames", count):
            await in_turns(6, one, range(count))
    assert wrong == []
