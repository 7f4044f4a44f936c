"""How things end in time: absolute deadlines, and work that outlives whoever asked for it.

Budgets are points in Trio's time, made once and handed down. A shield also
shuts out an outer deadline, so budgets that are *durations* would add up when
they nest; deadlines do not.

Nothing here cancels anything. It only says until when a closing may take.
"""

import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

__all__ = ["CLOSE_S", "Deadlines", "Errand", "Errands", "OwnerEnded"]

T = TypeVar("T")

CLOSE_S: Final = 5.0
"""Seconds in which the runs of a workspace must have ended when it closes and the server goes on."""

SAVE_S: Final = 2.0
"""Seconds more that saving may take then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Until when each step of a closing may take, in Trio's time."""

    processes_at: float
    terminals_at: float
    saves_at: float
    sockets_at: float
    end_at: float

    @classmethod
    def for_one_workspace(cls) -> "Deadlines":
        """One workspace closes and the server goes on."""
        now = trio.current_time()
        terminals_at, saves_at = now + CLOSE_S, now + CLOSE_S + SAVE_S
        return cls(
            processes_at=terminals_at,
            terminals_at=terminals_at,
            saves_at=saves_at,
            sockets_at=saves_at,
            end_at=saves_at,
        )

    @classmethod
    def for_shutdown(cls) -> "Deadlines":
        """The server ends: all budgets count from now, the moment of the signal."""
        now = trio.current_time()
        return cls(processes_at=now + 2, terminals_at=now + 4, saves_at=now + 6, sockets_at=now + 8, end_at=now + 9)


class Errand(Generic[T]):
    """Something that an owner does for a request, which may wait for it or not."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._done = trio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def wait(self) -> T:
        """Wait for what comes of it. Cancelling the waiter does not stop the errand.

        Raises:
            OwnerEnded: The owner was closed first; the work was given up half-way.
            Exception: What the work raised.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set whenever there is no error

    async def run(self) -> None:
        """Do it. Called once, by a task of the owner."""
        try:
            self._value = await self._work()
        except Exception as exc:  # noqa: BLE001  whatever it is, it belongs to whoever waits
            self._error = exc
        except BaseException:
            self._error = OwnerEnded()
            raise
        finally:
            self._done.set()


class Errands:
    """Work that a request asks for and its owner does.

    The owner's nursery runs it, so the death of the request changes nothing: it
    only stops waiting.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._closed = False

    def close(self) -> None:
        """Take no errands any more; the owner is about to end."""
        self._closed = True

    def start(self, work: Callable[[], Awaitable[T]], *, name: str) -> Errand[T]:
        """Begin an errand.

        Raises:
            OwnerEnded: The owner takes none any more.
        """
        errand = Errand(work)
        self.start_soon(errand.run, name=name)
        return errand

    async def do(self, work: Callable[[], Awaitable[T]], *, name: str) -> T:
        """Begin an errand and wait for what comes of it; raises as `start` and `Errand.wait` do."""
        return await self.start(work, name=name).wait()

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task of the owner, in a fresh context: a request's context must not live on in it.

        Raises:
            OwnerEnded: The owner takes none any more.
        """
        if self._closed:
            raise OwnerEnded
        contextvars.Context().run(lambda: self._nursery.start_soon(work, *args, name=name))


class OwnerEnded(Exception):
    """The owner was closed before it could do the work. Nothing can be said of what was done."""
