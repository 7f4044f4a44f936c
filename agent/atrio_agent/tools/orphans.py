"""What one command has become: its processes, found again wherever they went.

A command may fork, leave its process group (`setsid`) and give up its parent
(fork twice). So its processes are known by any of four signs: the session
that they were born in, their ancestors, a mark in their environment, and that
they were recognised before. Orphans come to us and not to init,
because this process is made their reaper (`become_reaper`); they are reaped one
by one, by their number, so that nobody else's exit status is ever taken.

What wiped its environment, left its session and lost its parent before anybody
looked cannot be told from a stranger, nor can what began a session and was dead
by then: its entry in the process table stays until we end. Without ``/proc`` (not Linux, or not mounted) only the
process group is known, and so it is while no file can be opened. Only pids that carry one of the
signs get a signal.
"""

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

__all__ = ["Kin", "become_reaper", "shows_processes"]

log = structlog.get_logger("atrio.processes")

_PR_SET_CHILD_SUBREAPER: Final = 36


def shows_processes(proc: Path = Path("/proc")) -> bool:
    """Whether the system tells there what processes there are."""
    return sys.platform == "linux" and (proc / "self" / "stat").exists()


_HAS_PROC: Final = shows_processes()
_GRACE_S: Final = 1.0
_KILL_S: Final = 0.5
"""What of a budget is kept for killing, when it is too short for the whole grace."""

_LOOK_S: Final = 0.02
_BLIND_S: Final = 0.1
"""Between two looks while no file can be opened."""

_DEAD: Final = frozenset(b"ZXx")
_NO_DESCRIPTOR: Final = {errno.EMFILE, errno.ENFILE}


class _Seen(NamedTuple):
    """One line of the system's process table."""

    pid: int
    is_dead: bool
    parent: int
    session: int
    born: int


