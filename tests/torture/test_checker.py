"""The checker itself: it lets every story of a server in order pass, and each rule finds what it is for.

A case takes such a story and falsifies it in one way, as little as can be. Each
rule has at least one; some other rule may notice it too.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torture.checker import RULES, check, require
from torture.history import History
from torture.made import SESSION, STORIES, again, queue, stamp

Json = dict[str, Any]
Change = Callable[[list[Json]], object]


def entry(entries: list[Json], what: str, **more: Any) -> Json:
    """The first entry of a kind that has these values."""
    return next(one for one in entries if one["what"] == what and all(one.get(k) == v for k, v in more.items()))


def last(entries: list[Json], what: str, **more: Any) -> Json:
    """The last one."""
    return entry(entries[::-1], what, **more)


def events(entries: list[Json], conn: str, *kinds: str) -> list[Json]:
    """The events of these types that a connection got."""
    got = [event for one in entries if one["what"] == "events" and one["conn"] == conn for event in one["events"]]
    return [event for event in got if event["type"] in kinds]


def event(entries: list[Json], conn: str, kind: str, run_id: str | None = None) -> Json:
    """The first of a type, of a run if one is named."""
    found = events(entries, conn, kind)
    return next(one for one in found if run_id is None or one.get("run", one).get("runId") == run_id)


def reply(entries: list[Json], method: str, **params: Any) -> Json:
    """The answer to the last request of a method with these parameters."""
    sent = next(
        one
        for one in entries[::-1]
        if one["what"] == "send"
        and one["method"] == method
        and all(one["params"].get(k) == v for k, v in params.items())
    )
    return entry(entries, "reply", conn=sent["conn"], id=sent["id"])


def run_get(entries: list[Json], run_id: str) -> Json:
    """The run as it was told in the end."""
    return reply(entries, "run/get", runId=run_id)["result"]["run"]


def stored(entries: list[Json], message_id: str) -> Json:
    """The message as it is stored in the end."""
    messages = reply(entries, "session/messages")["result"]["messages"]
    return next(message for message in messages if message["messageId"] == message_id)


def drop(entries: list[Json], conn: str, *kinds: str, run_id: str | None = None) -> None:
    """Some events never were: those after them move up, for everybody."""
    gone = [one["seq"] for one in events(entries, conn, *kinds) if run_id in (None, one.get("run", one).get("runId"))]
    for one in entries:
        for told in one.get("events", []):
            told["seq"] -= sum(seq < told["seq"] for seq in gone)
            if "firstSeq" in told:
                told["firstSeq"] -= sum(seq < told["firstSeq"] for seq in gone)
        one["events"] = [told for told in one.get("events", []) if not is_one_of(told, kinds, run_id)]


def is_one_of(told: Json, kinds: tuple[str, ...], run_id: str | None) -> bool:
    return told["type"] in kinds and run_id in (None, told.get("run", told).get("runId"))


def append(entries: list[Json], conn: str, kind: str, **more: Any) -> None:
    """One more event at the end of what a connection got."""
    frame = last(entries, "events", conn=conn)
    before = frame["events"][-1]
    frame["events"].append({"type": kind, "seq": before["seq"] + 1, "at": before["at"], **more})


def answered_twice(entries: list[Json]) -> None:
    entries.append(dict(entry(entries, "reply")))


def answered_unasked(entries: list[Json]) -> None:
    entries.append({**entry(entries, "reply"), "id": 999})


def gap(entries: list[Json]) -> None:
    entry(entries, "events", conn="a")["events"].pop()


def repeat(entries: list[Json]) -> None:
    frames = [one for one in entries if one["what"] == "events" and one["conn"] == "a"]
    frames[1]["events"].insert(0, frames[0]["events"][-1])


def resumed_elsewhere(entries: list[Json]) -> None:
    reply(entries, "session/attach")["result"]["stream"]["seq"] -= 1


def after_detach(entries: list[Json]) -> None:
    entries.insert(
        entries.index(last(entries, "events", conn="a")),
        {"what": "detached", "at": 0.0, "conn": "a", "of": "session", "thing": SESSION, "reason": "lagged"},
    )


def merged_run(entries: list[Json]) -> None:
    event(entries, "a", "run.accepted")["firstSeq"] = 1


def epoch_again(entries: list[Json]) -> None:
    reply(entries, "session/attach")["result"]["stream"]["epoch"] = "e0"


def other_bytes(entries: list[Json]) -> None:
    event(entries, "b", "run.started")["at"] = stamp(1)


def other_merged_text(entries: list[Json]) -> None:
    events(entries, "b", "message.delta")[0]["text"] = "one TWO three"


def merged_across(entries: list[Json]) -> None:
    merged = events(entries, "b", "message.delta")[0]
    merged["firstSeq"] -= 1
    frame = entry(entries, "events", conn="b")
    frame["events"].pop()


def late_snapshot(entries: list[Json]) -> None:
    result = next(
        one["result"]
        for one in entries
        if one["what"] == "reply" and one["conn"] == "c" and "snapshot" in (one.get("result") or {})
    )
    result["snapshot"]["messages"][-1]["parts"][0]["text"] = "one two"


def snapshot_without_run(entries: list[Json]) -> None:
    for one in entries:
        if one["what"] == "reply" and one["conn"] == "c":
            one["result"]["snapshot"]["runs"].pop()


def lost_words(entries: list[Json]) -> None:
    for conn in "abc":
        for one in events(entries, conn, "message.delta"):
            if one["text"] == "again":
                one["text"] = "aga"


def wrong_offset(entries: list[Json]) -> None:
    for conn in "abc":
        for one in events(entries, conn, "message.delta"):
            if one["text"] == "again":
                one["offset"] = 2


def stale_text(entries: list[Json]) -> None:
    for conn in "abc":
        event(entries, conn, "run.completed", "r1")["run"]["text"] = "one two three"


def other_author(entries: list[Json]) -> None:
    run_get(entries, "r1")["author"] = {"clientId": "other", "name": "x"}


def other_prompt(entries: list[Json]) -> None:
    reply(entries, "session/prompt", runId="r1")["result"]["run"]["promptText"] = "do r2"


def accepted_twice(entries: list[Json]) -> None:
    reply(entries, "session/prompt", runId="r2")["result"]["duplicate"] = False


def refused_the_second_time(entries: list[Json]) -> None:
    answer = reply(entries, "session/prompt", runId="r2")
    del answer["result"]
    answer["error"] = {"code": -32010, "data": {"kind": "idempotency_conflict"}}


def announced_twice(entries: list[Json]) -> None:
    append(entries, "a", "run.accepted", run=event(entries, "a", "run.accepted", "r1")["run"])


def completed_twice(entries: list[Json]) -> None:
    append(entries, "a", "run.completed", run=event(entries, "a", "run.completed", "r2")["run"])


def never_completed(entries: list[Json]) -> None:
    for name in ("stopReason", "finishedAt", "text", "messageId"):
        del run_get(entries, "r2")[name]
    run_get(entries, "r2")["state"] = "running"
    for conn in "abc":
        drop(entries, conn, "run.completed", run_id="r2")


def completed_in_two_epochs(entries: list[Json]) -> None:
    frame = copy.deepcopy(entry(entries, "events", conn="a"))
    end = {"type": "run.completed", "seq": 1, "at": stamp(900), "run": run_get(entries, "r1")}
    place = entries.index(entry(entries, "send", conn="b", method="run/get"))
    entries.insert(place, {**frame, "conn": "b", "epoch": "e1", "events": [end]})
    first = {**frame, "events": [{**end, "seq": event(entries, "a", "message.delta")["seq"] + 20}]}
    first["events"][0]["seq"] = events(entries, "a", "message.delta")[-1]["seq"] + 1
    entries.insert(entries.index(entry(entries, "signal")), first)


def numbers_swapped(entries: list[Json]) -> None:
    renumber(entries, {"r1": 3, "r2": 1})


def one_number(entries: list[Json]) -> None:
    renumber(entries, {"r2": 1})


def renumber(entries: list[Json], numbers: dict[str, int]) -> None:
    """Give runs other numbers, wherever they are told."""

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, dict):
            if "acceptSeq" in value:
                value["acceptSeq"] = numbers.get(value["runId"], value["acceptSeq"])
            for one in value.values():
                walk(one)

    walk(entries)


def numbers_fall_over_time(entries: list[Json]) -> None:
    for one in entries:
        if one["what"] == "send" and one["params"].get("runId") == "r2":
            one["conn"] = "b"
            entry(entries, "reply", id=one["id"])["conn"] = "b"
    renumber(entries, {"r1": 3, "r2": 1})


def started_twice(entries: list[Json]) -> None:
    append(entries, "a", "run.started", run=event(entries, "a", "run.started", "r1")["run"])


def words_after_the_end(entries: list[Json]) -> None:
    append(entries, "a", "message.completed", message=stored(entries, "r2-a"))


def unannounced(entries: list[Json]) -> None:
    drop(entries, "a", "run.accepted", run_id="r2")


def unstarted_without_messages(entries: list[Json]) -> None:
    drop(entries, "a", "message.created", "message.completed", run_id=None)


def turns_overlap(entries: list[Json]) -> None:
    swap(entries, ("run.completed", "r1"), ("run.started", "r2"))


def swap(entries: list[Json], one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two events in each other's place."""
    first, second = event(entries, "a", *one), event(entries, "a", *other)
    first["seq"], second["seq"] = second["seq"], first["seq"]
    for frame in entries:
        if frame["what"] == "events" and frame["conn"] == "a":
            frame["events"].sort(key=lambda told: told["seq"])


