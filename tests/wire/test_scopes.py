"""Scopes: what a token that lacks one may not do, whatever it asks and however it comes.

The table has a row for each method, held to `METHODS`: a new one cannot be
forgotten.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from atrio_protocol.methods import METHODS, SCOPES, Scope
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import asked
from wire.steps import new_session
from wire.tokens import TURNS, Furnished, furnish, make_token, post

Json = dict[str, Any]

PROMPT = [{"type": "text", "text": "hello"}]

PARAMS: dict[str, Callable[[Furnished], Json]] = {
    "initialize": lambda _: {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "0"}},
    "ping": lambda _: {},
    "workspace/open": lambda has: {"path": has.path},
    "workspace/close": lambda has: {"workspaceId": has.workspace},
    "workspace/list": lambda _: {},
    "workspace/get": lambda has: {"workspaceId": has.workspace},
    "session/new": lambda has: {"workspaceId": has.workspace},
    "session/list": lambda has: {"workspaceId": has.workspace},
    "session/get": lambda has: {"sessionId": has.session},
    "session/rename": lambda has: {"sessionId": has.session, "title": "renamed"},
    "session/fork": lambda has: {"sessionId": has.session},
    "session/delete": lambda has: {"sessionId": has.session},
    "session/messages": lambda has: {"sessionId": has.session},
    "message/get": lambda has: {"messageId": has.message},
    "session/export": lambda has: {"sessionId": has.session, "format": "markdown"},
    "session/view": lambda has: {"workspaceId": has.workspace, "sessionId": has.session},
    "client/list": lambda has: {"workspaceId": has.workspace},
    "session/attach": lambda has: {"sessionId": has.session},
    "session/detach": lambda has: {"sessionId": has.session},
    "session/prompt": lambda has: {"sessionId": has.session, "prompt": PROMPT},
    "session/summarize": lambda has: {"sessionId": has.session},
    "session/shell": lambda has: {"sessionId": has.session, "command": "touch shell-was-here"},
    "session/cancel": lambda has: {"sessionId": has.session},
    "session/queue": lambda has: {"sessionId": has.session},
    "session/clear_queue": lambda has: {"sessionId": has.session},
    "session/set_model": lambda has: {"sessionId": has.session, "modelId": "demo"},
    "run/get": lambda has: {"runId": has.run},
    "run/list": lambda has: {"sessionId": has.session},
    "run/wait": lambda has: {"runId": has.run},
    "permission/list": lambda has: {"workspaceId": has.workspace},
    "permission/respond": lambda has: {"permissionId": has.permission, "optionId": "allow_once"},
    "permission/grants": lambda has: {"sessionId": has.asking},
    "permission/revoke": lambda has: {"grantId": has.grant},
    "model/list": lambda _: {},
    "server/info": lambda _: {},
    "server/shutdown": lambda _: {"ifIdle": False},
    "test/gates": lambda _: {},
    "test/release": lambda _: {"gate": "go"},
    "test/hold": lambda has: {"sessionId": has.session, "point": "run.start"},
    "test/requests": lambda has: {"sessionId": has.session},
}
"""Good parameters for each method, which do something wherever they are allowed to."""


def test_every_method_is_in_the_table() -> None:
    assert set(PARAMS) == set(METHODS)


async def standing(wire: Wire, has: Furnished) -> Json:
    """All that a method could have changed, but for who looks at what."""
    sessions = (await wire.call("session/list", workspaceId=has.workspace))["sessions"]
    told = ("title", "state", "queued", "messageCount", "model")
    return {
        "sessions": {each["sessionId"]: [each.get(name) for name in told] for each in sessions},
        "runs": [await wire.call("run/list", sessionId=each) for each in (has.session, has.asking)],
        "permissions": await wire.call("permission/list", workspaceId=has.workspace),
        "grants": await wire.call("permission/grants", sessionId=has.asking),
        "gates": await wire.call("test/gates"),
        "closing": (await wire.call("workspace/get", workspaceId=has.workspace))["workspace"]["state"],
    }


@pytest.mark.parametrize("scopes", [("observe",), ("prompt",), ("approve",), ("admin",)], ids=str)
async def test_what_needs_another_scope_is_forbidden_and_changes_nothing(
    bench: Harness, scopes: tuple[Scope, ...]
) -> None:
    token = make_token(bench, *scopes)
    may = {"observe", *scopes}
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        has = await furnish(owner, bench.directory, "one")
        before = await standing(owner, has)
        async with connect(running.ws, token) as wire:
            for name, method in METHODS.items():
                if method.scope in may:
                    continue
                refused = await wire.refused(name, **PARAMS[name](has))
                assert (refused.code, refused.kind, refused.data["scope"]) == (-32003, "forbidden", method.scope), name
                if method.over_http:
                    answer = await post(running.http, token, name, **PARAMS[name](has))
                    assert answer.status == 200
                    error = answer.json()["error"]
                    assert (error["data"]["kind"], error["data"]["scope"]) == ("forbidden", method.scope), name
        assert await standing(owner, has) == before
        assert not (bench.directory / "shell-was-here").exists()


async def test_an_observer_can_do_everything_that_only_reads(bench: Harness) -> None:
    token = make_token(bench, "observe")
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        has = await furnish(owner, bench.directory, "one")
        before = await standing(owner, has)
        async with connect(running.ws, token) as wire:
            for name in sorted(METHODS, key=lambda name: name == "workspace/close"):
                if METHODS[name].scope != "observe" or name == "initialize":
                    continue
                await wire.call(name, **PARAMS[name](has))
                if METHODS[name].over_http and name != "session/view":
                    assert "result" in (await post(running.http, token, name, **PARAMS[name](has))).json(), name
            hello = next(frame for frame in wire.frames if "scopes" in str(frame.get("result")))
            assert hello["result"]["scopes"] == ["observe"]
        assert await standing(owner, has) == before


async def test_each_scope_lets_do_what_it_is_for_and_a_higher_one_does_not_bring_a_lower(bench: Harness) -> None:
    tokens = {scope: make_token(bench, scope) for scope in SCOPES}
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        has = await furnish(owner, bench.directory, "one")
        done: set[str] = set()
        for name in sorted(METHODS, key=_last_what_ends_something):
            async with connect(running.ws, tokens[METHODS[name].scope]) as wire:
                if name == "initialize":
                    continue
                if name == "session/view":
                    await wire.call("workspace/open", path=has.path)
                await wire.call(name, **PARAMS[name](has))
                done.add(name)
        assert done == set(METHODS) - {"initialize"}


def _last_what_ends_something(name: str) -> int:
    order = ["session/cancel", "session/clear_queue", "test/hold", "session/delete", "server/shutdown"]
    return order.index(name) if name in order else -1


async def test_what_a_client_says_of_itself_gives_it_no_scope(bench: Harness) -> None:
    token = make_token(bench, "observe")
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (owner, workspace):
        async with connect(running.ws, token, initialize=False) as wire:
            hello = await wire.call(
                "initialize",
                protocolVersion=1,
                clientInfo={"name": "t", "version": "0", "scopes": ["admin"]},
                clientId=owner.client_id,
                scopes=["observe", "prompt", "approve", "admin"],
                _meta={"scopes": ["admin"]},
            )
            assert hello["scopes"] == ["observe"]
            refused = await wire.refused("session/new", workspaceId=workspace, scopes=["prompt"], scope="prompt")
            assert refused.kind == "forbidden"


async def test_an_observer_makes_no_directory(bench: Harness) -> None:
    token = make_token(bench, "observe")
    async with bench.serve() as running, connect(running.ws, token) as wire:
        refused = await wire.refused("workspace/open", path=str(bench.root / "new"), create=True)
        assert (refused.kind, refused.data["scope"]) == ("forbidden", "prompt")
        assert not (bench.root / "new").exists()
        assert (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["state"] == "open"


async def test_a_cancel_that_an_observer_sends_as_a_notification_does_nothing(bench: Harness) -> None:
    token = make_token(bench, "observe", "approve")
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (owner, workspace):
        session = await new_session(owner, workspace)
        await owner.prompt(session, "gated", runId="one")
        async with connect(running.ws, token) as wire:
            note = {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}}
            await wire.send_raw(json.dumps(note))
            await wire.call("ping")
        answered = await post(running.http, token, "session/cancel", request_id=None, sessionId=session)
        assert (answered.status, answered.body) == (204, b"")
        await owner.call("test/gates", wait="go")
        await owner.call("test/release", gate="go")
        assert (await owner.completed(session, "one"))["stopReason"] == "end_turn"


async def test_a_command_of_somebody_who_may_not_approve_asks(bench: Harness) -> None:
    token = make_token(bench, "prompt")
    async with bench.serve(model=bench.script(*TURNS)) as running, bench.open(running) as (owner, workspace):
        session = await new_session(owner, workspace)
        async with connect(running.ws, token, name="B") as wire:
            await wire.call("session/shell", sessionId=session, command="touch done", runId="sh")
            question = await asked(owner, session)
            own_answer = {"permissionId": question["permissionId"], "optionId": "allow_once"}
            assert (await wire.refused("permission/respond", **own_answer)).kind == "forbidden"
            assert not (bench.directory / "done").exists()
            await owner.call("permission/respond", **own_answer)
            assert (await owner.completed(session, "sh"))["stopReason"] == "end_turn"
            assert (bench.directory / "done").exists()


async def test_the_token_file_has_all_scopes(bench: Harness) -> None:
    async with bench.serve() as running, connect(running.ws, running.token, initialize=False) as wire:
        hello = await wire.call("initialize", protocolVersion=1, clientInfo={"name": "t", "version": "0"})
        assert hello["scopes"] == list(SCOPES)
