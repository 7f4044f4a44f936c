"""Streams over one connection: order, windows, turns, and how an attachment ends."""

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent.streams import Stream
from atrio_protocol.events import MessageDelta, MessageReset, Notice
from atrio_protocol.limits import REPLAY_EVENTS
from atrio_server.attachments import EVENTS_FRAME_BYTES, WINDOW_S
from atrio_server.calls import Key
from socket_rig import Rig, contiguous, request


def say(stream: Stream, text: str = "x", times: int = 1) -> None:
    for _ in range(times):
        stream.publish(MessageDelta(message_id="m", part=0, offset=0, text=text))


def note(stream: Stream, title: str = "hello", times: int = 1) -> None:
    for _ in range(times):
        stream.publish(Notice(severity="info", title=title))


async def test_an_attached_client_gets_what_is_published_from_then_on(rig: Rig, autojump_clock: MockClock) -> None:
    note(rig.stream())
    attached = await rig.peer.call("attach")
    assert attached["seq"] == 1
    note(rig.stream(), times=2)
    await rig.peer.event(3)
    assert [event["seq"] for event in rig.peer.events()] == [2, 3]
    frame = rig.peer.frames[-1][1]["params"]
    assert frame["sessionId"] == "s"
    assert frame["epoch"] == rig.stream().epoch


