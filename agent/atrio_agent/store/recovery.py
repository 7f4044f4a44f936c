"""What is made of runs that were not completed when the last process ended.

Run by a store while it opens, before anybody can read: every such run becomes
completed and `interrupted`, with a user and an assistant message, and no tool
call is left without a result. This module decides; the store reads the wreck,
and applies the returned operations in one transaction, so that a recovery that
is itself killed leaves everything as it was.

Invariant: recovering what was recovered finds nothing to do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from atrio_agent.store.base import CompleteRun, Op, PutMessage, PutSession, SessionRow
from atrio_agent.store.search import message_text
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Part, ToolCallPart, ToolResultPart, ToolStatus
from atrio_protocol.struct import UNSET, UnsetType, given
from atrio_protocol.things import Message, MessageFinish, Run
from atrio_protocol.who import Author

__all__ = ["INTERRUPTED", "REV_STEP", "Wreck", "repair"]

INTERRUPTED: Final = "interrupted: the server stopped"
"""What the model reads as the result of a tool call that was cut short."""

REV_STEP: Final = 1_000_000
"""By how much each opening of a store raises every session's ``rev``.

Clients may have seen numbers that were never stored. The raise is reckoned when
a row is read, from how often the store was opened since the row was written, so
an opening writes no row for it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wreck:
    """One session with something unfinished in it.

    Args:
        row: The session.
        runs: Its runs that are not completed, with their prompts, by `acceptSeq`.
        messages: All messages of these runs, every assistant message without a
            finish and all messages of such a one's run; in their order, with
            the text that was appended to them.
        message_count: How many messages it has in all.
        last_order: The highest order among all of them.
    """

    row: SessionRow
    runs: Sequence[Run]
    messages: Sequence[Message]
    message_count: int
    last_order: int


def repair(wreck: Wreck, *, new_message_id: Callable[[], str], now: str) -> list[Op]:
    """What must be written for one session, in this order and at once, so that nothing is unfinished any more."""
    work = _Repair(wreck, new_message_id, now)
    work.finish_messages()
    # What was running has the older messages; what waited follows in the order of acceptance.
    for run in sorted(wreck.runs, key=lambda run: (run.state != "running", run.accept_seq)):
        work.complete(run)
    for run in wreck.runs:
        work.end(run)
    return work.operations()


