"""Parameters in, event frames out.

`decode_params` is the one place that knows how a parameter that does not fit is
reported: as a JSON Pointer to the value (or to the field that is missing) and a
sentence that says what was expected there. No sentence repeats what was sent.

Frames of events are joined from events that are encoded already; nothing in
here encodes an event (`atrio_protocol.merge` does, once for all readers).
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, Literal

import msgspec
from msgspec import inspect

from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock
from atrio_protocol.errors import InvalidParams
from atrio_protocol.methods import Method, PromptParams
from atrio_protocol.struct import UNSET, WireStruct

__all__ = ["decode_params", "events_frame"]

_AT: Final = re.compile(r" - at `\$([^`]*)`$")
_STEPS: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`")
_EXPECTED: Final = re.compile(r"^Expected `([^`]+)`(.*?)(?:, got `([^`]+)`)?$")
_SPOKEN: Final = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a string",
}

_encode: Final = msgspec.json.Encoder().encode


def decode_params(method: Method, params: msgspec.Raw) -> WireStruct:
    """Read a method's parameters.

    Raises:
        InvalidParams: They do not fit. ``data.path`` is a JSON Pointer into the params.
    """
    try:
        decoded = _decoder_for(method.params).decode(params)
    except msgspec.DecodeError as exc:
        raise _explain(method.params, str(exc)) from None
    if isinstance(decoded, PromptParams):
        _check_blocks(decoded.prompt)
    return decoded


def events_frame(
    method: Literal["session/events", "workspace/events"],
    id_name: Literal["sessionId", "workspaceId"],
    thing_id: str,
    epoch: str,
    events: Sequence[bytes],
) -> bytes:
    """The notification that carries these encoded events."""
    return b'{"jsonrpc":"2.0","method":"%b","params":{"%b":%b,"epoch":%b,"events":[%b]}}' % (
        method.encode(),
        id_name.encode(),
        _encode(thing_id),
        _encode(epoch),
        b",".join(events),
    )


@cache
def _decoder_for(params: type[WireStruct]) -> msgspec.json.Decoder[WireStruct]:
    return msgspec.json.Decoder(params)


def _check_blocks(blocks: tuple[ContentBlock, ...]) -> None:
    """A block may be shortened in what we send, never in what is sent to us."""
    for index, block in enumerate(blocks):
        if isinstance(block, ImageBlock) and block.data is UNSET:
            raise _mismatch(f"/prompt/{index}/data", "a string, the image in base64")
        if isinstance(block, ResourceBlock) and block.resource.text is UNSET and block.resource.blob is UNSET:
            raise _mismatch(f"/prompt/{index}/resource/text", "a string, or one named blob")


def _mismatch(path: str, expected: str, got: str = "") -> InvalidParams:
    return InvalidParams(f"Expected {expected} at {path or 'params'}{got and f', got {got}'}.", path=path)


def _explain(params: type[WireStruct], reason: str) -> InvalidParams:
    """Say in our words what msgspec said. The only place that reads its sentences."""
    at = _AT.search(reason)
    what = reason[: at.start()] if at else reason
    steps = [(name, number) for name, number in _STEPS.findall(at[1])] if at else []
    # The value inside an object of free form has no name in msgspec's path: we point at that object.
    known = steps[: steps.index(("", ""))] if ("", "") in steps else steps
    path = "".join(f"/{name or number}" for name, number in known)
    if missing := _MISSING.match(what):
        return _mismatch(f"{path}/{missing[1]}", "a value", "nothing")
    if what.startswith(("Invalid enum value", "Invalid value")):
        return _mismatch(path, "one of " + ", ".join(_choices(params, [name for name, _ in known])))
    if expected := _EXPECTED.match(what):
        spoken = " or ".join(_SPOKEN.get(kind, kind) for kind in expected[1].split(" | "))
        return _mismatch(path, spoken + expected[2], _SPOKEN.get(expected[3] or "", expected[3] or ""))
    return _mismatch(path, "a value in range")


def _choices(params: type[WireStruct], steps: list[str]) -> list[str]:
    """The words of which one is expected at a place; a step without a name goes into an array."""
    places = [inspect.type_info(params)]
    for name in steps:
        places = [inner for place in places for inner in _inside(place, name)]
    return [str(word) for place in places for word in _words(place)]


def _inside(place: inspect.Type, name: str) -> Iterator[inspect.Type]:
    match place:
        case inspect.UnionType(types=types):
            for one in types:
                yield from _inside(one, name)
        case inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
            if name == tag_field:
                yield inspect.LiteralType((tag,))
            yield from (field.type for field in fields if field.encode_name == name)
        case inspect.VarTupleType(item_type=item_type) if not name:
            yield item_type
        case _:
            pass


def _words(place: inspect.Type) -> Iterator[object]:
    match place:
        case inspect.UnionType(types=types):
            for one in types:
                yield from _words(one)
        case inspect.LiteralType(values=values):
            yield from values
        case _:
            pass
