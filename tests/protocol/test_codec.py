"""Parameters that do not fit: where they do not, and what was expected there."""

import json

import pytest
from msgspec import UNSET, Raw

from atrio_protocol.codec import decode_params, events_frame
from atrio_protocol.content import ImageBlock, ResourceBlock, TextBlock
from atrio_protocol.errors import InvalidParams
from atrio_protocol.jsonrpc import Notification, parse_message
from atrio_protocol.methods import METHODS, MessagesParams, Position, PromptParams, SessionParams, ViewParams

TEXT = {"type": "text", "text": "hi"}


def mismatch(method: str, params: object) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode_params(METHODS[method], Raw(json.dumps(params).encode()))
    return caught.value


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("ping", [], ""),
        ("session/prompt", {"sessionId": "s"}, "/prompt"),
        ("session/prompt", {"sessionId": 5, "prompt": []}, "/sessionId"),
        ("session/prompt", {"sessionId": "s", "prompt": "hi"}, "/prompt"),
        ("session/prompt", {"sessionId": "s", "prompt": [5]}, "/prompt/0"),
        ("session/prompt", {"sessionId": "s", "prompt": [TEXT, {"type": "text"}]}, "/prompt/1/text"),
        ("session/prompt", {"sessionId": "s", "prompt": [{"type": "text", "text": 5}]}, "/prompt/0/text"),
        ("session/prompt", {"sessionId": "s", "prompt": [{"type": "audio", "data": ""}]}, "/prompt/0/type"),
        ("session/prompt", {"sessionId": "s", "prompt": [{"type": 5}]}, "/prompt/0/type"),
        ("session/prompt", {"sessionId": "s", "prompt": [{"text": "hi"}]}, "/prompt/0/type"),
        (
            "session/prompt",
            {"sessionId": "s", "prompt": [{"type": "image", "mimeType": "image/png"}]},
            "/prompt/0/data",
        ),
        (
            "session/prompt",
            {"sessionId": "s", "prompt": [{"type": "image", "mimeType": "image/png", "bytes": 5}]},
            "/prompt/0/data",
        ),
        (
            "session/prompt",
            {"sessionId": "s", "prompt": [{"type": "resource", "resource": {"text": ""}}]},
            "/prompt/0/resource/uri",
        ),
        (
            "session/prompt",
            {"sessionId": "s", "prompt": [{"type": "resource", "resource": {"uri": ""}}]},
            "/prompt/0/resource/text",
        ),
        ("session/prompt", {"sessionId": "s", "prompt": [TEXT], "delivery": "later"}, "/delivery"),
        ("session/prompt", {"sessionId": "s", "prompt": [TEXT], "runId": ""}, "/runId"),
        ("session/prompt", {"sessionId": "s", "prompt": [TEXT], "runId": "x" * 129}, "/runId"),
        ("session/prompt", {"sessionId": "s", "prompt": [TEXT], "_meta": []}, "/_meta"),
        ("session/attach", {"sessionId": "s", "after": {"epoch": "e", "seq": -1}}, "/after/seq"),
        ("session/attach", {"sessionId": "s", "after": {"epoch": "e"}}, "/after/seq"),
        ("session/attach", {"sessionId": "s", "watch": ["r", 5]}, "/watch/1"),
        ("session/messages", {"sessionId": "s", "limit": 0}, "/limit"),
        ("session/messages", {"sessionId": "s", "limit": 1.5}, "/limit"),
        ("session/messages", {"sessionId": "s", "limit": 2**53}, "/limit"),
        ("session/messages", {"sessionId": "s", "before": "1"}, "/before"),
        ("session/cancel", {"sessionId": "s", "wait": "yes"}, "/wait"),
        ("session/cancel", {"sessionId": "s", "scope": "ours"}, "/scope"),
        ("initialize", {"clientInfo": {"name": "n", "version": "1"}}, "/protocolVersion"),
        ("initialize", {"protocolVersion": 1, "clientInfo": {"name": "n"}}, "/clientInfo/version"),
        (
            "initialize",
            {"protocolVersion": 1, "clientInfo": {"name": "n", "version": "1"}, "userName": "x" * 65},
            "/userName",
        ),
        ("server/shutdown", {}, "/ifIdle"),
        ("run/wait", {"runId": "r", "timeoutMs": -1}, "/timeoutMs"),
    ],
)
def test_a_parameter_that_does_not_fit_is_pointed_at(method: str, params: object, path: str) -> None:
    assert mismatch(method, params).data == {"path": path}


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("session/messages", {"limit": "5"}, "Expected a whole number at /limit, got a string."),
        ("session/messages", {"before": "5"}, "Expected a whole number or null at /before, got a string."),
        ("session/messages", {"limit": 0}, "Expected a whole number >= 1 at /limit."),
        ("session/rename", {"sessionId": "s"}, "Expected a value at /title, got nothing."),
        ("session/prompt", {"prompt": {}}, "Expected an array at /prompt, got an object."),
        ("session/cancel", {"wait": None}, "Expected true or false at /wait, got null."),
        ("session/cancel", {"scope": "ours"}, "Expected one of all, mine at /scope."),
        (
            "session/prompt",
            {"prompt": [], "delivery": "x"},
            "Expected one of interrupt, queue, reject, steer at /delivery.",
        ),
        (
            "session/prompt",
            {"prompt": [{"type": "audio"}]},
            "Expected one of text, image, resource, resource_link at /prompt/0/type.",
        ),
        ("ping", [], "Expected an object at params, got an array."),
    ],
)
def test_the_sentence_says_what_was_expected(method: str, params: object, message: str) -> None:
    assert mismatch(method, params).message == message


