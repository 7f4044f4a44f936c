"""What a measurement gives: a number, what it should be, and how both are shown."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["Figure", "as_json", "as_table", "percentile"]


class Figure(NamedTuple):
    """One number. Without a target it is there to compare with."""

    name: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["≤", "≥"] = "≤"

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.bound == "≤" else self.value >= self.target


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value < 10 else f"{value:.1f}"


def as_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [("what", "measured", "target", "")]
    for figure in figures:
        target = "" if figure.target is None else f"{figure.bound} {_number(figure.target)}"
        verdict = {None: "", True: "met", False: "**missed**"}[figure.is_met]
        rows.append((figure.name, f"{_number(figure.value)} {figure.unit}".strip(), target, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures as plain data."""
    return [figure._asdict() | {"met": figure.is_met} for figure in figures]
