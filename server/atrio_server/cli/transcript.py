"""A run as text, while it happens: the model's words as results, the rest as notices.

A `Transcript` is fed the items of a session's stream and prints what is new of
the runs it follows. After a reconnect it may be fed a snapshot instead of the
events it missed; then it compares with what it has printed and goes on from
there. Text that was printed and is taken back by the server cannot be unprinted:
a notice says so.

It decides nothing: what the end of a run means is `atrio_server.cli.failure`.
"""

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
    RunStarted,
)
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.parts import Part, ToolCallPart
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Message, Run
from atrio_server.cli.output import print_result, print_text, say
from atrio_server.client import Detached, Resync, SessionStream

__all__ = ["Transcript"]


class Transcript:
    """Prints the runs of a session.

    Args:
        run_id: Only this run; None is all of them.
        quiet: Print no text but the final one (`show_end`).
    """

    def __init__(self, run_id: str | None, *, quiet: bool = False) -> None:
        self._run_id = run_id
        self._quiet = quiet
        self._printed: dict[str, dict[int, list[str]]] = {}
        """Of each followed message, the pieces of its text parts as far as they are printed."""
        self._tools: dict[str, str] = {}
        self._newest: tuple[str, int] | None = None
        self._line_open = False

    def take(self, item: Event | Resync[SessionSnapshot] | Detached, _stream: SessionStream) -> None:
        """Print what is new in an item of the stream."""
        match item:
            case Resync(snapshot=snapshot):
                for message in snapshot.messages:
                    self._show_message(message)
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
            case Notice(severity=severity, title=title, detail=detail, run_id=run_id):
                if self._run_id is None or run_id is UNSET or run_id == self._run_id:
                    self._notice(f"{severity}: " + (f"{title.rstrip('.')}: {detail}" if detail else title))
            case PermissionRequested(permission=permission) if self._follows(permission.run_id):
                self._notice(f"asks for permission: {permission.title}")
            case RunStarted(run=run) if self._run_id is None:
                self._notice(f"{run.author.name}: {run.prompt_text}")
            case _:
                pass

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
        if self._line_open:
            print_text("\n")
            self._line_open = False

    def _follows(self, run_id: object) -> bool:
        return self._run_id is None or run_id == self._run_id

    def _show_message(self, message: Message) -> None:
        if message.role != "assistant" or not self._follows(message.run_id):
            return
        self._printed.setdefault(message.message_id, {})
        for index, part in enumerate(message.parts):
            self._show_part(message.message_id, index, part)
        if message.finish:
            self.end_line()

    def _show_part(self, message_id: str, index: int, part: Part) -> None:
        match part:
            case TextBlock(text=text):
                self._show_text(message_id, index, text)
            case ToolCallPart():
                self._show_tool(part)
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
        print_text(text)
        self._line_open = not text.endswith("\n")

    def _show_tool(self, call: ToolCallPart) -> None:
        before = self._tools.get(call.tool_call_id)
        self._tools[call.tool_call_id] = call.status
        if call.status == before:
            return
        match call.status:
            case "in_progress":
                self._notice(f"· {call.title}")
            case "failed" | "cancelled":
                self._notice(f"· {call.title}: {call.status}")
            case "completed" if before is None:
                self._notice(f"· {call.title}")
            case _:
                pass

    def _notice(self, sentence: str) -> None:
        if not self._quiet:
            self.end_line()
            say(sentence)
