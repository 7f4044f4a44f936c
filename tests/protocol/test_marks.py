"""The cancel mark and the order of the queue, against what the contract says in words."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from atrio_protocol.marks import Stage, covered, covers, next_in_queue, queue_order
from atrio_protocol.things import Delivery


@dataclass(frozen=True)
class Accepted:
    accept_seq: int
    delivery: Delivery = "queue"
    client_id: str = "a"
    stage: Stage = "waiting"


def sessions(
    *, stages: tuple[Stage, ...] = ("waiting", "active", "folded", "decided")
) -> st.SearchStrategy[list[Accepted]]:
    """What a session may have accepted, in any order of storage."""
    return st.lists(
        st.builds(
            Accepted,
            accept_seq=st.integers(1, 50),
            delivery=st.sampled_from(["queue", "steer", "interrupt", "reject"]),
            client_id=st.sampled_from(["a", "b"]),
            stage=st.sampled_from(stages),
        ),
        unique_by=lambda run: run.accept_seq,
    )


def numbers(runs: list[Accepted]) -> list[int]:
    return [run.accept_seq for run in runs]


def test_a_cancel_covers_the_active_run_what_is_on_its_way_and_the_queue() -> None:
    runs = [Accepted(3), Accepted(1, stage="active"), Accepted(2, stage="folded"), Accepted(4, client_id="b")]
    assert numbers(covered(runs, mark=4)) == [1, 2, 3, 4]


def test_a_cancel_covers_nothing_that_is_accepted_later() -> None:
    runs = [Accepted(1, stage="active"), Accepted(2), Accepted(3), Accepted(4, delivery="interrupt")]
    assert numbers(covered(runs, mark=2)) == [1, 2]


def test_a_run_whose_end_is_decided_is_not_covered_nor_what_was_folded_into_it() -> None:
    runs = [Accepted(1, stage="decided"), Accepted(2, stage="decided"), Accepted(3)]
    assert numbers(covered(runs, mark=3)) == [3]


def test_a_cancel_of_mine_covers_the_active_turn_and_what_i_queued() -> None:
    runs = [
        Accepted(1, client_id="b", stage="active"),
        Accepted(2, client_id="b", stage="folded"),
        Accepted(3, client_id="a"),
        Accepted(4, client_id="b"),
    ]
    assert numbers(covered(runs, mark=4, scope="mine", client_id="a")) == [1, 2, 3]
    assert numbers(covered(runs, mark=4, scope="mine", client_id="c")) == [1, 2]


def test_interrupts_go_first_and_an_unfolded_steer_keeps_its_place() -> None:
    runs = [
        Accepted(5, "interrupt"),
        Accepted(2, "queue"),
        Accepted(3, "steer"),
        Accepted(4, "interrupt"),
        Accepted(1, "reject"),
    ]
    assert numbers(queue_order(runs)) == [4, 5, 1, 2, 3]
    assert next_in_queue(runs) == Accepted(4, "interrupt")


def test_nobody_is_next_in_an_empty_queue() -> None:
    assert next_in_queue([]) is None


@given(sessions(), st.integers(0, 50), st.sampled_from(["a", "b", "c"]))
def test_whatever_was_accepted_a_cancel_covers_exactly_what_it_says(
    runs: list[Accepted], mark: int, client_id: str
) -> None:
    everything = covered(runs, mark=mark)
    mine = covered(runs, mark=mark, scope="mine", client_id=client_id)
    assert set(everything) == {run for run in runs if run.accept_seq <= mark and run.stage != "decided"}
    assert set(mine) == {run for run in everything if run.stage != "waiting" or run.client_id == client_id}
    for found in (everything, mine):
        assert numbers(found) == sorted(numbers(found))


@given(sessions(), st.integers(0, 50))
def test_a_cancel_that_is_repeated_names_nothing_once_the_ends_are_decided(runs: list[Accepted], mark: int) -> None:
    ended = covered(runs, mark=mark)
    left = [Accepted(run.accept_seq, stage="decided") if run in ended else run for run in runs]
    assert covered(left, mark=mark) == []


@given(sessions(), st.lists(st.integers(0, 50)))
def test_marks_only_ever_cover_more(runs: list[Accepted], marks: list[int]) -> None:
    found = [set(covered(runs, mark=mark)) for mark in sorted(marks)]
    assert all(earlier <= later for earlier, later in pairwise(found))
    assert all(
        covers(mark, run.accept_seq)
        for mark, runs_found in zip(sorted(marks), found, strict=True)
        for run in runs_found
    )


@given(sessions(stages=("waiting",)))
def test_the_queue_is_served_in_its_order_one_by_one(runs: list[Accepted]) -> None:
    served: list[Accepted] = []
    left = list(runs)
    while (run := next_in_queue(left)) is not None:
        left.remove(run)
        served.append(run)
    assert served == queue_order(runs)
    interrupts = [run for run in served if run.delivery == "interrupt"]
    assert served[: len(interrupts)] == interrupts
    assert numbers(interrupts) == sorted(numbers(interrupts))
    assert numbers(served[len(interrupts) :]) == sorted(numbers(served[len(interrupts) :]))
