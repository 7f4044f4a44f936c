"""A state directory of an earlier version is taken over: everything in it is there, over the wire, and goes on."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from atrio_protocol.ids import new_id
from wire.client import Wire
from wire.conftest import Harness
from wire.steps import PLAIN, rows

DUMP = Path(__file__).parents[1] / "agent/store/first_schema.sql"
DUMPED_WORKSPACE, DUMPED_PATH = "wo2jmhljvic5ya", "/one"


def take_back(database: Path, workspace: str, directory: Path, model: str) -> dict[str, str]:
    """Put a database of the first schema in the place of this one; the ids in it, by their names there."""
    ids = {name: new_id(workspace, "r" if name == "r2" else "s") for name in ("s1", "s2", "r2")}
    dump = DUMP.read_text(encoding="utf-8").replace(DUMPED_WORKSPACE, workspace)
    dump = dump.replace(f"'{DUMPED_PATH}'", f"'{directory}'")
    dump = dump.replace("openai/one", model)  # one that can be used here
    for name, real in ids.items():
        dump = dump.replace(f"'{name}'", f"'{real}'").replace(f'"{name}"', f'"{real}"')
    # As after a loss of power: the index finds its runs again.
    dump = dump.replace("('closed','yes')", "('closed','no')")
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
    with closing(sqlite3.connect(database)) as made:
        made.executescript(dump)
    return ids


def counts(database: Path) -> dict[str, int]:
    tables = ("sessions", "messages", "runs", "texts")
    with closing(sqlite3.connect(database)) as read:
        return {table: read.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


@pytest.mark.scenario("D15")
async def test_a_database_of_the_first_schema_keeps_every_row_and_goes_on(bench: Harness) -> None:
    async with bench.serve() as running, bench.open(running) as (_, workspace):
        pass
    database = next((bench.state_dir / "workspaces").glob("*/atrio.db"))
    model = bench.script(PLAIN)
    ids = take_back(database, workspace, bench.directory, model)
    before = counts(database)

    async with bench.serve() as running, bench.open(running) as (wire, again):
        assert again == workspace
        listed = (await wire.call("session/list", workspaceId=workspace))["sessions"]
        (row,) = listed
        assert (row["sessionId"], row["title"], row["model"]) == (ids["s1"], "Find the naïve Straße", model)
        child = (await wire.call("session/get", sessionId=ids["s2"]))["session"]
        assert (child["title"], child["parentSessionId"]) == ("子 child", ids["s1"])
        found = (await wire.call("session/list", workspaceId=workspace, query="naive"))["sessions"]
        assert [row["sessionId"] for row in found] == [ids["s1"]]
        await check_messages(wire, ids)
        for run, reason in {"r1": "end_turn", ids["r2"]: "interrupted", "r3": "interrupted"}.items():
            assert (await wire.call("run/get", runId=run))["run"]["stopReason"] == reason
        await wire.attach(ids["s1"])
        await wire.prompt(ids["s1"], "and now?", runId="new")
        assert (await wire.call("run/wait", runId="new"))["run"]["text"] == "and now?"

    after = counts(database)
    assert all(after[table] >= count for table, count in before.items())


async def check_messages(wire: Wire, ids: dict[str, str]) -> None:
    """All that was said before is there, whole and in its order."""
    messages = await rows(wire, ids["s1"])
    assert [message["messageId"] for message in messages][:6] == ["m1", "m2", "m3", "m4", "m5", "m6"]
    texts = ["".join(part.get("text", "") for part in message["parts"]) for message in messages]
    assert texts[:6] == ["please find it", "I lookwhere is it", "", "found in a.py", "and again", "half of an answer"]
    assert messages[1]["parts"][2]["input"] == {"path": "a.py"}
    assert messages[2]["parts"][0]["content"] == [{"type": "text", "text": "x = 1"}]
    assert messages[4]["parts"][1]["data"] == "AAAA"
    (said,) = await rows(wire, ids["s2"])
    assert said["parts"] == [{"type": "text", "text": "child says"}]
