"""What `/metrics` shows: every figure is documented, moves with what happens, and names nobody."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from atrio_server.service import Running
from wire.client import connect
from wire.conftest import Harness
from wire.http import Answer, http
from wire.process import spawn
from wire.steps import GATED, PLAIN, new_session

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"

Figures = dict[tuple[str, str], float]


async def scrape(running: Running, token: str | None = None) -> Answer:
    return await http(running.http, "GET", "/metrics", headers={"Authorization": f"Bearer {token or running.token}"})


async def figures(running: Running) -> Figures:
    """Each sample by its name and the values of its labels, these in the order of their names."""
    answer = await scrape(running)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_a_scrape_tells_what_was_done_and_by_whom_nothing(bench: Harness) -> None:
    tool = {"match": "^tool", "responses": [[{"tool": "ls", "input": {}}], [{"say": "seen"}]]}
    bad = {"match": "^bad", "responses": [[{"fail": {"kind": "provider_error", "message": "no"}}]]}
    async with bench.serve(model=bench.script(GATED, tool, bad, PLAIN)) as running:
        async with bench.open(running, name="ann-the-client") as (wire, workspace):
            session = await new_session(wire, workspace)
            for text in ("hello there", "tool", "bad"):
                await wire.completed(session, (await wire.prompt(session, text))["run"]["runId"])
            active, queued = [(await wire.prompt(session, "gated", runId=f"run-{n}"))["run"]["runId"] for n in range(2)]
            await wire.call("test/gates", wait="go")
            await wire.event(session, "run.accepted", runId=queued)
            await http(running.http, "GET", "/v1/rpc", headers={"Authorization": "Bearer wrong"})

            seen = await figures(running)
            assert seen["atrio_runs_total", "prompt,end_turn"] == 2
            assert seen["atrio_runs_total", "prompt,error"] == 1
            assert (seen["atrio_runs_active", ""], seen["atrio_runs_queued", ""]) == (1, 1)
            assert seen["atrio_queue_length_max", ""] == 1
            assert (seen["atrio_workspaces", ""], seen["atrio_sessions", ""]) == (1, 1)
            assert seen["atrio_accept_seconds_count", ""] == 5
            assert seen["atrio_commit_seconds_count", ""] > 5
            assert seen["atrio_writes_failed_total", ""] == 0
            assert seen["atrio_tool_seconds_count", "ls"] == 1
            assert seen["atrio_tokens_total", "input,other,script"] > 0
            assert (seen["atrio_readers", "session"], seen["atrio_readers", "workspace"]) == (1, 1)
            assert seen["atrio_connections", ""] == 1
            assert seen["atrio_connections_refused_total", "auth_required"] == 1
            assert seen["atrio_received_bytes_total", ""] > 1000
            assert seen["atrio_sent_bytes_total", ""] > 1000
            assert seen["atrio_events_total", ""] > 20
            assert seen["atrio_tasks", ""] > 5
            assert seen["process_open_fds", ""] > 5

            text = (await scrape(running)).body.decode()
            for name in (session, workspace, active, "ann-the-client", str(bench.directory), "hello", running.token):
                assert name not in text
            await wire.call("session/cancel", sessionId=session, wait=True)
        async with bench.open(running) as (wire, _):
            after = await figures(running)
            assert after["atrio_runs_total", "prompt,cancelled"] == 2
            assert (after["atrio_runs_active", ""], after["atrio_runs_queued", ""]) == (0, 0)
            assert after.keys() - seen.keys() == {("atrio_runs_total", "prompt,cancelled")}


async def test_every_metric_is_in_the_table_and_nothing_else_is(bench: Harness) -> None:
    async with bench.serve() as running:
        text = (await scrape(running)).body.decode()
    kinds = dict(re.findall(r"^# TYPE (atrio_\w+) (\w+)$", text, re.MULTILINE))
    rows = re.findall(r"^\| `(atrio_\w+)` \| (\w+) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == kinds


async def test_the_figures_need_the_token_and_are_only_read(bench: Harness) -> None:
    async with bench.serve() as running:
        assert (await http(running.http, "GET", "/metrics")).status == 401
        assert (await scrape(running, "w" * 43)).status == 401
        token = {"Authorization": f"Bearer {running.token}"}
        assert (await http(running.http, "POST", "/metrics", headers=token)).status == 405
        foreign = token | {"Origin": "http://example.com"}
        assert (await http(running.http, "GET", "/metrics", headers=foreign)).status == 403
        answer = await scrape(running)
        assert "access-control-allow-origin" not in answer.headers


async def test_the_number_of_lines_does_not_grow_with_use(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running:
        async with bench.open(running) as (wire, workspace):
            sizes: list[int] = []
            for _ in range(2):
                for number in range(5):
                    session = await new_session(wire, workspace, title=f"title {number}")
                    await wire.completed(session, (await wire.prompt(session, "hello"))["run"]["runId"])
                    async with connect(running.ws, running.token, name=f"client {number}") as other:
                        await other.attach(session)
                sizes.append(len(await figures(running)))
            assert sizes[0] == sizes[1]


async def test_lines_of_log_that_nobody_could_read_are_counted_in_a_process(bench: Harness) -> None:
    async with spawn(bench.state_dir) as server:
        answer = await http(server.http, "GET", "/metrics", headers={"Authorization": f"Bearer {server.token}"})
    assert 'atrio_log_lines_dropped_total{reason="unread"} 0.0' in answer.body.decode()
