"""Reading messages: what is one, what is none, and that nothing else can happen.

The mutated frames are made with a fixed seed, so that a failure comes back; the
ones that hypothesis makes look for what nobody thought of.
"""

import json
import random
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from atrio_protocol.codec import decode_params
from atrio_protocol.errors import ErrorObject, InvalidParams, InvalidRequest, ParseFailed
from atrio_protocol.jsonrpc import (
    Message,
    Notification,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    parse_message,
    request_key,
)
from atrio_protocol.methods import METHODS, Empty, NoParams, RunParams

PROMPT = (
    b'{"jsonrpc":"2.0","id":1,"method":"session/prompt","params":{"sessionId":"s1","runId":"r-1","delivery":"queue",'
    b'"prompt":[{"type":"text","text":"say \\"hi\\" \\\\ \\u00e9 \xf0\x9f\x98\x80"},'
    b'{"type":"resource","resource":{"uri":"file:///a","text":"x"}}],"_meta":{"n":[1,2.5,null,true,{"k":"v"}]}}}'
)
FRAMES = [
    PROMPT,
    b'{"jsonrpc":"2.0","id":"a","method":"initialize","params":{"protocolVersion":1,"clientInfo":{"name":"n","version":"1"}}}',
    b'{"jsonrpc":"2.0","id":null,"method":"session/attach","params":{"sessionId":"s","after":{"epoch":"e","seq":12}}}',
    b'{"jsonrpc":"2.0","method":"$/cancel_request","params":{"requestId":7}}',
    b'{"jsonrpc":"2.0","id":-1.5e3,"method":"run/wait","params":{"runId":"r","timeoutMs":100}}',
    b'{"jsonrpc":"2.0","id":3,"result":{}}',
    b'{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"m","data":{"kind":"internal","retryable":false}}}',
]
SPLICES = [
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"null", b"true", b"1e999", b"-", b"9" * 400, b"\x00", b"\xff"),
    *(b"\\ud800", b"\\udc00x", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"id":1,', b'"id":{},', b'"method":5,', b"[" * 70),
    *(b"\n", b"\xf0\x9f", b"NaN", b"Infinity", b'"":', b"\xe2\x80\xa8", b"{" * 3000, b"1" * 5000),
]


def refused(frame: bytes | str) -> ParseFailed | InvalidRequest:
    with pytest.raises((ParseFailed, InvalidRequest)) as caught:
        parse_message(frame)
    assert isinstance(caught.value, ParseFailed | InvalidRequest)
    return caught.value


def answered_id(error: ParseFailed | InvalidRequest) -> bytes:
    """The id of the answer to a frame that was refused, as it would be sent."""
    answer = msgspec.json.decode(encode_error(error.request_id, error.to_object()), type=dict[str, Raw])
    return bytes(answer["id"])


def read(frame: bytes) -> Message | None:
    """Read a frame as a server does; None where it is refused with one of the typed errors."""
    try:
        message = parse_message(frame)
        if isinstance(message, Request | Notification) and message.method in METHODS:
            decode_params(METHODS[message.method], message.params)
    except (ParseFailed, InvalidRequest, InvalidParams) as exc:
        encode_error(getattr(exc, "request_id", None), exc.to_object())
        return None
    return message


def mutated(rng: random.Random) -> bytes:
    """One of the frames after one to four random changes."""
    frame = bytearray(rng.choice(FRAMES))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(frame) + 1)
        match rng.randrange(5):
            case 0:
                frame[at:at] = rng.choice(SPLICES)
            case 1:
                del frame[at : at + rng.randint(1, 20)]
            case 2 if at < len(frame):
                frame[at] = rng.randrange(256)
            case 3:
                other = rng.choice(FRAMES)
                frame[at:] = other[rng.randrange(len(other)) :]
            case _:
                start = rng.randrange(len(frame) + 1)
                frame[at:at] = frame[start : start + rng.randint(1, 30)]
    return bytes(frame)


