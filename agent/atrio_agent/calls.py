"""Runs the tool calls of one reply: what must be allowed is asked, each gets its result.

The calls run one after the other, in the order in which the model made them,
and one tool message takes their results. What a call may do is decided by
whoever answers the host's question; what was asked about is what is run. A
call that is not allowed ends the turn, and those behind it are not run.

Cancelled, it leaves the open calls as they are; the run's ending closes them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec
import structlog
import trio

from atrio_agent.ask import Ask
from atrio_agent.clock import now
from atrio_agent.gates import HoldPoint
from atrio_agent.measures import Measures
from atrio_agent.messages import LiveMessage
from atrio_agent.permissions import Decision
from atrio_agent.reply import Call
from atrio_agent.runs import LiveRun
from atrio_agent.scribe import Scribe
from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import PermissionMark, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET

__all__ = ["CallHost", "Done", "run_calls"]

_NO_TEXT: Final = "The tool {name} found something that is not valid text."
_BEHIND: Final = "This call was not run: the one before it was not allowed, and that ended the turn."
_REFUSED: Final = {
    "policy": "This server allows no such call. It was not run.",
    "expired": "Nobody answered in time whether this call is allowed. It was not run.",
}

log = structlog.get_logger("atrio.calls")


class CallHost(Protocol):
    """What running calls takes of the turn that they belong to."""

    run: LiveRun
    tools: Tools
    scribe: Scribe
    measures: Measures

    async def in_order(self) -> None:
        """Wait until a message may be made and published at once. To be called in the same step."""
        ...

    def place(self, tool_call_id: str) -> Place:
        """Where a tool of this turn works."""
        ...

    async def permit(self, call: Call, ask: Ask) -> Decision:
        """Find out whether a call may be done; waits for an answer if need be."""
        ...

    async def hold(self, point: HoldPoint) -> None:
        """Stop here if a test asked for it."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What became of the calls. ``signatures`` identify each with its result."""

    signatures: tuple[bytes, ...]
    refused: bool


class _Refused(Exception):
    """Somebody, or the server's policy, did not allow a call."""

    def __init__(self, decision: Decision) -> None:
        name = f" by {decision.by.name}" if decision.by is not None else ""
        super().__init__(_REFUSED.get(decision.kind, f"This call was rejected{name}. It was not run."))


async def run_calls(host: CallHost, message: LiveMessage, calls: list[Call]) -> Done:
    """Run the calls of a message, to which nothing is added any more, to their results."""
    results: LiveMessage | None = None
    signatures: list[bytes] = []
    refused = False
    for call in calls:
        if refused:
            outcome = _failed(_BEHIND)
            status = "cancelled"
        else:
            await host.hold("tool.start")
            try:
                outcome = await _run(host, message, call)
            except _Refused as exc:
                refused = True
                outcome = _failed(str(exc))
            status = "failed" if outcome.is_error else "completed"
        result = _sound_result(call, outcome)
        if results is None:
            await host.in_order()
            results = host.scribe.draft(run_id=host.run.run_id, role="tool", parts=(result,))
            host.scribe.announce(results)
        else:
            host.scribe.part(results, len(results), result)
        # Its result is there: what it said live is shown no more.
        _change(host, message, call, status=status, finished_at=now(), output=UNSET, output_from=UNSET)
        signatures.append(msgspec.json.encode((call.name, call.input, result.content)))
    if results is not None:
        host.scribe.complete(results)
    return Done(tuple(signatures), refused)


async def _run(host: CallHost, message: LiveMessage, call: Call) -> ToolOutcome:
    """Run one call. A bug in a tool is an error result too: the model may go round it.

    Raises:
        _Refused: It was not allowed; nothing ran.
    """
    if call.bad_input is not None:
        return _failed(call.bad_input)
    given = call.input or {}
    place = host.place(call.tool_call_id)
    try:
        ask = await host.tools.ask(call.name, given, place)
        if ask is not None:
            place = await _permitted(host, message, call, ask, place)
        await trio.lowlevel.checkpoint_if_cancelled()  # an answer may have come just before the cancel
        locations = host.tools.locations(call.name, given, place)
        _change(host, message, call, status="in_progress", started_at=now(), locations=locations or UNSET)
        place = replace(place, output=_live(host, message, call))
        return await _timed(host, call.name, given, place)
    except ToolFailed as exc:
        return _failed(host.tools.redacted(str(exc)))
    except _Refused:
        raise
    except Exception:
        log.exception("tool failed", tool=call.name, session=host.run.session_id, run=host.run.run_id)
        return _failed(f"The tool {call.name} failed because of an error in Atrio.")


async def _timed(host: CallHost, name: str, given: dict[str, Any], place: Place) -> ToolOutcome:
    """Run a tool and report how long it took. One that is cancelled is reported as failed."""
    began = time.monotonic()
    failed = True
    try:
        outcome = await host.tools.run(name, given, place)
        failed = outcome.is_error
        return outcome
    finally:
        host.measures.tool_ended(name, time.monotonic() - began, failed=failed)


async def _permitted(host: CallHost, message: LiveMessage, call: Call, ask: Ask, place: Place) -> Place:
    """Have a call allowed; where it may work then."""
    decision = await host.permit(call, ask)
    mark = PermissionMark(kind=decision.kind, by=decision.by or UNSET)
    _change(host, message, call, permission=mark)
    if not decision.allowed:
        raise _Refused(decision)
    return replace(place, permitted=True, permitted_where=ask.where)


def _live(host: CallHost, message: LiveMessage, call: Call) -> Callable[[str], None]:
    """Takes what a call says while it runs."""
    redact = host.tools.live_redactor()

    def output(text: str) -> None:
        shown = redact(text)
        if shown:
            host.scribe.output(message, call.index, shown)

    return output


def _change(host: CallHost, message: LiveMessage, call: Call, **fields: Any) -> None:
    part = message.part(call.index)
    if isinstance(part, ToolCallPart):
        host.scribe.part(message, call.index, msgspec.structs.replace(part, **fields))


def _sound_result(call: Call, outcome: ToolOutcome) -> ToolResultPart:
    """The result as it is stored and sent. Half characters could be neither: the turn would have no end."""
    result = _result(call, outcome)
    try:
        msgspec.json.encode(result)
    except UnicodeEncodeError:
        return _result(call, _failed(_NO_TEXT.format(name=call.name)))
    return result


def _result(call: Call, outcome: ToolOutcome) -> ToolResultPart:
    return ToolResultPart(
        tool_call_id=call.tool_call_id,
        name=call.name,
        content=outcome.content,
        is_error=outcome.is_error,
        diffs=outcome.diffs or UNSET,
        exit_code=UNSET if outcome.exit_code is None else outcome.exit_code,
        truncated=outcome.truncated or UNSET,
    )


def _failed(why: str) -> ToolOutcome:
    return ToolOutcome(content=(TextBlock(text=why),), is_error=True)
