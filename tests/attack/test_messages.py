"""What is said on a connection: messages of every method, spoilt, over WebSocket and HTTP, by the thousand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from attack.link import CLOSE_CODES, Link, check_answer, open_link, read_answer
from attack.messages import Known, Said, spoilt_message
from attack.rig import Victim, besieged, in_turns
from scale import Scale

ATTACKERS = 6
BY_HTTP = 0.1
FRESH_EVERY = 150
"""Messages on one connection and in one session, before the attacker begins afresh."""

ANSWER_S = 60.0


async def begin(victim: Victim, link: Link, number: int, client: str) -> Known:
    """Introduce ourselves and make two sessions."""
    await link.ask(number, "initialize", protocolVersion=1, clientInfo={"name": client, "version": "0"})
    opened = await link.ask(number + 1, "workspace/open", path=str(victim.directory))
    workspace = opened["result"]["workspace"]["workspaceId"]
    sessions: list[str] = []
    for more in (2, 3):
        made = await link.ask(number + more, "session/new", workspaceId=workspace)
        sessions.append(made["result"]["session"]["sessionId"])
    return Known(str(victim.directory), workspace, sessions)


async def say(link: Link, said: Said, number: int) -> None:
    """Send a message and wait for its answer; then for that of an honest ping behind it."""
    await link.say(said.data)
    if said.is_answered:
        with trio.fail_after(ANSWER_S):
            await link.until(said.key, None)
    if link.code is None:
        with trio.fail_after(ANSWER_S):
            await link.ask(number, "ping")
    link.answers.clear()


async def post(victim: Victim, said: Said) -> list[str]:
    """Send a message by HTTP; what is wrong with the answer."""
    answer = await victim.rpc(said.data)
    if answer.status not in {200, 204}:
        return [f"{answer.status}: {answer.body[:200]!r}"]
    return check_answer(read_answer(answer.body)) if answer.body else []


@pytest.mark.scenario("E6", "E7")
async def test_spoilt_messages_get_typed_errors_while_somebody_works(tmp_path: Path, scale: Scale) -> None:
    wrong: list[str] = []
    count = scale.count(4_000, 80_000)
    async with besieged(tmp_path, "--permissions", "deny") as victim:

        async def attack(batch: int) -> None:
            numbers = iter(range(batch * FRESH_EVERY, min((batch + 1) * FRESH_EVERY, count)))
            while True:
                link = await open_link(victim)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(link.read)
                        is_over = await attack_on(link, numbers)
                        nursery.cancel_scope.cancel()
                finally:
                    link.stream.socket.close()
                if is_over:
                    return

        async def attack_on(link: Link, numbers: Iterator[int]) -> bool:
            """Send messages over one connection; whether these were all."""
            number = 1_000_000_000
            known = await begin(victim, link, number, "attacker")
            link.answers.clear()
            for message in numbers:
                said = spoilt_message(known, scale.rng("message", message), message)
                where = f"seed {scale.seed}, message {message}: {said.data[:300]!r} ({len(said.data)} bytes)"
                victim.notes.append(where)
                try:
                    if scale.rng("door", message).random() < BY_HTTP:
                        link.wrong += await post(victim, said)
                    else:
                        await say(link, said, number + message + 10)
                except trio.TooSlowError:
                    link.wrong.append("no answer")
                wrong.extend(f"{where} got {fault}" for fault in link.wrong)
                link.wrong.clear()
                if link.code is not None:
                    if link.code not in CLOSE_CODES:
                        wrong.append(f"{where} closed with {link.code}")
                    return False
            return True

        with scale.trying("spoilt messages", count):
            await in_turns(ATTACKERS, attack, range(-(-count // FRESH_EVERY)))
    assert wrong[:10] == []
