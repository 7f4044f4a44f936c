"""A workspace on the real disk with something secret beside it, and tools called as the loop calls them."""

from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.tools import process
from atrio_agent.tools.base import Place, Tool, ToolOutcome
from atrio_agent.tools.change import EditFile, MultiEdit, Write
from atrio_agent.tools.files import Ls, Read
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.ripgrep import installed_ripgreps
from atrio_agent.tools.search import Glob, Grep
from atrio_protocol.content import TextBlock
from tool_calls import SECRET, Call, Text


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the workspace, with a secret."""
    outside = tmp_path.resolve() / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(f"{SECRET}\n")
    return outside


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    """The workspace, empty."""
    root = tmp_path.resolve() / "work"
    root.mkdir()
    return root


@pytest.fixture
def place(root: Path) -> Place:
    return Place(root=root, session_id="s", run_id="r", tool_call_id="t")


@pytest.fixture(params=["ripgrep", "scan"])
def grep(request: pytest.FixtureRequest) -> Grep:
    """Both ways to search."""
    return Grep() if request.param == "ripgrep" else Grep([])


@pytest.fixture
def call(place: Place) -> Call:
    """Call a tool with what a model might send, and wait no longer than a minute."""

    async def call(tool: Tool | str, **raw: Any) -> ToolOutcome:
        known = {
            "read": Read,
            "ls": Ls,
            "glob": Glob,
            "grep": Grep,
            "write": Write,
            "edit": EditFile,
            "multi_edit": MultiEdit,
        }
        chosen = known[tool]() if isinstance(tool, str) else tool
        given = Tools([chosen]).validate(chosen.name, raw)
        with trio.fail_after(60):
            return await chosen.run(given, place)

    return call


@pytest.fixture
def text(call: Call) -> Text:
    """As `call`, but gives the text alone."""

    async def text(tool: Tool | str, **raw: Any) -> str:
        outcome = await call(tool, **raw)
        (block,) = outcome.content
        assert isinstance(block, TextBlock)
        block.text.encode()  # it must be fit to be sent
        return block.text

    return text


@pytest.fixture
def whole_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rest of an output take as long as ending may: a disk that stands still costs no line of it."""
    monkeypatch.setattr(process, "_DRAIN_S", 60.0)


@pytest.fixture(scope="session")
def ripgrep() -> Path:
    """The ripgrep that is a dependency of ours."""
    return installed_ripgreps()[0]