def not_in_turn(entries: list[Json]) -> None:
    """What waits longest goes last: the two change their names in what was told from their turns on."""
    for told in events(entries, "a", "run.accepted"):
        if told["run"]["runId"] == "r4":
            told["run"]["delivery"] = "queue"
    for ask in (reply(entries, "session/prompt", runId="r4"), reply(entries, "run/get", runId="r4")):
        ask["result"]["run"]["delivery"] = "queue"
    for told in events(entries, "a", "run.started", "run.completed"):
        if told["run"]["runId"] == "r4":
            told["run"]["delivery"] = "queue"


def not_refused(entries: list[Json]) -> None:
    for told in [*events(entries, "a", "run.accepted", "run.started", "run.completed")]:
        if told["run"]["runId"] == "r2":
            told["run"]["delivery"] = "reject"


def folded_unasked(entries: list[Json]) -> None:
    for told in events(entries, "a", "run.accepted", "run.completed"):
        if told["run"]["runId"] == "r3":
            told["run"]["delivery"] = "queue"


def fold_ends_otherwise(entries: list[Json]) -> None:
    event(entries, "a", "run.completed", "r3")["run"]["text"] = "something else"


def fold_ends_elsewhere(entries: list[Json]) -> None:
    swap(entries, ("run.completed", "r3"), ("run.started", "r4"))


