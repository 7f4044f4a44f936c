"""The description of the wire: everything has its heading, and under it what it takes, gives or is."""

import re
from pathlib import Path

import msgspec
import pytest

from atrio_protocol import limits
from atrio_protocol.errors import ERRORS
from atrio_protocol.events import EVENT_TYPES, Event, UnknownEvent
from atrio_protocol.methods import METHODS, Limits
from atrio_protocol.notifications import CLIENT_NOTIFICATIONS, SERVER_NOTIFICATIONS
from atrio_protocol.parts import Diff, ReasoningPart, ToolCallPart, ToolResultPart
from atrio_protocol.struct import WireStruct
from atrio_protocol.things import Client, Message, Permission, Run, Session, Usage, Workspace
from atrio_protocol.who import Author

DOCUMENT = Path(__file__).parent.parent.parent / "docs/protocol.md"
CLOSE_CODES = ["1000", "1001", "1002", "1003", "1007", "1008", "1009", "1011", "1013", "4408"]


def sections() -> dict[str, str]:
    """What stands under each heading that is a name in backticks, up to the next heading."""
    found = re.findall(r"^### `([^`]+)`\n(.*?)(?=^#|\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len({name for name, _ in found}) == len(found), "a name has two headings"
    return dict(found)


SECTIONS = sections()


def unmentioned(name: str, *types: type[WireStruct], known: frozenset[str] = frozenset()) -> set[str]:
    """The properties of these types that the section of this name does not mention."""
    fields = {field.encode_name for cls in types for field in msgspec.structs.fields(cls)}
    return {field for field in fields - known if not re.search(rf"`{re.escape(field)}\??`", SECTIONS[name])}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_takes_what_it_gives_and_which_scope_it_needs(name: str) -> None:
    method = METHODS[name]
    assert unmentioned(name, method.params, method.result) == set()
    if not name.startswith("test/") or name == "test/gates":
        assert f"cope `{method.scope}`" in SECTIONS[name]


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_event_says_what_it_brings(name: str) -> None:
    common = frozenset(field.encode_name for field in msgspec.structs.fields(Event))
    assert unmentioned(name, EVENT_TYPES[name], known=common) == set()


@pytest.mark.parametrize("name", sorted({*CLIENT_NOTIFICATIONS, *SERVER_NOTIFICATIONS}))
def test_a_notification_says_what_it_brings(name: str) -> None:
    notifications = {**CLIENT_NOTIFICATIONS, **SERVER_NOTIFICATIONS}
    assert unmentioned(name, notifications[name]) == set()


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_says_its_code_and_whether_it_is_worth_another_try(kind: str) -> None:
    assert SECTIONS[kind].startswith(f"{ERRORS[kind].code}. ")
    assert ("Retryable" in SECTIONS[kind]) == ERRORS[kind].retryable


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("Workspace", [Workspace]),
        ("Session", [Session]),
        ("Usage", [Usage]),
        ("Run", [Run]),
        ("Message", [Message]),
        ("Part", [ReasoningPart, ToolCallPart, ToolResultPart, Diff]),
        ("Author", [Author]),
        ("Client", [Client]),
        ("Permission", [Permission]),
    ],
)
def test_a_thing_says_what_it_has(name: str, types: list[type[WireStruct]]) -> None:
    assert unmentioned(name, *types) == set()


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_close_code_has_its_heading(code: str) -> None:
    assert code in SECTIONS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maxFrameBytes", limits.MAX_FRAME_BYTES),
        ("maxPromptBytes", limits.MAX_PROMPT_BYTES),
        ("maxQueuedPerSession", limits.MAX_QUEUED_PER_SESSION),
        ("maxInFlight", limits.MAX_IN_FLIGHT),
        ("replayEvents", limits.REPLAY_EVENTS),
        ("maxConnections", limits.MAX_CONNECTIONS),
    ],
)
def test_a_limit_has_its_heading_and_its_value(name: str, value: int) -> None:
    assert SECTIONS[name].startswith(f"{value:,}. ")
    assert name in {field.encode_name for field in msgspec.structs.fields(Limits)}


def test_every_announced_limit_has_its_heading() -> None:
    assert {field.encode_name for field in msgspec.structs.fields(Limits)} <= set(SECTIONS)


def test_nothing_is_described_that_is_not_there() -> None:
    things = {
        "Workspace",
        "Session",
        "Usage",
        "Run",
        "Message",
        "Part",
        "ContentBlock",
        "Author",
        "Client",
        "Grant",
        "Permission",
    }
    known = {
        *METHODS,
        *EVENT_TYPES,
        *ERRORS,
        *CLIENT_NOTIFICATIONS,
        *SERVER_NOTIFICATIONS,
        *CLOSE_CODES,
        *things,
        "1006",
    }
    known |= {field.encode_name for field in msgspec.structs.fields(Limits)}
    assert set(SECTIONS) - known == set()
    assert UnknownEvent not in EVENT_TYPES.values()


def test_links_within_the_document_lead_to_a_heading() -> None:
    text = DOCUMENT.read_text()
    anchors = {
        re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors == set()
