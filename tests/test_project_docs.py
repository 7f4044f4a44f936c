"""The documents are whole: everything that has a name has a heading, and what they tell to type is what CI types.

A heading counts wherever it stands in its document and whatever else it says,
as long as it holds the name in backticks: ``### `session/prompt` ``.
"""

import re
from pathlib import Path

import pytest

from atrio_protocol.errors import ERRORS
from atrio_protocol.events import EVENT_TYPES
from atrio_protocol.methods import METHODS
from atrio_server.cli.app import make_app
from atrio_server.config.schema import schema_text
from atrio_server.config.table import SETTINGS

ROOT = Path(__file__).parent.parent
INSTALL = 'scripts/atrio run "map this project"'


def headings(document: str) -> set[str]:
    """The names in backticks of all headings."""
    lines = (ROOT / "docs" / document).read_text().splitlines()
    return {name for line in lines if line.startswith("#") for name in re.findall(r"`([^`]+)`", line)}


def typed(document: Path) -> list[str]:
    """The lines of all `sh` blocks of a document, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def test_every_method_has_its_heading() -> None:
    assert set(METHODS) - headings("protocol.md") == set()


def test_every_event_has_its_heading() -> None:
    assert set(EVENT_TYPES) - headings("protocol.md") == set()


def test_every_kind_of_error_has_its_heading() -> None:
    assert set(ERRORS) - headings("protocol.md") == set()


def test_every_command_has_its_heading() -> None:
    commands = {f"atrio {name}" for name in make_app() if not name.startswith("-")}
    assert len(commands) > 3
    assert commands - headings("cli.md") == set()


def test_every_setting_has_its_heading() -> None:
    named = headings("configuration.md")
    assert {setting.flag for setting in SETTINGS if setting.flag} - named == set()
    assert {setting.variable for setting in SETTINGS if setting.variable} - named == set()
    assert {setting.key for setting in SETTINGS if setting.in_file} - named == set()


def test_every_tool_has_its_heading() -> None:
    agent = ROOT / "agent/atrio_agent/tools"
    described = {path.stem for path in agent.glob("*.md")}  # each tool has its description for models beside it
    assert len(described) > 10
    assert headings("tools.md") == described


def test_the_schema_of_the_configuration_is_the_one_in_the_docs() -> None:
    assert (ROOT / "docs/config.schema.json").read_text() == schema_text()


def test_the_two_commands_come_first_in_the_readme() -> None:
    assert typed(ROOT / "README.md")[:2] == [INSTALL, "scripts/test"]


def test_ci_runs_every_command_of_the_readme() -> None:
    ci = (ROOT / ".ci/run").read_text()
    assert [line for line in typed(ROOT / "README.md") if line not in ci] == []


def test_every_command_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"scripts/atrio ([a-z]+)", (ROOT / "README.md").read_text()))
    assert len(named) > 8
    assert named - {*make_app()} == set()


@pytest.mark.parametrize(
    "document", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_test_that_proves_a_guarantee_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs/guarantees.md").read_text())
    assert len(named) > 60
    assert [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).exists() or f"def {test}(" not in (ROOT / "tests" / file).read_text()
    ] == []


def test_every_guarantee_names_its_proof() -> None:
    sections = re.split(r"^## ", (ROOT / "docs/guarantees.md").read_text(), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections[:-1] if "- **Proof**:" not in section] == []
    assert sections[-1].startswith("The last long run\n")
