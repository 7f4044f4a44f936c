"""A token for one workspace: with all scopes, by every method and on every stream, there is no other workspace.

Each method is asked for what is in another workspace and for what is nowhere, and
the two answers must be the same to the letter. The table of methods is that of
the scopes, so a new method cannot be forgotten.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from atrio_protocol.methods import METHODS, SCOPES
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.http import Answer
from wire.questions import asked
from wire.steps import new_session
from wire.test_scopes import PARAMS
from wire.tokens import TURNS, Furnished, furnish, make_token, post

Json = dict[str, Any]

NOT_THERE = {
    "path": "path_not_allowed",
    "workspaceId": "workspace_not_found",
    "sessionId": "session_not_found",
    "runId": "run_not_found",
    "messageId": "message_not_found",
    "permissionId": "permission_not_found",
    "grantId": "permission_not_found",
}
"""What a method answers for a thing of each name that is not there, the first that it has."""

OF_THE_SERVER = {"initialize", "ping", "workspace/list", "model/list", "server/info"}
"""Methods that name nothing."""


def elsewhere(name: str, value: str) -> str:
    """Something of the same form that is nowhere."""
    if name == "path":
        return f"{value}-that-is-not-there"
    if name == "runId":
        return f"not-{value}"
    return value[:-8] + ("abababab" if not value.endswith("abababab") else "cdcdcdcd")


def without(error: Json, value: str) -> str:
    """An error, to be compared: what it repeats of the request is left out."""
    return json.dumps(error).replace(value, "…")


async def both_ways(wire: Wire, base: str, token: str, method: str, params: Json) -> list[Json]:
    """The errors that a method answers over the socket and over HTTP."""
    errors = []
    refused = await wire.refused(method, **params)
    errors.append({"code": refused.code, "message": str(refused), "data": refused.data})
    if METHODS[method].over_http:
        answer = (await post(base, token, method, **params)).json()
        assert "error" in answer, (method, answer)
        errors.append(answer["error"])
    return errors


def texts(wire: Wire, *answers: Answer) -> str:
    """Everything that a client was sent."""
    return json.dumps(wire.frames) + "".join(answer.body.decode() for answer in answers)


async def test_a_token_for_one_workspace_finds_no_other_by_any_method(bench: Harness) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        mine = await furnish(owner, bench.directory, "mine")
        other = await furnish(owner, bench.root / "other", "canary", nth=2)
        await owner.call("ping")  # what was told before the last answer has come before this one
        before = (len(owner.events[other.workspace]), len(owner.events[other.session]), len(owner.events[other.asking]))
        async with connect(running.ws, token) as wire:
            for method in METHODS:
                params = PARAMS[method](other)
                named = next((name for name in NOT_THERE if name in params), None)
                if METHODS[method].whole_server:
                    for error in await both_ways(wire, running.http, token, method, params):
                        assert (error["code"], error["data"]["workspace"]) == (-32003, mine.path), method
                elif named is None:
                    assert method in OF_THE_SERVER, f"{method} names nothing: is it about the whole server?"
                else:
                    theirs = other.ids()[named] if method != "permission/grants" else other.asking
                    nowhere = elsewhere(named, theirs)
                    for there, not_there in zip(
                        await both_ways(wire, running.http, token, method, params),
                        await both_ways(wire, running.http, token, method, {**params, named: nowhere}),
                        strict=True,
                    ):
                        assert there["data"]["kind"] == NOT_THERE[named], (method, there)
                        assert without(there, theirs) == without(not_there, nowhere), method
            # What the second name of a method names.
            await wire.call("workspace/open", path=mine.path)
            for method, params in [
                ("session/view", {"workspaceId": mine.workspace, "sessionId": other.session}),
                ("permission/list", {"sessionId": other.asking}),
                ("session/fork", {"sessionId": mine.session, "messageId": other.message}),
                ("session/cancel", {"sessionId": mine.session, "runId": other.run}),
                ("model/list", {"workspaceId": other.workspace}),
            ]:
                assert (await wire.refused(method, **params)).code == -32002, method
            watched = await wire.attach(mine.session, watch=[other.run, other.gated, mine.run])
            assert [run["runId"] for run in watched["snapshot"]["runs"] if run["state"] == "completed"] == [mine.run]
            seen = texts(wire).replace(other.path, "").replace("not-run-canary", "").replace("run-canary", "")
            for secret in (other.session[-16:], other.message[-16:], "title canary", "say canary", "gated-canary"):
                # Ids stand only where an answer repeats what was asked for.
                assert secret not in json.dumps([frame for frame in wire.frames if "error" not in frame]), secret
            assert "said: say canary" not in seen
        # Nothing happened there, and nobody was seen to come.
        assert before == (
            len(owner.events[other.workspace]),
            len(owner.events[other.session]),
            len(owner.events[other.asking]),
        )
        assert (await owner.call("run/get", runId=other.gated))["run"]["state"] == "running"


async def test_its_lists_counts_and_streams_have_its_workspace_alone(bench: Harness) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        other = await furnish(owner, bench.root / "other", "canary")
        async with connect(running.ws, token) as wire:
            assert (await wire.call("workspace/list"))["workspaces"] == []
            info = await wire.call("server/info")
            assert (info["workspaces"], info["connections"], info["runsActive"]) == (0, 0, 0)
            opened = await wire.call("workspace/open", path=str(bench.directory))
            mine = opened["workspace"]["workspaceId"]
            assert opened["snapshot"]["permissions"] == [] and opened["snapshot"]["sessions"] == []
            session = await new_session(wire, mine)
            await wire.prompt(session, "gated", runId="mine")
            await owner.call("test/gates", wait="go", count=2)
            assert [each["workspaceId"] for each in (await wire.call("workspace/list"))["workspaces"]] == [mine]
            info = await wire.call("server/info")
            assert (info["workspaces"], info["connections"], info["runsActive"]) == (1, 1, 1)
            over_http = (await post(running.http, token, "server/info")).json()["result"]
            assert (over_http["workspaces"], over_http["connections"], over_http["runsActive"]) == (1, 1, 1)
            everything = await owner.call("server/info")
            assert (everything["workspaces"], everything["connections"]) == (2, 2)
            assert (await wire.call("session/list", workspaceId=mine, query="canary"))["sessions"] == []
            # What happens in the other one comes on no stream.
            await owner.call("session/rename", sessionId=other.session, title="canary again")
            await owner.call("test/release", gate="go", all=True)
            await owner.completed(other.session, other.gated)
            await wire.completed(session, "mine")
            await wire.call("ping")
            assert "canary" not in texts(wire) and other.workspace not in texts(wire)


async def test_opening_anything_but_its_directory_is_not_allowed_and_makes_nothing(bench: Harness) -> None:
    inner = bench.directory / "inner"
    inner.mkdir()
    (bench.root / "link-to-mine").symlink_to(bench.directory)
    (bench.root / "other").mkdir()
    (bench.directory / "link-out").symlink_to(bench.root / "other")
    (bench.root / "loop").symlink_to(bench.root / "loop")
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    foreign = [
        bench.root / "other",
        bench.root,
        inner,
        bench.directory / "link-out",
        bench.directory / ".." / "other",
        bench.root / "not-there",
        bench.root / "loop",
        Path("/"),
        Path("/proc/self/cwd"),
        Path("relative"),
        f"{bench.directory}/x" + "y" * 5000,
        f"{bench.directory}-more",
    ]
    async with bench.serve() as running, connect(running.ws, token) as wire:
        for path in foreign:
            for create in (False, True):
                refused = await wire.refused("workspace/open", path=str(path), create=create)
                assert refused.kind == "path_not_allowed", (path, create, refused)
        assert sorted(path.name for path in bench.root.iterdir() if "script" not in path.name) == [
            "link-to-mine",
            "loop",
            "other",
            "project",
            "state",
        ]
        assert (
            not list((bench.state_dir / "workspaces").glob("*")) if (bench.state_dir / "workspaces").exists() else True
        )
        for path in (bench.directory, bench.root / "link-to-mine", inner / ".."):
            assert (await wire.call("workspace/open", path=str(path)))["workspace"]["path"] == str(bench.directory)
        assert len(list((bench.state_dir / "workspaces").iterdir())) == 1


async def test_a_directory_that_became_a_link_elsewhere_is_not_its_directory_any_more(bench: Harness) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    (bench.root / "other").mkdir()
    async with bench.serve(model=bench.script(*TURNS)) as running:
        async with connect(running.ws, token) as wire:
            workspace = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
            session = await new_session(wire, workspace)
            await wire.call("workspace/close", workspaceId=workspace)
        for one in running.server.workspaces.all():
            await one.closed.wait()
        shutil.rmtree(bench.directory)
        bench.directory.symlink_to(bench.root / "other")
        async with connect(running.ws, token) as wire:
            for method, params in [
                ("workspace/open", {"path": str(bench.directory)}),
                ("session/get", {"sessionId": session}),
            ]:
                assert (await wire.refused(method, **params)).kind == "path_not_allowed", method
            assert (await wire.call("workspace/list"))["workspaces"] == []


@pytest.mark.parametrize("method", ["session/prompt", "session/summarize", "session/shell"])
async def test_a_run_id_that_is_in_use_elsewhere_is_as_good_as_any(bench: Harness, method: str) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        other = await furnish(owner, bench.root / "other", "canary")
        async with connect(running.ws, token) as wire:
            workspace = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
            session = await new_session(wire, workspace)
            for run_id in (other.run, other.gated, "nobody-has-it"):
                params = {**PARAMS[method](other), "sessionId": session, "runId": run_id}
                run = (await wire.call(method, **params))["run"]
                assert (run["runId"], run["sessionId"]) == (run_id, session)
                await wire.completed(session, run_id)
                assert (await wire.call(method, **params))["run"]["state"] == "completed"
                assert (await wire.call("run/get", runId=run_id))["run"]["sessionId"] == session
                assert (await wire.call("run/wait", runId=run_id))["run"]["sessionId"] == session
                # In its own workspace an id is still one run's.
                second = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
                assert (await wire.refused(method, **{**params, "sessionId": second})).kind == "idempotency_conflict"
        # Who sees both is told of the first.
        assert (await owner.call("run/get", runId=other.run))["run"]["sessionId"] == other.session
        assert (await owner.call("run/get", runId="nobody-has-it"))["run"]["sessionId"] == session
        assert (
            await owner.refused("session/prompt", **owner.prompt_params(other.session, "x", runId="nobody-has-it"))
        ).kind == ("idempotency_conflict")


async def test_a_run_does_not_stand_before_the_one_elsewhere_that_had_its_id_first(bench: Harness) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        other = await furnish(owner, bench.root / "other", "canary")
        async with connect(running.ws, token) as wire:
            workspace = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
            session = await new_session(wire, workspace)
            for run_id, first in ((other.run, other.session), (other.gated, other.session), ("free", session)):
                await owner.call("test/hold", point="run.start", sessionId=session)
                await wire.call("session/prompt", **wire.prompt_params(session, "x", runId=run_id))
                await owner.call("test/gates", wait="run.start")
                for method, params in (("run/get", {}), ("run/wait", {"timeoutMs": 1})):
                    assert (await owner.call(method, runId=run_id, **params))["run"]["sessionId"] == first
                    assert (await wire.call(method, runId=run_id, **params))["run"]["sessionId"] == session
                await owner.call("test/release", gate="run.start")
                await wire.completed(session, run_id)


async def test_in_its_workspace_it_can_do_whatever_its_scopes_are_for(bench: Harness) -> None:
    token = make_token(bench, *SCOPES, workspace=bench.directory)
    async with bench.serve(model=bench.script(*TURNS)) as running, connect(running.ws, running.token) as owner:
        async with connect(running.ws, token) as wire:
            # Everything that `furnish` does but for the gates, which are the server's.
            mine = await furnish_bound(wire, owner, bench.directory)
            for method in METHODS:
                if METHODS[method].whole_server or method in {"initialize", "session/delete", "workspace/close"}:
                    continue
                await wire.call(method, **PARAMS[method](mine))
                if METHODS[method].over_http and method not in {"session/view", "permission/revoke"}:
                    assert "result" in (await post(running.http, token, method, **PARAMS[method](mine))).json(), method
            assert await wire.call("session/delete", sessionId=mine.session) == {}
            assert await wire.call("workspace/close", workspaceId=mine.workspace) == {}


async def furnish_bound(wire: Wire, owner: Wire, directory: Path) -> Furnished:
    """Furnish a workspace by a connection that may not look at the gates."""
    workspace = (await wire.call("workspace/open", path=str(directory)))["workspace"]["workspaceId"]
    session, questions = await new_session(wire, workspace), await new_session(wire, workspace)
    await wire.prompt(session, "say", runId="run")
    message = (await wire.completed(session, "run"))["messageId"]
    await wire.prompt(questions, "grant", runId="grant")
    permission = (await asked(wire, questions))["permissionId"]
    await wire.call("permission/respond", permissionId=permission, optionId="allow_always")
    await wire.completed(questions, "grant")
    (grant,) = (await wire.call("permission/grants", sessionId=questions))["grants"]
    await wire.prompt(questions, "ask", runId="ask")
    question = await asked(wire, questions, 2)
    await wire.prompt(session, "gated", runId="gated")
    await owner.call("test/gates", wait="go")
    return Furnished(
        path=str(directory),
        workspace=workspace,
        session=session,
        asking=questions,
        run="run",
        gated="gated",
        message=message,
        permission=question["permissionId"],
        grant=grant["grantId"],
    )
