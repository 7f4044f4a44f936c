"""What the server counts as it goes: plain numbers, in memory, for `/metrics` to show.

Everything here may stand on the way of every frame, so it is additions and
nothing else; names, labels and text belong to `atrio_server.metrics`, which is
loaded when somebody first asks. No id, path or text of anybody is counted by:
whatever a number is kept for comes from a fixed list, or is "other".

All of it is the event loop's own; no other thread may count.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

from atrio_agent.models.catalog import listed_name
from atrio_protocol.things import RunKind, StopReason

__all__ = ["BUILT_IN_TOOLS", "DoorFigures", "Figures", "Histogram"]

BUILT_IN_TOOLS: Final = frozenset(
    {
        "edit",
        "fetch",
        "glob",
        "grep",
        "jobs",
        "ls",
        "multi_edit",
        "read",
        "shell",
        "task",
        "todos",
        "write",
    }
)

MCP_PREFIX: Final = "mcp_"

PROVIDERS: Final = frozenset({"anthropic", "demo", "local", "ollama", "openai", "openrouter", "script"})

COMMIT_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
TOOL_BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 600.0)

OTHER: Final = "other"


class Histogram:
    """How many values were at most as large as each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class DoorFigures:
    """What comes and goes at the door. ``refused`` is by the reason that the door's answer gives."""

    __slots__ = ("accepted", "received_bytes", "refused", "sent_bytes", "stalled")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.stalled = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class Figures:
    """What was done since the server began. It is what the agent reports to (`atrio_agent.measures.Measures`)."""

    def __init__(self) -> None:
        self.door = DoorFigures()
        self.runs: Counter[tuple[RunKind, StopReason]] = Counter()
        self.accepts = Histogram(COMMIT_BOUNDS_S)
        self.commits = Histogram(COMMIT_BOUNDS_S)
        self.writes_failed = 0
        self.tools: dict[str, Histogram] = {}
        self.tools_failed: Counter[str] = Counter()
        self.tokens: Counter[tuple[str, str, str]] = Counter()
        """By provider, model and direction."""

    def run_accepted(self, took_s: float) -> None:
        self.accepts.add(took_s)

    def run_ended(self, kind: RunKind, reason: StopReason) -> None:
        self.runs[kind, reason] += 1

    def committed(self, took_s: float, *, failed: int) -> None:
        self.commits.add(took_s)
        self.writes_failed += failed

    def tool_ended(self, tool: str, took_s: float, *, failed: bool) -> None:
        if tool not in BUILT_IN_TOOLS:
            tool = "mcp" if tool.startswith(MCP_PREFIX) else OTHER
        if tool not in self.tools:
            self.tools[tool] = Histogram(TOOL_BOUNDS_S)
        self.tools[tool].add(took_s)
        self.tools_failed[tool] += failed

    def tokens_used(self, provider: str, model_id: str, *, input_tokens: int, output_tokens: int) -> None:
        model = listed_name(model_id) or OTHER
        provider = provider if provider in PROVIDERS else OTHER
        self.tokens[provider, model, "input"] += input_tokens
        self.tokens[provider, model, "output"] += output_tokens
