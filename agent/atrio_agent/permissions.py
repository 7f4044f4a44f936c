"""Who may allow what: questions that wait for an answer, and grants that outlast one.

A question is state, not a message: it is in the streams, in every snapshot and
in lists until it is resolved, whoever comes and goes. The first valid answer
wins, and what it allows is the call that was asked about, as it is kept here;
nothing that an answer repeats is ever read.

The broker of a workspace decides nothing about tools: it is asked with an `Ask`
and gives back a `Decision`. The invariant: every question that was published is
resolved exactly once, on every path.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import trio

from atrio_agent.ask import Ask
from atrio_agent.clock import now
from atrio_protocol.errors import InvalidOption, PermissionNotFound
from atrio_protocol.events import PermissionRequested, PermissionResolved
from atrio_protocol.ids import new_id
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Grant, Permission, PermissionOption, PermissionOutcome
from atrio_protocol.who import Author

__all__ = ["Answer", "Broker", "Decision", "PermissionRules", "Policy", "Question"]

Policy = Literal["ask", "allow", "deny"]

OPTIONS: Final = (
    PermissionOption(option_id="allow_once", kind="allow_once", name="Allow once"),
    PermissionOption(option_id="allow_always", kind="allow_always", name="Allow for this session"),
    PermissionOption(option_id="reject_once", kind="reject_once", name="Reject"),
)

REMEMBERED: Final = 1_000
"""Resolved questions that a late answer is still told the winner of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRules:
    """``allow`` and ``deny`` answer every question at once, whoever is there.

    With ``ask`` a question without an answer expires after ``timeout_s``
    seconds; never, if None.
    """

    policy: Policy = "ask"
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call that somebody must allow."""

    session_id: str
    root_session_id: str | None
    run_id: str
    tool_call_id: str
    tool: str
    input: dict[str, Any]
    ask: Ask


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a question. ``kind`` is a grant's or an outcome's."""

    allowed: bool
    kind: str
    by: Author | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer is told: whether it was the one that counted, and what did."""

    resolved: bool
    outcome: PermissionOutcome
    by: Author | None


@dataclass(slots=True, eq=False)
class _Pending:
    """A question that is not resolved yet, or was a moment ago. Large: it shows the whole change that it is about."""

    permission: Permission
    question: Question
    answered: trio.Event = field(default_factory=trio.Event)
    outcome: PermissionOutcome | None = None
    by: Author | None = None


class Broker:
    """The questions and grants of one workspace.

    Args:
        workspace_id: Ids of questions and grants begin with it.
        rules: What answers a question if nobody does.
        publish: Tells the streams of a session, of its root and of the workspace.
        keep: Called with a new grant, to store it.
    """

    def __init__(
        self,
        *,
        workspace_id: str,
        rules: PermissionRules,
        publish: Callable[[Question, PermissionRequested | PermissionResolved], None],
        keep: Callable[[Grant], None],
    ) -> None:
        self._workspace_id = workspace_id
        self._rules = rules
        self._publish = publish
        self._keep = keep
        self._pending: dict[str, _Pending] = {}
        self._resolved: OrderedDict[str, Answer] = OrderedDict()
        self._grants: dict[str, Grant] = {}
        self._revoked: set[str] = set()

    def pending(self, session_id: str | None = None) -> tuple[Permission, ...]:
        """The questions that wait, the oldest first: all, or those that a session shows (its children's too)."""
        return tuple(
            pending.permission
            for pending in self._pending.values()
            if session_id in (None, pending.question.session_id, pending.question.root_session_id)
        )

    def load_grants(self, grants: Sequence[Grant]) -> None:
        """Take over the grants of a session that was loaded; not those that were taken back while they were read."""
        self._grants.update((grant.grant_id, grant) for grant in grants if grant.grant_id not in self._revoked)

    def grants(self, session_id: str) -> tuple[Grant, ...]:
        """What was allowed for good in a session, the oldest first."""
        return tuple(grant for grant in self._grants.values() if grant.session_id == session_id)

    def knows_grant(self, grant_id: str) -> bool:
        """Whether a loaded session has this grant."""
        return grant_id in self._grants

    def revoke(self, grant_id: str) -> Grant:
        """Take a grant back; calls that go on are not touched.

        Raises:
            PermissionNotFound: There is none.
        """
        grant = self._grants.pop(grant_id, None)
        if grant is None:
            raise PermissionNotFound(f"There is no grant {grant_id!r}.", grantId=grant_id)
        self._revoked.add(grant_id)
        return grant

    def give_back(self, grant: Grant) -> None:
        """A grant could not be revoked after all: it holds again."""
        self._revoked.discard(grant.grant_id)
        self._grants[grant.grant_id] = grant

    def forget_session(self, session_id: str) -> None:
        """A session is deleted: its grants are void."""
        for grant in self.grants(session_id):
            del self._grants[grant.grant_id]

    async def decide(self, question: Question) -> Decision:
        """Find out whether a call may be done; waits for an answer if need be.

        Cancelling the caller resolves the question as ``cancelled``.
        """
        granted = self._granted(question)
        if granted is not None:
            return Decision(allowed=True, kind="allow_always", by=granted.by)
        pending = self._ask(question)
        if self._rules.policy != "ask":
            chosen = "allow_once" if self._rules.policy == "allow" else "reject_once"
            self._resolve(pending, PermissionOutcome(kind="policy", option_id=chosen), None)
            return Decision(allowed=self._rules.policy == "allow", kind="policy")
        try:
            with trio.move_on_after(float("inf") if self._rules.timeout_s is None else self._rules.timeout_s):
                await pending.answered.wait()
            if pending.outcome is None:
                self._resolve(pending, PermissionOutcome(kind="expired"), None)
        finally:
            if pending.outcome is None:
                self._resolve(pending, PermissionOutcome(kind="cancelled"), None)
        assert pending.outcome is not None  # one of the three above, or an answer
        kind = pending.outcome.kind
        return Decision(allowed=kind in ("allow_once", "allow_always"), kind=kind, by=pending.by)

    def respond(self, permission_id: str, option_id: str, by: Author) -> Answer:
        """Answer a question. The first valid answer counts.

        Raises:
            PermissionNotFound: There is no such question.
            InvalidOption: It has no such option; it still waits.
        """
        pending, resolved = self._pending.get(permission_id), self._resolved.get(permission_id)
        if pending is None and resolved is None:
            raise PermissionNotFound(f"There is no permission {permission_id!r}.", permissionId=permission_id)
        option = next((option for option in OPTIONS if option.option_id == option_id), None)
        if option is None:
            offered = ", ".join(option.option_id for option in OPTIONS)
            raise InvalidOption(f"This permission has no option {option_id!r}; it has {offered}.", path="/optionId")
        if pending is None:
            assert resolved is not None  # one of the two
            return resolved
        if option.kind == "allow_always":
            self._grant(pending.question, by)
        outcome = PermissionOutcome(kind=option.kind, option_id=option.option_id)
        self._resolve(pending, outcome, by)
        return Answer(True, outcome, by)

    def _granted(self, question: Question) -> Grant | None:
        """The grant that covers a question: same session, tool, action and place, no other."""
        return next(
            (
                grant
                for grant in self._grants.values()
                if (grant.session_id, grant.name, grant.action, grant.path)
                == (question.session_id, question.tool, question.ask.action, question.ask.where)
            ),
            None,
        )

    def _grant(self, question: Question, by: Author) -> None:
        grant = Grant(
            grant_id=new_id(self._workspace_id, "g"),
            session_id=question.session_id,
            name=question.tool,
            action=question.ask.action,
            path=question.ask.where,
            by=by,
            at=now(),
        )
        self._grants[grant.grant_id] = grant
        self._keep(grant)

    def _ask(self, question: Question) -> _Pending:
        ask = question.ask
        expires = (
            None if self._rules.timeout_s is None else datetime.now(UTC) + timedelta(seconds=self._rules.timeout_s)
        )
        permission = Permission(
            permission_id=new_id(self._workspace_id, "p"),
            session_id=question.session_id,
            root_session_id=question.root_session_id or UNSET,
            run_id=question.run_id,
            tool_call_id=question.tool_call_id,
            name=question.tool,
            title=ask.title,
            detail=UNSET if ask.detail is None else ask.detail,
            path=UNSET if ask.path is None else ask.path,
            input=question.input,
            diffs=ask.diffs or UNSET,
            options=OPTIONS,
            requested_at=now(),
            expires_at=UNSET if expires is None else expires.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        pending = self._pending[permission.permission_id] = _Pending(permission, question)
        self._publish(question, PermissionRequested(permission=permission))
        return pending

    def _resolve(self, pending: _Pending, outcome: PermissionOutcome, by: Author | None) -> None:
        pending.outcome, pending.by = outcome, by
        permission = pending.permission
        del self._pending[permission.permission_id]
        self._resolved[permission.permission_id] = Answer(False, outcome, by)
        if len(self._resolved) > REMEMBERED:
            self._resolved.popitem(last=False)
        pending.answered.set()
        self._publish(
            pending.question,
            PermissionResolved(
                permission_id=permission.permission_id,
                session_id=permission.session_id,
                run_id=permission.run_id,
                tool_call_id=permission.tool_call_id,
                outcome=outcome,
                by=by or UNSET,
            ),
        )
