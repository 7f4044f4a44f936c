"""What the agent reports of its work, for whoever counts: figures only, no ids, no texts.

The agent knows nothing of metrics. It is handed a `Measures` and calls it where
something has ended, in the step in which it did; a call must be cheap, must not
fail and must not wait. Nothing here is on the way of a single delta.

A run's end is reported once, in the step that publishes it.
"""

from typing import Final, Protocol

from atrio_protocol.things import RunKind, StopReason

__all__ = ["UNMEASURED", "Measures"]


class Measures(Protocol):
    """Whoever counts. All times are in seconds of real time."""

    def run_accepted(self, took_s: float) -> None:
        """A prompt is stored, this long after it was taken in."""
        ...

    def run_ended(self, kind: RunKind, reason: StopReason) -> None:
        """A run has its terminal."""
        ...

    def committed(self, took_s: float, *, failed: int) -> None:
        """A batch of writes was given to the disk. ``failed``: so many of them are not stored."""
        ...

    def tool_ended(self, tool: str, took_s: float, *, failed: bool) -> None:
        """A call that was allowed is done."""
        ...

    def tokens_used(self, provider: str, model_id: str, *, input_tokens: int, output_tokens: int) -> None:
        """A model was asked, and this is what it took."""
        ...


class _Unmeasured:
    """Nobody counts."""

    def run_accepted(self, took_s: float) -> None:
        pass

    def run_ended(self, kind: RunKind, reason: StopReason) -> None:
        pass

    def committed(self, took_s: float, *, failed: int) -> None:
        pass

    def tool_ended(self, tool: str, took_s: float, *, failed: bool) -> None:
        pass

    def tokens_used(self, provider: str, model_id: str, *, input_tokens: int, output_tokens: int) -> None:
        pass


UNMEASURED: Final[Measures] = _Unmeasured()
"""For a workspace of which nobody wants figures, as in tests."""
