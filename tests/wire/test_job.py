"""A whole piece of work on a real repository: look, mend, test, mend again, sum up.

The model is scripted; all else is real: git, the files, the tests that run in a
shell. One client gives the task, another allows what is to be allowed.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from wire.client import Wire, connect
from wire.conftest import Harness
from wire.questions import answer
from wire.steps import new_session, rows, shape

Json = dict[str, Any]

MODULE = '''"""Numbers."""


def mean(values):
    """The arithmetic mean; 0 of nothing."""
    total = 0
    for value in values:
        total = value
    return total / len(values)
'''
TESTS = """import unittest

from numbers_of import mean


class MeanTest(unittest.TestCase):
    def test_of_some(self):
        self.assertEqual(mean([1, 2, 6]), 3)

    def test_of_nothing(self):
        self.assertEqual(mean([]), 0)
"""
LINE, MENDED = "        total = value\n", "        total += value\n"
RETURN, GUARDED = "    return total / len(values)\n", "    return total / len(values) if values else 0\n"
TEST = f"'{sys.executable}' -B -m unittest -q"


def edit(old: str, new: str) -> Json:
    return {"tool": "edit", "input": {"path": "numbers_of.py", "old": old, "new": new}}


def todos(*done: bool) -> Json:
    contents = ("find the bug", "mend it", "run the tests")
    entries = [
        {"content": content, "status": "completed" if is_done else "pending"}
        for content, is_done in zip(contents, done, strict=True)
    ]
    return {"tool": "todos", "input": {"todos": entries}}


RUN_TESTS = {"tool": "shell", "input": {"command": TEST}}
SUMMARY = "mean() kept only the last value, and failed for none; both are mended and the tests pass."
JOB = {
    "match": "^mend",
    "responses": [
        [{"think": "where is it?"}, {"say": "I look. "}, {"tool": "grep", "input": {"pattern": "def mean"}}],
        [{"tool": "read", "input": {"path": "numbers_of.py"}}, todos(True, False, False)],
        [edit(LINE, MENDED)],
        [{"say": "Now the tests. "}, RUN_TESTS],
        [edit(RETURN, GUARDED)],
        [RUN_TESTS, todos(True, True, True)],
        [{"say": SUMMARY}, {"usage": {"input": 900, "output": 30}}],
    ],
}


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_repository(directory: Path) -> None:
    git(directory, "init", "-q")
    (directory / "numbers_of.py").write_text(MODULE)
    (directory / "test_numbers_of.py").write_text(TESTS)
    git(directory, "add", ".")
    git(directory, "commit", "-q", "-m", "Numbers")


async def allow_all(wire: Wire, workspace: str, asked: list[Json]) -> None:
    """Answer what is asked in the workspace, for as long as it takes."""
    while True:
        count = len(asked)
        new = await wire.until(lambda count=count: wire.of_type(workspace, "permission.requested")[count:])
        for event in new:
            asked.append(event["permission"])
            assert (await answer(wire, event["permission"]))["resolved"]


def parts(messages: list[Json], kind: str) -> list[Json]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]


@pytest.fixture
def repository(bench: Harness) -> Path:
    """The workspace's directory, as a repository with a module, its bugs and its tests."""
    make_repository(bench.directory)
    return bench.directory


