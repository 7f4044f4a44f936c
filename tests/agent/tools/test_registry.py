"""The set of tools: what the model is told, and how its nearly right calls are taken."""

from typing import Any

import jsonschema
import msgspec
import pytest

from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.files import LsInput, Read, ReadInput
from atrio_agent.tools.registry import Tools, read_only_tools
from atrio_agent.tools.search import GrepInput
from atrio_protocol.parts import Location


@pytest.fixture
def tools() -> Tools:
    return read_only_tools()


def test_the_reading_tools_come_in_order(tools: Tools) -> None:
    assert tools.names == ("read", "ls", "glob", "grep")
    assert [spec.name for spec in tools.specs] == ["read", "ls", "glob", "grep"]


def test_every_tool_and_every_parameter_is_described(tools: Tools) -> None:
    for spec in tools.specs:
        assert len(spec.description) > 100
        assert spec.schema["type"] == "object"
        assert spec.schema["additionalProperties"] is False
        for name, parameter in spec.schema["properties"].items():
            assert parameter["description"], name
            assert isinstance(parameter["type"], str), name


def test_the_parameters_are_those_of_the_contract(tools: Tools) -> None:
    told = {spec.name: (list(spec.schema["properties"]), spec.schema["required"]) for spec in tools.specs}
    assert told == {
        "read": (["path", "offset", "limit"], ["path"]),
        "ls": (["path", "depth"], []),
        "glob": (["pattern", "path"], ["pattern"]),
        "grep": (["pattern", "path", "include", "literal"], ["pattern"]),
    }


def test_a_schema_is_json_schema_and_can_be_sent(tools: Tools) -> None:
    for spec in tools.specs:
        jsonschema.Draft202012Validator.check_schema(spec.schema)
        assert msgspec.json.decode(msgspec.json.encode(spec.schema)) == spec.schema


@pytest.mark.parametrize(
    ("name", "raw", "given"),
    [
        ("read", {"path": "a", "offset": 3}, ReadInput(path="a", offset=3)),
        ("read", {"path": "a", "offset": "3"}, ReadInput(path="a", offset=3)),
        ("read", {"path": "a", "offset": None, "limit": None}, ReadInput(path="a")),
        ("read", {"path": "a", "offset": 3.0}, ReadInput(path="a", offset=3)),
        ("read", {"path": "null"}, ReadInput(path="null")),
        ("ls", {}, LsInput()),
        ("ls", {"path": "10"}, LsInput(path="10")),
        ("grep", {"pattern": "x", "literal": "true"}, GrepInput(pattern="x", literal=True)),
    ],
)
def test_a_call_that_is_nearly_right_is_taken(name: str, raw: dict[str, Any], given: object, tools: Tools) -> None:
    assert tools.validate(name, raw) == given


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("read", {}, "`path`.*It takes: path, offset \\(optional\\), limit \\(optional\\)"),
        ("read", {"path": 3}, "path"),
        ("read", {"path": None}, "path"),
        ("read", {"path": "a", "offset": 0}, "offset"),
        ("read", {"path": "a", "offset": "many"}, "offset"),
        ("read", {"path": "a", "limit": 10**9}, "limit"),
        ("read", {"path": "a", "limit": 10**30}, "limit"),
        ("read", {"path": "a", "file": "b"}, "`file`.*It takes: path"),
        ("read", {"path": ["a"]}, "path"),
        ("read", {"path": "\ud800"}, "'path' is not valid text"),
        ("read", {"\ud800": "a"}, "is not valid text"),
        ("ls", {"depth": 21}, "depth"),
        ("glob", {"pattern": ""}, "pattern"),
        ("grep", {"pattern": "x" * 5_000}, "pattern"),
        ("grep", {"pattern": "x", "literal": "perhaps"}, "literal"),
        ("write", {"path": "a"}, "There is no tool 'write'. There are: read, ls, glob, grep."),
        ("re\nad\ud800", {}, r"There is no tool 're\\nad\\ud800'"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_by_the_parameter_s_name(
    name: str, raw: dict[str, Any], said: str, tools: Tools
) -> None:
    with pytest.raises(ToolFailed, match=said) as refusal:
        tools.validate(name, raw)
    str(refusal.value).encode()


def test_calls_are_shown_whether_they_fit_or_not(tools: Tools, place: Place) -> None:
    assert tools.kind("grep") == "search"
    assert tools.kind("nothing") == "other"
    assert tools.title("read", {"path": "a"}) == "Read a"
    assert tools.title("read", {"wrong": "a"}) == "read"
    assert tools.title("no\nthing", {}) == r"no\nthing"
    assert tools.locations("read", {"path": "/etc/x"}, place) == (Location(path="/etc/x"),)
    assert tools.locations("read", {"wrong": "a"}, place) == ()


def test_two_tools_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two tools are named read"):
        Tools([Read(), Read()])
