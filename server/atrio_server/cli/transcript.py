"""A run while it happens: the model's words as results, the rest as rows beside them.

A `Transcript` is fed the items of a session's stream and prints what is new of
the runs it follows. After a reconnect it may be fed a snapshot instead of the
events it missed; then it compares with what it has printed and goes on from
there. Text that was printed and is taken back by the server cannot be unprinted:
a notice says so.

It decides nothing: what the end of a run means is `atrio_server.cli.failure`, and
who answers its questions `atrio_server.cli.approving`.
"""

from typing import Final

from atrio_protocol.content import ContentBlock, TextBlock, attachments_of, prompt_text
from atrio_protocol.events import (
    Event,
    MessageCompleted,
    MessageCreated,
    MessageDelta,
    MessagePart,
    MessageReset,
    Notice,
    RunCompleted,
    TodosUpdated,
    ToolOutput,
)
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.parts import Part, ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Run, Todo
from atrio_server.cli.output import print_result
from atrio_server.cli.terminal.board import Board
from atrio_server.cli.terminal.clean import flat
from atrio_server.cli.terminal.paper import Paper
from atrio_server.cli.terminal.rows import Row, Style, row, todo_rows
from atrio_server.cli.terminal.tools import call_title
from atrio_server.client import Detached, Resync, SessionStream

__all__ = ["Transcript"]

_SEVERITY: Final[dict[str, Style]] = {"info": "dim", "warning": "warn", "error": "bad"}

PROMPT_LINES: Final = 12
"""How many lines of a prompt are shown; who wrote it knows the rest."""


