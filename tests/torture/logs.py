"""Streams put together from what all their readers got.

The second step of the checker. Readers of one stream must have got the same
events: byte for byte where they got the same ones, and the same text where one
got deltas merged and another did not. What they got together is the log, and
playing the log tells what a text or a snapshot has to say at any place.

Pure, like the rest of the checker.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torture.facts import DELTAS, Facts, Reading, seconds_of, text_of

__all__ = ["Item", "Log", "Played", "logs_of", "play"]

Json = dict[str, Any]


@dataclass(eq=False)
class Item:
    """An event, or neighbouring deltas of one part as one; ``offsets`` is how far the text was after an event."""

    first: int
    last: int
    event: Json
    after_gap: bool
    text: str = ""
    offset: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    times: list[tuple[int, float]] = field(default_factory=list)
    """By when the text had got to an offset."""

    @property
    def type(self) -> str:
        return self.event["type"]

    @property
    def at(self) -> float:
        return seconds_of(self.event["at"])


@dataclass(eq=False)
class Log:
    """What the readers of one stream got together, in its order."""

    of: str
    thing: str
    epoch: str
    server: int
    readings: list[Reading]
    items: list[Item] = field(default_factory=list)

    def events(self, *types: str) -> Iterator[Item]:
        """The events of these types."""
        return (item for item in self.items if item.type in types)

    def is_whole(self, after: int, to: int) -> bool:
        """Whether somebody got each event behind one place up to another."""
        return not any(item.after_gap and after < item.first <= to for item in self.items)


def logs_of(facts: Facts) -> list[Log]:
    """Put the streams together, and check that their readers agree."""
    by_stream: defaultdict[tuple[str, str, str], list[Reading]] = defaultdict(list)
    for reading in facts.readings:
        by_stream[reading.key].append(reading)
    logs = [Log(*key, server=readings[0].server, readings=readings) for key, readings in by_stream.items()]
    for log in logs:
        if len({reading.server for reading in log.readings}) > 1:
            facts.breaks("epoch", f"{log.thing} has the same epoch in several servers")
        _put_together(facts, log)
    return logs


def _key(event: Json) -> tuple[str, str, int]:
    return event["type"], event["messageId"], event["part"]


def _put_together(facts: Facts, log: Log) -> None:
    seen: dict[tuple[int, int], tuple[str, str]] = {}
    found: dict[tuple[int, int], Json] = {}
    for reading in log.readings:
        for _, event in reading.events:
            span = event.get("firstSeq", event["seq"]), event["seq"]
            said = json.dumps(event)
            known, by = seen.setdefault(span, (said, reading.conn))
            if known != said:
                facts.breaks("agreement", f"{log.thing} {span}: {by} got {known}, and {reading.conn} got {said}")
            found.setdefault(span, event)
    for span in sorted(found):
        _add(facts, log, span, found[span])


def _add(facts: Facts, log: Log, span: tuple[int, int], event: Json) -> None:
    first, last = span
    top = log.items[-1] if log.items else None
    is_delta = event["type"] in DELTAS
    grows = is_delta and top is not None and top.type in DELTAS and _key(top.event) == _key(event)
    if top is None or first > top.last:
        joins = top is not None and first == top.last + 1
        if not (grows and joins):
            after_gap = not joins and top is not None
            top = Item(first, last, event, after_gap, offset=event.get("offset", 0))
            log.items.append(top)
            if not is_delta:
                return
    elif not grows:
        facts.breaks("agreement", f"{log.thing} {span}: {event['type']} lies within a {top.type} to {top.last}")
        return
    assert top is not None
    _grow(facts, log, top, event, span)


def _grow(facts: Facts, log: Log, item: Item, event: Json, span: tuple[int, int]) -> None:
    first, last = span
    start = event["offset"] - item.offset
    known = item.text[max(start, 0) : max(start, 0) + len(event["text"])]
    end = event["offset"] + len(event["text"])
    agrees = 0 <= start <= len(item.text) and known == event["text"][: len(known)]
    bounds = {first - 1: event["offset"], last: end}
    if not agrees or any(item.offsets.get(seq, offset) != offset for seq, offset in bounds.items()):
        facts.breaks("agreement", f"{log.thing} {span}: the text {event['text']!r} does not fit what others got")
        return
    item.text += event["text"][len(known) :]
    item.last = max(item.last, last)
    item.offsets |= bounds
    item.times.append((end, seconds_of(event["at"])))


@dataclass(eq=False)
class Said:
    """A message as far as the log tells: the text of each part, and by when it had got how far."""

    message: Json
    texts: list[str]
    times: list[list[tuple[int, float]]]
    completed: bool

    @classmethod
    def of(cls, message: Json, at: float) -> "Said":
        texts = [_part_text(part) for part in message["parts"]]
        return cls(message, texts, [[(len(text), at)] for text in texts], "finish" in message)


def _part_text(part: Json) -> str:
    return part.get("inputText", "") if part["type"] == "tool_call" else part.get("text", "")


@dataclass(eq=False)
class Played:
    """A session as the log tells it, up to some event."""

    seq: int
    messages: dict[str, Said]
    runs: dict[str, str]
    """The state of each open run."""
    lowest: int
    """Messages of a lower order may be there that it does not know."""

    @classmethod
    def of(cls, reading: Reading) -> "Played":
        snapshot = reading.snapshot
        assert snapshot is not None
        messages = {message["messageId"]: Said.of(message, reading.begun_at) for message in snapshot["messages"]}
        runs = {run["runId"]: run["state"] for run in snapshot["runs"] if run["state"] != "completed"}
        orders = [message["order"] for message in snapshot["messages"]]
        return cls(reading.seq, messages, runs, min(orders, default=0) if snapshot["more"] else 0)


def play(facts: Facts, log: Log) -> Played | None:
    """Play a session's log from its first snapshot on; checks texts, and every snapshot. Gives the end of it."""
    shots = sorted((one for one in log.readings if one.snapshot is not None), key=lambda one: one.seq)
    player = _Player(facts, log)
    for item in log.items:
        while shots and shots[0].seq < item.last:
            player.look(shots.pop(0), item)
        player.take(item)
    for shot in shots:
        player.look(shot, None)
    return player.state


