"""Runs that wait, as snapshots and lists show them: all of them, and yet no frame that a client could not take.

A hundred prompts may wait, each repeated with 2,000 characters, with the names
of its attachments and with whatever its client has sent along. Where there is
no room for that, all texts are cut alike; `run/get` has what is left out.

Invariant: no run is left out, and no state, author or id of one.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from atrio_agent.runs import LiveRun
from atrio_protocol.content import Attachment
from atrio_protocol.limits import PROMPT_TEXT_CHARS
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Run

__all__ = ["RUNS_BYTES", "runs_within"]

RUNS_BYTES: Final = 256 * 1024
"""What the runs of a snapshot may take before their texts are cut, in encoded bytes."""

_ASIDE_BYTES: Final = 512
"""What is left of a run's attachments, and the most that may have been sent along with it, where there is no room."""


def runs_within(runs: Sequence[LiveRun], max_bytes: int) -> tuple[Run, ...]:
    """The runs in their order, with as much of each as fits."""
    views = [run.view() for run in runs]
    # What was sent along is measured once for each run: writing it out here could hold up the event loop.
    bare = [msgspec.structs.replace(view, meta=UNSET) for view in views]
    if _size_bytes(bare) + sum(run.meta_bytes for run in runs) <= max_bytes:
        return tuple(views)
    small = [_small(view, run.meta_bytes) for view, run in zip(views, runs, strict=True)]
    chars = PROMPT_TEXT_CHARS
    while _size_bytes(small) > max_bytes and chars > 1:
        chars //= 2
        small = [msgspec.structs.replace(view, prompt_text=view.prompt_text[:chars]) for view in small]
    return tuple(small)


def _small(run: Run, meta_bytes: int) -> Run:
    """A run without what is large beside its text."""
    kept: list[Attachment] = []
    room_bytes = _ASIDE_BYTES
    for attachment in run.attachments:
        room_bytes -= len(msgspec.json.encode(attachment))
        if room_bytes < 0:
            break
        kept.append(attachment)
    meta = run.meta if meta_bytes <= _ASIDE_BYTES else UNSET
    return msgspec.structs.replace(run, attachments=tuple(kept), meta=meta)


def _size_bytes(runs: Sequence[Run]) -> int:
    return sum(len(msgspec.json.encode(run)) for run in runs)