def test_what_was_sent_cannot_pose_as_a_place_and_is_not_repeated() -> None:
    posing = "x` - at `$.sessionId"
    error = mismatch("session/prompt", {"prompt": [TEXT, {"type": posing}], posing: 5})
    assert error.data == {"path": "/prompt/1/type"}
    assert posing not in error.message


def test_a_number_too_large_within_free_form_is_pointed_at_as_closely_as_it_has_a_name() -> None:
    with pytest.raises(InvalidParams) as caught:
        decode_params(METHODS["session/prompt"], Raw(b'{"prompt":[{"type":"text","text":"","_meta":{"a":[1e999]}}]}'))
    assert caught.value.data == {"path": "/prompt/0/_meta"}


def test_unknown_properties_are_ignored() -> None:
    sent = Raw(b'{"sessionId":"s","colour":"red","limit":3,"_meta":{"a":1},"after":{"x":1}}')
    assert decode_params(METHODS["session/messages"], sent) == MessagesParams(session_id="s", limit=3)


def test_null_is_absent_where_there_is_no_default() -> None:
    sent = Raw(
        b'{"sessionId":"s","prompt":[{"type":"text","text":"hi"}],"runId":null,"delivery":null,"model":null,"_meta":null}'
    )
    params = decode_params(METHODS["session/prompt"], sent)
    assert isinstance(params, PromptParams)
    assert (params.run_id, params.delivery, params.model, params.meta) == (None, None, None, None)
    assert decode_params(METHODS["session/view"], Raw(b'{"workspaceId":"w","sessionId":null}')) == ViewParams(
        workspace_id="w", session_id=None
    )


def test_an_id_with_an_error_of_its_own_may_be_missing_here() -> None:
    assert decode_params(METHODS["session/get"], Raw(b"{}")) == SessionParams(session_id=UNSET)
    decode_params(METHODS["workspace/open"], Raw(b"{}"))
    decode_params(
        METHODS["initialize"],
        Raw(b'{"protocolVersion":1,"clientInfo":{"name":"n","version":"1"},"clientId":["no","uuid"]}'),
    )


def test_every_kind_of_block_comes_in() -> None:
    sent = Raw(
        b'{"sessionId":"s","prompt":[{"type":"text","text":"a","_meta":{"k":1}},'
        b'{"type":"image","mimeType":"image/png","data":"AAAA"},'
        b'{"type":"resource","resource":{"uri":"file:///a","blob":"AAAA"}},'
        b'{"type":"resource_link","uri":"file:///b","name":"b"}]}'
    )
    params = decode_params(METHODS["session/prompt"], sent)
    assert isinstance(params, PromptParams)
    text, image, resource, _ = params.prompt
    assert text == TextBlock(text="a", meta={"k": 1})
    assert isinstance(image, ImageBlock)
    assert isinstance(resource, ResourceBlock)
    assert (image.data, resource.resource.blob) == ("AAAA", "AAAA")


def test_a_frame_of_events_is_a_notification_that_holds_them_as_they_are() -> None:
    events = [b'{"type":"x","seq":1,"at":""}', b'{"type":"y","seq":2,"at":""}']
    frame = events_frame("session/events", "sessionId", 's "1"', "e", events)
    message = parse_message(frame)
    assert isinstance(message, Notification)
    assert message.method == "session/events"
    assert json.loads(bytes(message.params)) == {
        "sessionId": 's "1"',
        "epoch": "e",
        "events": [json.loads(event) for event in events],
    }
    assert b",".join(events) in frame


def test_a_position_has_no_negative_place() -> None:
    assert mismatch("workspace/open", {"path": "/", "after": {"epoch": "e", "seq": -1}}).data == {"path": "/after/seq"}
    assert Position(epoch="e", seq=0)
