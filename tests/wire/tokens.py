"""What tests of tokens do: make some, come in with them, and have something of everything in a workspace."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from atrio_protocol.methods import Scope
from atrio_server.service import Running
from atrio_server.statedir import make_state_dir
from atrio_server.token_store import create_token
from wire.client import Wire
from wire.conftest import LIMIT_S, Harness
from wire.http import Answer, http
from wire.questions import answer, asked, asking, shell, write
from wire.steps import new_session

__all__ = ["TURNS", "Furnished", "furnish", "make_token", "post", "until_it_works"]

Json = dict[str, Any]

TURNS = (
    asking("grant", write("granted.txt")),
    asking("ask", shell("touch asked")),
    {"match": "^gated", "responses": [[{"gate": "go"}, {"say": "done"}]]},
    {"responses": [[{"say": "said: {{prompt}}"}]]},
)


def make_token(bench: Harness, *scopes: Scope, workspace: Path | None = None, **more: Any) -> str:
    """Make a token as the command does, whether a server runs or not."""
    make_state_dir(bench.state_dir)
    return create_token(bench.state_dir, scopes=scopes, workspace=workspace and workspace.resolve(), **more).token


async def post(base: str, token: str, method: str, *, request_id: int | None = 1, **params: Any) -> Answer:
    """Send a request by HTTP with a token, or without an id a notification."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    message: Json = {"jsonrpc": "2.0", "method": method, "params": params}
    if request_id is not None:
        message["id"] = request_id
    return await http(base, "POST", "/v1/rpc", headers=headers, body=json.dumps(message).encode())


async def until_it_works(running: Running, token: str) -> None:
    """Wait until a server has noticed a new token."""
    with trio.fail_after(LIMIT_S):
        while (await post(running.http, token, "ping")).status == 401:  # noqa: ASYNC110  nobody announces it
            await trio.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Furnished:
    """A workspace with one of everything. ``gated`` waits at a gate, ``permission`` for an answer."""

    path: str
    workspace: str
    session: str
    asking: str
    run: str
    gated: str
    message: str
    permission: str
    grant: str

    def ids(self) -> dict[str, str]:
        """What a parameter of each name would name here."""
        return {
            "path": self.path,
            "workspaceId": self.workspace,
            "sessionId": self.session,
            "runId": self.run,
            "messageId": self.message,
            "permissionId": self.permission,
            "grantId": self.grant,
        }


async def furnish(wire: Wire, directory: Path, label: str, *, nth: int = 1) -> Furnished:
    """Open a directory and do something of everything there; ``label`` is in every text and run id."""
    opened = await wire.call("workspace/open", path=str(directory), create=True)
    workspace = opened["workspace"]["workspaceId"]
    session = await new_session(wire, workspace, title=f"title {label}")
    questions = await new_session(wire, workspace, title=f"questions {label}")
    await wire.prompt(session, f"say {label}", runId=f"run-{label}")
    message = (await wire.completed(session, f"run-{label}"))["messageId"]
    await wire.prompt(questions, "grant", runId=f"grant-{label}")
    await answer(wire, await asked(wire, questions), "allow_always")
    await wire.completed(questions, f"grant-{label}")
    (grant,) = (await wire.call("permission/grants", sessionId=questions))["grants"]
    await wire.prompt(questions, "ask", runId=f"ask-{label}")
    question = await asked(wire, questions, 2)
    await wire.prompt(session, f"gated {label}", runId=f"gated-{label}")
    await wire.call("test/gates", wait="go", count=nth)
    return Furnished(
        path=str(directory),
        workspace=workspace,
        session=session,
        asking=questions,
        run=f"run-{label}",
        gated=f"gated-{label}",
        message=message,
        permission=question["permissionId"],
        grant=grant["grantId"],
    )
