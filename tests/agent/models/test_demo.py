"""The demo model: under virtual time with given results, and its readers against the real tools."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from atrio_agent.models.base import (
    AssistantTurn,
    Finish,
    TextDelta,
    ToolCall,
    ToolOutput,
    ToolResults,
    ToolSpec,
    Turn,
    UserTurn,
)
from atrio_agent.models.demo import DemoModel
from atrio_agent.models.demo_deeds import run_deed, write_deed
from atrio_agent.models.demo_looks import explain_look, find_look, map_look
from atrio_agent.models.demo_results import (
    Match,
    Result,
    Round,
    file_lines,
    listed_paths,
    matches,
    results_since_prompt,
)
from atrio_agent.models.demo_summary import Seen, summary
from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.registry import read_only_tools
from atrio_protocol.content import TextBlock, prompt_text
from model_calls import ask, calls_of, request, text_of

FIRST_LINE = "demo model: rules, no AI."
TOOLS = tuple(
    ToolSpec(name=name, description="", schema={}) for name in ("read", "ls", "glob", "grep", "write", "shell")
)


def asked(prompt: str, *turns: Turn, **changes: Any) -> Any:
    said = (UserTurn((TextBlock(text=prompt),)), *turns)
    return request(prompt, turns=said, tools=TOOLS, **changes)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "README.md": "# Thing\n\n[![badge](x)](y)\n\nA **thing** that does\n`things`.\n\nMore.\n",
        "pyproject.toml": '[project]\nname = "thing"\nrequires-python = ">=3.11"\n',
        "src/thing/__main__.py": 'from thing import run\n\nif __name__ == "__main__":\n    run()\n',
        "src/thing/core.py": (
            '"""What a thing is."""\n\nimport os\n\n\nclass Thing:\n    def run(self) -> None:\n        pass\n'
        ),
        "tests/test_core.py": "def test_it() -> None:\n    pass\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


async def run_tools(calls: tuple[tuple[str, Any], ...], root: Path) -> Round:
    """What the real tools return for these calls."""
    tools = read_only_tools()
    results: list[Result] = []
    with trio.fail_after(30):
        for name, given in calls:
            place = Place(root=root, session_id="s", run_id="r", tool_call_id="t")
            try:
                outcome = await tools.get(name).run(tools.validate(name, given), place)
                results.append(Result(name, dict(given), prompt_text(outcome.content), is_error=False))
            except ToolFailed as exc:
                results.append(Result(name, dict(given), str(exc), is_error=True))
    return tuple(results)


async def test_what_the_tools_return_is_understood(project: Path) -> None:
    calls = (("read", {"path": "pyproject.toml"}), ("glob", {"pattern": "**/*.py"}), ("grep", {"pattern": "run"}))
    read, glob, grep = await run_tools(calls, project)

    assert file_lines(read.text) == ["[project]", 'name = "thing"', 'requires-python = ">=3.11"']
    assert sorted(listed_paths(glob.text)) == ["src/thing/__main__.py", "src/thing/core.py", "tests/test_core.py"]
    assert ("src/thing/core.py", 7, "    def run(self) -> None:") in matches(grep.text)


async def test_nothing_found_is_understood_as_nothing(project: Path) -> None:
    glob, grep = await run_tools((("glob", {"pattern": "*.zig"}), ("grep", {"pattern": "zebra"})), project)

    assert listed_paths(glob.text) == []
    assert matches(grep.text) == []


async def test_map_sums_up_a_real_directory(project: Path) -> None:
    first = await run_tools(map_look((), "").calls, project)
    second = await run_tools(map_look((first,), "").calls, project)
    look = map_look((first, second), "/work/thing")

    assert look.calls == ()
    assert look.text == (
        "\nthing: 5 files. By language: Python 3, Markdown 1, TOML 1."
        "\n\nREADME.md begins:\n  A thing that does things."
        "\n\npyproject.toml: name thing; requires-python >=3.11."
        "\n\nDirectories:\n  src/        2 files\n  tests/      1 file"
        "\n\nPrograms begin at:\n  src/thing/__main__.py:3"
        "\n\nTests: 1 file.\n"
    )


async def test_map_of_an_empty_directory_says_that_it_is_empty(tmp_path: Path) -> None:
    first = await run_tools(map_look((), "").calls, tmp_path)
    second = await run_tools(map_look((first,), "").calls, tmp_path)

    assert "has no files yet" in map_look((first, second), "/work/new").text


async def test_find_shows_where_a_text_stands(project: Path) -> None:
    found = await run_tools(find_look((), "run()").calls, project)

    assert find_look((found,), "run()").text == ("1 line in 1 file with “run()”:\n\n  src/thing/__main__.py:4: run()\n")
    nothing = await run_tools(find_look((), "zebra").calls, project)
    assert find_look((nothing,), "zebra").text == "Nothing here contains “zebra”.\n"


async def test_explain_outlines_a_file(project: Path) -> None:
    read = await run_tools(explain_look((), "src/thing/core.py").calls, project)

    assert explain_look((read,), "src/thing/core.py").text == (
        "src/thing/core.py: 8 lines, 1 import.\n\n  What a thing is.\n\n"
        "      6  class Thing\n      7      def run(self) -> None\n"
    )


async def test_explain_of_a_file_that_is_not_there_names_others(project: Path) -> None:
    read = await run_tools(explain_look((), "core.py").calls, project)
    asking = explain_look((read,), "core.py")
    globbed = await run_tools(asking.calls, project)

    assert "core.py" in asking.text
    assert "explain src/thing/core.py" in explain_look((read, globbed), "core.py").text


@pytest.mark.parametrize("prompt", ["help", "hello there", "", "find", "explain"])
async def test_it_says_what_it_is_and_how_to_get_a_real_model(prompt: str, autojump_clock: MockClock) -> None:
    text = text_of(await ask(DemoModel(), asked(prompt)))

    assert text.startswith(FIRST_LINE)
    for word in ("map", "find TEXT", "explain FILE", "slow N", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        assert word in text
    assert autojump_clock.current_time() < 2


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        ("map", ["ls", "glob", "glob"]),
        ("Map this project", ["ls", "glob", "glob"]),
        ("find TODO", ["grep"]),
        ("explain a.py", ["read"]),
    ],
)
async def test_a_word_it_knows_makes_it_use_the_tools(prompt: str, calls: list[str], autojump_clock: MockClock) -> None:
    events = await ask(DemoModel(), asked(prompt))

    assert text_of(events).startswith(FIRST_LINE)
    assert [name for name, _ in calls_of(events)] == calls
    assert all(isinstance(msgspec.json.decode(given), dict) for _, given in calls_of(events))
    assert events[-1] == Finish("tool_use")


async def test_it_goes_on_from_the_results_and_says_what_it_is_only_once(autojump_clock: MockClock) -> None:
    called = AssistantTurn("", calls=(ToolCall("c", "grep", {"pattern": "x", "literal": True}),))
    results = ToolResults((ToolOutput("c", "grep", (TextBlock(text="a.py:3: x = 1"),), is_error=False),))
    events = await ask(DemoModel(), asked("find x", called, results))

    assert text_of(events) == "1 line in 1 file with “x”:\n\n  a.py:3: x = 1\n"
    assert events[-1] == Finish("end_turn")


def test_a_newer_prompt_starts_anew() -> None:
    called = AssistantTurn("", calls=(ToolCall("c", "read", {"path": "a"}),))
    results = ToolResults((ToolOutput("c", "read", (TextBlock(text="     1\tx"),), is_error=False),))
    turns = (UserTurn((TextBlock(text="explain a"),)), called, results)

    assert results_since_prompt(turns) == ((Result("read", {"path": "a"}, "     1\tx", is_error=False),),)
    assert results_since_prompt((*turns, UserTurn((TextBlock(text="map"),)))) == ()


async def test_slow_says_so_many_pieces_with_a_pause(autojump_clock: MockClock) -> None:
    events = await ask(DemoModel(), asked("slow 50"))

    assert text_of(events).split()[-2:] == ["50", "done"]
    assert len([event for event in events if isinstance(event, TextDelta)]) == 52
    assert autojump_clock.current_time() == pytest.approx(5.1)


async def test_without_tools_it_says_which_it_misses(autojump_clock: MockClock) -> None:
    events = await ask(DemoModel(), request("find x"))

    assert "needs tools that are not there: grep" in text_of(events)
    assert events[-1] == Finish("end_turn")


async def test_a_title_is_made_of_the_first_words(autojump_clock: MockClock) -> None:
    events = await ask(DemoModel(), asked("map this project", purpose="title"))

    assert text_of(events) == "map this project"


def answered(name: str, text: str, *, is_error: bool = False) -> Round:
    return (Result(name, {}, text, is_error),)


@pytest.mark.parametrize(
    ("prompt", "path", "content"),
    [
        ("write hello.txt good day", "hello.txt", "good day\n"),
        ("write a file hello.txt with good day", "hello.txt", "good day\n"),
        ("create the new file named docs/a.md saying 'x y'", "docs/a.md", "x y\n"),
        ("write hello.txt", "hello.txt", "hello\n"),
    ],
)
async def test_write_makes_the_file_that_is_named(prompt: str, path: str, content: str) -> None:
    ((name, given),) = calls_of(await ask(DemoModel(), asked(prompt)))
    assert (name, msgspec.json.decode(given)) == ("write", {"path": path, "content": content})


@pytest.mark.parametrize(
    ("prompt", "command"),
    [
        ("run git status", "git status"),
        ('run echo "two words"', 'echo "two words"'),
        ('run "make test"', "make test"),
        ("run `ls -l`", "ls -l"),
    ],
)
async def test_run_takes_the_command_as_it_stands(prompt: str, command: str) -> None:
    ((name, given),) = calls_of(await ask(DemoModel(), asked(prompt)))
    assert (name, msgspec.json.decode(given)) == ("shell", {"command": command})


def test_a_file_that_is_there_is_read_before_it_is_written() -> None:
    refused = answered("write", "a.txt has not been read in this session. Read it first.", is_error=True)
    assert write_deed((refused,), "a.txt b").calls == (("read", {"path": "a.txt"}),)
    assert write_deed((refused, answered("read", "1\tx")), "a.txt b").calls[0][0] == "write"
    again = write_deed((refused, answered("read", "1\tx"), refused), "a.txt b")
    assert not again.calls and "It was not written" in again.text


def test_how_a_command_ended_is_told() -> None:
    assert "status 3" in run_deed((answered("shell", "out\n[Exit status 3.]"),), "x").text
    assert run_deed((answered("shell", "out"),), "x").text == "The command has run.\n"
    assert "It was not run. No." in run_deed((answered("shell", "No.", is_error=True),), "x").text


def test_a_map_names_no_program_in_a_document_and_no_directory_without_a_listed_file() -> None:
    starts = [Match("docs/client.md", 56, 'if __name__ == "__main__":'), Match("src/a.py", 3, "def main(")]
    seen = Seen(name="p", tree=[".ci/", "docs/", "src/"], files=["docs/client.md", "src/a.py"], starts=starts)
    text = summary(seen)
    assert "Programs begin at:\n  src/a.py:3\n" in text
    assert "docs/client.md:56" not in text
    assert ".ci" not in text
