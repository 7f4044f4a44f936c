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

from atrio_agent.asking import ask
from atrio_agent.calls import CallHost, run_calls
from atrio_agent.clock import now
from atrio_agent.compaction import Room
from atrio_agent.context import newest_user_text, turns_of
from atrio_agent.models.base import Model, ModelRequest, UsageReport
from atrio_agent.pictures import Sight
from atrio_agent.reply import Reply
from atrio_agent.runs import Outcome
from atrio_protocol.errors import ContextOverflow, LoopDetected, RunError
from atrio_protocol.things import Message, MessageFinish

__all__ = ["MAX_TURN_REQUESTS", "TurnHost", "run_turn"]

MAX_TURN_REQUESTS: Final = 100
"""Model requests that one turn may make, retries not counted."""

SAME_CALL_WINDOW: Final = 10
SAME_CALL_LIMIT: Final = 5
"""More than this many equal tool calls with equal results among the last ten is a loop."""


class TurnHost(CallHost, Protocol):
    """What the loop asks of the session that runs it."""

    model: Model

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

    def fold(self) -> None:
        """Take in the prompts that wait to be folded into this turn."""
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


async def run_turn(host: TurnHost) -> Outcome:
    """Run one turn to its end.

    Returns:
        How it ended. The last assistant message is not completed yet, and there
        may be none.
    """
    recent: deque[bytes] = deque(maxlen=SAME_CALL_WINDOW)
    room = Room(host, await host.history())
    sight = Sight(host)
    system = await host.briefing()
    for step in range(MAX_TURN_REQUESTS):
        await host.in_order()
        host.fold()
        await room.make(step)
        said = sight.of(room.said())
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
            if reply.message is None and sight.goes_without(exc):
                continue
            return Outcome("error", exc.to_object())
        finish = reply.finish
        reason = finish.reason if finish else "end_turn"
        # What a refused answer had called for is not done: it may be half of it, and the provider took it back.
        if reply.message is None or not reply.calls or reason == "refusal":
            return Outcome("end_turn" if reason == "tool_use" else reason)
        host.scribe.complete(reply.message, MessageFinish(reason="tool_use", at=now()))
        done = await run_calls(host, reply.message, reply.calls)
        if done.refused:
            return Outcome("end_turn")
        recent.extend(done.signatures)
        if recent and Counter(recent).most_common(1)[0][1] > SAME_CALL_LIMIT:
            looping = LoopDetected(
                "The model called the same tool with the same input over and over; the run was ended."
            )
            return Outcome("error", looping.to_object())
    return Outcome("max_turn_requests")