@dataclass(slots=True)
class _Repair:
    wreck: Wreck
    new_message_id: Callable[[], str]
    now: str
    messages: list[Message] = field(default_factory=list[Message])
    ended: list[Run] = field(default_factory=list[Run])
    said: dict[str, Message] = field(default_factory=dict[str, Message])
    added: int = 0

    def finish_messages(self) -> None:
        """Give every assistant message its finish, and every tool call its result."""
        results = {
            part.tool_call_id: part
            for message in self.wreck.messages
            for part in message.parts
            if isinstance(part, ToolResultPart)
        }
        self.messages += [self._finished(message, results) for message in self.wreck.messages]
        for message in tuple(self.messages):
            missing = [
                _cut_short(part)
                for part in message.parts
                if isinstance(part, ToolCallPart) and part.tool_call_id not in results
            ]
            if missing:
                self._add_results(message, missing)

    def complete(self, run: Run) -> None:
        """Give a run the messages that it must have, and find what it said last."""
        if run.kind == "prompt" and self._last(run, "user") is None:
            prompt = given(run.prompt, ()) or (TextBlock(text=run.prompt_text),)
            self._add(run.run_id, "user", prompt, author=run.author)
        if run.folded_into is not UNSET:
            return  # its answer is that of the run it was folded into
        last = self._last(run, "assistant")
        between_steps = last is not None and last.finish is not UNSET and last.finish.reason == "tool_use"
        if run.kind == "prompt" and (last is None or between_steps):
            finish = MessageFinish(reason="interrupted", at=self.now)
            last = self._add(run.run_id, "assistant", (), finish=finish)
        elif run.kind == "shell" and last is None and self._last(run, "user") is not None:
            last = self._add(run.run_id, "assistant", (), finish=MessageFinish(reason="interrupted", at=self.now))
        # The last words, also if the model had gone on to tools and said nothing more.
        said = [message for message in self._of(run, "assistant") if run.kind == "summarize" or not message.summary]
        words = [message for message in said if message_text(message)]
        if last is not None:
            self.said[run.run_id] = words[-1] if words else last

    def end(self, run: Run) -> None:
        """Decide the run's terminal; all runs have their messages."""
        prompt = self._last(run, "user")
        said = self.said.get(given(run.folded_into, run.run_id))
        self.ended.append(
            msgspec.structs.replace(
                run,
                state="completed",
                stop_reason="interrupted",
                prompt_message_id=prompt.message_id if prompt else run.prompt_message_id,
                text=message_text(said) if said else UNSET,
                message_id=said.message_id if said else UNSET,
                finished_at=self.now,
                prompt=UNSET,
            )
        )

    def operations(self) -> list[Op]:
        row = msgspec.structs.replace(
            self.wreck.row, message_count=self.wreck.message_count + self.added, updated_at=self.now
        )
        return [
            *(PutMessage(message=message, final=True) for message in self.messages),
            *(CompleteRun(run=run) for run in self.ended),
            PutSession(row=row),
        ]

    def _finished(self, message: Message, results: Mapping[str, ToolResultPart]) -> Message:
        if message.role != "assistant":
            return message
        parts = tuple(
            self._ended(part, results.get(part.tool_call_id)) if isinstance(part, ToolCallPart) else part
            for part in message.parts
        )
        if parts == message.parts and message.finish is not UNSET:
            return message
        finish = given(message.finish, MessageFinish(reason="interrupted", at=self.now))
        return msgspec.structs.replace(message, parts=parts, finish=finish, updated_at=self.now)

    def _ended(self, call: ToolCallPart, result: ToolResultPart | None) -> ToolCallPart:
        if call.status not in {"pending", "in_progress"}:
            return call
        # Its result may have been stored and its own change not.
        status: ToolStatus = "cancelled" if result is None else "failed" if result.is_error else "completed"
        return msgspec.structs.replace(
            call,
            status=status,
            input={} if call.input is None else call.input,
            input_text=UNSET,
            output=UNSET,
            output_from=UNSET,
            finished_at=self.now,
        )

    def _add_results(self, message: Message, results: list[ToolResultPart]) -> None:
        """Put results where those of this message's calls are, or into a message of their own."""
        after = [other for other in self.messages if other.run_id == message.run_id and other.order > message.order]
        if after and after[0].role == "tool":
            place = self.messages.index(after[0])
            parts = (*after[0].parts, *results)
            self.messages[place] = msgspec.structs.replace(after[0], parts=parts, updated_at=self.now)
        else:
            self._add(message.run_id, "tool", results)

    def _add(
        self,
        run_id: str | UnsetType,
        role: Literal["user", "assistant", "tool"],
        parts: Iterable[Part],
        *,
        author: Author | UnsetType = UNSET,
        finish: MessageFinish | UnsetType = UNSET,
    ) -> Message:
        self.added += 1
        message = Message(
            message_id=self.new_message_id(),
            session_id=self.wreck.row.session_id,
            run_id=run_id,
            order=self.wreck.last_order + self.added,
            role=role,
            parts=tuple(parts),
            finish=finish,
            author=author,
            created_at=self.now,
            updated_at=self.now,
        )
        self.messages.append(message)
        return message

    def _of(self, run: Run, role: str) -> list[Message]:
        return [message for message in self.messages if message.run_id == run.run_id and message.role == role]

    def _last(self, run: Run, role: str) -> Message | None:
        mine = self._of(run, role)
        return mine[-1] if mine else None


def _cut_short(call: ToolCallPart) -> ToolResultPart:
    return ToolResultPart(
        tool_call_id=call.tool_call_id, name=call.name, content=(TextBlock(text=INTERRUPTED),), is_error=True
    )
