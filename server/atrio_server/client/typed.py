"""The methods of the wire as typed calls.

One overload for each row of `atrio_protocol.methods.METHODS`, so that a type
checker knows what a call takes and answers. There is no code per method: the
table says how an answer is decoded. A test holds the overloads and the table
together.

`REPEATABLE` names what may be asked again when the connection broke before the
answer: everything that only reads, and what changes nothing the second time. A
prompt, or what else is accepted as a run, is one of them exactly when it carries a ``runId``.
"""

from typing import Final, Literal, overload

from atrio_protocol import methods as m
from atrio_protocol.struct import WireStruct

__all__ = ["REPEATABLE", "TypedCalls", "may_repeat"]

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
        "model/list",
        "server/info",
        "test/gates",
        "test/requests",
    }
)
"""Methods that may be sent again when their answer was lost."""


def may_repeat(method: str, params: WireStruct) -> bool:
    """Whether this call may be sent again when its answer was lost."""
    if isinstance(params, m.PromptParams | m.SummarizeParams | m.ShellParams):
        return isinstance(params.run_id, str)
    return method in REPEATABLE


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
        again; see `REPEATABLE`. Giving it up (by cancellation) tells the server,
        which takes back no prompt that it had accepted.

        Raises:
            WireError: The server's answer is an error; its docstring says what that means.
            ReplyLost: The connection broke, and the call must not be repeated.
            FrameTooLarge: It is larger than the server takes; nothing was sent.
            ServerGone: There is no server any more.
        """
        return await self._call(method, params)

    async def _call(self, method: str, params: WireStruct) -> WireStruct:
        raise NotImplementedError
