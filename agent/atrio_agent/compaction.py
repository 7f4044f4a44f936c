"""Making room: a summary takes the place of what was said, in requests to the model and nowhere else.

The summary is a message of the run that asks for it. From then on the model is
told the summary and what came after it; a turn that goes on is also told its own
prompts again, word for word, and of what came before the summary as much of the
newest as fits. What the summary is made of is in `transcript`.

Nothing here changes or hides a message: clients and the store keep all of them.
Invariant: a summary that a cancel or an error cut short stands for nothing. One
that reached the model's limit is taken as far as it goes: without it the
turn could not go on at all.
"""

from typing import TYPE_CHECKING, Final

from atrio_agent.asking import ask
from atrio_agent.clock import now
from atrio_agent.context import turns_of
from atrio_agent.models.base import AssistantTurn, ModelRequest
from atrio_agent.models.estimate import estimate_turns
from atrio_agent.reply import Reply
from atrio_agent.runs import Outcome
from atrio_agent.store.paging import stands_for_history
from atrio_agent.transcript import transcript_of
from atrio_protocol.errors import ContextOverflow, ProviderError, RunError
from atrio_protocol.things import Message, MessageFinish

if TYPE_CHECKING:
    from atrio_agent.loop import TurnHost

__all__ = ["Room", "run_summary"]

MARGIN_SHARE: Final = 5
MARGIN_TOKENS: Final = 20_000
"""A context is nearly full when less than a fifth of it is left, or less than so many tokens."""

UNKNOWN_CONTEXT_TOKENS: Final = 100_000
"""How much of a conversation is put into a summary where nobody knows what the model holds."""

OVERFLOW_TRIES: Final = 3
"""How often a summary is asked for, each time of half as much, when the provider says that it is too long."""

_SYSTEM: Final = (
    "You sum up a conversation between a user and a coding agent. Your summary takes the place of the conversation: "
    "the agent goes on from it alone. Say what the user wants, in their words where they matter; what was done, with "
    "the names of files and commands; what was found out; what was decided and why; what is still to do, and what "
    "comes next. Leave out what no longer matters. Write plain text. Do not go on with the task itself."
)
_ASK: Final = "Sum up the conversation so far, as you were told."


class Room:
    """What of a conversation goes into the requests of one turn."""

    def __init__(self, host: "TurnHost", history: tuple[Message, ...]) -> None:
        self._host = host
        self._history = history
        self._overflowed = False
        self._given_up = False

    def said(self) -> tuple[Message, ...]:
        """What the model is to be told, oldest first."""
        messages = self._history + self._host.so_far()
        start = _newest_summary(messages)
        if start is None:
            return messages
        kept = _newest_that_fit(messages[:start], _margin(self._host.model.context_size))
        prompts = [message for message in messages[len(self._history) : kept] if message.role == "user"]
        return (messages[start], *prompts, *messages[kept:start], *messages[start + 1 :])

    async def make(self, step: int) -> None:
        """Summarize if the context is nearly full. If that fails the turn goes on as it is."""
        size = self._host.model.context_size
        if size is None or self._given_up:
            return
        held = self._held()
        if held <= size - _margin(size) or not self._is_worth_it():
            return
        detail = f"About {held:,} of the {size:,} tokens that the model holds are taken."
        try:
            await self._summarize(step, detail)
        except RunError as exc:
            self._given_up = True
            self._host.notice("warning", "The conversation could not be summarized; going on as it is.", exc.message)

    async def make_after(self, overflow: ContextOverflow, step: int) -> bool:
        """Summarize because the provider says that a request was too long. Done once a turn.

        Returns:
            Whether there is room now, so that it is worth asking again.
        """
        if self._overflowed or not self._is_worth_it():
            return False
        self._overflowed = True
        try:
            await self._summarize(step, overflow.message)
        except RunError as exc:
            self._host.notice("warning", "The conversation could not be summarized.", exc.message)
            return False
        return True

    def _held(self) -> int:
        """About how many tokens the next request takes."""
        said = self.said()
        counted = self._host.context_tokens
        if not counted:
            return estimate_turns(turns_of(said))
        last = max((at for at, message in enumerate(said) if message.role == "assistant"), default=-1)
        return counted + estimate_turns(turns_of(said[last + 1 :]))

    def _is_worth_it(self) -> bool:
        """Whether the model has said anything that a summary could stand for."""
        messages = self._history + self._host.so_far()
        start = _newest_summary(messages)
        fresh = messages if start is None else messages[start + 1 :]
        return any(isinstance(turn, AssistantTurn) for turn in turns_of(fresh))

    async def _summarize(self, step: int, detail: str) -> None:
        host = self._host
        host.notice("info", "The conversation is being summarized to make room.", detail)
        reply = await _summary(host, self.said(), step)
        if reply.message is not None:
            # Like any message between two steps: the turn goes on after it.
            host.scribe.complete(reply.message, MessageFinish(reason="tool_use", at=now()))