def test_a_request_is_read_with_its_params_unread() -> None:
    message = parse_message(PROMPT)
    assert isinstance(message, Request)
    assert (bytes(message.id), message.method) == (b"1", "session/prompt")
    assert json.loads(bytes(message.params))["sessionId"] == "s1"


def test_text_and_bytes_are_read_alike() -> None:
    from_text, from_bytes = parse_message(PROMPT.decode()), parse_message(PROMPT)
    assert isinstance(from_text, Request)
    assert isinstance(from_bytes, Request)
    assert (bytes(from_text.id), bytes(from_text.params)) == (bytes(from_bytes.id), bytes(from_bytes.params))


@pytest.mark.parametrize(
    "sent",
    [
        *("1", "0", "-7", "1.0", "1e3", "2.5", "123456789012345678901234567890", "1" * 5000, "1e999", "null"),
        *('""', '"1"', '"null"', '"caf\\u00e9 \\ud83d\\ude00 \\"q\\" \\\\"', '"é😀"'),
    ],
)
def test_an_id_goes_back_byte_for_byte(sent: str) -> None:
    message = parse_message(f'{{"jsonrpc":"2.0","id": {sent} ,"method":"ping"}}')
    assert isinstance(message, Request)
    assert encode_result(message.id, Empty()) == b'{"jsonrpc":"2.0","id":%b,"result":{}}' % sent.encode()
    assert b'"id":%b,' % sent.encode() in encode_error(message.id, ErrorObject(code=1, message=""))


def test_an_id_does_not_keep_its_frame_in_memory() -> None:
    frame = bytes(bytearray(PROMPT))
    references = sys.getrefcount(frame)
    message = parse_message(frame)
    assert isinstance(message, Request)
    kept = message.id
    del message
    assert sys.getrefcount(frame) == references
    assert bytes(kept) == b"1"


def test_ids_are_the_same_if_and_only_if_their_keys_are() -> None:
    sent = [b"1", b'"1"', b"null", b'"null"', b"2", b'""', b"0", b"18446744073709551616", b"18446744073709551617"]
    assert len({request_key(Raw(one)) for one in sent}) == len(sent)
    assert request_key(Raw(b'"\\u0061"')) == request_key(Raw(b'"a"'))


def test_without_an_id_it_is_a_notification_and_with_null_a_request() -> None:
    assert isinstance(parse_message('{"jsonrpc":"2.0","method":"x"}'), Notification)
    assert isinstance(parse_message('{"jsonrpc":"2.0","method":"x","id":null}'), Request)


@pytest.mark.parametrize("params", ["", ',"params":{}', ',"params":null'])
def test_params_that_are_not_there_are_empty(params: str) -> None:
    message = parse_message(f'{{"jsonrpc":"2.0","id":1,"method":"ping"{params}}}')
    assert isinstance(message, Request)
    assert decode_params(METHODS["ping"], message.params) == NoParams()


def test_params_in_an_array_are_params_that_do_not_fit() -> None:
    message = parse_message('{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}')
    assert isinstance(message, Request)
    with pytest.raises(InvalidParams) as caught:
        decode_params(METHODS["ping"], message.params)
    assert caught.value.data["path"] == ""


def test_a_response_is_read_with_what_it_brings() -> None:
    good = parse_message(encode_result(Raw(b"5"), Empty()))
    assert isinstance(good, Response)
    assert (good.key, good.error) == (request_key(Raw(b"5")), None)
    assert bytes(good.result or b"") == b"{}"
    bad = parse_message(encode_error(None, ErrorObject(code=-32603, message="m", data={"kind": "internal"})))
    assert isinstance(bad, Response)
    assert (bad.key, bad.result) == (None, None)
    assert bad.error is not None
    assert bad.error.kind == "internal"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"',
        b'{"jsonrpc":"2.0","id":1,"method":"ping",}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping"} x',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":01}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\\ude00\\ud83d"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"\\ud83d":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xed\xa0\x80"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\n"}}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"}',
        '{"jsonrpc":"2.0","id":1,"method":"\ud800"}',
    ],
)
def test_what_is_not_json_is_a_parse_error_that_answers_to_nobody(frame: bytes | str) -> None:
    error = refused(frame)
    assert isinstance(error, ParseFailed)
    assert answered_id(error) == b"null"


