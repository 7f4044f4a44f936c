"""One turn: the model is asked, its tools are run, until it has nothing more to do.

The loop decides what happens next, and nothing else: what it says goes through
the `Scribe`; when a prompt may be folded in and what a cancel means is the
session's business (`TurnHost`). It is cancelled from outside at any checkpoint
and leaves half-made messages behind as they are; the session closes them.

It returns how the turn ended and never raises for what a provider or a tool
does: those become an `Outcome`, or a result that the model reads.
"""

from collections import Counter, deque
from typing import Final, Literal, Protocol

import msgspec
import structlog

from atrio_agent.asking import ask
from atrio_agent.clock import now
from atrio_agent.compaction import Room
from atrio_agent.context import newest_user_text, turns_of
from atrio_agent.gates import HoldPoint
from atrio_agent.messages import LiveMessage
from atrio_agent.models.base import Model, ModelRequest, UsageReport
from atrio_agent.reply import Call, Reply
from atrio_agent.runs import LiveRun, Outcome
from atrio_agent.scribe import Scribe
from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import ContextOverflow, LoopDetected, RunError
from atrio_protocol.parts import ToolCallPart, ToolResultPart, ToolStatus
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, MessageFinish

__all__ = ["MAX_TURN_REQUESTS", "TurnHost", "run_turn"]

MAX_TURN_REQUESTS: Final = 100
"""Model requests that one turn may make, retries not counted."""

SAME_CALL_WINDOW: Final = 10
SAME_CALL_LIMIT: Final = 5
"""More than this many equal tool calls with equal results among the last ten is a loop."""

_NO_TEXT: Final = "The tool {name} found something that is not valid text."

log = structlog.get_logger("atrio.loop")


class TurnHost(Protocol):
    """What the loop asks of the session that runs it."""

    run: LiveRun
    model: Model
    tools: Tools
    scribe: Scribe

    @property
    def context_tokens(self) -> int:
        """What the session's newest request took, its answer included; 0 if that is not known."""
        ...

    async def history(self) -> tuple[Message, ...]:
        """What was said before this turn."""
        ...

    async def briefing(self) -> str:
        """What the model is told before everything else, the same for the whole turn."""
        ...

    def so_far(self) -> tuple[Message, ...]:
        """What was said in this turn, its prompt and what was folded in included."""
        ...

    async def in_order(self) -> None:
        """Wait until a message may be made and published at once. To be called in the same step."""
        ...

    def fold(self) -> None:
        """Take in the prompts that wait to be folded into this turn."""
        ...

    def place(self, tool_call_id: str) -> Place:
        """Where a tool of this turn works."""
        ...

    def notice(self, severity: Literal["info", "warning", "error"], title: str, detail: str) -> None:
        """Tell those who watch."""
        ...

    def asked(self, request: ModelRequest) -> None:
        """A request is about to be sent."""
        ...

    def used(self, request: ModelRequest, report: UsageReport | None, answer: str) -> None:
        """A request is answered; without a report its tokens are estimated."""
        ...

    async def hold(self, point: HoldPoint) -> None:
        """Stop here if a test asked for it."""
        ...


async def run_turn(host: TurnHost) -> Outcome:
    """Run one turn to its end.

    Returns:
        How it ended. The last assistant message is not completed yet, and there
        may be none.
    """
    recent: deque[bytes] = deque(maxlen=SAME_CALL_WINDOW)
    room = Room(host, await host.history())
    system = await host.briefing()
    for step in range(MAX_TURN_REQUESTS):
        await host.in_order()
        host.fold()
        await room.make(step)
        said = room.said()
        request = ModelRequest(
            session_id=host.run.session_id,
            run_id=host.run.run_id,
            purpose="turn",
            step=step,
            system=system,
            prompt=newest_user_text(said),
            turns=turns_of(said),
            tools=host.tools.specs,
        )
        reply = Reply(scribe=host.scribe, run_id=host.run.run_id, model=host.model, tools=host.tools)
        try:
            await ask(host, request, reply)
        except ContextOverflow as exc:
            if reply.message is None and await room.make_after(exc, step):
                continue
            return Outcome("error", exc.to_object())
        except RunError as exc:
            return Outcome("error", exc.to_object())
        finish = reply.finish
        if reply.message is None or not reply.calls:
            reason = finish.reason if finish else "end_turn"
            return Outcome("end_turn" if reason == "tool_use" else reason)
        host.scribe.complete(reply.message, MessageFinish(reason="tool_use", at=now()))
        for signature in await _run_calls(host, reply.message, reply.calls):
            recent.append(signature)
        if recent and Counter(recent).most_common(1)[0][1] > SAME_CALL_LIMIT:
            looping = LoopDetected(
                "The model called the same tool with the same input over and over; the run was ended."
            )
            return Outcome("error", looping.to_object())
    return Outcome("max_turn_requests")


async def _run_calls(host: TurnHost, message: LiveMessage, calls: list[Call]) -> list[bytes]:
    """Run the calls in order; one tool message takes their results. Returns what identifies each."""
    results: LiveMessage | None = None
    signatures: list[bytes] = []
    for call in calls:
        await host.hold("tool.start")
        _mark(host, message, call, "in_progress")
        outcome = await _run_call(host, call)
        result = _result(call, outcome)
        try:
            msgspec.json.encode(result)
        except UnicodeEncodeError:
            # Half characters: nothing could store or send it, and the turn would have no end.
            outcome = ToolOutcome(content=(TextBlock(text=_NO_TEXT.format(name=call.name)),), is_error=True)
            result = _result(call, outcome)
        if results is None:
            await host.in_order()
            results = host.scribe.draft(run_id=host.run.run_id, role="tool", parts=(result,))
            host.scribe.announce(results)
        else:
            host.scribe.part(results, len(results), result)
        _mark(host, message, call, "failed" if outcome.is_error else "completed")
        signatures.append(msgspec.json.encode((call.name, call.input, result.content)))
    if results is not None:
        host.scribe.complete(results)
    return signatures


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


async def _run_call(host: TurnHost, call: Call) -> ToolOutcome:
    """Run one call. A bug in a tool is an error result too: the model may go round it."""
    if call.bad_input is not None:
        return _failed(call.bad_input)
    try:
        return await host.tools.run(call.name, call.input or {}, host.place(call.tool_call_id))
    except ToolFailed as exc:
        return _failed(str(exc))
    except Exception:
        log.exception("tool failed", tool=call.name, session=host.run.session_id, run=host.run.run_id)
        return _failed(f"The tool {call.name} failed because of an error in Atrio.")


def _failed(why: str) -> ToolOutcome:
    return ToolOutcome(content=(TextBlock(text=why),), is_error=True)


def _mark(host: TurnHost, message: LiveMessage, call: Call, status: ToolStatus) -> None:
    part = message.part(call.index)
    if not isinstance(part, ToolCallPart):
        return
    if status == "in_progress":
        locations = host.tools.locations(call.name, call.input or {}, host.place(call.tool_call_id))
        part = msgspec.structs.replace(part, status=status, started_at=now(), locations=locations or UNSET)
    else:
        part = msgspec.structs.replace(part, status=status, finished_at=now())
    host.scribe.part(message, call.index, part)
