"""Who answers the questions of a command's own runs: `--approve`.

Only questions of runs that this command sent are answered, and of the sessions
that sub-agents of those runs work in; every other question is left to others.
Anybody may answer first; then the person here is no longer asked. What a person
typed before a question was shown never answers it.

The invariant: nothing is allowed but by the policy that was named, or by a key.
"""

from collections.abc import Callable
from typing import Final, Literal

import trio

from atrio_protocol.errors import WireError
from atrio_protocol.events import Event, PermissionRequested, PermissionResolved
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.things import Permission, PermissionKind
from atrio_server.cli.calls import respond
from atrio_server.cli.terminal.board import Board
from atrio_server.cli.terminal.keys import Keyboard
from atrio_server.cli.terminal.paper import Paper
from atrio_server.cli.terminal.questions import ANSWERS, choice_rows, option_for, outcome_row, question_rows
from atrio_server.client import Client, ClientError, Detached, Resync

__all__ = ["READING", "Approval", "Approver"]

Approval = Literal["ask", "reads", "all", "none"]

READING: Final = frozenset({"read", "ls", "glob", "grep"})
"""Tools that only look; they ask where it is outside the workspace."""


class Approver:
    """Answers for the runs of one command. Feed it the items of the stream with `take`, and keep `run` running.

    Args:
        client: Who answers.
        policy: How.
        is_own: Whether a question is of a run that this command sent.
        paper: Where questions are shown.
        board: Whose calls they are about.
        keyboard: Where a person answers; None if there is none, and then what would be asked is rejected.
        directory: What paths are shown relative to.
        is_quiet: Nothing is said of what the policy decides.
    """

    def __init__(
        self,
        client: Client,
        *,
        policy: Approval,
        is_own: Callable[[Permission], bool],
        paper: Paper,
        board: Board,
        keyboard: Keyboard | None,
        directory: str = "",
        is_quiet: bool = False,
    ) -> None:
        self.denied = False
        """Something was rejected by a policy, this command's or the server's."""
        self._client = client
        self._policy: Approval = policy
        self._is_own = is_own
        self._paper = paper
        self._board = board
        self._keyboard = keyboard
        self._directory = directory
        self._is_quiet = is_quiet
        self._waiting: dict[str, Permission] = {}
        self._told: dict[str, Permission] = {}
        self._news = trio.Event()
        self._gone = trio.CancelScope()

    def take(self, item: Event | Resync[SessionSnapshot] | Detached) -> None:
        """What the stream says of questions."""
        match item:
            case PermissionRequested(permission=permission) if self._is_own(permission):
                self._ask_soon(permission)
            case PermissionResolved(permission_id=permission_id) if permission_id in self._told:
                self._resolved(self._told.pop(permission_id), item)
            case Resync(snapshot=snapshot):
                pending = {permission.permission_id for permission in snapshot.permissions}
                for permission_id in [*self._told]:
                    if permission_id not in pending:  # resolved while we were away
                        del self._told[permission_id]
                        self._drop(permission_id)
                for permission in snapshot.permissions:
                    if self._is_own(permission) and permission.permission_id not in self._told:
                        self._ask_soon(permission)
            case _:
                pass

    async def run(self) -> None:
        """Answer one question after the other, for ever."""
        while True:
            while not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
            permission = next(iter(self._waiting.values()))
            if "approve" not in self._client.server.scopes:
                await self._leave_to_others(permission)
                continue
            self._gone = trio.CancelScope()
            decided: tuple[PermissionKind, bool] | None = None
            with self._gone:
                decided = await self._decide(permission)
            self._paper.prompt([])
            self._waiting.pop(permission.permission_id, None)
            if decided is not None:
                await self._respond(permission, *decided)

    def _ask_soon(self, permission: Permission) -> None:
        self._told[permission.permission_id] = permission
        self._waiting[permission.permission_id] = permission
        self._news.set()

    def _drop(self, permission_id: str) -> None:
        """It is resolved: whoever is being asked it is asked no more."""
        if next(iter(self._waiting), None) == permission_id:
            self._gone.cancel()
        else:
            self._waiting.pop(permission_id, None)

    def _resolved(self, permission: Permission, resolved: PermissionResolved) -> None:
        outcome = resolved.outcome
        if outcome.kind == "policy" and outcome.option_id in {"reject_once", "reject_always"}:
            self.denied = True
        self._drop(permission.permission_id)
        if not self._is_quiet or outcome.kind != "policy":
            self._paper.rows([outcome_row(permission, resolved, self._client.client_id)])

    async def _leave_to_others(self, permission: Permission) -> None:
        """Our token may not answer. Whoever may is waited for."""
        self._paper.rows(question_rows(permission, directory=self._directory))
        self._board.asked(permission)
        self._paper.say("this token may not answer (scope approve); the run waits for somebody who may")
        self._gone = trio.CancelScope()
        with self._gone:
            await trio.sleep_forever()
        self._waiting.pop(permission.permission_id, None)

    async def _decide(self, permission: Permission) -> tuple[PermissionKind, bool]:
        """The answer, and whether nobody was asked for it."""
        if self._policy == "all" or (self._policy == "reads" and permission.name in READING):
            await trio.lowlevel.checkpoint()
            return "allow_once", True
        if self._policy != "none" and self._keyboard is not None:
            kind = await self._ask(permission, self._keyboard)
            if kind is not None:
                return kind, False
            self._keyboard = None  # the terminal is gone, and with it whoever could answer
        await trio.lowlevel.checkpoint()
        return "reject_once", True

    async def _ask(self, permission: Permission, keyboard: Keyboard) -> PermissionKind | None:
        """What a person answers; None if there is none any more."""
        self._paper.rows(question_rows(permission, directory=self._directory))
        self._board.asked(permission)
        keyboard.drop_typed()
        self._paper.prompt(choice_rows(permission, directory=self._directory))
        while True:
            typed = await keyboard.read()
            if not typed:
                return None
            # One key at a time: an answer is one key, and a pasted text is none.
            key = typed.lower() if len(typed) == 1 else ""
            if key == "d":
                self._paper.rows(question_rows(permission, directory=self._directory, whole=True))
            elif key in ANSWERS and option_for(permission, ANSWERS[key]) is not None:
                return ANSWERS[key]

    async def _respond(self, permission: Permission, kind: PermissionKind, by_policy: bool) -> None:
        option_id = option_for(permission, kind)
        if option_id is None:
            self._paper.say(f"this permission has no option of the kind {kind}; it is left to others")
            return
        try:
            answer = await respond(self._client, permission.permission_id, option_id)
        except WireError as exc:
            if exc.kind != "permission_not_found":  # the run, and its question, may just have ended
                self._paper.say(f"the answer was not taken: {exc.message}")
        except ClientError:
            pass  # whoever reads the stream learns it too, and says so
        else:
            if by_policy and answer.resolved and kind == "reject_once":
                self.denied = True