@pytest.mark.parametrize(
    ("frame", "sent_id"),
    [
        ("[]", "null"),
        ('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', "null"),
        ("1", "null"),
        ('"ping"', "null"),
        ("null", "null"),
        ("{}", "null"),
        ('{"id":1,"method":"ping"}', "1"),
        ('{"jsonrpc":"1.0","id":1,"method":"ping"}', "1"),
        ('{"jsonrpc":2.0,"id":1,"method":"ping"}', "1"),
        ('{"jsonrpc":"2.0","id":1}', "1"),
        ('{"jsonrpc":"2.0","id":"a","method":null}', '"a"'),
        ('{"jsonrpc":"2.0","id":1,"method":["ping"]}', "1"),
        ('{"jsonrpc":"2.0","id":{},"method":"ping"}', "null"),
        ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', "null"),
        ('{"jsonrpc":"2.0","id":true,"method":"ping"}', "null"),
        ('{"jsonrpc":"2.0","id":false,"method":"ping"}', "null"),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}', "1"),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","params":5}', "1"),
        ('{"jsonrpc":"2.0","method":"ping","params":5}', "null"),
        ('{"jsonrpc":"2.0","result":{}}', "null"),
        ('{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}', "1"),
        ('{"jsonrpc":"2.0","id":1,"error":"boom"}', "1"),
    ],
)
def test_what_is_json_but_no_message_is_answered_to_its_id_if_it_has_one(frame: str, sent_id: str) -> None:
    error = refused(frame)
    assert isinstance(error, InvalidRequest)
    assert answered_id(error) == sent_id.encode()


def nested(levels: int, opening: str = "[", closing: str = "]", inside: str = "") -> str:
    """A request that is so many levels deep in all; its own object and its params are two of them."""
    return (
        '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":'
        + opening * (levels - 2)
        + inside
        + closing * (levels - 2)
        + ',"b":[[],[]]}}'
    )


@pytest.mark.parametrize(("opening", "closing", "inside"), [("[", "]", ""), ('{"a":', "}", "1"), ('["]",', "]", "2")])
def test_nesting_is_allowed_up_to_64_levels(opening: str, closing: str, inside: str) -> None:
    assert isinstance(parse_message(nested(64, opening, closing, inside)), Request)
    error = refused(nested(65, opening, closing, inside))
    assert isinstance(error, InvalidRequest)
    assert answered_id(error) == b"1"


def test_brackets_side_by_side_and_in_strings_are_no_nesting() -> None:
    wide = ",".join(["[]"] * 500)
    in_string = '"' + "[{" * 500 + '\\"' + "[" * 500 + '\\\\"'
    assert isinstance(parse_message(nested(60, inside=f'{wide},{in_string},"","[","]"')), Request)


def test_nesting_is_followed_through_a_message_of_any_length() -> None:
    wide = ",".join(["[]"] * 40_000)
    assert isinstance(parse_message(nested(60, inside=wide + "," + "[" * 4 + "]" * 4)), Request)
    assert isinstance(refused(nested(60, inside=wide + "," + "[" * 5 + "]" * 5)), InvalidRequest)


@pytest.mark.parametrize("frame", [b"[" * 1_000_000, b'{"a":' * 200_000, nested(500_000).encode()])
def test_nesting_without_end_is_refused_like_any_other(frame: bytes) -> None:
    assert isinstance(refused(frame), InvalidRequest)


@pytest.mark.parametrize(
    "members",
    [
        '"a":1,"a":1',
        '"a":1,"b":{"c":1,"d":[{"x":1,"y":2,"x":3}]}',
        '"a":1,"\\u0061":2',
        '"":1,"":2',
        '"\\"":1,"\\"":2',
        '"\\\\":1,"\\u005c":2',
        '"é":1,"\\u00e9":2',
        '"😀" :1,"\\ud83d\\ude00"\n:2',
    ],
)
def test_a_property_that_is_there_twice_is_refused(members: str) -> None:
    error = refused(f'{{"jsonrpc":"2.0","id":4,"method":"ping","params":{{{members}}}}}')
    assert isinstance(error, InvalidRequest)
    assert answered_id(error) == b"4"


