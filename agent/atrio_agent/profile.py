"""What a session says of itself: title, model, usage, counts, and who looks at it.

`Profile.refresh` compares what is true now with what was last said, and says it
on both streams if it differs, with a higher `rev`. So no other part has to know
which change is worth an event, and no two of them say the same thing twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from atrio_agent.clock import now
from atrio_agent.ground import Ground
from atrio_agent.lifetime import Errand
from atrio_agent.models.base import Model, UsageReport
from atrio_agent.models.catalog import cost_of
from atrio_agent.store.base import Op, PutSession, SessionRow, StoreFailed
from atrio_agent.streams import Stream
from atrio_agent.titles import NEW_SESSION, fallback_title, make_title
from atrio_agent.usage import usage_beside, usage_with
from atrio_protocol.content import ContentBlock
from atrio_protocol.errors import WireError
from atrio_protocol.events import SessionUpdated
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Run, Session, SessionState, Usage

__all__ = ["MAX_TITLE_CHARS", "Profile", "session_view", "without_text"]

MAX_TITLE_CHARS: Final = 500

log = structlog.get_logger("atrio.profile")


def session_view(row: SessionRow, workspace_id: str, *, state: SessionState, queued: int, viewers: int) -> Session:
    """A session as it is on the wire, from its row and what only memory knows."""
    return Session(
        session_id=row.session_id,
        workspace_id=workspace_id,
        parent_session_id=row.parent_session_id or UNSET,
        root_session_id=row.root_session_id or UNSET,
        title=row.title,
        state=state,
        queued=queued,
        viewers=viewers,
        message_count=row.message_count,
        model=row.model or UNSET,
        usage=row.usage,
        rev=row.rev,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def without_text(run: Run) -> Run:
    """A run as the workspace's stream shows it."""
    return msgspec.structs.replace(run, text=UNSET)


@dataclass(slots=True)
class _Storing:
    """A field whose new value is being stored: what people see meanwhile, and how many changes are under way.

    ``newest`` counts the changes, and ``shown_is`` is which of them is seen: 0 for what was there before.
    """

    shown: object
    shown_is: int = 0
    newest: int = 0
    changes: int = 0


