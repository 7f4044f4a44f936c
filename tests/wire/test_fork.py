"""Forks: a session that begins with what another one has said, and is its own from then on."""

import json
import sqlite3
from contextlib import closing
from typing import Any

from atrio_agent.store.base import ForkSession
from wire.client import connect
from wire.conftest import Harness
from wire.steps import PLAIN, new_session, rows, shape, unstorable

READING = {
    "match": "^read",
    "responses": [
        [{"say": "let me see"}, {"tool": "ls", "input": {}}],
        [{"say": "half "}, {"gate": "go"}, {"say": "seen"}],
    ],
}


def told(messages: list[dict[str, Any]]) -> list[str]:
    return ["".join(part.get("text", "") for part in message["parts"]) for message in messages]


async def test_a_fork_is_a_session_of_its_own_with_the_same_past(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        source = await new_session(wire, workspace, title="plans")
        for run_id in ("one", "two"):
            await wire.prompt(source, run_id, runId=run_id)
            await wire.completed(source, run_id)
        fork = (await wire.call("session/fork", sessionId=source))["session"]
        assert (fork["title"], fork["messageCount"], fork["state"]) == ("plans (fork)", 4, "idle")
        assert (
            "parentSessionId" not in fork and fork["usage"]["inputTokens"] == 0 and fork["usage"]["contextTokens"] > 0
        )
        created = await wire.until(lambda: wire.of_type(workspace, "session.created")[1:])
        assert [event["session"]["sessionId"] for event in created] == [fork["sessionId"]]
        copies, originals = await rows(wire, fork["sessionId"]), await rows(wire, source)
        assert told(copies) == told(originals) == ["one", "one", "two", "two"]
        assert [copy["order"] for copy in copies] == [1, 2, 3, 4]
        assert not any("runId" in copy for copy in copies)
        assert not {copy["messageId"] for copy in copies} & {row["messageId"] for row in originals}
        assert (await wire.call("run/list", sessionId=fork["sessionId"]))["runs"] == []

        # Each goes its own way, and the model of the fork knows the common past.
        await wire.attach(fork["sessionId"])
        await wire.prompt(fork["sessionId"], "three", runId="three")
        assert (await wire.completed(fork["sessionId"], "three"))["stopReason"] == "end_turn"
        asked = (await wire.call("test/requests", sessionId=fork["sessionId"]))["requests"][-1]
        assert [turn["role"] for turn in asked["turns"]] == ["user", "assistant", "user", "assistant", "user"]
        assert told(await rows(wire, source)) == ["one", "one", "two", "two"]
        found = await wire.call("session/list", workspaceId=workspace, query="two")
        assert {session["sessionId"] for session in found["sessions"]} == {source, fork["sessionId"]}
        await wire.call("session/delete", sessionId=source)
        assert len(await rows(wire, fork["sessionId"])) == 6


async def test_a_fork_up_to_a_message_takes_the_results_of_its_calls_along(bench: Harness) -> None:
    async with bench.serve(model=bench.script(READING, PLAIN)) as running, bench.open(running) as (wire, workspace):
        source = await new_session(wire, workspace)
        await wire.prompt(source, "read", runId="one")
        await wire.call("test/gates", wait="go")
        # The answer that still grows stays behind, asked for or not.
        user, calling, results, growing = await rows(wire, source)
        for message_id in (None, growing["messageId"]):
            fork = (await wire.call("session/fork", sessionId=source, messageId=message_id))["session"]["sessionId"]
            assert shape(await rows(wire, fork)) == shape([user, calling, results])
        await wire.call("test/release", gate="go")
        await wire.completed(source, "one")
        fork = (await wire.call("session/fork", sessionId=source, messageId=user["messageId"]))["session"]
        assert fork["messageCount"] == 1 and fork["usage"]["contextTokens"] == 0
        fork = (await wire.call("session/fork", sessionId=source, messageId=calling["messageId"]))["session"][
            "sessionId"
        ]
        copies = await rows(wire, fork)
        assert shape(copies) == shape([user, calling, results])
        assert copies[1]["parts"][1]["toolCallId"] == copies[2]["parts"][0]["toolCallId"]
        await wire.prompt(fork, "go on", runId="on")
        assert (await wire.call("run/wait", runId="on"))["run"]["text"] == "go on"


async def test_a_fork_names_a_session_and_a_message_that_are_there(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        source, other = await new_session(wire, workspace), await new_session(wire, workspace)
        await wire.prompt(other, "x", runId="x")
        await wire.completed(other, "x")
        foreign = (await rows(wire, other))[0]["messageId"]
        for message_id in (foreign, "nonsense", f"{workspace}-maaaaaaaaaaaaaaaa"):
            refusal = await wire.refused("session/fork", sessionId=source, messageId=message_id)
            assert refusal.kind == "message_not_found"
        assert (await wire.refused("session/fork", sessionId="nonsense")).kind == "session_not_found"
        assert (await wire.refused("session/fork")).kind == "session_missing"
        assert len((await wire.call("session/list", workspaceId=workspace))["sessions"]) == 2
        empty = (await wire.call("session/fork", sessionId=source))["session"]
        assert (empty["messageCount"], empty["title"]) == (0, "New session")


async def test_a_fork_that_cannot_be_stored_is_not_there(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        source = await new_session(wire, workspace)
        store = running.server.workspaces.get(workspace).store
        with unstorable(store, ForkSession):
            assert (await wire.refused("session/fork", sessionId=source)).kind == "storage_unavailable"
        assert len((await wire.call("session/list", workspaceId=workspace))["sessions"]) == 1


async def test_a_fork_outlives_the_connection_that_asked_for_it(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        source = await new_session(wire, workspace)
        await wire.prompt(source, "one", runId="one")
        await wire.completed(source, "one")
        async with connect(running.ws, running.token) as other:
            await other.send("session/fork", sessionId=source)
            await other.call("ping")
        fork = (
            await wire.until(
                lambda: next(
                    (e for e in wire.of_type(workspace, "session.created") if e["session"]["sessionId"] != source), None
                )
            )
        )["session"]["sessionId"]
        assert told(await rows(wire, fork)) == ["one", "one"]
        database = next((bench.state_dir / "workspaces").glob("*/atrio.db"))
        with closing(sqlite3.connect(database)) as reader:
            bodies = reader.execute("SELECT body FROM messages WHERE session_id = ?", (fork,)).fetchall()
        assert all(json.loads(body)["sessionId"] == fork for (body,) in bodies)
