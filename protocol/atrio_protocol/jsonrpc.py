"""JSON-RPC 2.0 messages: text in, plain objects out, and back.

One message per frame; a batch is refused. Nothing here knows a method or a
parameter: that is `atrio_protocol.codec`. An id goes back byte for byte as it
came, so that ``1`` and ``1.0`` and a number of a hundred digits survive.

The invariant: whatever the bytes, `parse_message` returns a message or raises
`ParseFailed` or `InvalidRequest`. What it lets through is UTF-8, well-formed,
at most 64 deep and without a property that is there twice.

Every check is linear in the size of the message. 4 MiB take 20 ms as one long
text, and half a second when made to annoy (a million small objects); so what is
over `SMALL_BYTES` belongs in a worker thread, where none of it holds up the
event loop for more than some milliseconds at a time.
"""

import re
from collections.abc import Hashable
from itertools import accumulate
from typing import Final

import msgspec

from atrio_protocol.errors import ErrorObject, InvalidRequest, ParseFailed
from atrio_protocol.limits import MAX_DEPTH
from atrio_protocol.struct import UNSET, UnsetType, WireStruct

__all__ = [
    "SMALL_BYTES",
    "Message",
    "Notification",
    "Request",
    "Response",
    "encode_error",
    "encode_notification",
    "encode_request",
    "encode_result",
    "parse_message",
    "request_key",
]

SMALL_BYTES: Final = 64 * 1024
"""Up to this size a message is parsed in a few milliseconds, whatever is in it."""

_NO_PARAMS: Final = msgspec.Raw(b"{}")
_SHOWN_CHARS: Final = 40


class Request(msgspec.Struct, frozen=True):
    """A call that wants an answer. ``id`` is as it was sent; ``key`` is for comparing ids."""

    id: msgspec.Raw
    key: Hashable
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True):
    """A call that wants none."""

    method: str
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True):
    """An answer. Exactly one of ``result`` and ``error`` is there; ``key`` is None where the id is null."""

    id: msgspec.Raw
    key: Hashable
    result: msgspec.Raw | None = None
    error: ErrorObject | None = None


Message = Request | Notification | Response


class _Envelope(msgspec.Struct):
    """Every member unread: a wrong one must not cost us the id."""

    jsonrpc: msgspec.Raw | UnsetType = UNSET
    id: msgspec.Raw | UnsetType = UNSET
    method: msgspec.Raw | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET
    result: msgspec.Raw | UnsetType = UNSET
    error: msgspec.Raw | UnsetType = UNSET


_encoder: Final = msgspec.json.Encoder()
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
_raw_decoder: Final = msgspec.json.Decoder(msgspec.Raw)
_text_decoder: Final = msgspec.json.Decoder(str)
_error_decoder: Final = msgspec.json.Decoder(ErrorObject)

_OPENING: Final = bytes.maketrans(b"{}", b"[]")
_NOT_NESTING: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_NOT_BRACES: Final = bytes(byte for byte in range(256) if byte not in b"{}")
_STEP: Final = {ord("["): 1, ord("]"): -1}
_OPEN: Final = ord("{")
_SPACE: Final = b" \t\r\n"
_masks: Final = re.compile(rb"[\\\x00\x01]").search
_STRIDE: Final = 64 * 1024


def parse_message(data: bytes | str) -> Message:
    """Read one message.

    Raises:
        ParseFailed: It is not UTF-8, not JSON, or has half a surrogate pair in it.
        InvalidRequest: It is JSON, but no message: a batch, something else than an
            object, without ``"jsonrpc": "2.0"``, without a method, with an id or
            with params of a wrong type, nested too deep, or with a property that
            is there twice. Its ``request_id`` is the id to answer to, if there is one.
    """
    try:
        if isinstance(data, str):
            octets = data.encode()
        else:
            octets = data
            octets.decode()
    except UnicodeError:
        raise ParseFailed("The message is not UTF-8.") from None
    envelope = _read_envelope(octets)
    sent_id = None if envelope.id is UNSET else envelope.id.copy()
    key = None if sent_id is None else request_key(sent_id)
    try:
        pieces = _pieces_of(octets)
        _check_depth(octets, pieces)
        _check_names(pieces)
        return _read_message(envelope, sent_id, key)
    except InvalidRequest as exc:
        exc.request_id = sent_id
        raise


def request_key(request_id: msgspec.Raw) -> Hashable:
    """What identifies an id: two ids are the same if and only if their keys are equal.

    Numbers are compared as they are written, so that their size does not matter.

    Raises:
        InvalidRequest: It is no string, number or null.
    """
    octets = bytes(request_id)
    if octets[:1] == b'"':
        return _text_decoder.decode(octets)
    if octets == b"null":
        return None
    if octets[:1] in b"{[tf":
        raise InvalidRequest("The id is neither a string nor a number nor null.")
    return octets