class Profile:
    """The living row of a loaded session."""

    def __init__(
        self, ground: Ground, row: SessionRow, stream: Stream, activity: Callable[[], tuple[SessionState, int]]
    ) -> None:
        """``activity`` tells what the session does and how many runs wait."""
        self._ground = ground
        self._stream = stream
        self._activity = activity
        self._titled = False
        self._is_titling = False
        self._closed = False
        self._storing: dict[str, _Storing] = {}
        self.row = row
        self._said = self._worth_an_event()

    def view(self) -> Session:
        """The session as it stands. What is not stored yet is not shown."""
        state, queued = self._activity()
        return session_view(
            self._shown(),
            self._ground.workspace_id,
            state=state,
            queued=queued,
            viewers=self._ground.viewers(self.row.session_id),
        )

    def refresh(self, *, anyway: bool = False) -> None:
        """Say what changed, if anything that is worth an event did, or ``anyway``."""
        worth = self._worth_an_event()
        if self._closed or (worth == self._said and not anyway):
            return
        self._said = worth
        self._change(rev=self.row.rev + 1)
        self._ground.store.write_later(PutSession(row=self.row))
        event = SessionUpdated(session=self.view())
        self._stream.publish(event)
        self._ground.stream.publish(event)

    @property
    def is_changing(self) -> bool:
        """Whether a change is still being stored, or a title made: an errand has it that comes back to this object."""
        return bool(self._storing) or self._is_titling

    def close(self) -> None:
        """Say nothing any more: the session is deleted, and an errand that is still out must not bring it back."""
        self._closed = True

    def set_title_soon(self, title: str) -> Errand[None]:
        """Set the title for good: a person chose it. Nothing else changes."""
        return self._store_soon(title=title, title_is_final=True)

    def set_model_soon(self, model_id: str) -> Errand[None]:
        """Set the session's model; the next turn uses it."""
        return self._store_soon(model=model_id)

    def _store_soon(self, **fields: object) -> Errand[None]:
        """Change fields, show them once they are stored; taken back (`StoreFailed`) if they cannot be."""
        begun: dict[str, int] = {}
        for name in fields:
            storing = self._storing.setdefault(name, _Storing(getattr(self.row, name)))
            storing.changes += 1
            begun[name] = storing.newest = storing.newest + 1
        self._change(**fields)
        commit = self._ground.store.write_soon(PutSession(row=self.row))

        async def tell() -> None:
            try:
                await commit.wait()
            except StoreFailed:
                self._settle(fields, begun, stored=False)
                # Another write may have taken the new values along.
                self._ground.store.write_later(PutSession(row=self.row))
                self.refresh()
                raise
            self._settle(fields, begun, stored=True)
            self.refresh()

        return self._ground.errands.start(tell, name="change session")

    def _settle(self, fields: Mapping[str, object], begun: Mapping[str, int], *, stored: bool) -> None:
        """A change of these fields is stored, or has failed.

        What was begun last decides what the row has: of changes that are stored together any may be heard of first.
        """
        for name, value in fields.items():
            storing = self._storing[name]
            storing.changes -= 1
            if stored and begun[name] > storing.shown_is:
                storing.shown, storing.shown_is = value, begun[name]
            if not storing.changes:
                del self._storing[name]
                self._change(**{name: storing.shown})

    def _shown(self) -> SessionRow:
        """The row without what is still being stored."""
        return msgspec.structs.replace(self.row, **{name: one.shown for name, one in self._storing.items()})

    def prompted(self, prompt: tuple[ContentBlock, ...]) -> None:
        """A prompt was accepted. The first one names the session, until there is a better name."""
        title = self.row.title
        if title == NEW_SESSION and not self.row.title_is_final:
            title = fallback_title(prompt)
        self._change(title=title, updated_at=now())

    def want_title(self, prompt: tuple[ContentBlock, ...], model: Model) -> None:
        """Have the model name the session, once, in the background."""
        if not self._titled and not self.row.title_is_final and self.row.message_count <= 1:
            self._titled = self._is_titling = True
            self._ground.errands.start_soon(self._make_title, prompt, model, name="title")

    def count_message(self) -> None:
        """There is one message more."""
        self._change(message_count=self.row.message_count + 1)

    def count_tokens(self, usage: Usage) -> None:
        """A model request used this much."""
        self._change(usage=usage_with(self.row.usage, usage))
        self.refresh()

    def count_beside(self, usage: Usage) -> None:
        """A sub-agent used this much."""
        self._change(usage=usage_beside(self.row.usage, usage))
        self.refresh()

    def ops_at_end(self, new_messages: int) -> tuple[Op, ...]:
        """The row as it will be when a run has ended with this many messages more."""
        self._change(updated_at=now())
        count = self.row.message_count + new_messages
        return (PutSession(row=msgspec.structs.replace(self.row, message_count=count)),)

    async def _make_title(self, prompt: tuple[ContentBlock, ...], model: Model) -> None:
        try:
            small = self._ground.models.small(model)
            models = (model,) if small.model_id == model.model_id else (small, model)
            title = await make_title(
                models, session_id=self.row.session_id, run_id="", prompt=prompt, used=self._count_aside
            )
        except WireError as exc:
            log.warning("no small model", session=self.row.session_id, reason=exc.message)
            return
        except Exception:  # a bug must not reach the nursery, which is that of every session
            log.exception("no title", session=self.row.session_id)
            return
        finally:
            self._is_titling = False
        if title is not None and not self.row.title_is_final:
            self._change(title=self._ground.tools.redacted(title), title_is_final=True)
            self.refresh()

    def _count_aside(self, model: Model, report: UsageReport) -> None:
        """Count what was used beside the conversation: it costs as well, and takes no room in the context."""
        self._ground.measures.tokens_used(
            model.provider,
            model.model_id,
            input_tokens=report.input_tokens,
            output_tokens=report.output_tokens,
        )
        before = self.row.usage
        counted = Usage(
            input_tokens=report.input_tokens,
            output_tokens=report.output_tokens,
            cost=cost_of(model.model_id, report) or UNSET,
        )
        total = usage_with(before, counted)
        kept = msgspec.structs.replace(
            total, context_tokens=before.context_tokens, context_size=before.context_size, estimated=before.estimated
        )
        self._change(usage=kept)
        self.refresh()

    def _change(self, **fields: object) -> None:
        self.row = msgspec.structs.replace(self.row, **fields)

    def _worth_an_event(self) -> tuple[object, ...]:
        shown = self._shown()
        return (*self._activity(), self._ground.viewers(shown.session_id), shown.title, shown.model, shown.usage)
