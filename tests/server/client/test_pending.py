"""Requests that wait, against a small model: any order of answers, losses, and callers who leave.

Nothing here waits: a link is a list of what is in line, written when the test says so.
"""

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from atrio_protocol.errors import PermissionNotFound
from atrio_server.client.errors import ReplyLost
from atrio_server.client.link import Link
from atrio_server.client.pending import Answer, Pending


class Line:
    """A connection whose frames are written one by one, or never."""

    def __init__(self) -> None:
        self.in_line: list[tuple[str, Any]] = []
        self.written: list[str] = []

    def send_soon(self, text: str, *, on_write: Any) -> None:
        self.in_line.append((text, on_write))

    def write_one(self) -> None:
        if self.in_line:
            text, on_write = self.in_line.pop(0)
            if on_write():
                self.written.append(text)


class World:
    """`Pending` on one side, and on the other what ought to be."""

    def __init__(self) -> None:
        self.pending = Pending()
        self.line: Line | None = None
        self.lines: list[Line] = []
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, list[Answer]] = {}
        self.given_up: set[str] = set()
        self.written_when_given_up: dict[str, int] = {}

    def written(self, request_id: str) -> int:
        return sum(line.written.count(request_id) for line in self.lines)

    def ask(self, kind: str) -> None:
        request_id = self.pending.next_id()
        self.asked.append((request_id, kind))
        self.answers[request_id] = []
        if kind == "once on this link" and self.line is None:
            return
        self.pending.add(
            request_id,
            request_id,
            self.answers[request_id].append,
            method=kind,
            repeatable=kind in {"repeatable", "sweep", "begin"},
            one_link=kind == "once on this link",
            begins="s" if kind == "begin" else "",
            sweeps="s" if kind == "sweep" else "",
        )
        if self.line is not None:
            self.pending.send(request_id, cast("Link", self.line))

    def give_up(self, request_id: str) -> None:
        if not self.answers[request_id] and request_id not in self.given_up:
            self.given_up.add(request_id)
            self.written_when_given_up[request_id] = self.written(request_id)
        self.pending.tries(request_id)
        self.pending.forget(request_id)

    def connect(self) -> None:
        if self.line is None:
            self.line = Line()
            self.lines.append(self.line)
            self.pending.send_all(cast("Link", self.line))

    def lose(self) -> None:
        if self.line is not None:
            self.line = None
            self.pending.connection_lost(soon=True)

    def check(self) -> None:
        for request_id, kind in self.asked:
            answers = self.answers[request_id]
            assert len(answers) <= 1, "answered twice"
            if request_id in self.given_up:
                assert not answers, "answered after it was given up"
                assert self.written(request_id) == self.written_when_given_up[request_id]
            if kind in {"once", "once on this link"}:
                assert self.written(request_id) <= 1, f"{kind!r} was written again"
        for line in self.lines:
            assert line.written == sorted(line.written, key=int), "not in the order of asking"
            assert len(line.written) == len(set(line.written))
        self._check_sweeps()

    def _check_sweeps(self) -> None:
        """A sweep is never written after a run that was begun later than the sweep was first written."""
        kinds = dict(self.asked)
        order = [text for line in self.lines for text in line.written]
        for at, text in enumerate(order):
            if kinds[text] == "sweep" and text in order[:at]:
                between = order[order.index(text) : at]
                assert not any(kinds[other] == "begin" and int(other) > int(text) for other in between)


KINDS = st.sampled_from(["repeatable", "once", "once on this link", "sweep", "begin"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), KINDS),
        st.tuples(st.sampled_from(["answer", "give up"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["write", "connect", "lose"]), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_a_request_is_answered_once_whatever_happens_to_the_connection_and_its_caller(
    steps: list[tuple[str, Any]],
) -> None:
    world = World()
    world.connect()
    for what, which in steps:
        request_id = world.asked[which % len(world.asked)][0] if isinstance(which, int) and world.asked else "none"
        match what:
            case "ask":
                world.ask(str(which))
            case "answer":
                world.pending.answer(request_id, b"{}")
            case "give up" if world.asked:
                world.give_up(request_id)
            case "write" if world.line is not None:
                world.line.write_one()
            case "connect":
                world.connect()
            case "lose":
                world.lose()
            case _:
                pass
        world.check()
    world.lose()
    world.pending.fail(ReplyLost("the end"))
    world.check()
    for request_id, kind in world.asked:
        assert world.answers[request_id] or request_id in world.given_up or kind == "once on this link"


def test_what_was_done_by_a_try_whose_answer_was_lost_is_no_error() -> None:
    world = World()
    world.connect()
    answers: list[Answer] = []
    world.pending.add("7", "7", answers.append, method="permission/revoke", repeatable=True)
    world.pending.send("7", cast("Link", world.line))
    cast("Line", world.line).write_one()
    world.lose()
    world.connect()
    cast("Line", world.line).write_one()
    world.pending.answer("7", PermissionNotFound("gone"))
    assert answers == [b"{}"]