def become_reaper() -> bool:
    """Let orphans of this process's descendants become its own children. Blocks shortly; once is enough.

    Returns:
        Whether the system can do it.
    """
    if not _HAS_PROC:
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Kin:
    """The processes of one command, or of all that another process of ours has started.

    Args:
        leader: The process that was started, first of its own session. Its exit
            status belongs to whoever started it, and is not taken here. None if
            it was not started here: then all is found that belongs to our user
            and bears a mark beginning with this one, but this process and those
            above it.
        mark: An entry of its environment (``NAME=value``) that nothing else has.
        threads: For looking through the process table.
    """

    def __init__(self, leader: int | None, mark: str, threads: trio.CapacityLimiter) -> None:
        self._leader = leader
        self._threads = threads
        self._mark = os.fsencode(mark)
        self._known: dict[int, int] = {}
        self._sessions: set[int] = set() if leader is None else {leader}

    async def alive(self) -> list[int]:
        """The pids that run now; the dead among them that are our orphans are reaped.

        Raises:
            OSError: It cannot be seen, because no file can be opened.
        """
        return await trio.to_thread.run_sync(self._look, limiter=self._threads, abandon_on_cancel=True)

    async def end(self, by: float) -> int:
        """End them all: TERM, a second, KILL, until none is left. Shield it from cancellation.

        Args:
            by: When to stop waiting, in Trio's time. Who is left then is killed, not waited for, and logged.

        Returns:
            How many ran when it began.
        """
        pids: list[int] | None = []
        count = 0
        with trio.CancelScope(deadline=by) as limit:
            pids = await self._seen_alive()
            count = len(pids or ())
            killed_from = min(trio.current_time() + _GRACE_S, by - _KILL_S)
            asked: set[int] = set()
            while pids is None or pids:
                is_late = trio.current_time() >= killed_from
                if pids is None:
                    self._send_to_group(signal.SIGKILL if is_late else signal.SIGTERM)
                elif is_late:
                    self._send(pids, signal.SIGKILL)
                else:
                    # One that is stopped would never hear of it.
                    self._send([pid for pid in pids if pid not in asked], signal.SIGTERM, signal.SIGCONT)
                    asked.update(pids)
                await trio.sleep(_LOOK_S if pids else _BLIND_S)
                # What forks while we look, and is gone before its turn, has left one that only the next look sees.
                pids = await self._seen_alive() or await self._seen_alive()
                count = max(count, len(pids or ()))
        if limit.cancelled_caught:
            pids = self._kill_without_waiting()
            log.error("processes had to be killed without waiting for their end", pids=pids)
        return max(count, len(pids or ()))

    async def _seen_alive(self) -> list[int] | None:
        """The pids that run now, or None while that cannot be seen."""
        try:
            return await self.alive()
        except OSError as exc:
            if exc.errno not in _NO_DESCRIPTOR:
                raise
            return None

    def _kill_without_waiting(self) -> list[int]:
        """Kill what is left, in a few milliseconds and without a thread: nobody gets away for want of time."""
        try:
            pids = self._look()
        except OSError:
            self._send_to_group(signal.SIGKILL)
            return [] if self._leader is None else [self._leader]
        self._send(pids, signal.SIGKILL)
        return pids

    def _send_to_group(self, number: int) -> None:
        """Signal the group that was started, if its number cannot be anybody else's yet."""
        if self._leader is None:
            return
        with contextlib.suppress(ChildProcessError, ProcessLookupError, PermissionError):
            if _HAS_PROC:  # it is not reaped yet: this fails where it is
                os.waitid(os.P_PID, self._leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.killpg(self._leader, number)

    def _send(self, pids: Iterable[int], *signals: int) -> None:
        for pid in pids:
            try:
                # A pid may have a new owner since we looked.
                if _HAS_PROC and ((seen := _seen(pid)) is None or seen.born != self._known.get(pid)):
                    continue
                for number in signals:
                    if _HAS_PROC:
                        os.kill(pid, number)
                    else:
                        os.killpg(pid, number)
            except OSError:  # gone, not ours, or not to be seen: the next look tells
                continue

    def _look(self) -> list[int]:
        if not _HAS_PROC:
            if self._leader is None:
                return []
            try:
                os.killpg(self._leader, 0)
            except (ProcessLookupError, PermissionError):
                return []
            return [self._leader]
        me, ours = os.getpid(), os.getsid(0)
        with os.scandir("/proc") as entries:
            pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
        spared = {me} if self._leader is not None else _line_of(me)
        table = {pid: seen for pid in pids if pid not in spared and (seen := _seen(pid))}
        kin = {pid for pid, seen in table.items() if self._has_sign(seen)}
        while more := {pid for pid, seen in table.items() if seen.parent in kin and pid not in kin}:
            kin |= more
        for pid in kin:
            self._known[pid] = table[pid].born
            if table[pid].session != ours:
                self._sessions.add(table[pid].session)
        for pid, seen in table.items():
            # A child that we made ourselves is of our session or the first of its own: any other is an orphan.
            is_orphan = pid in kin or seen.session not in {ours, pid}
            if seen.is_dead and seen.parent == me and pid != self._leader and is_orphan:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return sorted(pid for pid in kin if not table[pid].is_dead)

    def _has_sign(self, seen: _Seen) -> bool:
        return (
            seen.session in self._sessions
            or self._known.get(seen.pid) == seen.born
            or (not seen.is_dead and self._is_marked(seen.pid))
        )

    def _is_marked(self, pid: int) -> bool:
        environment = _environment(pid)
        if self._leader is not None:
            return self._mark in environment
        return any(entry.startswith(self._mark) for entry in environment) and _is_ours(pid)


def _seen(pid: int) -> _Seen | None:
    # The name of the program comes in brackets and may have any character, brackets too.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    parent, session = int(fields[1]), int(fields[3])
    return _Seen(pid, fields[0][0] in _DEAD, parent, session, int(fields[19]))


def _line_of(pid: int) -> set[int]:
    """A process and all above it."""
    line: set[int] = set()
    seen = _seen(pid)
    while seen is not None and seen.pid not in line:
        line.add(seen.pid)
        seen = _seen(seen.parent)
    return line


def _is_ours(pid: int) -> bool:
    try:
        return Path("/proc", str(pid)).stat().st_uid == os.geteuid()
    except OSError:
        return False


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _read(pid: int, name: str) -> bytes:
    """What the system says of a process; nothing if it is gone or not ours to see.

    Raises:
        OSError: No file can be opened.
    """
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError as exc:
        if exc.errno in _NO_DESCRIPTOR:
            raise
        return b""
