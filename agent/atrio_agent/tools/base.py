"""What a tool is to the loop.

A tool takes its validated input and the place it works in, and returns what the
model gets to read. It never raises for something the model can do better next
time: that is a `ToolFailed`, whose sentence goes to the model as an error
result. Anything else a tool raises is a bug and is reported as one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, dataclass_transform

import msgspec

from atrio_agent.ask import Ask
from atrio_protocol.content import ContentBlock, TextBlock
from atrio_protocol.parts import Diff, Location, ToolKind
from atrio_protocol.things import Todo

__all__ = [
    "Delegated",
    "FileSeen",
    "FileVersion",
    "Place",
    "RawInput",
    "RawTool",
    "Tool",
    "ToolFailed",
    "ToolInput",
    "ToolOutcome",
    "description_of",
    "text_outcome",
]


class ToolFailed(Exception):
    """The call cannot be done as asked. The message tells the model why and what to do instead."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class ToolInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A tool's parameters. The schema that the model sees is made from it."""


class RawInput(ToolInput):
    """What the model sent, as it is: for a tool whose parameters are not ours to know."""

    raw: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSeen:
    """A file as a session last read or wrote it."""

    mtime_ns: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVersion:
    """What a file held before and after a change; None where it was not there."""

    path: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """What a sub-agent came to. ``why`` says why it did not come to an end of its own, if it did not."""

    text: str
    why: str | None = None


async def _nobody(_prompt: str) -> Delegated:
    raise ToolFailed("There are no sub-agents here. Do it yourself.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and for whom a tool works.

    ``root`` is the workspace's resolved directory. ``allowed`` are further
    directories that were permitted. ``closed`` are directories that no tool may
    enter, the state directory among them. ``permitted``: somebody has allowed
    this very call, so that a path outside may be used; ``permitted_where`` is
    what the `Ask` named, and a path that leads elsewhere by now is refused (None:
    anywhere was allowed). ``seen`` are the files
    that the session has read, by absolute path; reading and writing keep it up
    to date. ``keep_version`` remembers a change before it is made. ``set_todos``
    replaces the session's list of things to do. ``delegate`` has a sub-agent do
    something, and ends it when it is cancelled. ``output`` takes live output
    (text) and never blocks.
    """

    root: Path
    session_id: str
    run_id: str
    tool_call_id: str
    allowed: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()
    permitted: bool = False
    permitted_where: str | None = None
    seen: dict[str, FileSeen] = field(default_factory=dict[str, FileSeen])
    keep_version: Callable[[FileVersion], None] = field(default=lambda _version: None)
    set_todos: Callable[[tuple[Todo, ...]], None] = field(default=lambda _todos: None)
    delegate: Callable[[str], Awaitable[Delegated]] = _nobody
    output: Callable[[str], None] = field(default=lambda _text: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """What a tool gives back. ``truncated``: more was there than is said."""

    content: tuple[ContentBlock, ...]
    is_error: bool = False
    diffs: tuple[Diff, ...] = ()
    exit_code: int | None = None
    truncated: bool = False


def text_outcome(text: str, *, truncated: bool = False) -> ToolOutcome:
    """The usual outcome: one text."""
    return ToolOutcome(content=(TextBlock(text=text),), truncated=truncated)


def description_of(name: str) -> str:
    """What the model is told of a tool: the text in ``<name>.md`` beside this module."""
    return resources.files("atrio_agent.tools").joinpath(f"{name}.md").read_text(encoding="utf-8").strip()


class Tool(Protocol):
    """One tool. ``input_type`` validates what the model sends."""

    name: str
    kind: ToolKind
    description: str
    input_type: type[ToolInput]

    def title(self, given: Any) -> str:
        """A line for people: what this call does."""
        ...

    def locations(self, given: Any, place: Place) -> tuple[Location, ...]:
        """The places this call looks at, as far as its input says; outside ones too."""
        ...

    async def ask(self, given: Any, place: Place) -> Ask | None:
        """What must be allowed before `run`, or None. It looks, and changes nothing.

        Raises:
            ToolFailed: The call cannot be done whoever allows it.
        """
        ...

    async def run(self, given: Any, place: Place) -> ToolOutcome:
        """Do it. What `ask` looked at is looked at again: it may have changed since.

        Raises:
            ToolFailed: It cannot be done as asked; nothing was changed.
        """
        ...


class RawTool(Tool, Protocol):
    """A tool that brings its own JSON Schema, of an object. Its ``input_type`` is `RawInput`."""

    schema: dict[str, Any]
