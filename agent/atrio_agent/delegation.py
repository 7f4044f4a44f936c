"""A sub-agent: a prompt in a child session, on behalf of a tool call.

The child is a session like any other, with its own messages, stream and runs;
it has the tools that change nothing. The call that asked for it waits for its
one run. What the run costs is added to the run that asked.

Cancelling the call cancels the child's run, and waits until that has ended.
"""

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from atrio_agent.lifetime import CLOSE_S, OwnerEnded
from atrio_agent.runs import LiveRun
from atrio_agent.store.base import StoreFailed
from atrio_agent.titles import fallback_title
from atrio_agent.tools.base import Delegated, ToolFailed
from atrio_agent.usage import usage_beside
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import WireError
from atrio_protocol.parts import ToolCallPart
from atrio_protocol.things import Usage

if TYPE_CHECKING:
    from atrio_agent.session import Session

__all__ = ["delegate"]

_WHY: Final = {
    "cancelled": "it was cancelled.",
    "max_tokens": "its answer was too long for the model.",
    "max_turn_requests": "it asked the model too often.",
    "refusal": "the model refused.",
}


async def delegate(parent: "Session", run: LiveRun, tool_call_id: str, prompt: str) -> Delegated:
    """Have a sub-agent do what the prompt says.

    Raises:
        ToolFailed: It could not be started.
    """
    content = (TextBlock(text=prompt),)
    try:
        child = await parent.open_child(parent, fallback_title(content), run)
        _mark(parent, tool_call_id, child.session_id)
        child_run = child.accept(
            prompt=content, run_id=None, delivery="queue", author=run.author, model_id=run.model_id, meta=None
        )
    except OwnerEnded as exc:
        raise ToolFailed("No sub-agent could be started: the workspace is closing.") from exc
    except (WireError, StoreFailed) as exc:
        raise ToolFailed(f"No sub-agent could be started: {exc}") from exc
    try:
        await child_run.done.wait()
    finally:
        if not child_run.done.is_set():
            child.inbox.cancel_run(child_run, by=run.cancelled_by)
        with trio.CancelScope(deadline=trio.current_time() + 2 * CLOSE_S, shield=True):
            await child_run.done.wait()
        if child_run.usage is not None:
            run.usage = usage_beside(run.usage or Usage(), child_run.usage)
            parent.profile.count_beside(child_run.usage)
    outcome = child_run.outcome
    if outcome is None:
        raise ToolFailed("No sub-agent could be started: its prompt could not be stored.")
    why = None if outcome.reason == "end_turn" else _WHY.get(outcome.reason, "it failed.")
    return Delegated(text=child_run.text or "", why=outcome.error.message if outcome.error else why)


def _mark(parent: "Session", tool_call_id: str, child_session_id: str) -> None:
    """Say at the call which session works on it."""
    for message in parent.scribe.tail:
        for index, part in enumerate(message.parts()):
            if isinstance(part, ToolCallPart) and part.tool_call_id == tool_call_id:
                parent.scribe.part(message, index, msgspec.structs.replace(part, child_session_id=child_session_id))
