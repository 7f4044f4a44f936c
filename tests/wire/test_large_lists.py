"""Frames of the server stay under a megabyte, however much waits, however large it is and in whatever script."""

import json
from typing import Any

from wire.client import Wire
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, new_session

Json = dict[str, Any]

FRAME_BYTES = 1024 * 1024
FOUR_BYTES = "\N{GRINNING FACE}"


def frame_bytes(result: Json) -> int:
    """The size of the frame that carries this."""
    return len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()) + 100


async def fill_queue(wire: Wire, session: str, text: str, **params: Any) -> list[str]:
    """Have one prompt run and as many wait as may; their ids."""
    await wire.prompt(session, "gated", runId="active")
    await wire.call("test/gates", wait="go")
    waiting = [f"q{number}" for number in range(100)]
    for run_id in waiting:
        await wire.prompt(session, text, runId=run_id, **params)
    return ["active", *waiting]


async def test_a_full_queue_of_long_prompts_in_four_byte_characters_fits_a_frame(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        for number in range(4):  # each message is 200 KB
            await wire.completed(
                session, (await wire.prompt(session, FOUR_BYTES * 25_000, runId=f"m{number}"))["run"]["runId"]
            )
        told = {f"key{number}": "x" * 1000 for number in range(200)}
        accepted = await fill_queue(wire, session, FOUR_BYTES * 3000, _meta=told)
        attached = await wire.attach(session, watch=[f"m{number}" for number in range(4)])
        assert frame_bytes(attached) < FRAME_BYTES
        snapshot = attached["snapshot"]
        assert [run["runId"] for run in snapshot["runs"][:101]] == accepted
        assert snapshot["messages"] and snapshot["more"]
        assert all(run["promptText"] for run in snapshot["runs"])
        queue = (await wire.call("session/queue", sessionId=session))["runs"]
        assert frame_bytes({"runs": queue}) < FRAME_BYTES
        assert [run["runId"] for run in queue] == accepted
        listed = await wire.call("run/list", sessionId=session, limit=1000)
        assert frame_bytes(listed) < FRAME_BYTES and listed["more"]
        whole = (await wire.call("run/get", runId="q7"))["run"]
        assert whole["promptText"] == FOUR_BYTES * 2000 and whole["_meta"] == told
        await wire.call("session/cancel", sessionId=session, wait=True)


async def test_many_watched_runs_fit_a_frame_whatever_was_sent_along_with_them(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        runs = [f"m{number}" for number in range(40)]
        for number, run_id in enumerate(runs):
            told = {"key": "x" * (500_000 if number % 20 == 3 else 10)}
            await wire.prompt(session, FOUR_BYTES * 3000, runId=run_id, _meta=told)
            await wire.completed(session, run_id)
        attached = await wire.attach(session, watch=runs)
        assert frame_bytes(attached) < FRAME_BYTES
        snapshot = attached["snapshot"]
        assert [(run["runId"], run["stopReason"]) for run in snapshot["runs"]] == [(each, "end_turn") for each in runs]
        assert snapshot["messages"] and "text" in snapshot["runs"][0] and "text" not in snapshot["runs"][3]
        refused = await wire.refused("session/attach", sessionId=session, watch=[f"r{at}" for at in range(1_001)])
        assert (refused.kind, refused.data["path"]) == ("invalid_params", "/watch")


async def test_a_full_queue_of_ordinary_prompts_is_told_whole(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await fill_queue(wire, session, "hello " * 200, _meta={"a": 1})
        for runs in (
            (await wire.attach(session))["snapshot"]["runs"],
            (await wire.call("session/queue", sessionId=session))["runs"],
        ):
            assert len(runs) == 101
            assert {(run["promptText"], run["_meta"]["a"]) for run in runs[1:]} == {("hello " * 200, 1)}
        await wire.call("session/cancel", sessionId=session, wait=True)
