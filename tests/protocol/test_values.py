"""Every type of the wire: written and read again it is the same, and it reads past what it does not know."""

import base64
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, inspect

from atrio_protocol.content import (
    Attachment,
    ImageBlock,
    ResourceBlock,
    ResourceContents,
    ResourceLink,
    TextBlock,
    attachments_of,
    prompt_text,
)
from atrio_protocol.events import EVENT_TYPES
from atrio_protocol.ids import new_id, workspace_id_for, workspace_id_of
from atrio_protocol.limits import INLINE_IMAGE_BYTES
from atrio_protocol.methods import METHODS, Capabilities, Empty, SessionListResult
from atrio_protocol.notifications import CLIENT_NOTIFICATIONS, SERVER_NOTIFICATIONS
from atrio_protocol.parts import ToolCallPart, ToolResultPart
from atrio_protocol.struct import WireStruct
from atrio_protocol.things import Message, Session, Usage, lean_message
from protocol_values import values_of


def every_type() -> list[type[WireStruct]]:
    """What messages are made of, down to the smallest."""
    roots: list[Any] = [method.params for method in METHODS.values()]
    roots += [method.result for method in METHODS.values()]
    roots += [*EVENT_TYPES.values(), *CLIENT_NOTIFICATIONS.values(), *SERVER_NOTIFICATIONS.values()]
    found: dict[str, type[WireStruct]] = {}
    open_places = list(inspect.multi_type_info(roots))
    while open_places:
        match open_places.pop():
            case inspect.StructType(cls=cls, fields=fields) if cls.__name__ not in found:
                assert issubclass(cls, WireStruct)
                found[cls.__name__] = cls
                open_places += [field.type for field in fields]
            case inspect.UnionType(types=types):
                open_places += types
            case inspect.VarTupleType(item_type=item):
                open_places.append(item)
            case _:
                pass
    return [found[name] for name in sorted(found)]


TYPES = every_type()


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
@settings(max_examples=15)
@given(st.data())
def test_what_is_written_is_read_again_also_with_a_property_that_a_newer_peer_adds(
    cls: type[WireStruct], data: st.DataObject
) -> None:
    value = data.draw(values_of(cls))
    written = msgspec.json.encode(value)
    read = msgspec.json.decode(written, type=cls)
    assert msgspec.json.encode(read) == written
    if b'"requestId"' not in written and not cls.__name__.endswith("Events"):  # unread JSON has no equality
        assert read == value
    more = b'{"addedLater":{"x":[1]}' + (b"," if written != b"{}" else b"") + written[1:]
    assert msgspec.json.encode(msgspec.json.decode(more, type=cls)) == written


def test_absent_is_not_written_and_null_is() -> None:
    call = ToolCallPart(tool_call_id="t", name="read", title="Read a", kind="read", input=None, status="pending")
    assert json.loads(msgspec.json.encode(call)) == {
        "type": "tool_call",
        "toolCallId": "t",
        "name": "read",
        "title": "Read a",
        "kind": "read",
        "input": None,
        "status": "pending",
    }
    assert msgspec.json.encode(Capabilities(steer=Empty())) == b'{"steer":{}}'


def test_properties_are_camel_case_and_values_snake_case() -> None:
    session = Session(
        session_id="s",
        workspace_id="w",
        parent_session_id="p",
        root_session_id="p",
        title="t",
        state="requires_action",
        queued=1,
        viewers=2,
        message_count=3,
        model="demo",
        usage=Usage(),
        rev=4,
        created_at="a",
        updated_at="b",
    )
    assert json.loads(msgspec.json.encode(SessionListResult(sessions=(session,), next_cursor="c"))) == {
        "sessions": [
            {
                "sessionId": "s",
                "workspaceId": "w",
                "parentSessionId": "p",
                "rootSessionId": "p",
                "title": "t",
                "state": "requires_action",
                "queued": 1,
                "viewers": 2,
                "messageCount": 3,
                "model": "demo",
                "usage": {"inputTokens": 0, "outputTokens": 0, "contextTokens": 0, "estimated": False},
                "rev": 4,
                "createdAt": "a",
                "updatedAt": "b",
            }
        ],
        "nextCursor": "c",
    }


def test_every_field_is_camel_case_but_for_the_free_form_one() -> None:
    names = {field.encode_name for cls in TYPES for field in msgspec.structs.fields(cls)}
    assert {name for name in names if not name.isalpha() or not name[0].islower()} == {"_meta"}


def image(size: int) -> ImageBlock:
    return ImageBlock(mime_type="image/png", data=base64.b64encode(bytes(size)).decode())


def message(*parts: Any) -> Message:
    return Message(message_id="m", session_id="s", order=1, role="user", parts=parts, created_at="", updated_at="")


def test_a_large_image_is_left_out_of_lists_with_its_size_in_its_place() -> None:
    large, small = image(INLINE_IMAGE_BYTES + 3), image(INLINE_IMAGE_BYTES)
    result = ToolResultPart(
        tool_call_id="t", name="read", content=(large, TextBlock(text="x")), is_error=False, exit_code=0
    )
    lean = lean_message(message(TextBlock(text="x"), large, small, result))
    _, first, second, third = lean.parts
    assert first == ImageBlock(mime_type="image/png", bytes=INLINE_IMAGE_BYTES + 3)
    assert second == small
    assert third == msgspec.structs.replace(result, content=(first, TextBlock(text="x")))


def test_a_message_without_large_images_is_shown_as_it_is() -> None:
    whole = message(TextBlock(text="x"), image(10))
    assert lean_message(whole) is whole


def test_a_run_tells_of_its_prompt_by_its_text_and_its_attachments() -> None:
    prompt = (
        TextBlock(text="look"),
        ImageBlock(mime_type="image/png", data="AAAA", uri="file:///i"),
        ResourceBlock(resource=ResourceContents(uri="file:///r", mime_type="text/x-python", text="pass")),
        ResourceLink(uri="file:///l", name="l"),
        TextBlock(text="and say"),
    )
    assert prompt_text(prompt) == "look\n\nand say"
    assert attachments_of(prompt) == (
        Attachment(type="image", uri="file:///i", mime_type="image/png"),
        Attachment(type="resource", uri="file:///r", mime_type="text/x-python"),
        Attachment(type="resource_link", name="l", uri="file:///l"),
    )


def test_an_id_of_ours_leads_to_its_workspace_and_a_clients_to_none() -> None:
    workspace = workspace_id_for("/srv/é")
    assert workspace == workspace_id_for("/srv/é") != workspace_id_for("/srv/e")
    assert workspace_id_of(workspace) == workspace
    assert workspace_id_of(new_id(workspace, "s")) == workspace
    assert new_id(workspace, "s") != new_id(workspace, "s")
    assert [
        workspace_id_of(foreign) for foreign in ("", "r-1", str(uuid.uuid4()), workspace + "-", workspace + "\n")
    ] == [None] * 5


def test_a_field_that_may_be_absent_says_so_by_its_default() -> None:
    ambiguous = [
        f"{cls.__name__}.{field.name}"
        for cls in TYPES
        for field in msgspec.structs.fields(cls)
        if field.default is None and "session_id" not in field.name
    ]
    assert ambiguous == []
    assert Usage().context_size is UNSET