class _Player:
    def __init__(self, facts: Facts, log: Log) -> None:
        self.facts = facts
        self.log = log
        self.state: Played | None = None

    def take(self, item: Item) -> None:
        state = self.state
        if state is None or item.last <= state.seq:
            return
        if item.first > state.seq + 1 or (item.type in DELTAS and item.first <= state.seq not in item.offsets):
            self.state = None  # something was read by nobody; the next snapshot begins anew
            return
        if item.type in DELTAS:
            self._delta(state, item)
        else:
            getattr(self, "_" + item.type.replace(".", "_"), lambda *_: None)(state, item)
        state.seq = item.last

    def look(self, reading: Reading, item: Item | None) -> None:
        """Compare a snapshot with the log, or begin with it. ``item``: what is taken next, or is half taken there."""
        state = self.state
        within = item is not None and item.first <= reading.seq
        if state is None or (item is None and state.seq < reading.seq) or (within and item and item.after_gap):
            self.state = Played.of(reading)
            return
        part_of: tuple[str, int, str] | None = None
        if within and item is not None:
            if item.type in DELTAS and reading.seq not in item.offsets:
                return  # nobody got an event that ends just there
            if item.type == "message.delta":
                grown = item.text[: max(item.offsets[reading.seq] - item.offset, 0)]
                part_of = item.event["messageId"], item.event["part"], grown
        elif state.seq != reading.seq:
            self.state = Played.of(reading)
            return
        self._compare(state, reading, part_of)

    def _compare(self, state: Played, reading: Reading, grown: tuple[str, int, str] | None) -> None:
        snapshot = reading.snapshot
        assert snapshot is not None
        where = f"{self.log.thing} at {reading.seq} for {reading.conn}"
        shown = {message["messageId"]: message for message in snapshot["messages"]}
        lowest = min((message["order"] for message in shown.values()), default=0) if snapshot["more"] else 0
        for message_id, said in state.messages.items():
            if said.message["order"] < lowest:
                continue
            texts = list(said.texts)
            if grown is not None and grown[0] == message_id:
                texts[grown[1]] += grown[2]
            if message_id not in shown:
                self.facts.breaks("snapshot", f"{where} lacks message {message_id}")
                continue
            got = [_part_text(part) for part in shown[message_id]["parts"]]
            if got != texts or ("finish" in shown[message_id] and not said.completed):
                self.facts.breaks("snapshot", f"{where} has {got} in {message_id}, and the log {texts}")
        unknown = [
            message_id
            for message_id, message in shown.items()
            if message_id not in state.messages and message["order"] >= max(state.lowest, 1)
        ]
        if unknown and state.lowest == 0:
            self.facts.breaks("snapshot", f"{where} has {unknown} of which the log has not told yet")
        runs = {run["runId"]: run["state"] for run in snapshot["runs"] if run["state"] != "completed"}
        if runs != state.runs:
            self.facts.breaks("snapshot", f"{where} has the runs {runs}, and the log {state.runs}")

    def _said(self, state: Played, item: Item, message_id: str) -> Said | None:
        said = state.messages.get(message_id)
        if said is None and state.lowest == 0:
            self.facts.breaks("text", f"{self.log.thing} {item.last}: {item.type} of {message_id}, which is not there")
        return said

    def _delta(self, state: Played, item: Item) -> None:
        said = self._said(state, item, item.event["messageId"])
        if said is None or item.type != "message.delta":
            return
        part = item.event["part"]
        if part >= len(said.texts):
            self.facts.breaks("text", f"{self.log.thing} {item.first}: a delta of a part that is not there")
            return
        skipped = max(item.offsets.get(state.seq, item.offset) - item.offset, 0)
        if item.offset + skipped != len(said.texts[part]):
            have = len(said.texts[part])
            self.facts.breaks(
                "text", f"{self.log.thing} {item.first}: a delta at {item.offset + skipped}, not at {have}"
            )
        said.texts[part] += item.text[skipped:]
        said.times[part] += item.times

    def _message_created(self, state: Played, item: Item) -> None:
        message = item.event["message"]
        if message["messageId"] in state.messages:
            self.facts.breaks("text", f"{self.log.thing} {item.last}: {message['messageId']} is made twice")
        state.messages[message["messageId"]] = said = Said.of(message, item.at)
        said.completed = False

    def _message_part(self, state: Played, item: Item) -> None:
        said = self._said(state, item, item.event["messageId"])
        if said is None:
            return
        part, text = item.event["part"], _part_text(item.event["value"])
        said.texts[part : part + 1] = [text]
        said.times[part : part + 1] = [[(len(text), item.at)]]

    def _message_reset(self, state: Played, item: Item) -> None:
        said = self._said(state, item, item.event["messageId"])
        if said is not None:
            said.texts, said.times = [], []

    def _message_completed(self, state: Played, item: Item) -> None:
        message = item.event["message"]
        said = self._said(state, item, message["messageId"])
        if said is None:
            return
        final = [_part_text(part) for part in message["parts"]]
        if final != said.texts:
            self.facts.breaks(
                "text", f"{self.log.thing} {item.last}: {message['messageId']} ends as {final}, and said {said.texts}"
            )
        if said.completed:
            self.facts.breaks("text", f"{self.log.thing} {item.last}: {message['messageId']} is completed twice")
        said.message, said.completed = message, True

    def _run_accepted(self, state: Played, item: Item) -> None:
        state.runs[item.event["run"]["runId"]] = "queued"

    def _run_started(self, state: Played, item: Item) -> None:
        state.runs[item.event["run"]["runId"]] = "running"

    def _run_folded(self, state: Played, item: Item) -> None:
        state.runs[item.event["runId"]] = "running"

    def _run_completed(self, state: Played, item: Item) -> None:
        run = item.event["run"]
        state.runs.pop(run["runId"], None)
        said = state.messages.get(run.get("messageId", ""))
        if said is not None and text_of(said.message) != run.get("text"):
            self.facts.breaks("run_text", f"{run['runId']} ends with {run.get('text')!r}, not with its message's text")
        if said is not None and not said.completed:
            self.facts.breaks("story", f"{run['runId']} completes before its message")