async def run_summary(host: "TurnHost") -> Outcome:
    """Run a summary that somebody asked for.

    Returns:
        How it ended. The summary is not completed yet, and there is none where nothing was said.
    """
    history = await host.history()
    if not turns_of(message for message in history if not message.summary):
        host.notice(
            "info", "There is nothing to summarize.", "Nothing was said since the session or its summary began."
        )
        return Outcome("end_turn")
    try:
        await _summary(host, history, 0)
    except RunError as exc:
        return Outcome("error", exc.to_object())
    return Outcome("end_turn")


async def _summary(host: "TurnHost", said: tuple[Message, ...], step: int) -> Reply:
    """Ask for a summary.

    Raises:
        RunError: There is none. What was said of it is completed as an error, if the turn goes on, and is no summary.
    """
    size = host.model.context_size
    budget_tokens = UNKNOWN_CONTEXT_TOKENS if size is None else size - _margin(size)
    for attempt in range(1, OVERFLOW_TRIES + 1):
        reply = Reply(scribe=host.scribe, run_id=host.run.run_id, model=host.model, tools=host.tools, summary=True)
        request = ModelRequest(
            session_id=host.run.session_id,
            run_id=host.run.run_id,
            purpose="summary",
            step=step,
            system=_SYSTEM,
            prompt=_ASK,
            turns=transcript_of(turns_of(said), ask=_ASK, budget_tokens=budget_tokens),
            tools=(),
        )
        try:
            await ask(host, request, reply)
            if reply.message is None or not reply.message.text().strip() or _refused(reply):
                raise ProviderError("The model gave no summary.")
        except RunError as exc:
            if reply.message is None and isinstance(exc, ContextOverflow) and attempt < OVERFLOW_TRIES:
                budget_tokens //= 2
                continue
            if reply.message is not None and host.run.kind != "summarize":
                finish = MessageFinish(reason="error", title="No summary", detail=exc.message, at=now())
                host.scribe.complete(reply.message, finish)
            raise
        return reply
    raise AssertionError("the last attempt returns or raises")


def _refused(reply: Reply) -> bool:
    return reply.finish is not None and reply.finish.reason == "refusal"


def _margin(size: int | None) -> int:
    """Tokens of a context that are left free for the answer; as many may be kept word for word after a summary."""
    return min((size or UNKNOWN_CONTEXT_TOKENS) // MARGIN_SHARE, MARGIN_TOKENS)


def _newest_summary(messages: tuple[Message, ...]) -> int | None:
    found = [at for at, message in enumerate(messages) if stands_for_history(message)]
    return found[-1] if found else None


def _newest_that_fit(messages: tuple[Message, ...], tokens: int) -> int:
    """Where the newest messages begin that take at most so many tokens, calls with their results."""
    first = end = len(messages)
    for at in range(len(messages) - 1, -1, -1):
        if stands_for_history(messages[at]):
            break
        if messages[at].role == "tool":
            continue
        tokens -= estimate_turns(turns_of(messages[at:end]))
        if tokens < 0:
            break
        first = end = at
    return first
