"""A command that a person runs in a session: one tool call, and no model.

What comes of it is for the next turn to read: a user message that is the
command, an assistant message that calls ``shell``, and the call's result. The
call goes the way of all tool calls, so it asks, says live what it prints, and
leaves no process behind when it is cancelled.

The assistant message is complete when the run is, and not before: its finish
says how the run ended, as that of a turn does.
"""

from atrio_agent.calls import CallHost, run_calls
from atrio_agent.reply import Call
from atrio_agent.runs import Outcome
from atrio_protocol.content import prompt_text
from atrio_protocol.ids import new_id, workspace_id_of
from atrio_protocol.parts import ToolCallPart

__all__ = ["run_shell"]

_TOOL = "shell"


async def run_shell(host: CallHost) -> Outcome:
    """Run the command that is the run's prompt. Until the first wait there is no other event between.

    Returns:
        How it ended; a command that failed, or was not allowed, has ended too.
    """
    run = host.run
    given = {"command": prompt_text(run.prompt)}
    message = host.scribe.draft(run_id=run.run_id, role="assistant")
    host.scribe.announce(message)
    call = Call(0, new_id(workspace_id_of(run.session_id) or run.session_id, "t"), _TOOL, given)
    host.scribe.part(
        message,
        call.index,
        ToolCallPart(
            tool_call_id=call.tool_call_id,
            name=_TOOL,
            title=host.tools.title(_TOOL, given),
            kind=host.tools.kind(_TOOL),
            input=given,
            status="pending",
        ),
    )
    await run_calls(host, message, [call])
    return Outcome("end_turn")
