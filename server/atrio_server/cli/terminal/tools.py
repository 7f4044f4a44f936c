"""Tool calls as rows: what is being done, and in short what came of it.

A call is shown twice at most: while it goes on, in a place that is redrawn, and
once when it has ended. The whole result is in the session; here it is cut to
what a person wants to see go by.
"""

import re
from datetime import datetime

from atrio_protocol.content import TextBlock
from atrio_protocol.parts import ToolCallPart, ToolResultPart
from atrio_protocol.struct import given
from atrio_server.cli.terminal.clean import flat, stripped
from atrio_server.cli.terminal.diffs import diff_rows
from atrio_server.cli.terminal.rows import Row, Span, indented, row

__all__ = ["ENDED", "RESULT_LINES", "call_title", "ended_rows", "live_rows", "result_text"]

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The states of a call that has a result, or will never have one."""

_EXIT_STATUS = re.compile(r"\n?\[Exit status \d+\.\]\Z")
"""What the model is told at the end of a result; for people it stands beside the title."""

LIVE_LINES = 5
RESULT_LINES = 8
ERROR_LINES = 4


def call_title(call: ToolCallPart) -> str:
    """What a call does, in a line; commands with a prompt before them."""
    title = flat(call.title)
    return f"$ {title}" if call.name == "shell" else title


def live_rows(call: ToolCallPart) -> list[Row]:
    """A call that goes on, with the last lines that it printed."""
    rows = [row(("● ", "accent"), call_title(call))]
    printed = stripped(given(call.output, "")).rstrip("\n")
    if printed:
        rows += [row("  ", (line, "dim")) for line in printed.split("\n")[-LIVE_LINES:]]
    return rows


def ended_rows(call: ToolCallPart, result: ToolResultPart | None, *, directory: str = "") -> list[Row]:
    """A call that has ended, and the gist of its result."""
    if call.name == "todos" and call.status == "completed":
        return []  # the list itself is shown
    mark: dict[str, Span] = {"completed": ("✓ ", "good"), "failed": ("✗ ", "bad"), "cancelled": ("⊘ ", "warn")}
    # A command that says that it failed has been done well, as a call; for a person it has failed.
    went = "failed" if result is not None and given(result.exit_code, 0) else call.status
    head = [mark.get(went, ("● ", "accent")), call_title(call)]
    facts = _facts(call, result)
    if facts:
        head.append((f"  {' · '.join(facts)}", "dim"))
    return [row(*head), *(_body(call, result, directory) if result is not None else ())]


def _facts(call: ToolCallPart, result: ToolResultPart | None) -> list[str]:
    facts: list[str] = []
    if call.status == "cancelled":
        facts.append("cancelled")
    elif call.status == "failed":
        facts.append("failed")
    if result is not None and given(result.exit_code, 0):
        facts.append(f"exit {result.exit_code}")
    if result is not None and call.kind in {"read", "search"} and not result.is_error:
        lines = len(result_text(result).rstrip("\n").split("\n"))
        facts.append(f"{lines} line{'' if lines == 1 else 's'}")
    if isinstance(call.started_at, str) and isinstance(call.finished_at, str):
        took_s = (datetime.fromisoformat(call.finished_at) - datetime.fromisoformat(call.started_at)).total_seconds()
        if took_s >= 0.1:
            facts.append(f"{took_s:.1f} s" if took_s < 60 else f"{int(took_s // 60)} min {int(took_s % 60)} s")
    return facts


def _body(call: ToolCallPart, result: ToolResultPart, directory: str) -> list[Row]:
    if call.status == "cancelled":
        return []
    text = stripped(result_text(result)).strip("\n")
    if result.is_error:
        return _first(text, ERROR_LINES)
    if diffs := given(result.diffs, ()):
        return [line for diff in diffs for line in diff_rows(diff, directory=directory)]
    if call.kind == "execute":
        return _last(_EXIT_STATUS.sub("", text), RESULT_LINES)
    if call.kind in {"read", "search"}:
        return []
    return _first(text, ERROR_LINES)


def _first(text: str, count: int) -> list[Row]:
    if not text.strip():
        return []
    lines = text.split("\n")
    left = [] if len(lines) <= count else indented(f"… {len(lines) - count} more lines", "dim")
    return [*indented("\n".join(flat(line) if len(line) > 300 else line for line in lines[:count]), "dim"), *left]


def _last(text: str, count: int) -> list[Row]:
    if not text.strip():
        return []
    lines = text.split("\n")
    left = [] if len(lines) <= count else indented(f"… {len(lines) - count} lines before", "dim")
    return [*left, *indented("\n".join(flat(line) if len(line) > 300 else line for line in lines[-count:]), "dim")]


def result_text(result: ToolResultPart) -> str:
    """The text of a result, without what is no text."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextBlock))
