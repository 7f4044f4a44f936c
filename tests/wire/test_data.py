"""What is kept: exact text in few writes, stable order, titles, usage, search, export, and what deletion leaves."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
import trio

from atrio_agent.models.base import ModelRequest
from atrio_agent.titles import NEW_SESSION
from atrio_protocol.errors import ProviderError
from wire.client import connect
from wire.conftest import Harness, say
from wire.steps import GATED, PLAIN, new_session, rows, terminals


@pytest.mark.scenario("D1")
async def test_a_thousand_deltas_are_few_writes_and_exact_text(bench: Harness) -> None:
    many = {"responses": [[{"say": "tök☃ ", "times": 1000}]]}
    async with bench.serve(model=bench.script(many)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        database = next((bench.state_dir / "workspaces").glob("*/atrio.db"))
        with closing(sqlite3.connect(database)) as reader:
            before = reader.execute("PRAGMA data_version").fetchone()[0]
            commits = 0
            await wire.prompt(session, "go", runId="one")
            while not terminals(wire, session):
                await trio.sleep(0.002)  # sampling what another connection committed; nothing waits for it
                now = reader.execute("PRAGMA data_version").fetchone()[0]
                commits, before = commits + (now != before), now
        assert (await rows(wire, session))[-1]["parts"] == [{"type": "text", "text": "tök☃ " * 1000}]
        deltas = wire.of_type(session, "message.delta")
        assert deltas[-1]["seq"] - deltas[0].get("firstSeq", deltas[0]["seq"]) + 1 == 1000
        assert commits < 100
        with closing(sqlite3.connect(database)) as reader:
            tables = [name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            assert "messages" in tables


@pytest.mark.scenario("D3")
async def test_a_session_deleted_while_it_streams_stays_deleted(bench: Harness) -> None:
    half = {"match": "^half", "responses": [[{"say": "half ", "times": 20}, {"gate": "go"}, {"say": "rest"}]]}
    async with bench.serve(model=bench.script(half, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        other = await new_session(wire, workspace)
        await wire.prompt(session, "half", runId="one")
        await wire.prompt(session, "queued", runId="two")
        await wire.call("test/gates", wait="go")
        waiting = await wire.send("run/wait", runId="two")
        deleting = await wire.send("session/delete", sessionId=session)
        late = await wire.refused("session/get", sessionId=session)
        assert late.kind == "session_not_found"
        assert await wire.reply(deleting) == {}
        assert (await wire.reply(waiting))["run"]["stopReason"] == "cancelled"
        assert dict(terminals(wire, session)) == {"one": "cancelled", "two": "cancelled"}
        assert wire.events[session][-1]["type"] == "session.deleted"
        assert wire.detached == [{"sessionId": session, "reason": "deleted"}]
        reply = next(i for i, frame in enumerate(wire.frames) if frame.get("id") == deleting)
        detached = next(i for i, frame in enumerate(wire.frames) if frame.get("method") == "session/detached")
        assert detached < reply
        assert (await wire.event(workspace, "session.deleted"))["sessionId"] == session
        assert [s["sessionId"] for s in (await wire.call("session/list", workspaceId=workspace))["sessions"]] == [other]
        for run_id in ("one", "two"):
            assert (await wire.refused("run/get", runId=run_id)).kind == "run_not_found"
        # Its run ids are free again, elsewhere.
        assert not (await wire.prompt(other, "again", runId="one"))["duplicate"]
        await wire.completed(other, "one")
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        assert [s["sessionId"] for s in (await wire.call("session/list", workspaceId=workspace))["sessions"]] == [other]


@pytest.mark.scenario("D6")
async def test_a_retry_after_a_partial_stream_doubles_no_text(bench: Harness) -> None:
    broken = {"kind": "provider_unreachable", "message": "cut"}
    flaky = {
        "responses": [
            [{"think": "hm"}, {"say": "half "}, {"fail": broken, "retryable": True}],
            [{"say": "whole answer"}],
        ]
    }
    async with bench.serve(model=bench.script(flaky)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "go", runId="one")
        run = await wire.completed(session, "one")
        assert (run["stopReason"], run["text"]) == ("end_turn", "whole answer")
        messages = await rows(wire, session)
        assert len(messages) == 2 and messages[1]["parts"] == [{"type": "text", "text": "whole answer"}]
        notice = wire.of_type(session, "notice")
        assert len(notice) == 1 and notice[0]["severity"] == "warning" and notice[0]["runId"] == "one"
        kinds = [event["type"] for event in wire.events[session]]
        assert kinds.count("message.reset") == 1
        after = [
            event for event in wire.events[session] if event["seq"] > wire.of_type(session, "message.reset")[0]["seq"]
        ]
        parts = [event["part"] for event in after if event["type"] == "message.part"]
        assert parts == [0]


@pytest.mark.scenario("D7")
async def test_a_session_gets_its_title_from_the_first_prompt(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "Explain the\nparser please", runId="one")
        await wire.completed(session, "one")
        title = (await wire.call("session/get", sessionId=session))["session"]["title"]
        assert title and title != NEW_SESSION
        named = await new_session(wire, workspace, title="mine")
        await wire.prompt(named, "something else", runId="two")
        await wire.completed(named, "two")
        assert (await wire.call("session/get", sessionId=named))["session"]["title"] == "mine"


@pytest.mark.scenario("D7")
async def test_a_title_that_fails_leaves_the_first_line_of_the_prompt(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        real = type(running.server.models.get(None)).stream

        def failing(self: Any, request: ModelRequest) -> object:
            if request.purpose == "title":
                raise ProviderError("no title today")
            return real(self, request)

        monkeypatch.setattr(type(running.server.models.get(None)), "stream", failing)
        session = await new_session(wire, workspace)
        await wire.prompt(session, "Explain the parser\nplease", runId="one")
        run = await wire.completed(session, "one")
        assert run["stopReason"] == "end_turn"
        assert (await wire.call("session/get", sessionId=session))["session"]["title"] == "Explain the parser"


@pytest.mark.scenario("D8")
async def test_usage_is_taken_from_the_model_and_estimated_where_it_says_none(bench: Harness) -> None:
    told = {"match": "^told", "responses": [[{"say": "x"}, {"usage": {"input": 120, "output": 7}}]]}
    model = bench.script(told, PLAIN, contextSize=9000)
    async with bench.serve(model=model) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "told", runId="one")
        usage = (await wire.completed(session, "one"))["usage"]
        assert (usage["inputTokens"], usage["outputTokens"], usage["estimated"]) == (120, 7, False)
        await wire.prompt(session, "guess", runId="two")
        assert (await wire.completed(session, "two"))["usage"]["estimated"]
        total = (await wire.call("session/get", sessionId=session))["session"]["usage"]
        assert total["estimated"] and total["inputTokens"] > 120 and total["contextSize"] == 9000


@pytest.mark.scenario("D9")
async def test_renaming_changes_the_title_and_nothing_else(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "hello", runId="one")
        await wire.completed(session, "one")
        await wire.until(lambda: wire.of_type(session, "session.updated")[-1]["session"]["state"] == "idle")
        before = (await wire.call("session/get", sessionId=session))["session"]
        after = (await wire.call("session/rename", sessionId=session, title="  A better\nname ", other=1))["session"]
        assert after["title"] == "A better name" and after["rev"] > before["rev"]
        assert {**after, "title": 0, "rev": 0} == {**before, "title": 0, "rev": 0}
        for blank in ("", "  \n"):
            assert (await wire.refused("session/rename", sessionId=session, title=blank)).kind == "invalid_params"
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        again = (await wire.call("session/get", sessionId=session))["session"]
        assert {**again, "rev": 0} == {**after, "rev": 0} and again["rev"] > after["rev"]


@pytest.mark.scenario("D10")
async def test_rows_of_one_millisecond_keep_their_order(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        made = [await wire.send("session/new", workspaceId=workspace, title=f"s{n}") for n in range(30)]
        ids = [(await wire.reply(request))["session"]["sessionId"] for request in made]
        first = [s["sessionId"] for s in (await wire.call("session/list", workspaceId=workspace))["sessions"]]
        assert sorted(first) == sorted(ids)
        paged, cursor = [], None
        while True:
            page = await wire.call("session/list", workspaceId=workspace, limit=7, cursor=cursor)
            paged += [s["sessionId"] for s in page["sessions"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        assert paged == first
        session = ids[0]
        for number in range(10):
            await wire.send("session/prompt", **wire.prompt_params(session, f"p{number}", runId=f"r{number}"))
        await wire.call("run/wait", runId="r9")
        messages = await rows(wire, session)
        assert [m["parts"][0]["text"] for m in messages] == [f"p{n}" for n in range(10) for _ in range(2)]
        assert [m["order"] for m in messages] == sorted({m["order"] for m in messages})
        small = await wire.call("session/messages", sessionId=session, limit=3, before=messages[-1]["order"])
        assert small["more"] and small["messages"] == messages[-4:-1]


@pytest.mark.scenario("D14")
async def test_search_and_export_find_what_was_said(bench: Harness) -> None:
    async with (
        bench.serve(model=bench.script(say("the zebra answered"))) as running,
        bench.open(running) as (
            wire,
            workspace,
        ),
    ):
        session, other = await new_session(wire, workspace), await new_session(wire, workspace, title="about giraffes")
        await wire.prompt(session, "what of the okapi", runId="one")
        await wire.completed(session, "one")

        async def found(query: str) -> list[str]:
            listed = await wire.call("session/list", workspaceId=workspace, query=query)
            return [s["sessionId"] for s in listed["sessions"]]

        for query in ("zebra", "okapi", "OKAPI what"):
            assert await found(query) == [session], query
        assert await found("giraffes") == [other]
        for odd in ('"', "AND", "a* OR", "(", "nothing-like-it", "☃", "' OR 1=1 --"):
            assert await found(odd) == [], odd
        exported = json.loads((await wire.call("session/export", sessionId=session, format="json"))["content"])
        assert exported["session"]["sessionId"] == session
        assert exported["messages"] == await rows(wire, session)
        markdown = (await wire.call("session/export", sessionId=session, format="markdown"))["content"]
        assert "what of the okapi" in markdown and "the zebra answered" in markdown and markdown.startswith("# ")
        assert (await wire.refused("session/export", sessionId=session, format="pdf")).data["path"] == "/format"


async def test_a_session_s_model_can_be_chosen_and_an_unknown_one_is_refused(bench: Harness) -> None:
    loud = bench.script(say("LOUD"))
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        assert (
            await wire.refused("session/set_model", sessionId=session, modelId="nobody/none")
        ).kind == "model_not_found"
        changed = (await wire.call("session/set_model", sessionId=session, modelId=loud))["session"]
        assert changed["model"] == loud
        await wire.prompt(session, "soft", runId="one")
        assert (await wire.completed(session, "one"))["text"] == "LOUD"
        await wire.prompt(session, "soft", runId="two", model="demo")
        assert "demo model" in (await wire.completed(session, "two"))["text"]
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "x", model="script:/nowhere.json"))
        assert refusal.kind == "model_not_found"
        models = (await wire.call("model/list"))["models"]
        assert [model["default"] for model in models].count(True) == 1


async def test_gone_directories_are_named_when_prompting(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        bench.directory.rmdir()
        refusal = await wire.refused("session/prompt", **wire.prompt_params(session, "x"))
        assert refusal.kind == "path_not_found"
        async with connect(running.ws, running.token) as other:
            assert (await other.refused("workspace/open", path=str(bench.directory))).kind == "path_not_found"


async def test_the_server_s_own_token_is_not_told_by_a_tool(bench: Harness) -> None:
    look = {"match": "^look", "responses": [[{"tool": "read", "input": {"path": "notes"}}], [{"say": "seen"}]]}
    async with bench.serve(model=bench.script(look)) as running, bench.open(running) as (wire, workspace):
        (bench.directory / "notes").write_text(f"before {running.token} after\n")
        session = await new_session(wire, workspace)
        await wire.prompt(session, "look", runId="one")
        await wire.completed(session, "one")
        told = json.dumps([wire.frames, (await wire.call("test/requests", sessionId=session))["requests"]])
        assert "before [redacted] after" in told and running.token not in told
        database = next((bench.state_dir / "workspaces").glob("*/atrio.db"))
        kept = database.read_bytes() + database.with_name("atrio.db-wal").read_bytes()
        assert running.token.encode() not in kept and b"[redacted]" in kept


async def test_a_list_of_runs_with_long_texts_comes_in_pages_under_a_mebibyte(bench: Harness) -> None:
    long = {"responses": [[{"say": "{{prompt}} " + "x" * 200_000}]]}
    async with bench.serve(model=bench.script(long)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        for turn in range(6):
            await wire.prompt(session, f"{turn}", runId=f"run{turn}", delivery="queue")
            await wire.completed(session, f"run{turn}")
        listed: list[dict[str, Any]] = []
        more = True
        while more:
            before = {"before": listed[-1]["acceptSeq"]} if listed else {}
            page = await wire.call("run/list", sessionId=session, limit=100, **before)
            assert page["runs"]
            assert len(json.dumps(page)) < 1024 * 1024
            listed, more = listed + page["runs"], page["more"]
        assert [run["runId"] for run in listed] == [f"run{turn}" for turn in reversed(range(6))]
