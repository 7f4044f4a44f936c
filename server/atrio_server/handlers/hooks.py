"""`test/*`: where a test harness stops the server and looks.

These methods exist only with `--test-hooks`; the dispatcher sees to that. What
they stop and show is in `atrio_agent.gates` and in the sessions.
"""

import math

import trio

from atrio_protocol.methods import (
    Empty,
    GatesParams,
    GatesResult,
    HoldParams,
    ReleaseParams,
    ReleaseResult,
    RequestsResult,
    SessionParams,
    WaiterInfo,
)
from atrio_protocol.struct import given
from atrio_server.calls import Caller, Later, Reply
from atrio_server.handlers.finding import find_session
from atrio_server.server import Server

__all__ = ["gates", "hold", "release", "requests"]


async def gates(server: Server, _caller: Caller, params: GatesParams) -> Reply | Later:
    """Who waits at which gate; with ``wait``, once that gate has so many waiters."""

    def look() -> GatesResult:
        waiters = server.gates.waiters()
        return GatesResult(
            waiting=tuple(dict.fromkeys(waiter.gate for waiter in waiters)),
            waiters=tuple(
                WaiterInfo(gate=waiter.gate, session_id=waiter.session_id, run_id=waiter.run_id) for waiter in waiters
            ),
        )

    gate = given(params.wait, "")
    if not gate:
        return look()
    wait_s = params.timeout_ms / 1000 if isinstance(params.timeout_ms, int) else math.inf

    async def wait() -> GatesResult:
        with trio.move_on_after(wait_s):
            await server.gates.wait_for(gate, params.count)
        return look()

    return Later(wait, by_design=True)


async def release(server: Server, _caller: Caller, params: ReleaseParams) -> ReleaseResult:
    """Let one waiter of a gate go on, or that run's, or all."""
    released = server.gates.release(params.gate, run_id=given(params.run_id, "") or None, everyone=params.all)
    return ReleaseResult(released=released)


async def hold(server: Server, caller: Caller, params: HoldParams) -> Empty:
    """Stop the session's next step of a kind at the gate of that name."""
    _, session = await find_session(server, caller, params)
    server.gates.hold(params.point, session.session_id)
    return Empty()


async def requests(server: Server, caller: Caller, params: SessionParams) -> RequestsResult:
    """What the models were asked in this session."""
    _, session = await find_session(server, caller, params)
    return RequestsResult(requests=tuple(session.requests))
