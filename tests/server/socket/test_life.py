"""How a connection is kept alive, and every way in which it ends."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_protocol.events import MessageDelta, Notice
from atrio_protocol.limits import MAX_IN_FLIGHT
from atrio_server.byte_stream import WRITE_S
from atrio_server.keepalive import PING_EVERY_S, PONG_WITHIN_S
from socket_rig import Rig, request


def note(rig: Rig, title: str = "hello", times: int = 1, thing: str = "s") -> None:
    for _ in range(times):
        rig.stream(thing).publish(Notice(severity="info", title=title))


# Keepalive.


async def test_a_peer_that_answers_pings_is_kept(rig: Rig, autojump_clock: MockClock) -> None:
    await trio.sleep(3600)
    assert rig.peer.pings == 3600 // PING_EVERY_S - 1
    await rig.peer.call("echo")


async def test_a_silent_peer_is_closed_when_the_answer_to_a_ping_stays_away(
    rig: Rig, autojump_clock: MockClock
) -> None:
    rig.peer.answers_pings = False
    began = trio.current_time()
    assert await rig.peer.closing() == 1011
    assert trio.current_time() == began + PING_EVERY_S + PONG_WITHIN_S


async def test_a_server_that_stood_still_does_not_take_that_for_the_peers_silence(
    rig: Rig, autojump_clock: MockClock
) -> None:
    rig.peer.answers_pings = False
    await trio.sleep(PING_EVERY_S + 1)
    assert rig.peer.pings == 1
    autojump_clock.jump(60)  # as when the process is stopped, and the answer lies unread
    await trio.sleep(PONG_WITHIN_S - 1)
    assert rig.peer.closed is None
    assert await rig.peer.closing() == 1011  # it gets its whole time anew, and no more


async def test_while_the_socket_is_not_read_no_answer_is_missed(rig: Rig, autojump_clock: MockClock) -> None:
    rig.peer.answers_pings = False
    await rig.peer.send_raw(*[request("wait", f"{n}", name="slow") for n in range(MAX_IN_FLIGHT)])
    await trio.sleep(1007)
    assert rig.peer.closed is None
    rig.gates.open("slow")
    read_again = trio.current_time()
    await rig.peer.closing()
    assert trio.current_time() == read_again + PONG_WITHIN_S


async def test_while_a_request_begins_no_answer_is_missed(rig: Rig, autojump_clock: MockClock) -> None:
    rig.peer.answers_pings = False
    await rig.peer.send("blocking", name="opening")
    await trio.sleep(1000)
    assert rig.peer.closed is None


async def test_while_a_write_is_stalled_its_own_limit_decides(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    await trio.sleep(PING_EVERY_S - 5)
    rig.peer.answers_pings = False
    rig.transport.take_bytes(False)
    note(rig)
    stalled = trio.current_time()
    await rig.served.wait()
    assert trio.current_time() == stalled + WRITE_S
    assert rig.web_socket is not None
    assert rig.web_socket.closed is not None
    assert rig.web_socket.closed.code == 4408


# The peer's end.


async def test_a_peer_that_stalls_for_less_than_the_limit_gets_everything_merged(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    rig.transport.take_bytes(False)
    for number in range(2000):
        rig.stream().publish(MessageDelta(message_id="m", part=0, offset=number, text=f"{number % 10}"))
        if number == 0:
            await wait_all_tasks_blocked()
    await trio.sleep(15)
    rig.transport.take_bytes(True)
    await rig.peer.event(2000)
    assert len(rig.peer.events_frames()) == 2
    assert "".join(event["text"] for event in rig.peer.events()) == "0123456789" * 200


async def test_the_death_of_a_connection_cancels_its_requests_drops_its_cursors_and_is_told_once(
    rig: Rig, autojump_clock: MockClock
) -> None:
    told: list[str] = []
    rig.caller.on_close += [lambda: told.append("first"), lambda: told.append("second")]
    await rig.peer.call("attach")
    await rig.peer.send("wait", name="slow")
    await rig.peer.send("wait", name="by design", byDesign=True)
    await wait_all_tasks_blocked()
    rig.peer.close()
    await rig.served.wait()
    assert sorted(rig.gates.cancelled) == ["by design", "slow"]
    assert rig.stream().readers == 0
    assert told == ["first", "second"]
    assert rig.connections == {}


async def test_what_was_received_before_the_end_is_still_begun(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    await rig.peer.send("blocking", name="opening")
    await wait_all_tasks_blocked()
    frames = [request("wait", f"{n}", name=f"slow{n}") for n in range(2 * MAX_IN_FLIGHT)]
    await rig.peer.say_goodbye(*frames, request("echo", "last", name="last"))
    note(rig)  # a write fails while the reader is busy
    await wait_all_tasks_blocked()
    rig.gates.open("opening")
    await rig.served.wait()
    assert rig.begun[-1] == "last"


async def test_the_death_of_a_peer_is_noticed_while_nothing_more_may_be_read(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.send_raw(*[request("wait", f"{n}", name="slow") for n in range(MAX_IN_FLIGHT)])
    await wait_all_tasks_blocked()
    at = trio.current_time()
    rig.peer.close()
    await rig.served.wait()
    assert trio.current_time() == at
    assert len(rig.gates.cancelled) == MAX_IN_FLIGHT


# Our end.


async def test_a_close_of_ours_has_its_code(rig: Rig, autojump_clock: MockClock) -> None:
    rig.connection.close_soon(1013, "try later")
    rig.connection.close_soon(1000)
    assert await rig.peer.closing() == 1013


async def test_a_peer_that_does_not_read_cannot_hold_up_a_close(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    rig.transport.take_bytes(False)
    note(rig)
    await wait_all_tasks_blocked()
    at = trio.current_time()
    rig.connection.close_soon(1001)
    await rig.served.wait()
    assert trio.current_time() <= at + 2


async def drain(rig: Rig, within_s: float) -> float:
    """Drain the connection; how long that took."""
    began = trio.current_time()
    await rig.connection.drain_and_close(1001, began + within_s)
    return trio.current_time() - began


async def test_a_drained_client_has_everything_that_ended_and_then_the_close(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    await rig.peer.call("attach", thing="w")
    rig.transport.take_bytes(False)
    await rig.peer.send("echo", "unwritten")
    note(rig, "x" * 100_000, times=15)
    note(rig, thing="w")
    rig.stream().close("workspace_closed")
    rig.stream("w").close("closed")
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, rig, 8)
        await trio.sleep(3)
        rig.transport.take_bytes(True)
    assert await rig.peer.closing() == 1001
    assert rig.peer.events()[-1]["seq"] == 15
    assert rig.peer.events("w")[-1]["seq"] == 1
    assert {gone["reason"] for gone in rig.peer.detached()} == {"workspace_closed", "closed"}
    assert rig.peer.answers("unwritten")


async def test_draining_waits_for_requests_in_work_but_not_for_waits_by_design(
    rig: Rig, autojump_clock: MockClock
) -> None:
    in_work = await rig.peer.send("wait", name="slow")
    await rig.peer.send("wait", name="by design", byDesign=True)
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, rig, 8)
        await trio.sleep(3)
        await rig.peer.send("echo", name="too late")
        rig.gates.open("slow")
    assert await rig.peer.closing() == 1001
    assert "result" in rig.peer.answers(in_work)[0]
    assert "too late" not in rig.begun


async def test_an_idle_client_is_drained_at_once(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    assert await drain(rig, 8) < 1
    assert await rig.peer.closing() == 1001


async def test_a_request_that_hangs_costs_nobody_the_close_frame(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send("wait", name="hangs")
    await wait_all_tasks_blocked()
    assert await drain(rig, 8) <= 8
    assert await rig.peer.closing() == 1001


async def test_a_request_whose_beginning_waits_is_refused_at_the_close(rig: Rig, autojump_clock: MockClock) -> None:
    opening = await rig.peer.send("blocking", name="opening")
    await wait_all_tasks_blocked()
    await drain(rig, 8)
    await rig.peer.closing()
    error = rig.peer.answers(opening)[0]["error"]
    assert error["data"]["kind"] == "server_closing"
    assert error["data"]["retryable"]


async def test_a_stalled_client_is_dropped_by_the_deadline(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    rig.transport.take_bytes(False)
    note(rig)
    await wait_all_tasks_blocked()
    assert await drain(rig, 8) <= 8
    assert rig.connections == {}


async def test_draining_one_that_is_gone_returns_at_once(rig: Rig, autojump_clock: MockClock) -> None:
    connection = rig.connection
    rig.peer.close()
    await rig.served.wait()
    at = trio.current_time()
    await connection.drain_and_close(1001, at + 8)
    assert trio.current_time() == at
