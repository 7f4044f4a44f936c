"""The tools that a model is offered, by name.

What a model sends is untrusted and often nearly right: numbers as text are
taken as numbers, null as left out, and every refusal is a sentence that names
the parameter, for the model to do better. Running a tool is the loop's work.

Tools may come and go while a set is in use (those of MCP servers do). One that
comes never takes the name of one that is there.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, RawInput, RawTool, Tool, ToolFailed, ToolInput, ToolOutcome
from atrio_agent.tools.change import EditFile, MultiEdit, Write
from atrio_agent.tools.fetch import Fetch
from atrio_agent.tools.files import Ls, Read
from atrio_agent.tools.jobs import Jobs, JobsTool
from atrio_agent.tools.output import shown
from atrio_agent.tools.programs import AllowList
from atrio_agent.tools.redact import LiveRedactor, Redactor
from atrio_agent.tools.search import Glob, Grep
from atrio_agent.tools.shell import Shell
from atrio_agent.tools.task import Task
from atrio_agent.tools.todos import Todos
from atrio_agent.toolspec import ToolSpec
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Tools", "all_tools", "read_only_tools"]

_MAX_SHOWN_CHARS = 80


class Tools:
    """An ordered set of tools.

    Args:
        tools: In the order in which the model is told of them. No two have the same name.
        redactor: Takes the server's own secrets out of what they give back.
        more: Asked for further tools whenever the set is looked at; the same tuple
            as long as nothing has changed. One whose name is taken is left out.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        *,
        redactor: Redactor | None = None,
        more: Callable[[], tuple[Tool, ...]] = lambda: (),
    ) -> None:
        self._redactor = redactor or Redactor()
        self._always: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._always:
                raise ValueError(f"two tools are named {tool.name}")
            self._always[tool.name] = tool
        self._always_specs = tuple(_spec_of(tool) for tool in self._always.values())
        self._more = more
        self._had: tuple[Tool, ...] = ()
        self._all, self._specs = self._always, self._always_specs

    def with_more(self, more: Callable[[], tuple[Tool, ...]]) -> "Tools":
        """These tools, and those that ``more`` gives whenever it is asked."""
        return Tools(self._always.values(), redactor=self._redactor, more=more)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._now())

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told."""
        self._now()
        return self._specs

    def get(self, name: str) -> Tool:
        """The tool of that name.

        Raises:
            ToolFailed: There is none. The message lists those that there are.
        """
        tool = self._now().get(name)
        if tool is None:
            asked = shown(name, max_chars=_MAX_SHOWN_CHARS)
            raise ToolFailed(f"There is no tool '{asked}'. There are: {', '.join(self._now())}.")
        return tool

    async def ask(self, name: str, raw: dict[str, Any], place: Place) -> Ask | None:
        """What must be allowed before a call is run, or None. No secret of the server is in what people are shown.

        Raises:
            ToolFailed: It does not fit, or cannot be done whoever allows it.
        """
        ask = await self.get(name).ask(self.validate(name, raw), place)
        return None if ask is None else self._redactor.ask(ask)

    async def run(self, name: str, raw: dict[str, Any], place: Place) -> ToolOutcome:
        """Validate a call and do it. No secret of the server is in what comes back.

        Raises:
            ToolFailed: It does not fit or cannot be done as asked; nothing was changed.
        """
        given = self.validate(name, raw)
        return self._redactor.outcome(await self.get(name).run(given, place))

    def redacted(self, text: str) -> str:
        """A text that no tool made, without the server's secrets."""
        return self._redactor.text(text)

    def redacted_input(self, raw: dict[str, Any]) -> dict[str, Any]:
        """What a model gives to a tool, without the server's secrets."""
        return cast("dict[str, Any]", self._redactor.value(raw))

    def live_redactor(self) -> LiveRedactor:
        """Takes secrets out of a text that comes in pieces: a call's live output, a model's words."""
        return self._redactor.live()

    def kind(self, name: str) -> ToolKind:
        """What sort of tool a name stands for; ``other`` when there is none of it."""
        tool = self._now().get(name)
        return "other" if tool is None else tool.kind

    def title(self, name: str, raw: dict[str, Any]) -> str:
        """A line for people on a call, whether it can be done or not."""
        try:
            return self.get(name).title(self.validate(name, raw))
        except ToolFailed:
            return shown(name, max_chars=_MAX_SHOWN_CHARS)

    def locations(self, name: str, raw: dict[str, Any], place: Place) -> tuple[Location, ...]:
        """The places that a call looks at; none when it cannot be done."""
        try:
            return self.get(name).locations(self.validate(name, raw), place)
        except ToolFailed:
            return ()

    def validate(self, name: str, raw: dict[str, Any]) -> ToolInput:
        """Turn what the model sent into the tool's input.

        Raises:
            ToolFailed: There is no such tool, or a parameter does not fit. Nothing was done.
        """
        tool = self.get(name)
        if tool.input_type is RawInput:
            return _raw_input(cast("RawTool", tool), raw)
        known = msgspec.structs.fields(tool.input_type)
        takes = ", ".join(field.encode_name if field.required else f"{field.encode_name} (optional)" for field in known)
        for parameter, value in raw.items():
            _check_text(name, parameter, value)
        try:
            # Not strict: models write 10 as "10".
            return msgspec.convert(raw, tool.input_type, strict=False)
        except msgspec.ValidationError as exc:
            raise ToolFailed(f"The input of {name} does not fit: {exc}. It takes: {takes}.") from exc

    def _now(self) -> dict[str, Tool]:
        """The tools that there are at this moment."""
        more = self._more()
        if more is not self._had:
            self._had = more
            added: dict[str, Tool] = {}
            for tool in more:
                if tool.name not in self._always:
                    added.setdefault(tool.name, tool)
            self._all = self._always | added
            self._specs = (*self._always_specs, *(_spec_of(tool) for tool in added.values()))
        return self._all