async def test_a_workspace_has_notifications_of_its_own(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach", thing="w")
    note(rig.stream("w"))
    await rig.peer.event(1, "w")
    frame = rig.peer.frames[-1][1]
    assert frame["method"] == "workspace/events"
    assert frame["params"]["workspaceId"] == "w"


async def test_nothing_of_another_stream_is_sent(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    note(rig.stream("other"))
    note(rig.stream())
    await rig.peer.event(1)
    assert rig.peer.events("other") == []


async def test_the_reply_precedes_every_event_of_its_attachment(rig: Rig, autojump_clock: MockClock) -> None:
    attach = await rig.peer.send("attach", then="snapshot taken")
    await wait_all_tasks_blocked()
    note(rig.stream(), times=3)
    await wait_all_tasks_blocked()
    assert rig.peer.frames == []
    rig.gates.open("snapshot taken")
    await rig.peer.event(3)
    assert rig.peer.frames[0][1]["id"] == attach
    assert [event["seq"] for event in rig.peer.events()] == [1, 2, 3]


async def test_a_client_that_comes_back_gets_what_it_missed(rig: Rig, autojump_clock: MockClock) -> None:
    note(rig.stream(), times=5)
    attached = await rig.peer.call("attach", after={"epoch": rig.stream().epoch, "seq": 2})
    assert attached["recovered"]
    await rig.peer.event(5)
    assert [event["seq"] for event in rig.peer.events()] == [3, 4, 5]


async def test_attaching_again_replaces_and_nothing_of_the_old_attachment_follows(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    note(rig.stream(), times=3)
    await rig.peer.event(3)
    say(rig.stream(), times=2)
    again = await rig.peer.send("attach", after={"epoch": rig.stream().epoch, "seq": 1})
    await rig.peer.answer(again)
    await rig.peer.event(5)
    reply_at = next(i for i, (_, frame) in enumerate(rig.peer.frames) if frame.get("id") == again)
    after = [event for _, frame in rig.peer.frames[reply_at + 1 :] for event in frame["params"]["events"]]
    assert after[0]["seq"] == 2
    assert contiguous(after)
    assert rig.stream().readers == 1


async def test_attach_and_detach_of_one_stream_are_served_in_the_order_sent(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.send_raw(
        request("attach", "1", name="slow"), request("detach", "2"), request("attach", "3"), request("detach", "4")
    )
    await rig.peer.call("attach", thing="other")
    assert not rig.peer.answers("2")
    rig.gates.open("slow")
    await rig.peer.answer("4")
    order = [frame["id"] for _, frame in rig.peer.frames if frame["id"] in {"1", "2", "3", "4"}]
    assert order == ["1", "2", "3", "4"]
    assert rig.connection.attachments == (Key("session", "other"),)


async def test_giving_up_one_of_them_does_not_let_the_next_overtake(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw(request("attach", "1", name="slow"), request("detach", "2"), request("attach", "3"))
    await rig.peer.notify("$/cancel_request", requestId="2")
    assert (await rig.peer.answer("2"))["error"]["data"]["kind"] == "request_cancelled"
    await wait_all_tasks_blocked()
    assert not rig.peer.answers("3")
    rig.gates.open("slow")
    await rig.peer.answer("3")
    assert [frame["id"] for _, frame in rig.peer.frames] == ["2", "1", "3"]
    assert rig.stream().readers == 1


async def test_after_a_detach_nothing_comes(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    say(rig.stream(), times=2)
    await rig.peer.call("detach")
    before = len(rig.peer.frames)
    note(rig.stream())
    await wait_all_tasks_blocked(WINDOW_S * 2)
    assert len(rig.peer.frames) == before
    assert rig.stream().readers == 0
    await rig.peer.call("detach")


# The window.


async def test_the_first_delta_goes_at_once_and_the_next_ones_together_when_the_window_ends(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    began = autojump_clock.current_time()
    say(rig.stream(), "a")
    await rig.peer.event(1)
    say(rig.stream(), "b", times=3)
    await wait_all_tasks_blocked()
    say(rig.stream(), "c", times=3)
    await rig.peer.event(7)
    (first_at, first), (second_at, second) = rig.peer.events_frames()
    assert first_at == began
    assert second_at == began + WINDOW_S
    assert [event["text"] for event in first + second] == ["a", "bbbccc"]
    assert (second[0]["firstSeq"], second[0]["seq"]) == (2, 7)


async def test_what_is_no_delta_goes_at_once_and_takes_the_deltas_before_it_along(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    began = autojump_clock.current_time()
    say(rig.stream())
    await rig.peer.event(1)
    say(rig.stream(), times=2)
    await wait_all_tasks_blocked()
    rig.stream().publish(MessageReset(message_id="m"))
    await rig.peer.event(4)
    (_, _), (at, events) = rig.peer.events_frames()
    assert at == began
    assert [event["seq"] for event in events] == [3, 4]
    assert [event["type"] for event in events] == ["message.delta", "message.reset"]


async def test_after_a_pause_a_delta_goes_at_once_again(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    for _ in range(3):
        say(rig.stream())
        published = autojump_clock.current_time()
        await rig.peer.event(rig.stream().seq)
        assert autojump_clock.current_time() == published
        autojump_clock.jump(WINDOW_S)


async def test_when_the_window_ends_every_stream_has_its_turn(rig: Rig, autojump_clock: MockClock) -> None:
    things = [f"s{number}" for number in range(20)]
    for thing in things:
        await rig.peer.call("attach", thing=thing)
    began = autojump_clock.current_time()
    for _ in range(2):
        for thing in things:
            say(rig.stream(thing))
        await wait_all_tasks_blocked()
    for thing in things:
        await rig.peer.event(2, thing)
        assert contiguous(rig.peer.events(thing))
    assert autojump_clock.current_time() == began + WINDOW_S


# Turns and sizes.


async def test_streams_take_turns(rig: Rig, autojump_clock: MockClock) -> None:
    things = ["busy", "busier", "quiet"]
    for thing in things:
        await rig.peer.call("attach", thing=thing)
    before = len(rig.peer.frames)
    rig.transport.take_bytes(False)
    note(rig.stream("busy"), "x" * 100_000, times=6)
    note(rig.stream("busier"), "x" * 100_000, times=12)
    await wait_all_tasks_blocked()
    note(rig.stream("quiet"))
    rig.transport.take_bytes(True)
    await rig.peer.event(12, "busier")
    order = [frame["params"]["sessionId"] for _, frame in rig.peer.frames[before:]]
    assert order == ["busy", "busier", "busy", "quiet", "busier", "busy", "busier", "busier", "busier", "busier"]


async def test_a_frame_is_bounded_unless_one_event_is_larger(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    for size in (200_000, 100_000, 10, 300_000, 10, 50_000):
        note(rig.stream(), "x" * size)
    await rig.peer.event(6)
    sizes = [[len(event["title"]) for event in events] for _, events in rig.peer.events_frames()]
    assert sizes == [[200_000], [100_000, 10], [300_000], [10, 50_000]]
    assert all(sum(frame) <= EVENTS_FRAME_BYTES or len(frame) == 1 for frame in sizes)


async def test_a_reader_that_is_behind_is_not_woken_for_every_delta(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    rig.transport.take_bytes(False)
    say(rig.stream(), times=2)
    await wait_all_tasks_blocked()
    say(rig.stream())
    assert not rig.stream()._waiting
    assert not rig.stream()._skipping_deltas
    rig.transport.take_bytes(True)
    await rig.peer.event(3)


async def test_requests_are_answered_while_events_flow_and_events_while_requests_do(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    rig.transport.take_bytes(False)
    for number in range(30):
        await rig.peer.send("echo", f"e{number}")
    note(rig.stream(), "x" * 200_000, times=5)
    await wait_all_tasks_blocked()
    before = len(rig.peer.frames)
    rig.transport.take_bytes(True)
    await rig.peer.answer("e29")
    await rig.peer.event(5)
    kinds = ["method" in frame for _, frame in rig.peer.frames[before:]]
    assert True in kinds[:3]
    assert False in kinds[:3]


# Ends.


async def test_a_reader_that_the_ring_overtakes_is_told_on_the_same_socket_and_attaches_again(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.call("attach")
    await rig.peer.call("attach", thing="other")
    rig.transport.take_bytes(False)
    note(rig.stream(), times=2)
    await wait_all_tasks_blocked()
    note(rig.stream(), times=REPLAY_EVENTS + 1)
    note(rig.stream("other"))
    rig.transport.take_bytes(True)
    await rig.peer.until(rig.peer.detached)
    assert rig.peer.detached() == [{"sessionId": "s", "reason": "lagged"}]
    assert contiguous(rig.peer.events())
    await rig.peer.event(1, "other")
    assert rig.stream().readers == 0
    attached = await rig.peer.call("attach")
    assert attached["seq"] == rig.stream().seq
    note(rig.stream())
    await rig.peer.event(rig.stream().seq)


async def test_a_workspace_that_lags_is_detached_by_its_own_name(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach", thing="w")
    rig.transport.take_bytes(False)
    note(rig.stream("w"), times=2)
    await wait_all_tasks_blocked()
    note(rig.stream("w"), times=REPLAY_EVENTS + 1)
    rig.transport.take_bytes(True)
    await rig.peer.until(rig.peer.detached)
    assert rig.peer.detached() == [{"workspaceId": "w", "reason": "lagged"}]


@pytest.mark.parametrize(
    ("thing", "closed_for", "told"),
    [
        ("s", "deleted", "deleted"),
        ("s", "workspace_closed", "workspace_closed"),
        ("s", "unloaded", "lagged"),
        ("w", "closed", "closed"),
    ],
)
async def test_a_stream_that_ends_is_sent_to_its_last_event_and_then_detached(
    rig: Rig, autojump_clock: MockClock, thing: str, closed_for: str, told: str
) -> None:
    await rig.peer.call("attach", thing=thing)
    say(rig.stream(thing), times=3)
    note(rig.stream(thing))
    rig.stream(thing).close(closed_for)
    await rig.peer.until(rig.peer.detached)
    assert rig.peer.events(thing)[-1]["seq"] == 4
    assert "events" not in rig.peer.frames[-1][1]["params"]
    assert rig.peer.detached()[0]["reason"] == told
    assert rig.connection.attachments == ()
    assert rig.rings.used_bytes == 0


async def test_an_answer_that_goes_behind_a_stream_comes_after_its_end(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.call("attach")
    await rig.peer.call("attach", thing="w")
    deletion = await rig.peer.send("wait", name="deleted", behind=["s", "w", "unknown"])
    await wait_all_tasks_blocked()
    say(rig.stream(), times=2)
    note(rig.stream(), "x" * 200_000, times=3)
    rig.stream().close("deleted")
    note(rig.stream("w"))
    rig.gates.open("deleted")
    await rig.peer.answer(deletion)
    assert rig.peer.frames[-1][1]["id"] == deletion
    assert rig.peer.detached() == [{"sessionId": "s", "reason": "deleted"}]
    assert rig.peer.events()[-1]["seq"] == 5
    assert rig.peer.events("w")[-1]["seq"] == 1
    note(rig.stream("w"))
    await rig.peer.event(2, "w")
