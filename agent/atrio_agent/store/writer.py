"""The one task that writes, for whichever store.

Calls are queued synchronously, in the order in which they were made, and
committed in that order; whatever is queued when the writer comes round is one
commit. It lives under a shield of its own until it has drained, so neither a
cancelled waiter nor a cancelled workspace loses a write. It does not know how a
call is stored: that is the `Backend`.

Invariant: a call that nobody waits for and that could not be written stays
first in the queue, until it is written or refused for good.
"""

import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from types import TracebackType
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog
import trio

from atrio_agent.measures import UNMEASURED, Measures
from atrio_agent.store.base import (
    AppendText,
    Commit,
    Op,
    PutMessage,
    PutSession,
    StoreClosed,
    StoreFailed,
    WriteRefused,
)

__all__ = ["Backend", "Call", "Tell", "Writer", "coalesced", "open_writer"]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.store")

Call = tuple[Op, ...]

Tell = Callable[[StoreFailed | None], None]
"""Told, in the event loop, why what nobody waits for is only in memory now; None when it is stored after all."""

COLLECT_S: Final = 0.05
"""How long text that nobody waits for may be collected."""

COLLECT_CHARS: Final = 4096
"""How much of it may be collected; about so many bytes."""

RETRY_S: Final = 1.0
"""When to try again to write what could not be written and what nobody waits for."""

CLOSE_S: Final = 6.0
"""How long closing may take where nobody has said by when it must be over."""

_AT_ONCE: Final = float("-inf")
_NEVER: Final = float("inf")


