"""What is wrong in a workspace at the moment, for people.

A notice says that something has happened, to those who are there; this is what
still holds when somebody comes later. It is told to each session once, at the
latest with its first run. Nothing here decides or repairs anything.
"""

from typing import Literal, NamedTuple

__all__ = ["Severity", "Trouble"]

Severity = Literal["info", "warning", "error"]


class Trouble(NamedTuple):
    """One thing that is wrong. ``title`` tells it from others."""

    severity: Severity
    title: str
    detail: str
