"""What a check found: a name, how it is, a sentence, and what to do about it.

Nothing is looked at here. A finding never holds a key, a token or the part of an
address that could be one.
"""

from typing import Literal

import msgspec

__all__ = ["Finding", "State", "ok", "problem", "warning"]

State = Literal["ok", "warning", "problem"]
"""``warning``: Atrio works, and not as well as it could. ``problem``: something does not work, or is unsafe."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    fix: str = ""


def ok(name: str, detail: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", detail)


def warning(name: str, detail: str, fix: str) -> Finding:
    """It works, and could be better."""
    return Finding(name, "warning", detail, fix)


def problem(name: str, detail: str, fix: str) -> Finding:
    """It does not work, or is unsafe."""
    return Finding(name, "problem", detail, fix)
