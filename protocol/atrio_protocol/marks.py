"""What a cancel covers, and whose turn is next: pure functions on what was accepted.

Every accepted prompt of a session has a number (``acceptSeq``) that only rises.
A cancel sets a mark at the highest number given out so far. What is at or below
the mark and has no end yet ends as cancelled; what is accepted later is above
it and is never touched. That is all there is to a cancel that races a prompt.

Nothing here changes a run. Whoever holds the runs acts on the answer in the
same synchronous step in which it asked.
"""

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

from atrio_protocol.things import Delivery

__all__ = ["CancelScope", "Coverable", "Queued", "Stage", "covered", "covers", "next_in_queue", "queue_order"]

CancelScope = Literal["all", "mine"]

Stage = Literal["waiting", "active", "folded", "decided"]
"""Where a run is: in the queue or on its way there, taken by its session, part of
the active run's turn, or with an end that is decided (completed or about to be)."""


class Queued(Protocol):
    """What the queue's order depends on."""

    @property
    def accept_seq(self) -> int: ...

    @property
    def delivery(self) -> Delivery: ...


class Coverable(Protocol):
    """What a cancel depends on. ``client_id`` is its author's."""

    @property
    def accept_seq(self) -> int: ...

    @property
    def client_id(self) -> str: ...

    @property
    def stage(self) -> Stage: ...


AnyQueued = TypeVar("AnyQueued", bound=Queued)
AnyCoverable = TypeVar("AnyCoverable", bound=Coverable)


def covers(mark: int, accept_seq: int) -> bool:
    """Whether a run with this number was accepted before the mark was set."""
    return accept_seq <= mark


def covered(
    runs: Iterable[AnyCoverable], *, mark: int, scope: CancelScope = "all", client_id: str | None = None
) -> list[AnyCoverable]:
    """The runs that a cancel ends, by number.

    With scope ``mine``: of what waits, only what ``client_id`` queued. The active
    run and what is folded into it are one turn and end together, whoever asked;
    once the end of the turn is decided, nothing of it is covered.
    """
    found = [
        run
        for run in runs
        if covers(mark, run.accept_seq)
        and run.stage != "decided"
        and (scope == "all" or run.stage != "waiting" or run.client_id == client_id)
    ]
    return sorted(found, key=_by_number)


def queue_order(runs: Iterable[AnyQueued]) -> list[AnyQueued]:
    """The order in which waiting runs get their turn: interrupts first, then the rest, each by number."""
    return sorted(runs, key=_by_turn)


def next_in_queue(runs: Iterable[AnyQueued]) -> AnyQueued | None:
    """The waiting run whose turn is next."""
    return min(runs, key=_by_turn, default=None)


def _by_turn(run: Queued) -> tuple[bool, int]:
    return run.delivery != "interrupt", run.accept_seq


def _by_number(run: Coverable) -> int:
    return run.accept_seq
