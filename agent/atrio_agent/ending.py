"""How a run's last messages look: the one place that closes what a turn left open.

Everything is worked out first, as values, and stored in one transaction with
the run's terminal; only then is it applied to the messages in memory and
published. So nobody sees an end that is not stored, and a snapshot in between
still shows the run as going on.
"""

from dataclasses import dataclass, field

import msgspec

from atrio_agent.clock import now
from atrio_agent.messages import LiveMessage
from atrio_agent.runs import LiveRun, Outcome
from atrio_agent.scribe import Scribe
from atrio_agent.store.base import CompleteRun, Op, PutMessage
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Part, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import MessageFinish

__all__ = ["Ending", "ending_of"]

_WHY = {
    "cancelled": "The user cancelled this call before it was done.",
    "error": "The run ended with an error before this call was done.",
}
_ERROR_TITLES = {
    "provider_auth": "The provider did not accept the key",
    "provider_rate_limited": "The provider's rate limit is reached",
    "provider_unreachable": "The provider cannot be reached",
    "context_overflow": "The conversation is too long for the model",
    "loop_detected": "The model was going round in circles",
    "agent_failed": "The agent failed",
}


@dataclass(slots=True)
class Ending:
    """What will be said at the end of a run, in the order in which it is published."""

    drafts: list[LiveMessage] = field(default_factory=list[LiveMessage])
    changes: dict[LiveMessage, dict[int, Part]] = field(default_factory=dict[LiveMessage, dict[int, Part]])
    finishes: dict[LiveMessage, MessageFinish | None] = field(default_factory=dict[LiveMessage, "MessageFinish | None"])
    """The messages that are completed now, in order, each with its finish (user and tool messages have none)."""

    def ops(self, run: LiveRun) -> list[Op]:
        """The whole end as one transaction: messages, then the folded runs, then the run."""
        ops: list[Op] = []
        for message in dict.fromkeys([*self.changes, *self.finishes]):
            parts = list(message.parts())
            for index, part in sorted(self.changes.get(message, {}).items()):
                parts[index : index + 1] = [part]
            ops.append(
                PutMessage(message=message.view(finish=self.finishes.get(message), parts=tuple(parts)), final=True)
            )
        return [*ops, *(CompleteRun(run=ended.view(ended=True)) for ended in (*run.folded, run))]

    def publish(self, scribe: Scribe) -> None:
        """Apply and publish it. Call it in the step that learns of the commit."""
        for message, parts in self.changes.items():
            if message not in self.drafts:
                for index, part in sorted(parts.items()):
                    scribe.publish_part(message, index, part)
        for message, finish in self.finishes.items():
            if message in self.drafts:
                scribe.announce(message, stored=True)
            message.finish = finish
            scribe.publish_completed(message)


def ending_of(scribe: Scribe, run: LiveRun, outcome: Outcome) -> Ending:
    """Work out how a run ends; sets what the run says of its end, and changes nothing else."""
    return _end_unstarted(scribe, run, outcome) if run.started_at is None else _end_started(scribe, run, outcome)


def _end_unstarted(scribe: Scribe, run: LiveRun, outcome: Outcome) -> Ending:
    """A run that never reached the model: its prompt, and an empty answer that says why. Only a prompt has these."""
    ending = Ending()
    if run.kind != "prompt":
        return ending
    user = scribe.draft(run_id=run.run_id, role="user", author=run.author, parts=run.prompt)
    answer = scribe.draft(run_id=run.run_id, role="assistant")
    run.prompt_message_id = user.message_id
    run.message_id, run.text = answer.message_id, ""
    ending.drafts += [user, answer]
    ending.finishes[user] = None
    ending.finishes[answer] = _finish(outcome)
    return ending


def _end_started(scribe: Scribe, run: LiveRun, outcome: Outcome) -> Ending:
    """A turn: open tool calls get a result, open messages their finish, and there is an answer."""
    ending = Ending()
    mine = {run.run_id, *(folded.run_id for folded in run.folded)}
    messages = [message for message in scribe.tail if message.run_id in mine]
    answer: LiveMessage | None = None
    for position, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if not message.completed:
            if run.kind == "summarize" or not message.summary:
                answer = message
            ending.finishes[message] = _finish(outcome)
        results = _results_for(ending, message, outcome)
        if results:
            after = messages[position + 1] if position + 1 < len(messages) else None
            _add_results(scribe, ending, run, after, results)
    for message in messages:
        if message.role == "tool" and not message.completed:
            ending.finishes.setdefault(message, None)
    if answer is None:
        cut_short = run.kind == "summarize" and outcome.reason != "end_turn"
        answer = scribe.draft(run_id=run.run_id, role="assistant", summary=cut_short)
        ending.drafts.append(answer)
        ending.finishes[answer] = _finish(outcome)
    run.message_id, run.text = answer.message_id, answer.text()
    return ending


def _finish(outcome: Outcome) -> MessageFinish:
    if outcome.error is None:
        return MessageFinish(reason=outcome.reason, at=now())
    title = _ERROR_TITLES.get(outcome.error.kind, "The provider answered with an error")
    return MessageFinish(reason=outcome.reason, title=title, detail=outcome.error.message, at=now())


def _results_for(ending: Ending, message: LiveMessage, outcome: Outcome) -> list[ToolResultPart]:
    """Close the open tool calls of a message; returns the results that they lack."""
    results: list[ToolResultPart] = []
    for index, part in enumerate(message.parts()):
        if not isinstance(part, ToolCallPart) or part.status not in {"pending", "in_progress"}:
            continue
        ending.changes.setdefault(message, {})[index] = msgspec.structs.replace(
            part,
            status="cancelled" if outcome.reason == "cancelled" else "failed",
            input={} if part.input is None else part.input,
            input_text=UNSET,
            output=UNSET,
            output_from=UNSET,
            finished_at=now(),
        )
        why = TextBlock(text=_WHY.get(outcome.reason, "The turn ended before this call was done."))
        results.append(ToolResultPart(tool_call_id=part.tool_call_id, name=part.name, content=(why,), is_error=True))
    return results


def _add_results(
    scribe: Scribe, ending: Ending, run: LiveRun, after: LiveMessage | None, results: list[ToolResultPart]
) -> None:
    """Put the results into the tool message that follows, or into a new one."""
    if after is not None and after.role == "tool":
        held = {part.tool_call_id for part in after.parts() if isinstance(part, ToolResultPart)}
        missing = [result for result in results if result.tool_call_id not in held]
        ending.changes[after] = {len(after) + extra: result for extra, result in enumerate(missing)}
        ending.finishes[after] = None
        return
    message = scribe.draft(run_id=run.run_id, role="tool", parts=tuple(results))
    ending.drafts.append(message)
    ending.finishes[message] = None
