"""The tool `task`: have a sub-agent find something out, in a session of its own.

What the sub-agent reads does not fill this conversation; its last words are the
result. It has the tools that change nothing, and knows only what the prompt
tells it. Running it is its session's business; this tool waits.
"""

from typing import Annotated, Final

import msgspec

from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.output import MAX_TITLE_CHARS, bounded, shown
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Task", "TaskInput"]

_MAX_PROMPT_CHARS: Final = 32_768


class TaskInput(ToolInput):
    prompt: Annotated[
        str,
        msgspec.Meta(
            description="What to find out, with everything that the sub-agent must know.",
            min_length=1,
            max_length=_MAX_PROMPT_CHARS,
        ),
    ]


class Task:
    """Have a sub-agent do something."""

    name: str = "task"
    kind: ToolKind = "think"
    description: str = description_of("task")
    input_type: type[ToolInput] = TaskInput

    def title(self, given: TaskInput) -> str:
        """The first line of the prompt."""
        first = next((line for line in given.prompt.splitlines() if line.strip()), "")
        return f"Task: {shown(first.strip(), max_chars=MAX_TITLE_CHARS)}"

    def locations(self, given: TaskInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        """None: the sub-agent tells of its own."""
        return ()

    async def ask(self, given: TaskInput, place: Place) -> None:
        """Nothing: the sub-agent's own tools do."""

    async def run(self, given: TaskInput, place: Place) -> ToolOutcome:
        """Wait for the sub-agent's last words. Cancelled, it has ended before this returns.

        Raises:
            ToolFailed: The prompt is blank, or the sub-agent came to no end of its own; the sentence says why.
        """
        if not given.prompt.strip():
            raise ToolFailed("'prompt' must say what to find out.")
        done = await place.delegate(given.prompt)
        if done.why is not None:
            said = f" Its last words: {shown(done.text, max_chars=2_000)}" if done.text else ""
            raise ToolFailed(f"The sub-agent did not finish: {done.why}{said}")
        kept = bounded(done.text or "The sub-agent said nothing.")
        return text_outcome(kept.text, truncated=kept.left_out > 0)