def fold_never_ends(entries: list[Json]) -> None:
    drop(entries, "a", "run.completed", run_id="r3")


def named_and_went_on(entries: list[Json]) -> None:
    for one in (event(entries, "a", "run.completed", "r3")["run"], run_get(entries, "r3")):
        one["stopReason"] = "end_turn"


def named_and_answered_early(entries: list[Json]) -> None:
    result = reply(entries, "session/cancel", wait=True)
    result["result"]["cancelled"] = ["r3"]
    result["at"] -= 10


def mark_too_low(entries: list[Json]) -> None:
    reply(entries, "session/cancel")["result"]["upTo"] = 2


def mark_too_high(entries: list[Json]) -> None:
    reply(entries, "session/cancel")["result"]["upTo"] = 4


def not_named(entries: list[Json]) -> None:
    first = next(one for one in entries if one["what"] == "reply" and "cancelled" in one["result"])
    first["result"]["cancelled"].remove("r3")


def cancelled_by_nobody(entries: list[Json]) -> None:
    for one in (event(entries, "a", "run.completed", "r4")["run"], run_get(entries, "r4")):
        one["stopReason"] = "cancelled"
    stored(entries, "r4-a")["finish"]["reason"] = "cancelled"


def forgotten(entries: list[Json]) -> None:
    answer = reply(entries, "run/get", runId="r2")
    del answer["result"]
    answer["error"] = {"code": -32002, "data": {"kind": "run_not_found"}}


def taken_as_new(entries: list[Json]) -> None:
    fresh = {**run_get(entries, "r1"), "state": "queued"}
    entries += [
        {"what": "send", "at": 0.0, "conn": "b", "id": 50, "method": "session/prompt", "params": again("r1")},
        {"what": "reply", "at": 0.0, "conn": "b", "id": 50, "result": {"run": fresh, "duplicate": False}},
    ]


def not_asked(entries: list[Json]) -> None:
    one = next(one for one in entries if one["what"] == "send" and one["method"] == "run/get")
    entries.remove(one)
    entries.remove(entry(entries, "reply", conn=one["conn"], id=one["id"]))


def not_read(entries: list[Json]) -> None:
    one = next(one for one in entries if one["what"] == "send" and one["method"] == "session/messages")
    entries.remove(one)
    entries.remove(entry(entries, "reply", conn=one["conn"], id=one["id"]))


def prompt_missing(entries: list[Json]) -> None:
    messages = reply(entries, "session/messages")["result"]["messages"]
    messages.remove(stored(entries, "r2-u"))


def prompt_twice(entries: list[Json]) -> None:
    messages = reply(entries, "session/messages")["result"]["messages"]
    messages.append({**stored(entries, "r2-u"), "messageId": "other", "order": 99})


