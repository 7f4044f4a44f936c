"""Any plausible course of a session, as the events that its stream would hold.

A story keeps what a server keeps, in the plainest way: whole texts, no pieces.
So what a reader has made of the events can be compared with what was meant.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from atrio_protocol.content import TextBlock
from atrio_protocol.events import (
    Event,
    MessageCompleted,
    MessageCreated,
    MessageDelta,
    MessagePart,
    MessageReset,
    Notice,
    PermissionRequested,
    PermissionResolved,
    RunAccepted,
    RunCompleted,
    RunFolded,
    RunStarted,
    SessionUpdated,
    TodosUpdated,
    ToolOutput,
)
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.merge import Encoded, encode_event
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import (
    Message,
    Permission,
    PermissionOption,
    PermissionOutcome,
    Run,
    Session,
    Todo,
    Usage,
)
from atrio_protocol.who import Author
from protocol_values import texts

__all__ = ["Story", "at", "encoded", "stories"]

AUTHOR = Author(client_id="c", name="ann")


def at(seq: int) -> str:
    """When event ``seq`` happened."""
    return f"2026-11-20T09:{seq // 60 % 60:02}:{seq % 60:02}.{seq % 1000:03}Z"


def encoded(events: list[Event]) -> list[Encoded]:
    """The events as a stream keeps them, numbered from 1."""
    return [encode_event(event, seq, at(seq)) for seq, event in enumerate(events, 1)]


@dataclass
class Story:
    """What has happened so far, and the state that it has led to."""

    events: list[Event] = field(default_factory=list[Event])
    messages: list[Message] = field(default_factory=list[Message])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    permissions: dict[str, Permission] = field(default_factory=dict[str, Permission])
    todos: tuple[Todo, ...] = ()
    session: Session = field(
        default_factory=lambda: Session(
            session_id="s",
            workspace_id="w",
            title="",
            state="idle",
            queued=0,
            viewers=0,
            message_count=0,
            usage=Usage(),
            rev=0,
            created_at=at(0),
            updated_at=at(0),
        )
    )

    def snapshot(self) -> SessionSnapshot:
        """What a reader that comes now would be given."""
        return SessionSnapshot(
            session=self.session,
            messages=tuple(self.messages),
            more=False,
            todos=self.todos,
            runs=tuple(self.runs.values()),
            permissions=tuple(self.permissions.values()),
        )

    def tell(self, what: str, number: int, text: str) -> None:
        """Let something happen, as far as it can happen now."""
        getattr(self, f"_{what}")(number, text)

    def _set_parts(self, index: int, parts: list[Part]) -> None:
        self.messages[index] = msgspec.structs.replace(self.messages[index], parts=tuple(parts))

    def _message(self, number: int, text: str) -> None:
        parts: list[Part] = [
            TextBlock(text=text),
            ReasoningPart(text=text),
            ToolCallPart(tool_call_id="t", name="shell", title="", kind="execute", input=None, status="pending"),
        ]
        order = len(self.messages) + 1
        message = Message(
            message_id=f"m{order}",
            session_id="s",
            order=order,
            role="assistant",
            parts=tuple(parts[number % 3 :]) if number % 4 else (),
            created_at=at(0),
            updated_at=at(0),
        )
        self.messages.append(message)
        self.events.append(MessageCreated(message=message))

    def _part(self, number: int, text: str) -> None:
        if not self.messages:
            return
        index = number % len(self.messages)
        message = self.messages[index]
        parts = list(message.parts)
        place = number % (len(parts) + 1)
        part: Part = TextBlock(text=text)
        if number % 3 == 0:
            status = "completed" if number % 2 else "in_progress"
            part = ToolCallPart(
                tool_call_id="t", name="shell", title=text, kind="execute", input={"a": text}, status=status
            )
        parts[place : place + 1] = [part]
        self._set_parts(index, parts)
        self.events.append(MessagePart(message_id=message.message_id, part=place, value=part))

    def _delta(self, number: int, text: str) -> None:
        if not self.messages:
            return
        index = number % len(self.messages)
        message = self.messages[index]
        parts = list(message.parts)
        for place, part in enumerate(parts):
            if isinstance(part, ToolCallPart):
                before = given(part.input_text, "")
                parts[place] = msgspec.structs.replace(part, input_text=before + text)
            elif isinstance(part, TextBlock | ReasoningPart):
                before = part.text
                parts[place] = msgspec.structs.replace(part, text=before + text)
            else:
                continue
            self._set_parts(index, parts)
            self.events.append(MessageDelta(message_id=message.message_id, part=place, offset=len(before), text=text))
            return

    def _output(self, number: int, text: str) -> None:
        text *= (1, 1, 700, 9000)[number % 4]
        for index, message in enumerate(self.messages):
            parts = list(message.parts)
            for place, part in enumerate(parts):
                if isinstance(part, ToolCallPart):
                    kept, dropped = given(part.output, ""), given(part.output_from, 0)
                    offset = dropped + len(kept)
                    kept += text
                    dropped += max(len(kept) - TOOL_OUTPUT_CHARS, 0)
                    parts[place] = msgspec.structs.replace(
                        part, output=kept[-TOOL_OUTPUT_CHARS:], output_from=dropped or UNSET
                    )
                    self._set_parts(index, parts)
                    self.events.append(ToolOutput(message_id=message.message_id, part=place, offset=offset, text=text))
                    return

    def _reset(self, number: int, _text: str) -> None:
        if self.messages:
            index = number % len(self.messages)
            self._set_parts(index, [])
            self.events.append(MessageReset(message_id=self.messages[index].message_id))

    def _complete(self, number: int, _text: str) -> None:
        if self.messages:
            message = self.messages[number % len(self.messages)]
            self.events.append(MessageCompleted(message=message))

    def _run(self, number: int, text: str) -> None:
        run_id = f"r{number % 5}"
        run = self.runs.get(run_id)
        if run is None:
            self.runs[run_id] = run = Run(
                run_id=run_id,
                session_id="s",
                accept_seq=len(self.events) + 1,
                state="queued",
                delivery="interrupt" if number % 3 == 0 else "queue",
                kind="prompt",
                author=AUTHOR,
                prompt_text=text,
                attachments=(),
                accepted_at=at(0),
            )
            self.events.append(RunAccepted(run=run))
        elif run.state == "queued" and number % 2:
            self.runs[run_id] = run = msgspec.structs.replace(run, state="running", started_at=at(1))
            self.events.append(RunStarted(run=run))
        elif run.state == "queued" and number % 3:
            self.runs[run_id] = msgspec.structs.replace(run, state="running", folded_into="r9")
            self.events.append(RunFolded(run_id=run_id, folded_into="r9"))
        else:
            del self.runs[run_id]
            self.events.append(
                RunCompleted(run=msgspec.structs.replace(run, state="completed", stop_reason="end_turn"))
            )

    def _permission(self, number: int, text: str) -> None:
        permission_id = f"p{number % 3}"
        common: dict[str, Any] = {"session_id": "s", "run_id": "r", "tool_call_id": "t"}
        if self.permissions.pop(permission_id, None) is not None:
            outcome = PermissionOutcome(kind="allow_once")
            self.events.append(PermissionResolved(permission_id=permission_id, outcome=outcome, **common))
            return
        permission = Permission(
            permission_id=permission_id,
            name="shell",
            title=text,
            input={},
            options=(PermissionOption(option_id="o", kind="allow_once", name="Allow"),),
            requested_at=at(0),
            **common,
        )
        self.permissions[permission_id] = permission
        self.events.append(PermissionRequested(permission=permission))

    def _todo(self, _number: int, text: str) -> None:
        self.todos = (*self.todos[-2:], Todo(content=text, status="pending"))
        self.events.append(TodosUpdated(todos=self.todos))

    def _title(self, _number: int, text: str) -> None:
        self.session = msgspec.structs.replace(self.session, title=text, rev=self.session.rev + 1)
        self.events.append(SessionUpdated(session=self.session))

    def _notice(self, _number: int, text: str) -> None:
        self.events.append(Notice(severity="info", title=text))


_WHAT = [
    *(["delta"] * 6),
    *(["output"] * 4),
    *("message", "message", "part", "reset", "complete", "run", "run", "permission", "todo", "title", "notice"),
]


def stories() -> st.SearchStrategy[list[tuple[str, int, str]]]:
    """What happens, in order: the arguments of `Story.tell`. Often a delta, as in life."""
    happening = st.tuples(st.sampled_from(_WHAT), st.integers(0, 11), texts)
    first = st.tuples(st.just("message"), st.just(4), texts)
    return st.tuples(first, st.lists(happening, max_size=40)).map(lambda told: [told[0], *told[1]])
