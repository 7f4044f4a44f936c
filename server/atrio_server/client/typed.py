"""The methods of the wire as typed calls.

One overload for each row of `atrio_protocol.methods.METHODS`, so that a type
checker knows what a call takes and answers. There is no code per method: the
table says how an answer is decoded. A test holds the overloads and the table
together.

`REPEATABLE` names what may be asked again when the connection broke before the
answer: everything that only reads, and what changes nothing the second time. What
is accepted as a run is one of them by its ``runId``, and `with_run_id` gives it one.
A cancel of a whole session is one only until a later run may have been accepted
there: then the second one would cover what the first did not; see `sweeps` and `begins`.
"""

import uuid
from typing import Final, Literal, overload

import msgspec

from atrio_protocol import methods as m
from atrio_protocol.struct import WireStruct, given

__all__ = ["REPEATABLE", "TypedCalls", "begins", "may_repeat", "sweeps", "with_run_id"]

REPEATABLE: Final = frozenset(
    {
        "ping",
        "workspace/open",
        "workspace/close",
        "workspace/list",
        "workspace/get",
        "session/list",
        "session/get",
        "session/rename",
        "session/delete",
        "session/messages",
        "message/get",
        "session/export",
        "session/view",
        "client/list",
        "session/attach",
        "session/detach",
        "session/cancel",
        "session/queue",
        "session/clear_queue",
        "session/set_model",
        "run/get",
        "run/list",
        "run/wait",
        "permission/list",
        "permission/respond",
        "permission/grants",
        "permission/revoke",
        "model/list",
        "server/info",
        "test/gates",
        "test/requests",
    }
)
"""Methods that may be sent again when their answer was lost."""


_Beginning = m.PromptParams | m.SummarizeParams | m.ShellParams
"""What is accepted as a run."""


def with_run_id(params: WireStruct) -> WireStruct:
    """The same request, with a run id if it is one that takes one and has none.

    A prompt without one would be folded into a running turn by default, and still is.
    """
    if not isinstance(params, _Beginning) or given(params.run_id, ""):
        return params
    named = msgspec.structs.replace(params, run_id=str(uuid.uuid4()))
    if isinstance(named, m.PromptParams) and not given(named.delivery, ""):
        return msgspec.structs.replace(named, delivery="steer")
    return named


def may_repeat(method: str, params: WireStruct) -> bool:
    """Whether this call may be sent again when its answer was lost."""
    if isinstance(params, _Beginning):
        return isinstance(params.run_id, str)
    return method in REPEATABLE


def begins(params: WireStruct) -> str:
    """The session in which this call begins a run; empty if it begins none."""
    return given(params.session_id, "") if isinstance(params, _Beginning) else ""


def sweeps(method: str, params: WireStruct) -> str:
    """The session of which this call cancels whatever it has accepted by then; empty if it does not."""
    if isinstance(params, m.CancelParams):
        return "" if given(params.run_id, "") else given(params.session_id, "")
    return (
        given(params.session_id, "") if method == "session/clear_queue" and isinstance(params, m.SessionParams) else ""
    )