def half_written(entries: list[Json]) -> None:
    del stored(entries, "r1-a")["finish"]


def open_call(entries: list[Json]) -> None:
    call = {"type": "tool_call", "toolCallId": "t1", "status": "in_progress"}
    stored(entries, "r2-a")["parts"].append(call)


def same_place(entries: list[Json]) -> None:
    stored(entries, "r2-a")["order"] = 1


def stored_otherwise(entries: list[Json]) -> None:
    stored(entries, "r1-a")["parts"][0]["text"] = "agai"
    run_get(entries, "r1")["text"] = "agai"


def another_end(entries: list[Json]) -> None:
    run_get(entries, "r2")["finishedAt"] = stamp(5000)


def still_running(entries: list[Json]) -> None:
    result = reply(entries, "session/attach")["result"]
    result["snapshot"]["runs"].append({**event(entries, "a", "run.started", "r1")["run"]})


def run_again(entries: list[Json]) -> None:
    run_get(entries, "r2")["stopReason"] = "end_turn"
    stored(entries, "r2-a")["finish"]["reason"] = "end_turn"


def interrupted_for_nothing(entries: list[Json]) -> None:
    run_get(entries, "r1")["stopReason"] = "interrupted"


def too_much_lost(entries: list[Json]) -> None:
    shown = reply(entries, "session/attach")["result"]["snapshot"]["messages"]
    next(message for message in shown if message["messageId"] == "r1-a")["parts"][0]["text"] = "sto"
    stored(entries, "r1-a")["parts"][0]["text"] = "sto"
    run_get(entries, "r1")["text"] = "sto"


def lost_and_late(entries: list[Json]) -> None:
    for told in events(entries, "a", "message.delta")[1:]:
        told["at"] = stamp(300)


def ends_with_one(entries: list[Json]) -> None:
    entry(entries, "ended")["code"] = 1


def end_not_told(entries: list[Json]) -> None:
    drop(entries, "a", "run.completed")


def closed_without_a_word(entries: list[Json]) -> None:
    entry(entries, "closed", conn="a")["code"] = 1006


CASES: list[tuple[str, str, Change]] = [
    ("answered", "talk", answered_twice),
    ("answered", "talk", answered_unasked),
    ("attachment", "talk", gap),
    ("attachment", "talk", repeat),
    ("attachment", "talk", resumed_elsewhere),
    ("attachment", "talk", after_detach),
    ("attachment", "talk", merged_run),
    ("epoch", "crash", epoch_again),
    ("agreement", "talk", other_bytes),
    ("agreement", "talk", other_merged_text),
    ("agreement", "talk", merged_across),
    ("snapshot", "talk", late_snapshot),
    ("snapshot", "talk", snapshot_without_run),
    ("text", "talk", lost_words),
    ("text", "talk", wrong_offset),
    ("run_text", "talk", stale_text),
    ("identity", "talk", other_author),
    ("identity", "talk", other_prompt),
    ("repeat", "talk", refused_the_second_time),
    ("one_accept", "talk", accepted_twice),
    ("one_accept", "talk", announced_twice),
    ("one_terminal", "talk", completed_twice),
    ("one_terminal", "talk", never_completed),
    ("one_terminal", "crash", completed_in_two_epochs),
    ("accept_order", "talk", numbers_swapped),
    ("accept_order", "talk", one_number),
    ("accept_order", "talk", numbers_fall_over_time),
    ("story", "talk", started_twice),
    ("story", "talk", words_after_the_end),
    ("story", "queue", unannounced),
    ("story", "cancel", unstarted_without_messages),
    ("one_turn", "talk", turns_overlap),
    ("queue_order", "queue", not_in_turn),
    ("queue_order", "queue", not_refused),
    ("fold", "queue", folded_unasked),
    ("fold", "queue", fold_ends_otherwise),
    ("fold", "queue", fold_ends_elsewhere),
    ("one_terminal", "queue", fold_never_ends),
    ("cancel_named", "cancel", named_and_went_on),
    ("cancel_named", "cancel", named_and_answered_early),
    ("cancel_mark", "cancel", mark_too_low),
    ("cancel_mark", "cancel", mark_too_high),
    ("cancel_covers", "cancel", not_named),
    ("cancel_explained", "cancel", cancelled_by_nobody),
    ("durable", "crash", forgotten),
    ("durable", "crash", taken_as_new),
    ("asked", "crash", not_asked),
    ("asked", "crash", not_read),
    ("messages", "crash", prompt_missing),
    ("messages", "crash", prompt_twice),
    ("messages", "crash", half_written),
    ("messages", "crash", open_call),
    ("messages", "talk", same_place),
    ("stored", "talk", stored_otherwise),
    ("terminal_kept", "talk", another_end),
    ("running", "crash", still_running),
    ("interrupted", "crash", run_again),
    ("interrupted", "stop", interrupted_for_nothing),
    ("loss", "crash", too_much_lost),
    ("loss", "crash", lost_and_late),
    ("saved", "stop", ends_with_one),
    ("drained", "stop", end_not_told),
    ("drained", "stop", closed_without_a_word),
]


