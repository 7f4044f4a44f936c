"""The tool `todos`: what the model has set out to do, for people to see.

Each call replaces the whole list. It changes nothing but that list and asks
nobody. One thing is in progress at a time is advice to the model, not a rule.
"""

from typing import Annotated, Final, Literal

import msgspec

from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.output import counted
from atrio_protocol.parts import Location, ToolKind
from atrio_protocol.things import Todo

__all__ = ["Todos", "TodosInput"]

_MAX_TODOS: Final = 100
_MAX_CHARS: Final = 1_000


class TodoInput(ToolInput):
    content: Annotated[str, msgspec.Meta(description="What is to be done, in one line.", max_length=_MAX_CHARS)]
    status: Annotated[Literal["pending", "in_progress", "completed"], msgspec.Meta(description="How far it is.")]


class TodosInput(ToolInput):
    todos: Annotated[tuple[TodoInput, ...], msgspec.Meta(description="The whole list.", max_length=_MAX_TODOS)]


class Todos:
    """Replace the list of things to do."""

    name: str = "todos"
    kind: ToolKind = "think"
    description: str = description_of("todos")
    input_type: type[ToolInput] = TodosInput

    def title(self, given: TodosInput) -> str:
        """Such as ``3 of 5 done``."""
        done = sum(todo.status == "completed" for todo in given.todos)
        return f"To do: {done} of {len(given.todos)} done"

    def locations(self, given: TodosInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        """None."""
        return ()

    async def ask(self, given: TodosInput, place: Place) -> None:
        """Nothing."""

    async def run(self, given: TodosInput, place: Place) -> ToolOutcome:
        """Replace the list.

        Raises:
            ToolFailed: An entry is blank. The list is as it was.
        """
        todos = tuple(Todo(content=" ".join(todo.content.split()), status=todo.status) for todo in given.todos)
        if not all(todo.content for todo in todos):
            raise ToolFailed("Every entry needs a 'content'.")
        place.set_todos(todos)
        left = sum(todo.status != "completed" for todo in todos)
        return text_outcome(f"Kept: {counted(len(todos), 'entry', 'entries')}, {left} not completed.")
