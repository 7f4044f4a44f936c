"""Requests: begun in the order sent, answered once each, and no more in work than were announced."""

from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_protocol.limits import MAX_IN_FLIGHT, MAX_WAITING
from socket_rig import Rig, open_rig, request


async def test_requests_are_begun_in_the_order_sent(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw(
        request("echo", 1, name="first"),
        request("blocking", 2, name="second"),
        request("echo", 3, name="third"),
    )
    await wait_all_tasks_blocked()
    assert rig.begun == ["first", "second"]
    rig.gates.open("second")
    await rig.peer.answer(3)
    assert rig.begun == ["first", "second", "third"]


async def test_a_request_that_waits_holds_up_no_later_one(rig: Rig, autojump_clock: MockClock) -> None:
    slow = await rig.peer.send("wait", name="slow")
    assert (await rig.peer.call("echo", text="quick"))["content"] == "quick"
    assert rig.peer.answers(slow) == []
    rig.gates.open("slow")
    assert (await rig.peer.answer(slow))["result"]["content"] == "slow"


async def test_errors_have_the_id_of_their_request_wherever_they_arise(rig: Rig, autojump_clock: MockClock) -> None:
    early = await rig.peer.send("refused")
    late = await rig.peer.send("wait", name="late", fail=True)
    rig.gates.open("late")
    for request_id in (early, late):
        assert (await rig.peer.answer(request_id))["error"]["data"]["kind"] == "session_not_found"


async def test_ids_come_back_as_they_were_sent(rig: Rig, autojump_clock: MockClock) -> None:
    for sent in ('"a\\u0062"', "1.50", "12345678901234567890123", '""', "null"):
        await rig.peer.send_raw(f'{{"jsonrpc":"2.0","id":{sent},"method":"echo"}}')
    await wait_all_tasks_blocked()
    assert [frame["id"] for _, frame in rig.peer.frames] == ["ab", 1.5, 12345678901234567890123, "", None]


async def test_what_is_no_request_is_answered_and_the_socket_lives_on(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw("{", "[]", '{"jsonrpc":"2.0","id":7,"method":1}', '"text"')
    await wait_all_tasks_blocked()
    assert [(frame["id"], frame["error"]["data"]["kind"]) for _, frame in rig.peer.frames] == [
        (None, "parse_error"),
        (None, "invalid_request"),
        (7, "invalid_request"),
        (None, "invalid_request"),
    ]
    await rig.peer.call("echo")


async def test_a_binary_frame_closes_the_connection(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw(b"{}")
    assert await rig.peer.closing() == 1003


async def test_an_id_that_is_in_work_is_refused_and_the_first_request_is_not_harmed(
    rig: Rig, autojump_clock: MockClock
) -> None:
    await rig.peer.send("wait", 1, name="first")
    await rig.peer.send("wait", 1, name="second")
    assert (await rig.peer.answer(1))["error"]["data"]["kind"] == "invalid_request"
    rig.gates.open("first")
    await rig.peer.until(lambda: len(rig.peer.answers(1)) == 2)
    assert rig.peer.answers(1)[1]["result"]["content"] == "first"
    assert rig.begun == ["first"]


async def test_an_id_may_be_used_again_as_soon_as_its_answer_is_there(rig: Rig, autojump_clock: MockClock) -> None:
    for count in range(1, 101):
        await rig.peer.send("echo", "always")
        await rig.peer.until(lambda count=count: len(rig.peer.answers("always")) == count)
    assert all("result" in answer for answer in rig.peer.answers("always"))


async def test_a_large_message_is_read_like_any_other() -> None:
    async with open_rig() as rig:  # the clock is real here, because large messages are parsed in a thread
        await rig.peer.send("echo", 1, text="x" * 1_000_000, name="large")
        await rig.peer.send("echo", 2, name="small")
        assert len((await rig.peer.answer(1))["result"]["content"]) == 1_000_000
        await rig.peer.answer(2)
        assert rig.begun == ["large", "small"]


async def test_responses_are_ignored_and_notifications_passed_on(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw('{"jsonrpc":"2.0","id":1,"result":{}}')
    await rig.peer.notify("session/cancel", sessionId="s")
    await rig.peer.call("echo")
    assert rig.notified == ["session/cancel"]
    assert len(rig.peer.frames) == 1


async def test_a_result_that_cannot_be_encoded_is_an_internal_error_and_no_more(
    rig: Rig, autojump_clock: MockClock
) -> None:
    error = (await rig.peer.answer(await rig.peer.send("surrogate")))["error"]
    assert error["data"]["kind"] == "internal"
    assert error["data"]["id"]
    await rig.peer.call("echo")


# How many at a time.


async def test_beyond_the_limit_requests_wait_unread_until_an_answer_is_written(
    rig: Rig, autojump_clock: MockClock
) -> None:
    for number in range(MAX_IN_FLIGHT):
        await rig.peer.send("wait", name=f"w{number}")
    last = await rig.peer.send("echo", name="last")
    await wait_all_tasks_blocked()
    assert len(rig.begun) == MAX_IN_FLIGHT
    rig.gates.open("w5")
    await rig.peer.answer(last)
    assert rig.begun[-1] == "last"


async def test_a_request_is_in_work_until_its_answer_is_written(rig: Rig, autojump_clock: MockClock) -> None:
    rig.transport.take_bytes(False)
    for number in range(MAX_IN_FLIGHT + 10):
        await rig.peer.send("echo", name=str(number))
    await wait_all_tasks_blocked()
    assert len(rig.begun) == MAX_IN_FLIGHT
    rig.transport.take_bytes(True)
    await rig.peer.until(lambda: len(rig.peer.frames) == MAX_IN_FLIGHT + 10)


async def test_answers_to_garbage_count_as_well(rig: Rig, autojump_clock: MockClock) -> None:
    rig.transport.take_bytes(False)
    await rig.peer.send_raw(*["{"] * MAX_IN_FLIGHT, request("echo", 1))
    await wait_all_tasks_blocked()
    assert rig.begun == []
    rig.transport.take_bytes(True)
    await rig.peer.answer(1)


async def test_waits_by_design_do_not_count_until_there_are_too_many(rig: Rig, autojump_clock: MockClock) -> None:
    await rig.peer.send_raw(*[request("wait", f"{n}", name="far", byDesign=True) for n in range(MAX_WAITING)])
    one_more = await rig.peer.send("wait", "more", name="far", byDesign=True)
    error = (await rig.peer.answer(one_more))["error"]
    assert error["data"]["kind"] == "overloaded"
    assert error["data"]["retryable"]
    await rig.peer.call("echo")
    rig.gates.open("far")
    await rig.peer.until(lambda: len(rig.peer.frames) == MAX_WAITING + 2)
    again = await rig.peer.send("wait", "again", name="far", byDesign=True)
    assert "result" in await rig.peer.answer(again)


# Giving up.


async def test_a_waiting_request_that_is_given_up_answers_so_once(rig: Rig, autojump_clock: MockClock) -> None:
    slow = await rig.peer.send("wait", name="slow")
    await rig.peer.notify("$/cancel_request", requestId=slow)
    assert (await rig.peer.answer(slow))["error"]["data"]["kind"] == "request_cancelled"
    assert rig.gates.cancelled == ["slow"]
    rig.gates.open("slow")
    await rig.peer.call("echo")
    assert len(rig.peer.answers(slow)) == 1


async def test_a_request_that_has_its_answer_keeps_it(rig: Rig, autojump_clock: MockClock) -> None:
    rig.transport.take_bytes(False)
    slow = await rig.peer.send("wait", name="slow")
    rig.gates.open("slow")
    await wait_all_tasks_blocked()
    await rig.peer.notify("$/cancel_request", requestId=slow)
    await wait_all_tasks_blocked()
    rig.transport.take_bytes(True)
    assert (await rig.peer.answer(slow))["result"]["content"] == "slow"


async def test_giving_up_what_is_unknown_or_no_id_changes_nothing(rig: Rig, autojump_clock: MockClock) -> None:
    slow = await rig.peer.send("wait", name="slow")
    await rig.peer.notify("$/cancel_request", requestId="other")
    await rig.peer.notify("$/cancel_request", requestId=[slow])
    await rig.peer.notify("$/cancel_request")
    await rig.peer.call("echo")
    rig.gates.open("slow")
    assert "result" in await rig.peer.answer(slow)
