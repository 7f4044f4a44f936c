"""Gates: points where a test may stop the server and look.

The scripted model waits at gates that its script names, and the server's own
steps wait at a `hold` that a test has set. Both are released by name. Without
`--test-hooks` nothing ever sets a hold, and passing one is a dict look-up.

A waiter that is cancelled is gone from the list in the same step.
"""

from collections import defaultdict
from typing import Literal, NamedTuple

import trio

__all__ = ["Gates", "HoldPoint", "Waiter"]

HoldPoint = Literal["accept.commit", "run.start", "tool.start", "run.finish"]


class Waiter(NamedTuple):
    """Somebody who stands at a gate."""

    gate: str
    session_id: str
    run_id: str


class Gates:
    """All gates of one server."""

    def __init__(self) -> None:
        self._waiting: dict[Waiter, trio.Event] = {}
        self._holds: dict[tuple[str, HoldPoint], int] = defaultdict(int)
        self._changed = trio.Event()

    def waiters(self) -> list[Waiter]:
        """Who waits now, the longest first."""
        return list(self._waiting)

    async def wait(self, gate: str, *, session_id: str, run_id: str) -> None:
        """Wait until this gate is released for this run."""
        waiter = Waiter(gate, session_id, run_id)
        released = self._waiting.setdefault(waiter, trio.Event())
        self._notify()
        try:
            await released.wait()
        finally:
            self._waiting.pop(waiter, None)
            self._notify()

    def release(self, gate: str, *, run_id: str | None = None, everyone: bool = False) -> int:
        """Let the longest waiter of a gate go on, or that run's, or all; how many went."""
        going = [waiter for waiter in self._waiting if waiter.gate == gate and run_id in (None, waiter.run_id)]
        for waiter in going if everyone else going[:1]:
            self._waiting.pop(waiter).set()
        self._notify()
        return len(going) if everyone else len(going[:1])

    async def wait_for(self, gate: str, count: int) -> None:
        """Wait until ``count`` waiters stand at the gate."""
        while sum(waiter.gate == gate for waiter in self._waiting) < count:
            await self._changed.wait()

    def hold(self, point: HoldPoint, session_id: str) -> None:
        """Stop the next step of this kind in this session at the gate named ``point``."""
        self._holds[session_id, point] += 1

    def take_hold(self, point: HoldPoint, session_id: str) -> bool:
        """Whether the step that is about to happen must stop. Uses one hold up."""
        key = session_id, point
        if key not in self._holds:
            return False
        self._holds[key] -= 1
        if not self._holds[key]:
            del self._holds[key]
        return True

    async def pass_hold(self, point: HoldPoint, *, session_id: str, run_id: str) -> None:
        """Wait at the hold set for this step; returns at once, without a checkpoint, if there is none."""
        if self.take_hold(point, session_id):
            await self.wait(point, session_id=session_id, run_id=run_id)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
