"""Heads that no honest client sends: each gets its answer, and nobody else notices.

Many of these end a process that lets hypercorn or trio-websocket read from the
network. A canary holds a WebSocket open throughout; the `door` fixture proves
that nothing of the attack is left.
"""

import random

import pytest
import trio

from attack.mutations import with_accident
from door_rig import SOON_S, WAIT_S, DoorRig, read_answer
from hostile_heads import ATTACKS


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_hostile_head_gets_its_answer_and_nobody_else_notices(door: DoorRig, name: str) -> None:
    status, attack = ATTACKS[name]
    async with door.socket() as canary:
        if status == 101:
            async with await door.connect() as stream:
                with trio.fail_after(WAIT_S):
                    await stream.send_all(attack(door))
                    answered = bytes(await stream.receive_some())
            assert answered.startswith(b"HTTP/1.1 101")
            assert b"sec-websocket-extensions" not in answered.lower()
        else:
            answer = await door.ask(attack(door))
            assert answer.status == status, answer
            assert answer.header("connection") is not None
            assert answer.header("access-control-allow-origin") is None
        with trio.fail_after(SOON_S):
            await canary.send_message("still there?")
            assert await canary.get_message() == "still there?"


async def test_a_head_of_exactly_16_kib_is_let_in(door: DoorRig) -> None:
    padding = 16384 - len(door.head("/v1/health", "X: "))
    assert (await door.ask(door.head("/v1/health", "X: " + "x" * padding))).status == 200
    assert (await door.ask(door.head("/v1/health", "X: " + "x" * (padding + 1)))).status == 431


async def test_a_head_may_come_one_byte_at_a_time(door: DoorRig) -> None:
    async with await door.connect() as stream:
        with trio.fail_after(WAIT_S):
            for byte in door.head():
                await stream.send_all(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert (await read_answer(stream)).json == {"status": "ok"}


def mutated(handshake: bytes, chance: random.Random) -> bytes:
    """The handshake after one to four small accidents."""
    data = bytearray(handshake)
    for _ in range(chance.randint(1, 4)):
        data = with_accident(data, chance) or bytearray(b"x")
    return bytes(data)


async def test_1500_mutated_handshakes_harm_nobody(door: DoorRig) -> None:
    chance = random.Random(20261120)
    attacks = [mutated(door.handshake(), chance) for _ in range(1500)]
    seen: dict[int, int] = {}

    async def attack(batch: list[bytes]) -> None:
        for data in batch:
            async with await door.connect() as stream:
                try:
                    await stream.send_all(data)
                    await stream.send_eof()  # or a head without an end would take its five seconds
                    answered = bytes(await stream.receive_some())
                except trio.BrokenResourceError:
                    answered = b""
                status = int(answered[9:12]) if answered.startswith(b"HTTP/1.1 ") else 0
                seen[status] = seen.get(status, 0) + 1

    async with door.socket() as canary, trio.open_nursery() as nursery:
        with trio.fail_after(60):
            async with trio.open_nursery() as attackers:
                for start in range(8):
                    attackers.start_soon(attack, attacks[start::8])
                while len(attackers.child_tasks):
                    with trio.fail_after(SOON_S):
                        await canary.send_message("still there?")
                        await canary.get_message()
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sum(seen.values()) == 1500
    assert 500 not in seen
    assert {101, 400, 401, 403} <= set(seen), seen