@pytest.mark.parametrize("story", STORIES)
def test_a_story_in_order_breaks_no_rule(story: str) -> None:
    assert [str(one) for one in check(STORIES[story]().entries).broken] == []


@pytest.mark.parametrize(("rule", "story", "change"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_a_rule_finds_what_it_is_for(rule: str, story: str, change: Change) -> None:
    entries = copy.deepcopy(STORIES[story]().entries)
    change(entries)
    assert rule in check(entries).rules


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _, _ in CASES} == RULES.keys()


def test_text_that_a_stall_of_the_machine_cost_is_no_loss() -> None:
    entries = copy.deepcopy(STORIES["crash"]().entries)
    too_much_lost(entries)
    killed = entry(entries, "signal")
    entries.insert(entries.index(killed), {"what": "stall", "at": killed["at"], "s": 0.9})
    assert check(entries).rules == set()


def test_how_much_text_was_lost_is_measured() -> None:
    (lost_s,) = check(STORIES["crash"]().entries).losses_s
    assert 0.02 <= lost_s < 0.03


def test_a_turn_may_begin_where_nobody_looked_and_be_folded_into() -> None:
    made = queue(unseen_beginning=True)
    assert "r1" not in [one["run"]["runId"] for one in events(made.entries, "a", "run.started")]
    assert [str(one) for one in check(made.entries).broken] == []


def test_who_stood_still_at_a_shutdown_may_be_cut_off() -> None:
    entries = copy.deepcopy(STORIES["stop"]().entries)
    end_not_told(entries)
    closed_without_a_word(entries)
    closed = entry(entries, "closed", conn="a")
    entries.insert(entries.index(closed), {"what": "stall", "at": closed["at"], "s": 0.6})
    assert [str(one) for one in check(entries).broken] == []


def test_a_shutdown_that_has_waited_for_an_end_long_enough_need_not_tell_it() -> None:
    entries = copy.deepcopy(STORIES["stop"]().entries)
    end_not_told(entries)
    for late in entries[entries.index(entry(entries, "closed")) :]:
        late["at"] += 4
    assert [str(one) for one in check(entries).broken] == []


def test_a_cancel_whose_answer_was_lost_may_have_cancelled() -> None:
    entries = copy.deepcopy(STORIES["cancel"]().entries)
    cancelled_by_nobody(entries)
    prompt = last(entries, "send", method="session/prompt")
    entries.insert(
        entries.index(prompt),
        {**prompt, "id": 77, "method": "session/cancel", "params": {"sessionId": SESSION, "scope": "all"}},
    )
    assert check(entries).rules == set()


def test_a_prompt_that_was_never_answered_or_told_may_be_unknown() -> None:
    made = STORIES["crash"]()
    sent = entry(made.entries, "send", method="session/prompt")
    place = made.entries.index(entry(made.entries, "signal"))
    made.entries.insert(place, {**sent, "id": 88, "params": again("r9")})
    made.ask("b", "run/get", error="run_not_found", runId="r9")
    assert check(made.entries).rules == set()


def test_a_run_that_only_the_next_server_tells_of_may_be_interrupted() -> None:
    entries = copy.deepcopy(STORIES["crash"]().entries)
    answer = reply(entries, "session/prompt", runId="r2")
    entries.remove(answer)
    frame = last(entries, "events", conn="a")
    while frame["events"][-1]["type"] != "run.accepted":
        frame["events"].pop()
    frame["events"].pop()
    assert check(entries).rules == set()


def test_what_breaks_is_told_with_the_seed_and_kept(tmp_path: Path) -> None:
    history = History(7)
    history.entries = STORIES["talk"]().entries
    other_author(history.entries)
    with pytest.raises(AssertionError, match="seed 7: 1 times a rule is broken:\nidentity: r1") as failed:
        with history.kept(tmp_path / "history"):
            require(history)
    assert str(tmp_path / "history") in failed.value.__notes__[0]
    assert History.load(tmp_path / "history").entries == history.entries