class TypedCalls:
    """What `atrio_server.client.Client` adds its connection to."""

    @overload
    async def call(self, method: Literal["ping"], params: m.NoParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["workspace/open"], params: m.OpenParams) -> m.OpenResult: ...
    @overload
    async def call(self, method: Literal["workspace/close"], params: m.WorkspaceParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["workspace/list"], params: m.NoParams) -> m.WorkspaceListResult: ...
    @overload
    async def call(self, method: Literal["workspace/get"], params: m.WorkspaceParams) -> m.WorkspaceResult: ...
    @overload
    async def call(self, method: Literal["session/new"], params: m.SessionNewParams) -> m.SessionResult: ...
    @overload
    async def call(self, method: Literal["session/list"], params: m.SessionListParams) -> m.SessionListResult: ...
    @overload
    async def call(self, method: Literal["session/get"], params: m.SessionParams) -> m.SessionResult: ...
    @overload
    async def call(self, method: Literal["session/rename"], params: m.RenameParams) -> m.SessionResult: ...
    @overload
    async def call(self, method: Literal["session/fork"], params: m.ForkParams) -> m.SessionResult: ...
    @overload
    async def call(self, method: Literal["session/delete"], params: m.SessionParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["session/messages"], params: m.MessagesParams) -> m.MessagesResult: ...
    @overload
    async def call(self, method: Literal["message/get"], params: m.MessageGetParams) -> m.MessageResult: ...
    @overload
    async def call(self, method: Literal["session/export"], params: m.SessionExportParams) -> m.SessionExportResult: ...
    @overload
    async def call(self, method: Literal["session/view"], params: m.ViewParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["client/list"], params: m.WorkspaceParams) -> m.ClientListResult: ...
    @overload
    async def call(self, method: Literal["session/prompt"], params: m.PromptParams) -> m.PromptResult: ...
    @overload
    async def call(self, method: Literal["session/summarize"], params: m.SummarizeParams) -> m.RunResult: ...
    @overload
    async def call(self, method: Literal["session/shell"], params: m.ShellParams) -> m.RunResult: ...
    @overload
    async def call(self, method: Literal["session/cancel"], params: m.CancelParams) -> m.CancelResult: ...
    @overload
    async def call(self, method: Literal["session/queue"], params: m.SessionParams) -> m.QueueResult: ...
    @overload
    async def call(self, method: Literal["session/clear_queue"], params: m.SessionParams) -> m.ClearQueueResult: ...
    @overload
    async def call(self, method: Literal["session/set_model"], params: m.SetModelParams) -> m.SessionResult: ...
    @overload
    async def call(self, method: Literal["run/get"], params: m.RunParams) -> m.RunResult: ...
    @overload
    async def call(self, method: Literal["run/list"], params: m.RunListParams) -> m.RunListResult: ...
    @overload
    async def call(self, method: Literal["run/wait"], params: m.RunWaitParams) -> m.RunResult: ...
    @overload
    async def call(
        self, method: Literal["permission/list"], params: m.PermissionListParams
    ) -> m.PermissionListResult: ...
    @overload
    async def call(
        self, method: Literal["permission/respond"], params: m.PermissionRespondParams
    ) -> m.PermissionRespondResult: ...
    @overload
    async def call(self, method: Literal["permission/grants"], params: m.SessionParams) -> m.PermissionGrantsResult: ...
    @overload
    async def call(self, method: Literal["permission/revoke"], params: m.PermissionRevokeParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["model/list"], params: m.ModelListParams) -> m.ModelListResult: ...
    @overload
    async def call(self, method: Literal["server/info"], params: m.NoParams) -> m.ServerInfoResult: ...
    @overload
    async def call(self, method: Literal["server/shutdown"], params: m.ServerShutdownParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["test/gates"], params: m.GatesParams) -> m.GatesResult: ...
    @overload
    async def call(self, method: Literal["test/release"], params: m.ReleaseParams) -> m.ReleaseResult: ...
    @overload
    async def call(self, method: Literal["test/hold"], params: m.HoldParams) -> m.Empty: ...
    @overload
    async def call(self, method: Literal["test/requests"], params: m.SessionParams) -> m.RequestsResult: ...

    async def call(self, method: str, params: WireStruct) -> WireStruct:
        """Ask the server, and return its answer.

        While there is no connection the call waits for the next one. If the
        connection breaks before the answer, a call that may be repeated is sent
        again; see `REPEATABLE`. A prompt, a command or a summary without a run id
        is given one for that. Giving a call up (by cancellation) tells the server,
        which takes back no prompt that it had accepted; what was not sent yet is not.

        Raises:
            WireError: The server's answer is an error; its docstring says what that means.
            ReplyLost: The connection broke, and the call must not be repeated.
            AnswerBroken: The answer is not what the contract says.
            FrameTooLarge: It is larger than the server takes; nothing was sent.
            ServerGone: There is no server any more.
        """
        return await self._call(method, params)

    async def _call(self, method: str, params: WireStruct) -> WireStruct:
        raise NotImplementedError
