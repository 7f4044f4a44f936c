"""The schema: in step with the copy in `docs/`, true of what is written, and complete."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from atrio_protocol.errors import ERRORS
from atrio_protocol.events import EVENT_TYPES, SESSION_EVENTS, WORKSPACE_EVENTS, Event
from atrio_protocol.jsonrpc import encode_error, encode_notification, encode_request, encode_result
from atrio_protocol.merge import encode_event
from atrio_protocol.methods import METHODS, SessionParams
from atrio_protocol.notifications import CLIENT_NOTIFICATIONS, SERVER_NOTIFICATIONS
from atrio_protocol.schema import schema, schema_json
from protocol_story import at
from protocol_values import values_of

ROOT = Path(__file__).parent.parent.parent
SCHEMA = schema()


@cache
def validator(ref: str) -> jsonschema.Draft202012Validator:
    """A validator for one definition."""
    return jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": ref})


def check(ref: str, message: bytes) -> None:
    validator(ref).validate(json.loads(message))


def test_the_copy_in_docs_is_in_step() -> None:
    assert (ROOT / "docs/schema.json").read_bytes() == schema_json(), (
        "run: python -m atrio_protocol.schema > docs/schema.json"
    )


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_command_prints_the_same_whatever_the_order_of_hashes(seed: str) -> None:
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "protocol")}
    printed = subprocess.run(
        [sys.executable, "-m", "atrio_protocol.schema"], env=env, capture_output=True, check=True, timeout=60
    )
    assert printed.stdout == schema_json()


def test_it_is_a_schema_and_every_reference_leads_somewhere() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = schema_json().decode()
    named = {line.split('"')[3] for line in text.splitlines() if '"$ref"' in line}
    assert named <= {f"#/$defs/{name}" for name in SCHEMA["$defs"]}


def test_every_method_notification_event_and_error_is_listed() -> None:
    assert set(SCHEMA["methods"]) == set(METHODS)
    assert set(SCHEMA["notifications"]["client"]) == set(CLIENT_NOTIFICATIONS)
    assert set(SCHEMA["notifications"]["server"]) == set(SERVER_NOTIFICATIONS)
    listed = {name for stream in SCHEMA["events"].values() for name in stream}
    assert listed == set(EVENT_TYPES)
    assert {kind: error["code"] for kind, error in SCHEMA["errors"].items()} == {
        kind: cls.code for kind, cls in ERRORS.items()
    }


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10)
@given(st.data())
def test_what_a_server_answers_is_described(name: str, data: st.DataObject) -> None:
    answer = encode_result(Raw(b'"a"'), data.draw(values_of(METHODS[name].result)))
    check(SCHEMA["methods"][name]["response"]["$ref"], answer)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10)
@given(st.data())
def test_what_a_client_may_ask_is_described(name: str, data: st.DataObject) -> None:
    params = data.draw(values_of(METHODS[name].params))
    # Fields that are typed loosely, so that what is wrong with them gets an error kind of its own.
    own_errors = {"session_id": "s", "path": "/p", "client_id": "8d5c8a0e-0000-4000-8000-000000000000"}
    known = {field.name for field in msgspec.structs.fields(params)}
    if isinstance(params, SessionParams) or name in {"initialize", "workspace/open"}:
        params = msgspec.structs.replace(params, **{key: own_errors[key] for key in own_errors if key in known})
    check(SCHEMA["methods"][name]["request"]["$ref"], encode_request(7, name, params))


@pytest.mark.parametrize(
    ("stream", "cls"),
    [("session", cls) for cls in SESSION_EVENTS] + [("workspace", cls) for cls in WORKSPACE_EVENTS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@settings(max_examples=5)
@given(st.data())
def test_what_a_stream_brings_is_described(stream: str, cls: type[Event], data: st.DataObject) -> None:
    body = msgspec.structs.replace(data.draw(values_of(cls)), seq=0, first_seq=msgspec.UNSET, at="")
    assert isinstance(body, Event)
    event = encode_event(body, 3, at(3)).data
    check(SCHEMA["events"][stream][str(cls.__struct_config__.tag)]["$ref"], event)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_described(kind: str) -> None:
    answer = encode_error(None, ERRORS[kind]("m", retry_after_ms=5, path="/a").to_object())
    check("#/$defs/ErrorResponse", answer)
    check("#/$defs/ServerMessage", answer)


def test_what_is_not_of_the_wire_does_not_pass() -> None:
    wrong: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "session/dance", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "method": "session/prompt", "params": {"prompt": []}},
        {"jsonrpc": "2.0", "id": {}, "method": "ping"},
        {"jsonrpc": "1.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "session/messages", "params": {"sessionId": "s", "limit": 0}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "m", "data": {"kind": "new"}}},
        {"jsonrpc": "2.0", "method": "session/events", "params": {"sessionId": "s", "epoch": "e", "events": [{}]}},
    ]
    for message in wrong:
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(message), message


@settings(max_examples=10)
@given(st.data(), st.sampled_from(sorted(CLIENT_NOTIFICATIONS)))
def test_what_a_client_may_tell_is_described(data: st.DataObject, name: str) -> None:
    params = data.draw(values_of(CLIENT_NOTIFICATIONS[name]))
    if isinstance(params, SessionParams):
        params = msgspec.structs.replace(params, session_id="s")
    check(SCHEMA["notifications"]["client"][name]["$ref"], encode_notification(name, params))


@pytest.mark.parametrize("name", ["session/detached", "workspace/detached"])
@given(st.data())
def test_the_end_of_an_attachment_is_described(name: str, data: st.DataObject) -> None:
    told = encode_notification(name, data.draw(values_of(SERVER_NOTIFICATIONS[name])))
    check(SCHEMA["notifications"]["server"][name]["$ref"], told)


def test_what_is_always_written_may_be_relied_on() -> None:
    assert {"seq", "at"} <= set(SCHEMA["$defs"]["RunCompleted"]["required"])
    assert {"inputTokens", "estimated"} <= set(SCHEMA["$defs"]["Usage"]["required"])
    assert "contextSize" not in SCHEMA["$defs"]["Usage"]["required"]
    assert "limit" not in SCHEMA["$defs"]["MessagesParams"]["required"]