def read_only_tools(redactor: Redactor | None = None) -> Tools:
    """The tools that change nothing, for sub-agents: read, ls, glob, grep."""
    return Tools([Read(), Ls(), Glob(), Grep()], redactor=redactor)


def all_tools(jobs: Jobs, *, allowed: AllowList, redactor: Redactor) -> Tools:
    """What an agent has in a workspace. ``allowed``: commands that need no question."""
    return Tools(
        [
            *(Read(), Ls(), Glob(), Grep()),
            *(Write(), EditFile(), MultiEdit()),
            *(Shell(jobs, allowed), JobsTool(jobs), Fetch(), Todos(), Task()),
        ],
        redactor=redactor,
    )


def _raw_input(tool: RawTool, raw: dict[str, Any]) -> RawInput:
    """Look only at what has to be there: the rest is judged by who made the schema."""
    for parameter, value in raw.items():
        _check_text(tool.name, parameter, value)
    required: list[Any] = tool.schema.get("required") or []
    missing = [str(parameter) for parameter in required if parameter not in raw]
    if missing:
        raise ToolFailed(f"The input of {tool.name} does not fit: it needs {', '.join(missing)}.")
    return RawInput(raw=raw)


def _spec_of(tool: Tool) -> ToolSpec:
    schema = cast("RawTool", tool).schema if tool.input_type is RawInput else _schema_of(tool.input_type)
    return ToolSpec(name=tool.name, description=tool.description, schema=schema)


def _check_text(name: str, parameter: str, value: object) -> None:
    """Refuse half characters, which JSON can write and nothing else can hold."""
    try:
        msgspec.json.encode((parameter, value))
    except UnicodeEncodeError:
        shown_parameter = shown(parameter, max_chars=_MAX_SHOWN_CHARS)
        raise ToolFailed(f"The input of {name} does not fit: '{shown_parameter}' is not valid text.") from None


def _schema_of(input_type: type[ToolInput]) -> dict[str, Any]:
    """The JSON Schema of a tool's input, as plain as models like it: one object, no titles, no nulls."""
    (ref,), components = msgspec.json.schema_components([input_type])
    schema = components.pop(ref["$ref"].rpartition("/")[2])
    del schema["title"]
    for each in (schema, *components.values()):
        each["properties"] = {name: _without_null(value) for name, value in each["properties"].items()}
    return schema | {"$defs": components} if components else schema


def _without_null(value: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in value.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else value