class Backend(Protocol):
    """What commits. Used by one task, one batch at a time."""

    async def apply(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        """Commit these calls, in order, each whole or not at all.

        Returns:
            Per call None if it is durable, else why nothing of it is stored:
            `WriteRefused` if trying again is useless. Raises only `Cancelled`,
            and then it is unknown what is stored.
        """
        ...

    async def aclose(self) -> None:
        """Close what is behind it; called once, after the last batch. Raises only `Cancelled`, at the deadline."""
        ...


class _Queued(NamedTuple):
    call: Call
    commit: Commit | None
    """None: nobody waits, and it is kept if it fails."""


class Writer:
    """The queue and the task that empties it. Made by `open_writer`."""

    def __init__(self, backend: Backend, measures: Measures, tell: Tell) -> None:
        self._backend = backend
        self._measures = measures
        self._tell = tell
        self._told = False
        self._queue: deque[_Queued] = deque()
        self._growing: dict[tuple[str, int, str], _Growth] = {}  # text that comes behind the queue, by what it grows
        self._in_work: list[_Queued] = []
        self._wake = trio.Event()
        self._due: float = _NEVER
        self._collected_chars = 0
        self._failed_at: float = _AT_ONCE
        self._closed = False
        self._close_deadline: float | None = None
        self._ended = trio.Event()
        self._shield = trio.CancelScope(shield=True)

    def write_soon(self, call: Call) -> Commit:
        """Queue a call to be committed as soon as the writer gets to it."""
        commit = Commit()
        if self._closed:
            commit.settle(StoreClosed("The store is closed."))
        elif not call:
            commit.settle()
        else:
            self._queue_text()
            self._queue.append(_Queued(call, commit))
            self._make_due(_AT_ONCE)
        return commit

    def write_later(self, call: Call) -> None:
        """Queue a call that may wait a little for more, and that nobody waits for."""
        if self._closed:
            log.warning("write dropped: the store is closed")
        elif len(call) == 1 and isinstance(call[0], AppendText):
            self._grow(call[0])
        elif call:
            self._queue_text()
            self._queue.append(_Queued(call, None))
            self._collect(sum(len(op.text) for op in call if isinstance(op, AppendText)))

    @property
    def is_behind(self) -> bool:
        """Something could not be written so far, and is tried again."""
        return self._told

    def set_close_deadline(self, at: float) -> None:
        """Say by when (Trio's clock) closing must be over; also while it is under way."""
        self._close_deadline = at
        if self._closed:
            self._shield.deadline = at

    async def aclose(self) -> None:
        """Refuse further writes and wait until all that is queued is written, or the closing deadline is past.

        A cancellation does not cut it short, only the deadline does. What is
        not written by then fails with `StoreFailed`.
        """
        self._closed = True
        self._shield.deadline = trio.current_time() + CLOSE_S if self._close_deadline is None else self._close_deadline
        self._wake.set()
        with trio.CancelScope(shield=True):  # as long as that of the task it waits for, which has a deadline
            await self._ended.wait()

    async def run(self) -> None:
        """Write until closed and drained, then close the backend.

        Nothing outside can cancel it, only the closing deadline; past that the
        backend is left open, because a thread may still be using it.
        """
        try:
            with self._shield:
                while not self._closed or self._queue or self._growing:
                    await self._until_due()
                    await self._write_batch()
                await self._backend.aclose()
        finally:
            if self._shield.cancelled_caught:
                log.error("store given up at its closing deadline, left open")
            self._fail_rest()
            self._ended.set()

    def _grow(self, op: AppendText) -> None:
        """Queue text; as long as nothing but text is queued, all for one part is one operation from the beginning."""
        place = op.message_id, op.part, op.field
        growth = self._growing.get(place)
        if growth is None:
            self._growing[place] = _Growth(op)
        else:
            growth.texts.append(op.text)
        self._collect(len(op.text))

    def _queue_text(self) -> None:
        """Let the text that was collected take its place in the queue; what comes now comes after it."""
        self._queue.extend(_Queued((growth.op(),), None) for growth in self._growing.values())
        self._growing.clear()

    def _collect(self, chars: int) -> None:
        self._collected_chars += chars
        # While the disk refuses, text is no reason to ask it more often than planned.
        if self._collected_chars >= COLLECT_CHARS:
            self._make_due(self._failed_at + RETRY_S)
        elif self._due == _NEVER:  # else it is due earlier already
            self._make_due(max(trio.current_time() + COLLECT_S, self._failed_at + RETRY_S))

    def _make_due(self, at: float) -> None:
        if at < self._due:
            self._due = at
            self._wake.set()

    async def _until_due(self) -> None:
        while not self._closed and self._due > trio.current_time():
            with trio.CancelScope(deadline=self._due):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _write_batch(self) -> None:
        self._queue_text()
        self._in_work = batch = _tightened(self._queue)
        self._queue.clear()
        self._due = _NEVER
        self._collected_chars = 0
        if not batch:
            return
        began = time.monotonic()
        errors = await self._applied([queued.call for queued in batch])
        failed = sum(error is not None for error in errors)
        self._measures.committed(time.monotonic() - began, failed=failed)
        kept: list[_Queued] = []
        why: StoreFailed | None = None
        for queued, error in zip(batch, errors, strict=True):
            if queued.commit is not None:
                queued.commit.settle(error)
            elif isinstance(error, WriteRefused):
                log.error("write dropped: it can never be stored", reason=str(error))
            elif error is not None:
                kept.append(queued)
                why = why or error
        self._in_work = []
        self._note_outcome(errors)
        self._keep(kept)
        self._tell_of_kept(why)

    async def _applied(self, calls: Sequence[Call]) -> Sequence[StoreFailed | None]:
        try:
            return await self._backend.apply(calls)
        except Exception:  # the writer must outlive a bug; those who wait are told
            log.exception("commit failed")
            return [StoreFailed("The store failed by a bug; see the log.")] * len(calls)

    def _note_outcome(self, errors: Sequence[StoreFailed | None]) -> None:
        failures = [error for error in errors if error is not None and not isinstance(error, WriteRefused)]
        was_failing = self._failed_at != _AT_ONCE
        self._failed_at = trio.current_time() if failures else _AT_ONCE
        if failures and not was_failing:
            log.error("nothing can be written", reason=str(failures[0]))
        elif was_failing and not failures:
            log.info("writing works again")

    def _tell_of_kept(self, why: StoreFailed | None) -> None:
        """Say once that there is something that is only in memory, and once that there is not any more."""
        if (why is not None) != self._told:
            self._told = why is not None
            self._tell(why)

    def _keep(self, kept: list[_Queued]) -> None:
        if self._closed:
            if kept:
                log.error("text lost at closing: it could not be written", writes=len(kept))
            return
        self._queue.extendleft(reversed(kept))
        if kept:
            self._make_due(self._failed_at + RETRY_S)

    def _fail_rest(self) -> None:
        self._queue_text()
        rest = [*self._in_work, *self._queue]
        self._in_work = []
        self._queue.clear()
        if rest:
            log.error("writes not known to be stored", writes=len(rest))
        for queued in rest:
            if queued.commit is not None:
                queued.commit.settle(StoreFailed("The store could not be written before its closing deadline."))


def _tightened(queue: Iterable[_Queued]) -> list[_Queued]:
    """The queue with neighbours that nobody waits for made as few and small as they can be."""
    tight: list[_Queued] = []
    for waited_for, neighbours in groupby(queue, key=lambda queued: queued.commit is not None):
        if waited_for:
            tight += neighbours
        else:
            tight += (_Queued(call, None) for call in coalesced([queued.call for queued in neighbours]))
    return tight


class _Growth:
    """An `AppendText` that may still become longer."""

    def __init__(self, first: AppendText) -> None:
        self._first = first
        self.texts = [first.text]

    def op(self) -> AppendText:
        if len(self.texts) == 1:
            return self._first
        return msgspec.structs.replace(self._first, text="".join(self.texts))


def coalesced(calls: Sequence[Call]) -> list[Call]:
    """Fewer and smaller calls with the same outcome, for calls that follow one another directly.

    Text for one part becomes one piece. A whole message makes what was written
    of it before void. Of a session only the newest row is written, where the
    oldest stood, so that it still precedes what needs it. Anything else is a
    wall that nothing is moved across.
    """
    if len(calls) < 2:
        return list(calls)
    slots: list[list[Op | _Growth | None]] = []
    growing: dict[tuple[str, int, str], _Growth] = {}
    written: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    final: set[str] = set()
    sessions: dict[str, tuple[int, int]] = {}
    for at, call in enumerate(calls):
        slots.append([])
        for op in call:
            place = at, len(slots[at])
            match op:
                case AppendText():
                    key = op.message_id, op.part, op.field
                    if key in growing:
                        growing[key].texts.append(op.text)
                    else:
                        growing[key] = growth = _Growth(op)
                        slots[at].append(growth)
                        written[op.message_id].append(place)
                case PutMessage(message=message):
                    mine = message.message_id
                    for void_at, index in written.pop(mine, ()):
                        slots[void_at][index] = None
                    growing = {key: growth for key, growth in growing.items() if key[0] != mine}
                    if op.final:
                        final.add(mine)
                    slots[at].append(PutMessage(message=message, final=mine in final))
                    written[mine].append(place)
                case PutSession(row=row) if row.session_id in sessions:
                    old_at, index = sessions[row.session_id]
                    slots[old_at][index] = op
                case PutSession(row=row):
                    sessions[row.session_id] = place
                    slots[at].append(op)
                case _:
                    slots[at].append(op)
                    for memory in (growing, written, final, sessions):
                        memory.clear()
    tight = [
        tuple(slot.op() if isinstance(slot, _Growth) else slot for slot in row if slot is not None) for row in slots
    ]
    return [call for call in tight if call]


class _SetAside:
    """Keeps an error until it may be raised."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._error = error
        return True

    def raise_it(self) -> None:
        """Raise it, if there is one."""
        error, self._error = self._error, None  # else it, its traceback and this object keep each other alive
        if error is not None:
            raise error


@asynccontextmanager
async def open_writer(
    backend: Backend, *, measures: Measures = UNMEASURED, tell: Tell = lambda _why: None
) -> AsyncGenerator[Writer]:
    """Run a writer for as long as the block lasts, then close and drain it.

    ``tell`` is told when something that nobody waits for cannot be written, and when it is. It must not raise.
    """
    writer = Writer(backend, measures, tell)
    # Set aside while the nursery ends, which would wrap it into a group.
    error_of_the_block = _SetAside()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with error_of_the_block:
            yield writer
        await writer.aclose()
    error_of_the_block.raise_it()