async def test_a_bug_is_found_mended_and_tested_while_somebody_else_answers_the_questions(
    bench: Harness, repository: Path
) -> None:
    async with (
        bench.serve(limit_s=60, model=bench.script(JOB)) as running,
        bench.open(running, name="Ann") as (ann, workspace),
        connect(running.ws, running.token, name="Bob") as bob,
    ):
        await bob.call("workspace/open", path=str(repository))
        asked: list[Json] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(allow_all, bob, workspace, asked)
            session = await new_session(ann, workspace)
            await ann.prompt(session, "mend the mean", runId="job")
            run = await ann.completed(session, "job")
            nursery.cancel_scope.cancel()

        assert (run["stopReason"], run["text"], run["author"]["name"]) == ("end_turn", SUMMARY, "Ann")
        assert run["usage"]["inputTokens"] >= 900 and run["usage"]["outputTokens"] >= 30

        # What was asked, in which order, with which change.
        assert [question["name"] for question in asked] == ["edit", "shell", "edit", "shell"]
        source = str(repository / "numbers_of.py")
        once, twice = MODULE.replace(LINE, MENDED), MODULE.replace(LINE, MENDED).replace(RETURN, GUARDED)
        shown = [question["diffs"][0] for question in asked if question["name"] == "edit"]
        assert [(diff["path"], diff["oldText"], diff["newText"]) for diff in shown] == [
            (source, MODULE, once),
            (source, once, twice),
        ]
        assert [question["detail"] for question in asked if question["name"] == "shell"] == [TEST, TEST]

        # The repository.
        assert (repository / "numbers_of.py").read_text() == twice
        assert git(repository, "status", "--porcelain").split() == ["M", "numbers_of.py"]
        changed = [
            line
            for line in git(repository, "diff", "--unified=0").splitlines()
            if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))
        ]
        assert changed == [f"-{LINE[:-1]}", f"-{RETURN[:-1]}", f"+{MENDED[:-1]}", f"+{GUARDED[:-1]}"]

        # The transcript.
        messages = await rows(ann, session)
        assert shape(messages) == [
            ("user", None),
            *[("assistant", "tool_use"), ("tool", None)] * 6,
            ("assistant", "end_turn"),
        ]
        calls, results = parts(messages, "tool_call"), parts(messages, "tool_result")
        names = ["grep", "read", "todos", "edit", "shell", "edit", "shell", "todos"]
        assert [call["name"] for call in calls] == [result["name"] for result in results] == names
        assert [call["toolCallId"] for call in calls] == [result["toolCallId"] for result in results]
        assert {call["status"] for call in calls} == {"completed"} and not any(r["isError"] for r in results)
        allowed = [call.get("permission", {}).get("by", {}).get("name") for call in calls]
        assert allowed == [None, None, None, "Bob", "Bob", "Bob", "Bob", None]
        texts = [result["content"][0]["text"] for result in results]
        assert "numbers_of.py" in texts[0] and "total = value" in texts[1]
        assert [result.get("exitCode") for result in results if result["name"] == "shell"] == [1, 0]
        assert "ZeroDivisionError" in texts[4] and "OK" in texts[6]
        assert [result["diffs"] for result in results if "diffs" in result] == [[diff] for diff in shown]
        assert messages[0]["author"]["name"] == "Ann"
        assert [call["locations"][0]["path"] for call in calls if call["name"] == "edit"] == [source, source]

        # What the model was told of it.
        requests = (await ann.call("test/requests", sessionId=session))["requests"]
        assert len(requests) == 7 and "ZeroDivisionError" in str(requests[4]["turns"][-1])

        # Beside the messages.
        attached = (await ann.attach(session))["snapshot"]
        assert [todo["status"] for todo in attached["todos"]] == ["completed"] * 3
        assert attached["session"]["usage"]["inputTokens"] >= run["usage"]["inputTokens"]
        store = running.server.workspaces.get(workspace).store
        versions = await store.file_versions(session)
        assert [(version.run_id, version.path) for version in versions] == [("job", source)] * 2
        assert versions[0].after == versions[1].before
        assert [version.tool_call_id for version in versions] == [c["toolCallId"] for c in calls if c["name"] == "edit"]

        document = (await ann.call("session/export", sessionId=session, format="markdown"))["content"]
        places = [document.index(text) for text in ("## User (Ann)", "def mean", "ZeroDivisionError", "OK", SUMMARY)]
        assert places == sorted(places)
        assert document.count("**shell** (completed)") == document.count("**edit** (completed)") == 2
