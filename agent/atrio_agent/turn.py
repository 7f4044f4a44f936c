"""A turn's side of its session: what the loop, or a tool call alone, may ask for while it runs.

It joins the run, its tools and the session's scribe for the time of one turn; a
`Turn` has a model too, and counts tokens. It decides nothing; the session and
the loop do.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.clock import now
from atrio_agent.delegation import delegate
from atrio_agent.gates import HoldPoint
from atrio_agent.ground import Ground
from atrio_agent.models.base import Model, ModelRequest, UsageReport
from atrio_agent.permissions import Decision, Question
from atrio_agent.reply import Call
from atrio_agent.runs import LiveRun
from atrio_agent.store.base import PutFileVersion
from atrio_agent.tools.base import FileVersion, Place
from atrio_agent.usage import usage_of, usage_with
from atrio_protocol.things import Message, Usage

if TYPE_CHECKING:
    from atrio_agent.session import Session

__all__ = ["CallTurn", "Turn"]


class CallTurn:
    """The `CallHost` of one run: all that running tools takes. Made when the run starts, gone when it is over."""

    def __init__(self, session: "Session", ground: Ground, run: LiveRun) -> None:
        self._session = session
        self._ground = ground
        self.run = run
        # What a person does in a sub-agent's session is not the sub-agent's doing.
        is_sub_agent = session.root_session_id is not None and run.kind != "shell"
        self.tools = ground.child_tools if is_sub_agent else ground.tools
        self.scribe = session.scribe
        self.measures = ground.measures

    async def in_order(self) -> None:
        """Wait until a message may be made and published at once."""
        await self._session.in_order()

    def place(self, tool_call_id: str) -> Place:
        """Where a tool of this turn works."""
        place = Place(
            root=self._ground.root,
            session_id=self.run.session_id,
            run_id=self.run.run_id,
            tool_call_id=tool_call_id,
            allowed=self._ground.allowed,
            closed=self._ground.closed,
            seen=self._session.seen,
            keep_version=partial(self._keep_version, tool_call_id),
            set_todos=self._session.set_todos,
        )
        if self._session.root_session_id is not None:
            return place  # a sub-agent has none of its own
        return replace(place, delegate=partial(delegate, self._session, self.run, tool_call_id))

    async def permit(self, call: Call, ask: Ask) -> Decision:
        """Find out whether a call may be done; waits for an answer if need be."""
        if self.run.permitted:
            return Decision(allowed=True, kind="allow_once", by=self.run.author)
        return await self._ground.broker.decide(
            Question(
                session_id=self.run.session_id,
                root_session_id=self._session.root_session_id,
                run_id=self.run.run_id,
                tool_call_id=call.tool_call_id,
                tool=call.name,
                input=call.input or {},
                ask=ask,
            )
        )

    async def hold(self, point: HoldPoint) -> None:
        """Stop here if a test asked for it."""
        await self._session.hold(point, self.run)

    def _keep_version(self, tool_call_id: str, version: FileVersion) -> None:
        self._ground.store.write_later(
            PutFileVersion(
                session_id=self.run.session_id,
                run_id=self.run.run_id,
                tool_call_id=tool_call_id,
                path=version.path,
                before=version.before,
                after=version.after,
                at=now(),
            )
        )


class Turn(CallTurn):
    """The `TurnHost` of one run. ``first_order`` is the place of its prompt: what is older is history."""

    def __init__(self, session: "Session", ground: Ground, run: LiveRun, model: Model, *, first_order: int) -> None:
        super().__init__(session, ground, run)
        self.model = model
        self._first_order = first_order

    @property
    def context_tokens(self) -> int:
        """What the session's newest request took, its answer included; 0 if that is not known."""
        return self._session.profile.row.usage.context_tokens

    async def history(self) -> tuple[Message, ...]:
        """What was said before this turn, as the store has it."""
        stored = await self._ground.store.history(self.run.session_id)
        return tuple(message for message in stored if message.order < self._first_order)

    async def briefing(self) -> str:
        """What the model is told before everything else, as things stand now."""
        session = self._session
        session.briefing = await self._ground.briefer.brief(self.place(""), self.tools.names, session.briefing)
        return self.tools.redacted(session.briefing.text)

    def so_far(self) -> tuple[Message, ...]:
        """What was said in this turn. A prompt that was cancelled in the queue meanwhile is not part of it."""
        mine = {self.run.run_id, *(folded.run_id for folded in self.run.folded)}
        return tuple(message.view() for message in self.scribe.tail if message.run_id in mine)

    def fold(self) -> None:
        """Take in the prompts that wait to be folded into this turn."""
        self._session.fold_into(self.run)

    def notice(self, severity: Literal["info", "warning", "error"], title: str, detail: str) -> None:
        """Tell those who watch the session."""
        self._session.notice(severity, title, detail, self.run)

    def asked(self, request: ModelRequest) -> None:
        """Keep what the model is asked, where test hooks may look at it."""
        if self._ground.record_requests:
            self._session.requests.append(msgspec.to_builtins(request))

    def used(self, request: ModelRequest, report: UsageReport | None, answer: str) -> None:
        """Count the tokens of a request, estimated where the provider did not count them."""
        usage = usage_of(self.model, request, report, answer)
        self.measures.tokens_used(
            self.model.provider,
            self.model.model_id,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )
        self.run.usage = usage_with(self.run.usage or Usage(), usage)
        self._session.profile.count_tokens(usage)