def encode_result(request_id: msgspec.Raw, result: WireStruct) -> bytes:
    """The answer to a request that went well."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (bytes(request_id), _encoder.encode(result))


def encode_error(request_id: msgspec.Raw | None, error: ErrorObject) -> bytes:
    """The answer to a request that failed; without an id, to something that could not be read as one."""
    echoed = b"null" if request_id is None else bytes(request_id)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (echoed, _encoder.encode(error))


def encode_notification(method: str, params: WireStruct) -> bytes:
    """A call that wants no answer."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encoder.encode(method), _encoder.encode(params))


def encode_request(request_id: int | str, method: str, params: WireStruct) -> bytes:
    """A call that wants an answer. The response's key is ``request_key`` of this id."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (
        _encoder.encode(request_id),
        _encoder.encode(method),
        _encoder.encode(params),
    )


def _read_envelope(octets: bytes) -> _Envelope:
    try:
        try:
            return _envelope_decoder.decode(octets)
        except msgspec.ValidationError:
            # Something else than an object. Whether it is JSON at all was not looked at yet.
            _raw_decoder.decode(octets)
    except RecursionError:
        raise InvalidRequest(f"The message is nested deeper than {MAX_DEPTH} levels.") from None
    except msgspec.DecodeError:
        raise ParseFailed("The message is not JSON.") from None
    if octets.lstrip()[:1] == b"[":
        raise InvalidRequest("A batch is not taken; send its messages one by one.")
    raise InvalidRequest("The message is not an object.")


def _read_message(envelope: _Envelope, sent_id: msgspec.Raw | None, key: Hashable) -> Message:
    if envelope.jsonrpc is UNSET or _text_of(envelope.jsonrpc) != "2.0":
        raise InvalidRequest('The message lacks "jsonrpc": "2.0".')
    if envelope.method is UNSET and (envelope.result is not UNSET or envelope.error is not UNSET):
        return _read_response(envelope, sent_id, key)
    method = None if envelope.method is UNSET else _text_of(envelope.method)
    if method is None:
        raise InvalidRequest("The message has no method, or one that is not a string.")
    params = _NO_PARAMS if envelope.params is UNSET else envelope.params
    if bytes(params)[:1] not in b"{[":
        if bytes(params) != b"null":
            raise InvalidRequest("The params are not an object.")
        params = _NO_PARAMS
    return Notification(method, params) if sent_id is None else Request(sent_id, key, method, params)


def _read_response(envelope: _Envelope, sent_id: msgspec.Raw | None, key: Hashable) -> Response:
    if sent_id is None:
        raise InvalidRequest("The response has no id.")
    if envelope.error is UNSET:
        assert envelope.result is not UNSET
        return Response(sent_id, key, result=envelope.result)
    if envelope.result is not UNSET:
        raise InvalidRequest("The response has both a result and an error.")
    try:
        return Response(sent_id, key, error=_error_decoder.decode(envelope.error))
    except msgspec.DecodeError:
        raise InvalidRequest("The error of the response is not an error object.") from None


def _text_of(value: msgspec.Raw) -> str | None:
    octets = bytes(value)
    return _text_decoder.decode(octets) if octets[:1] == b'"' else None


def _pieces_of(octets: bytes) -> list[bytes]:
    """Well-formed JSON, cut at its quotes: what is outside of strings, and inside, by turns.

    Escaped backslashes and quotes are masked by control characters, which no
    string can hold as they are.
    """
    return octets.replace(b"\\\\", b"\0\0").replace(b'\\"', b"\1\1").split(b'"')


def _check_depth(octets: bytes, pieces: list[bytes]) -> None:
    if octets.count(b"[") + octets.count(b"{") <= MAX_DEPTH:
        return
    nesting = b"".join(pieces[::2]).translate(_OPENING, _NOT_NESTING)
    level = 0
    for start in range(0, len(nesting), _STRIDE):
        levels = list(accumulate(map(_STEP.__getitem__, nesting[start : start + _STRIDE]), initial=level))
        if max(levels) > MAX_DEPTH:
            raise InvalidRequest(f"The message is nested deeper than {MAX_DEPTH} levels.")
        level = levels[-1]


def _check_names(pieces: list[bytes]) -> None:
    """Look for an object with two properties of one name."""
    open_objects: list[set[bytes]] = []
    inside = b""
    for outside, following in zip(pieces[::2], [*pieces[1::2], b""], strict=True):
        name, inside = inside, following
        if outside == b",":
            continue
        if outside[:1] == b":" or outside.lstrip(_SPACE)[:1] == b":":
            names = open_objects[-1]
            if _masks(name):
                name = _unmasked(name)
            if name in names:
                raise InvalidRequest(f'The property "{name.decode()[:_SHOWN_CHARS]}" is there twice.')
            names.add(name)
            if outside == b":":
                continue
        for brace in outside.translate(None, _NOT_BRACES):
            if brace == _OPEN:
                open_objects.append(set())
            else:
                open_objects.pop()


def _unmasked(name: bytes) -> bytes:
    """A property's name with what is escaped in it resolved, so that two spellings are one name."""
    return _text_decoder.decode(b'"%b"' % name.replace(b"\0\0", rb"\\").replace(b"\1\1", rb"\"")).encode()
