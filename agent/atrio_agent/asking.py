"""One request to the model, sent again when it fails in a way that may pass.

What the answer says goes into a message as it comes (`reply`); a request that is
sent again begins that message afresh. It does not decide what is asked, nor
what an answer means.
"""

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from atrio_agent.messages import LiveMessage
from atrio_agent.models.base import (
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
)
from atrio_agent.reply import Reply
from atrio_protocol.errors import RunError

if TYPE_CHECKING:
    from atrio_agent.loop import TurnHost

__all__ = ["ask"]

TRIES: Final = 3
"""How often one request is sent when the provider fails in a way that may pass."""

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 60.0

LARGE_CHARS: Final = 256 * 1024
"""Nobody sends so much in one piece, but a model that is played."""


async def ask(host: "TurnHost", request: ModelRequest, reply: Reply) -> None:
    """Send one request, again if it fails in a way that may pass; the answer is in ``reply``.

    Raises:
        RunError: It failed for good. What was said so far stays.
    """
    for attempt in range(1, TRIES + 1):
        host.asked(request)
        try:
            async with host.model.stream(request) as events:
                async for event in events:
                    # A summary has no tools; a model that calls one all the same is not heard.
                    if request.purpose == "summary" and isinstance(event, ToolCallStart | ToolCallArgs | ToolCallEnd):
                        continue
                    if reply.message is None:
                        await host.in_order()
                    reply.take(event)
                    if isinstance(event, TextDelta | ReasoningDelta | ToolCallArgs) and len(event.text) >= LARGE_CHARS:
                        await trio.lowlevel.checkpoint()  # one of this size is enough for a round of the event loop
            break
        except RunError as exc:
            wait_s = FIRST_DELAY_S * 4 ** (attempt - 1)
            if exc.retry_after_ms is not None:
                wait_s = max(wait_s, exc.retry_after_ms / 1000)
            if not exc.retryable or attempt == TRIES or wait_s > LONGEST_DELAY_S:
                reply.close()
                raise
            host.notice("warning", f"The model did not answer; trying again in {wait_s:.1f} s.", exc.message)
            reply.reset()
            await trio.sleep(wait_s)
    reply.close()
    host.used(request, reply.usage, _answer_text(reply.message))


def _answer_text(message: LiveMessage | None) -> str:
    return "" if message is None else msgspec.json.encode(message.parts()).decode()
