"""The tool calls of the runs that are shown: which go on, what they print, and how each ended.

It is told of parts and results in whatever order they come, also twice (a
snapshot repeats what events have told), and gives each call's end exactly once.
"""

import msgspec

from atrio_protocol.parts import ToolCallPart, ToolResultPart
from atrio_protocol.struct import UNSET, given
from atrio_protocol.things import Permission
from atrio_server.cli.terminal.rows import Row
from atrio_server.cli.terminal.tools import ENDED, ended_rows, live_rows, result_text

__all__ = ["Board"]

TAIL_CHARS = 4_096
"""How much of what a call printed is kept; five lines of it are shown."""


class Board:
    """Tool calls by id. ``directory`` is what paths are shown relative to."""

    def __init__(self, *, directory: str = "") -> None:
        self._directory = directory
        self._going: dict[str, ToolCallPart] = {}
        self._results: dict[str, ToolResultPart] = {}
        self._places: dict[tuple[str, int], str] = {}
        self._ended: set[str] = set()
        self._seen: set[str] = set()
        """Changes that were shown when they were asked for."""
        self.result_text = ""
        """The whole text of the newest result."""
        self.children: set[str] = set()
        """The sessions of sub-agents that these calls started."""

    def call(self, message_id: str, index: int, call: ToolCallPart) -> list[Row]:
        """A call as it stands now; gives the rows of its end, once."""
        if call.child_session_id:
            self.children.add(str(call.child_session_id))
        if call.tool_call_id in self._ended:
            return []
        if call.status in ENDED:
            self._ended.add(call.tool_call_id)
            self._going.pop(call.tool_call_id, None)
            result = self._results.pop(call.tool_call_id, None)
            if result is not None and result.diffs and {diff.unified for diff in result.diffs} <= self._seen:
                self._seen -= {diff.unified for diff in result.diffs}
                result = msgspec.structs.replace(result, diffs=UNSET, content=())
            return ended_rows(call, result, directory=self._directory)
        if call.status == "in_progress":
            self._places[message_id, index] = call.tool_call_id
            self._going[call.tool_call_id] = call
        return []

    def asked(self, permission: Permission) -> None:
        """The change was shown with its question; it is not shown once more."""
        if permission.diffs:
            self._seen.update(diff.unified for diff in permission.diffs)

    def printed(self, message_id: str, index: int, text: str) -> None:
        """A call has printed something."""
        call = self._going.get(self._places.get((message_id, index), ""))
        if call is not None:
            output = (given(call.output, "") + text)[-TAIL_CHARS:]
            self._going[call.tool_call_id] = msgspec.structs.replace(call, output=output)

    def result(self, result: ToolResultPart) -> None:
        """The result of a call; its end follows."""
        self.result_text = result_text(result)
        if result.tool_call_id not in self._ended:
            self._results[result.tool_call_id] = result

    def forget_going(self) -> None:
        """A run is over, and with it what it did."""
        self._going.clear()

    def live(self) -> list[Row]:
        """The calls that go on."""
        return [line for call in self._going.values() for line in live_rows(call)]
