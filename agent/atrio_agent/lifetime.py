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

__all__ = ["CLOSE_S", "Deadlines", "Errands", "OwnerEnded"]

T = TypeVar("T")

CLOSE_S: Final = 5.0
"""Seconds that closing one workspace may take per step, when the server goes on."""


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
        at = trio.current_time() + CLOSE_S
        return cls(processes_at=at, terminals_at=at, saves_at=at, sockets_at=at, end_at=at)

    @classmethod
    def for_shutdown(cls) -> "Deadlines":
        """The server ends: all budgets count from now, the moment of the signal."""
        now = trio.current_time()
        return cls(processes_at=now + 2, terminals_at=now + 4, saves_at=now + 6, sockets_at=now + 8, end_at=now + 9)


class _Slot(Generic[T]):
    """Where an errand leaves its outcome for whoever still waits."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: T | None = None
        self.error: Exception | None = None


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

    async def do(self, work: Callable[[], Awaitable[T]], *, name: str) -> T:
        """Have the owner do ``work`` and wait for what comes of it.

        Raises:
            Exception: What ``work`` raised. Cancelling the caller does not stop it.
            OwnerEnded: The owner was closed first; the work was not begun, or given up half-way.
        """
        slot: _Slot[T] = _Slot()
        self.start_soon(self._run, work, slot, name=name)
        await slot.done.wait()
        if slot.error is not None:
            raise slot.error
        return slot.value  # type: ignore[return-value]  # set whenever there is no error

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task of the owner, in a fresh context: a request's context must not live on in it.

        Raises:
            OwnerEnded: The owner takes none any more.
        """
        if self._closed:
            raise OwnerEnded
        contextvars.Context().run(lambda: self._nursery.start_soon(work, *args, name=name))

    async def _run(self, work: Callable[[], Awaitable[T]], slot: _Slot[T]) -> None:
        try:
            slot.value = await work()
        except Exception as exc:
            slot.error = exc
        except BaseException:
            slot.error = OwnerEnded()
            raise
        finally:
            slot.done.set()


class OwnerEnded(Exception):
    """The owner was closed before it could do the work. Nothing can be said of what was done."""
