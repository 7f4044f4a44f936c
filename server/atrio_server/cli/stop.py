"""`atrio stop`: end a server in order, and wait until it is gone.

It asks over the wire and starts none. A server that does not take the question
is left alone: a pid out of a file is no reason to send a signal to a process.
"""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Target

if TYPE_CHECKING:
    from atrio_protocol.methods import ServerInfoResult
    from atrio_server.discover import Found

__all__ = ["stop", "stop_command", "stop_server"]

ANSWER_S: Final = 10.0
"""How long the server may take to agree."""

STOP_S: Final = 15.0
"""How long it may take to end after that: what it promises, and something more."""

POLL_S: Final = 0.05


def stop(
    *,
    if_idle: Annotated[bool, Parameter(help="Only if no run is going on or waits.")] = False,
    target: Target = OWN_SERVER,
) -> int:
    """End the server in order: what runs is cancelled and saved. Nothing that was acknowledged is lost."""
    from atrio_server.cli.on_trio import run_on_trio

    async def main() -> int:
        return await stop_server(target, if_idle=if_idle)

    return run_on_trio(main)


async def stop_server(target: Target, *, if_idle: bool) -> int:
    """Do it, and return the exit code."""
    import os

    import trio

    from atrio_server.cli.connect import socket_url
    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.output import print_result, say
    from atrio_server.discover import find_server

    named = target.server or os.environ.get("ATRIO_SERVER")
    state_dir = target.resolved_state_dir()
    found = None if named else find_server(state_dir)
    if not named and found is None:
        raise Failure(Exit.UNREACHABLE, _nobody(state_dir))
    who = f"the server at {named}" if found is None else f"the server with pid {found.pid}"
    info = await _ask(target, found, who, if_idle)
    if told := _told(info):
        say(f"{who} ends: {told}")
    with trio.move_on_after(STOP_S) as waiting:
        while True:
            is_there = _has(state_dir, found.pid) if found else await _listens(socket_url(named or ""))
            if not is_there:
                break
            await trio.sleep(POLL_S)
    if waiting.cancelled_caught:
        where = "" if found else " on its machine"
        way_out = f"`kill -9 {info.pid}`{where} ends it at once, and what was acknowledged is kept"
        raise Failure(Exit.TIMEOUT, f"{who} has agreed to end and has not after {STOP_S:.0f} s; {way_out}")
    print_result(f"{who} has ended")
    return Exit.OK


def stop_command(state_dir: Path) -> str:
    """What to type to stop the server of a state directory."""
    import os

    from atrio_server.config import state_dir_setting

    if state_dir == state_dir_setting(None, os.environ):
        return "`atrio stop`"
    return f"`atrio stop --state-dir {shlex.quote(str(state_dir))}`"


async def _ask(target: Target, found: "Found | None", who: str, if_idle: bool) -> "ServerInfoResult":
    """Have the server agree to end; what it said of itself before."""
    import trio

    from atrio_protocol.errors import AuthRequired, ServerClosing, ServerNotIdle, UnsupportedProtocol
    from atrio_protocol.methods import NoParams, ServerShutdownParams
    from atrio_server.cli.connect import open_connection
    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.client import ReplyLost

    by_hand = "" if found is None else f"; `kill {found.pid}` ends it in order as well"
    try:
        with trio.fail_after(ANSWER_S):
            async with open_connection(target, found=found) as client:
                client.on_connection = lambda _: None  # that it goes away is what was asked for
                info = await client.call("server/info", NoParams())
                with suppress(ReplyLost, ServerClosing):  # it ends already
                    await client.call("server/shutdown", ServerShutdownParams(if_idle=if_idle))
                return info
    except ServerNotIdle as exc:
        raise Failure(Exit.OTHER, f"{who} was not stopped: {exc.message.partition(';')[0]}") from None
    except (AuthRequired, UnsupportedProtocol) as exc:
        raise Failure(Exit.UNREACHABLE, f"{who} does not take this from us: {exc.message}{by_hand}") from None
    except trio.TooSlowError:
        raise Failure(Exit.UNREACHABLE, f"{who} does not answer within {ANSWER_S:.0f} s{by_hand}") from None


def _nobody(state_dir: Path) -> str:
    from atrio_server.statedir import lock_holder

    holder = lock_holder(state_dir)
    if holder is None:
        return f"there is nothing to stop: no server runs on {state_dir}"
    who = f"the process {holder.pid}" if holder.pid else "a process that does not say its pid"
    return f"{state_dir} is held by {who}, which is just starting or ending; try again in a moment"


def _told(info: "ServerInfoResult") -> str:
    """What has to be seen to before it is gone; empty if nothing has."""
    others = info.connections - 1
    parts = [f"{info.runs_active} run{'s are' if info.runs_active > 1 else ' is'} cancelled and saved"] * (
        info.runs_active > 0
    )
    parts += [f"{others} other client{'s are' if others > 1 else ' is'} told"] * (others > 0)
    return ", ".join(parts)


def _has(state_dir: Path, pid: int) -> bool:
    """Whether this process still has the state directory."""
    from atrio_server.statedir import lock_holder

    holder = lock_holder(state_dir)
    return holder is not None and holder.pid == pid


async def _listens(url: str) -> bool:
    """Whether anybody takes connections there."""
    import trio

    from atrio_server.client.link import dial_tcp

    try:
        stream = await dial_tcp(url)
    except OSError:
        return False
    await trio.aclose_forcefully(stream)
    return True
