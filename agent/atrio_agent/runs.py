"""A run: one accepted prompt, from its acceptance to its one terminal.

The scope that cancels a run is made when the prompt is accepted, so there is no
moment in which a run cannot be cancelled. Its end is decided in one synchronous
step (`LiveRun.decide`); after that a cancel no longer names it.

Nothing here waits, writes or publishes; the session does, in `session`.
"""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from atrio_agent.clock import now
from atrio_agent.store.base import Commit
from atrio_protocol.content import ContentBlock, attachments_of, prompt_text
from atrio_protocol.errors import ErrorObject
from atrio_protocol.limits import PROMPT_TEXT_CHARS
from atrio_protocol.marks import Stage
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Delivery, Run, RunKind, StopReason, Usage
from atrio_protocol.who import Author

__all__ = ["LiveRun", "Outcome", "digest_of"]


def digest_of(prompt: tuple[ContentBlock, ...], kind: RunKind) -> str:
    """What makes two prompts the same one, for `runId`."""
    return hashlib.sha256(kind.encode() + msgspec.json.encode(prompt)).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ends."""

    reason: StopReason
    error: ErrorObject | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class LiveRun:
    """A run that is not completed, or was a moment ago."""

    run_id: str
    session_id: str
    accept_seq: int
    delivery: Delivery
    kind: RunKind
    author: Author
    prompt: tuple[ContentBlock, ...]
    digest: str
    client_made: bool
    model_id: str | None
    meta: dict[str, Any] | None
    permitted: bool = False
    """Whoever asked for it may allow what it does, and does so by asking."""
    private_id: bool = False
    """Whoever made its id is not to learn whether another workspace has it too."""
    accepted_at: str = field(default_factory=now)
    taken_in_at: float = field(default_factory=time.monotonic)

    commit: Commit = field(default_factory=Commit)
    """Settled when the run and its prompt are stored, or could not be."""
    held: bool = False
    """A test stopped it before its commit began: there is no trace of it yet."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    """Set when the run is completed and its terminal published, or when it was never accepted after all."""

    announced: bool = False
    taken: bool = False
    """Its session has taken it: it is, or was, the active run."""
    started_at: str | None = None
    finished_at: str | None = None
    cancelled_by: Author | None = None
    steers: "LiveRun | None" = None
    """The turn that was running when this was accepted, if it is meant to be folded into it."""
    folded_into: str | None = None
    folded: list["LiveRun"] = field(default_factory=list["LiveRun"])
    """Runs that were folded into this one, in order."""
    prompt_message_id: str | None = None
    message_id: str | None = None
    text: str | None = None
    usage: Usage | None = None
    outcome: Outcome | None = None
    completed: bool = False
    _meta_bytes: int | None = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it, or the server is closing it."""
        return self.scope.cancel_called

    @property
    def meta_bytes(self) -> int:
        """How much its client has sent along with it, as it is on the wire."""
        if self._meta_bytes is None:
            self._meta_bytes = 0 if self.meta is None else len(msgspec.json.encode(self.meta))
        return self._meta_bytes

    @property
    def client_id(self) -> str:
        """Whose it is."""
        return self.author.client_id

    @property
    def stage(self) -> Stage:
        """Where it is, as far as a cancel cares."""
        if self.outcome is not None:
            return "decided"
        if self.folded_into is not None:
            return "folded"
        return "active" if self.taken else "waiting"

    def cancel(self, by: Author | None) -> None:
        """Cancel it, wherever it is. Once its end is decided this does nothing."""
        if self.outcome is None and not self.scope.cancel_called:
            self.cancelled_by = by
            self.scope.cancel()

    def decide(self, outcome: Outcome) -> Outcome:
        """Decide the end, once; a cancel that came before wins."""
        if self.outcome is None:
            self.outcome = Outcome("cancelled") if self.cancelled else outcome
        return self.outcome

    def view(self, *, whole: bool = False, ended: bool = False) -> Run:
        """The run as it stands.

        Args:
            whole: With the whole prompt, images and all.
            ended: As it will stand once its decided end is stored.
        """
        ended = ended or self.completed
        if ended:
            state = "completed"
        elif self.started_at is not None or self.folded_into is not None:
            state = "running"
        else:
            state = "queued"
        done = self.outcome if ended else None
        return Run(
            run_id=self.run_id,
            session_id=self.session_id,
            accept_seq=self.accept_seq,
            state=state,
            delivery=self.delivery,
            kind=self.kind,
            author=self.author,
            prompt_text=prompt_text(self.prompt)[:PROMPT_TEXT_CHARS],
            attachments=attachments_of(self.prompt),
            prompt_message_id=UNSET if state == "queued" else self.prompt_message_id or UNSET,
            stop_reason=done.reason if done else UNSET,
            error=done.error if done and done.error else UNSET,
            cancelled_by=self.cancelled_by if done and done.reason == "cancelled" and self.cancelled_by else UNSET,
            text=self.text if ended and self.text is not None else UNSET,
            message_id=self.message_id if ended and self.message_id else UNSET,
            folded_into=self.folded_into or UNSET,
            usage=self.usage or UNSET,
            accepted_at=self.accepted_at,
            started_at=self.started_at or UNSET,
            finished_at=self.finished_at if ended and self.finished_at else UNSET,
            prompt=self.prompt if whole else UNSET,
            meta=UNSET if self.meta is None else self.meta,
        )
