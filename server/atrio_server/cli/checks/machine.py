"""What the operating system gives: a clock that is right, enough open files, and a view of one's own processes.

Nothing here is Atrio's to change; each says who can.
"""

import os
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from atrio_server.cli.checks.finding import Finding, ok, problem, warning

__all__ = ["check_clock", "check_open_files", "check_processes"]

FEW_FILES: Final = 1_024
"""A server raises its limit as far as it may; each client costs one, and each running command some."""

_BUILT: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Atrio is younger than any time before this."""


def check_clock(now: datetime | None = None) -> Finding:
    """Whether the clock can be right: certificates and the expiry of tokens go by it."""
    now = now or datetime.now(UTC)
    detail = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < _BUILT:
        fix = "set the clock; certificates are refused, and tokens do not expire when they should"
        return problem("clock", f"{detail}, which is before Atrio was made", fix)
    return ok("clock", detail)


def check_open_files() -> Finding:
    """Whether a server could hold many clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return ok("open files", "as many as one likes")
    if hard < FEW_FILES:
        fix = "raise the hard limit (ulimit -Hn, or LimitNOFILE of the service)"
        return warning("open files", f"at most {hard} at a time, so that few clients can be served", fix)
    return ok("open files", f"up to {hard:,}")


def check_processes(proc: Path = Path("/proc")) -> Finding:
    """Whether what a command leaves behind can be found, to end it with its run."""
    name = "processes"
    try:
        (proc / "self" / "environ").read_bytes()
        visible = (proc / str(os.getpid())).is_dir()
    except OSError:
        visible = False
    if visible:
        return ok(name, f"{proc} shows them, so that what a command leaves behind ends with its run")
    sentence = f"{proc} is not there or shows nothing: what leaves its process group outlives its run"
    return warning(name, sentence, f"mount {proc} where the server runs")