class Transcript:
    """Prints the runs of a session.

    Args:
        run_id: Only this run; None is all of them, with their prompts.
        paper: What to print on.
        quiet: Print no text but the final one (`show_end`).
        directory: What paths are shown relative to.
        own_id: The client whose prompts need no name.
    """

    def __init__(
        self, run_id: str | None, paper: Paper, *, quiet: bool = False, directory: str = "", own_id: str = ""
    ) -> None:
        self._run_id = run_id
        self._paper = paper
        self._quiet = quiet
        self._own_id = own_id
        self._printed: dict[str, dict[int, list[str]]] = {}
        """Of each followed message, the pieces of its text parts as far as they are printed."""
        self._prompts: set[str] = set()
        self._started: set[str] = set()
        self._todos: tuple[Todo, ...] = ()
        self._newest: tuple[str, int] | None = None
        self._thinks = False
        """What the model says just now is not for the reader."""
        self.board = Board(directory=directory)

    def take(self, item: Event | Resync[SessionSnapshot] | Detached, _stream: SessionStream) -> None:
        """Print what is new in an item of the stream."""
        match item:
            case Resync(snapshot=snapshot):
                self._take_snapshot(snapshot)
            case MessageCreated(message=message) | MessageCompleted(message=message):
                self._show_message(message)
            case MessageDelta(message_id=message_id, part=part, text=text):
                pieces = self._printed.get(message_id, {}).get(part)
                if pieces is not None:
                    pieces.append(text)
                    self._print((message_id, part), text)
            case MessagePart(message_id=message_id, part=part, value=value) if message_id in self._printed:
                self._show_part(message_id, part, value)
            case MessageReset(message_id=message_id) if message_id in self._printed:
                if any(self._printed[message_id].values()):
                    self._notice("the request to the model is tried again; what it had said of this answer is void")
                self._printed[message_id] = {}
            case ToolOutput(message_id=message_id, part=part, text=text):
                self.board.printed(message_id, part, text)
            case TodosUpdated(todos=todos):
                self._show_todos(todos)
            case Notice(severity=severity, title=title, detail=detail, run_id=run_id):
                if self._run_id is None or run_id is UNSET or run_id == self._run_id:
                    said = f"{title.rstrip('.')}: {detail}" if detail else title
                    self._notice(f"{severity}: {said}", _SEVERITY[severity])
            case RunCompleted(run=run) if self._follows(run.run_id):
                self.board.forget_going()
                self._thinks = False
            case _:
                pass
        if not self._quiet:
            self._paper.live(
                self.board.live() or ([row(("● ", "accent"), ("thinking", "dim"))] if self._thinks else [])
            )

    def skip(self, snapshot: SessionSnapshot) -> None:
        """Take what a snapshot holds as shown."""
        for message in snapshot.messages:
            self._prompts.add(message.message_id)
            texts = {i: [part.text] for i, part in enumerate(message.parts) if isinstance(part, TextBlock)}
            self._printed[message.message_id] = texts
        self._todos = snapshot.todos

    def show_end(self, run: Run) -> None:
        """A followed run has ended: print what is still to be printed of its final text."""
        text = run.text or ""
        if self._quiet:
            if text:
                print_result(text)
            return
        shown = self._printed.get(run.message_id or "", {})
        if text and not any(shown.values()):
            self._show_text(run.message_id or run.run_id, 0, text)
        self.end_line()

    def end_line(self) -> None:
        """Leave the line that text was printed on, if there is one."""
        self._paper.end_line()

    def _follows(self, run_id: object) -> bool:
        return self._run_id is None or run_id == self._run_id

    def _take_snapshot(self, snapshot: SessionSnapshot) -> None:
        # Results first: a call that is shown as ended is shown with what came of it.
        for message in snapshot.messages:
            if message.role == "tool":
                self._show_message(message)
        for message in snapshot.messages:
            if message.role != "tool":
                self._show_message(message)
        if self._run_id is None:
            self._show_todos(snapshot.todos)
        else:
            self._todos = snapshot.todos

    def _show_message(self, message: Message) -> None:
        if not self._follows(message.run_id):
            return
        match message.role:
            case "assistant":
                if message.summary and message.message_id not in self._printed:
                    self._rows([row(("a summary, in the place of what was said until here:", "strong"))])
                self._printed.setdefault(message.message_id, {})
                for index, part in enumerate(message.parts):
                    self._show_part(message.message_id, index, part)
                if message.finish:
                    self.end_line()
            case "tool":
                self._printed.setdefault(message.message_id, {})
                for part in message.parts:
                    if isinstance(part, ToolResultPart):
                        self.board.result(part)
            case "user" if self._run_id is None and message.message_id not in self._prompts:
                self._prompts.add(message.message_id)
                self._show_prompt(message)
            case _:
                pass

    def _show_prompt(self, message: Message) -> None:
        blocks = tuple(part for part in message.parts if isinstance(part, ContentBlock))
        text = prompt_text(blocks)
        lines = text.strip("\n").split("\n")
        if len(lines) > PROMPT_LINES:
            lines = [*lines[:PROMPT_LINES], f"… {len(lines) - PROMPT_LINES} more lines"]
        lines += [f"[{flat(one.name or one.uri or one.type)}]" for one in attachments_of(blocks)]
        author = message.author
        name = f"{flat(author.name)}: " if author and author.client_id != self._own_id else ""
        rows = [row(("> ", "accent"), (name, "accent"), (lines[0], "strong"))]
        self._rows([*rows, *(row("  ", (line, "strong")) for line in lines[1:])])

    def _show_part(self, message_id: str, index: int, part: Part) -> None:
        self._thinks = isinstance(part, ReasoningPart) and not part.finished_at
        match part:
            case TextBlock(text=text):
                self._show_text(message_id, index, text)
            case ToolCallPart():
                self._show_tool(message_id, index, part)
            case ToolResultPart():
                self.board.result(part)
            case _:
                pass

    def _show_text(self, message_id: str, index: int, text: str) -> None:
        parts = self._printed.setdefault(message_id, {})
        before = "".join(parts.get(index, ()))
        parts[index] = [text] if text else []
        if not text.startswith(before):
            self._notice("the server has corrected this answer; it follows in full")
            before = ""
        self._print((message_id, index), text[len(before) :])

    def _print(self, place: tuple[str, int], text: str) -> None:
        if self._quiet or not text:
            return
        if self._newest != place:
            self.end_line()
            self._newest = place
        self._paper.text(text)

    def _show_tool(self, message_id: str, index: int, call: ToolCallPart) -> None:
        ended = self.board.call(message_id, index, call)
        was_told = call.tool_call_id in self._started
        if call.status != "pending":
            self._started.add(call.tool_call_id)
        if self._paper.redraws:
            self._rows(ended)
        elif call.status == "in_progress" and not was_told:
            self._rows([row(("· ", "accent"), call_title(call))])
        elif not (was_told and call.status == "completed" and len(ended) == 1):  # all of that was told already
            self._rows(ended)

    def _show_todos(self, todos: tuple[Todo, ...]) -> None:
        if todos != self._todos:
            self._todos = todos
            self._rows(todo_rows(todos))

    def _rows(self, rows: list[Row]) -> None:
        if not self._quiet and rows:
            self._paper.rows(rows)

    def _notice(self, sentence: str, style: Style = "dim") -> None:
        self._rows([row((sentence, style))])