@pytest.mark.parametrize(
    "members",
    [
        '"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]',
        '"a":"a","b":"b","c":["a","a","b"]',
        '"a":"{\\"x\\":1,\\"x\\":2}"',
        '"a\\\\":1,"a\\"":2,"a":3',
        '"a" : {} , "b" : { } , "c" : [ { } ]',
    ],
)
def test_one_name_in_several_objects_is_no_repetition(members: str) -> None:
    assert isinstance(parse_message(f'{{"jsonrpc":"2.0","id":4,"method":"ping","params":{{{members}}}}}'), Request)


def repeats_a_name(text: str) -> bool:
    """The slow and certain way to look for two properties of one name in one object."""
    found: list[bool] = []

    def pairs(members: list[tuple[str, Any]]) -> None:
        found.append(len(dict(members)) < len(members))

    json.loads(text, object_pairs_hook=pairs)
    return any(found)


_names = st.sampled_from(['"a"', '"\\u0061"', '"b"', '"\\""', '"\\\\"', '"\\u005c"', '"a\\\\"', '"{"', '":"', '""'])
_documents = st.recursive(
    _names | st.sampled_from(["1", "null", "{}", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.lists(st.tuples(_names, st.sampled_from([":", " : "]), inner).map("".join), max_size=3).map(
            lambda members: "{ " + " , ".join(members) + "}"
        )
    ),
    max_leaves=12,
)


@given(_documents)
def test_repetitions_are_found_wherever_they_are_and_only_there(document: str) -> None:
    frame = f'{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":{document}}}}}'
    if repeats_a_name(frame):
        assert isinstance(refused(frame), InvalidRequest)
    else:
        assert isinstance(parse_message(frame), Request)


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "9" * 400, "9" * 5000, "-" + "9" * 5000, "1" * 300 + ".5", "1e-999"]
)
def test_a_number_of_any_size_is_read_or_refused(number: str) -> None:
    for method, params in (
        ("session/messages", f'{{"sessionId":"s","limit":{number}}}'),
        ("session/prompt", f'{{"sessionId":"s","prompt":[],"_meta":{{"n":[{number}]}}}}'),
        ("session/get", f'{{"sessionId":{number}}}'),
        ("ping", f'{{"unknown":{number}}}'),
        ("initialize", f'{{"protocolVersion":{number},"clientInfo":{{"name":"n","version":"1"}},"clientId":{number}}}'),
    ):
        read(f'{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}'.encode())


def test_5000_mutated_frames_end_in_a_message_or_in_a_typed_error() -> None:
    rng = random.Random("frames")
    outcomes = [read(mutated(rng)) is not None for _ in range(5_000)]
    assert 100 < sum(outcomes) < 4_900, "the mutations should leave some frames whole and break others"


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_message_or_in_a_typed_error(frame: bytes) -> None:
    read(frame)


@given(st.text(max_size=200))
def test_any_text_ends_in_a_message_or_in_a_typed_error(frame: str) -> None:
    read(frame.encode("utf-8", "surrogatepass"))


@given(st.sampled_from(FRAMES), st.data())
def test_a_frame_cut_anywhere_is_a_parse_error(frame: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert isinstance(refused(frame[:cut]), ParseFailed)


def test_what_is_encoded_is_read_again() -> None:
    asked = parse_message(encode_request("7", "run/get", RunParams(run_id='r "1"')))
    assert isinstance(asked, Request)
    assert (asked.key, asked.method) == ("7", "run/get")
    assert decode_params(METHODS["run/get"], asked.params) == RunParams(run_id='r "1"')
    told = parse_message(encode_notification("session/cancel", RunParams(run_id="r")))
    assert isinstance(told, Notification)
    assert json.loads(bytes(told.params)) == {"runId": "r"}
