"""A session's past never poisons it: what a crash left behind, what a model sends that is no input."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from wire.conftest import Harness
from wire.steps import PLAIN, new_session, rows

LOOK = {"match": "^look", "responses": [[{"tool": "ls", "input": {}}], [{"say": "seen"}]]}


@pytest.mark.scenario("D4")
async def test_a_call_whose_result_was_lost_has_a_made_up_one_in_the_next_request(bench: Harness) -> None:
    script = bench.script(LOOK, PLAIN)
    async with bench.serve(model=script) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "look", runId="one")
        await wire.completed(session, "one")
        assert [row["role"] for row in await rows(wire, session)] == ["user", "assistant", "tool", "assistant"]

    (database,) = (bench.state_dir / "workspaces").glob("*/atrio.db")
    with closing(sqlite3.connect(database)) as writer, writer:
        # As after a crash of the disk: the call is there, its result is not.
        assert writer.execute("DELETE FROM messages WHERE role = 'tool'").rowcount == 1

    async with bench.serve(model=script) as running, bench.open(running) as (wire, _):
        await wire.attach(session)
        await wire.prompt(session, "again", runId="two")
        assert (await wire.completed(session, "two"))["text"] == "again"
        asked = (await wire.call("test/requests", sessionId=session))["requests"][-1]["turns"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "tool", "assistant", "user"]
    (result,) = asked[2]["results"]
    assert result["callId"] == asked[1]["calls"][0]["callId"]
    assert result["isError"] and "no result" in result["content"][0]["text"]


@pytest.mark.scenario("D5")
@pytest.mark.parametrize(
    "raw",
    [
        '{"path": ',
        "not json",
        "[1, 2]",
        '"text"',
        "null",
        '{"path": 1e999}',
        '{"path": NaN}',
        '{"path": "\\ud800"}',
        '{"a":' * 3_000 + "1" + "}" * 3_000,
        '{"path": "a"} {"path": "b"}',
    ],
    ids=lambda raw: raw[:20],
)
async def test_input_that_is_no_object_is_an_error_result_and_the_session_goes_on(bench: Harness, raw: str) -> None:
    bad: dict[str, Any] = {"match": "^bad", "responses": [[{"tool": "ls", "rawInput": raw}], [{"say": "never mind"}]]}
    async with bench.serve(model=bench.script(bad, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "bad", runId="one")
        run = await wire.completed(session, "one")
        assert (run["stopReason"], run["text"]) == ("end_turn", "never mind")
        call, result = [row["parts"][-1] for row in await rows(wire, session)][1:3]
        assert (call["type"], call["input"], call["status"]) == ("tool_call", {}, "failed")
        assert "inputText" not in call
        assert result["isError"] and "JSON" in result["content"][0]["text"]
        await wire.prompt(session, "next", runId="two")
        assert (await wire.completed(session, "two"))["text"] == "next"
        asked = (await wire.call("test/requests", sessionId=session))["requests"][-1]["turns"]
        assert asked[1]["calls"][0]["input"] == {}
        json.dumps(asked).encode()
