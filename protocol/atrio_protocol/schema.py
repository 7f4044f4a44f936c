"""The JSON Schema (2020-12) of every message, made from the types.

``$defs`` has one definition per type, and per method a request and a response.
Beside the keywords of JSON Schema the document lists the methods, notifications,
events and errors by name, for programs that look one up; validators ignore that.

The types are the only source: nothing is described here a second time, but for
what a type cannot say (which fields we always write, and the envelopes). Print
it with ``python -m atrio_protocol.schema``; the copy in ``docs/`` is that output.
"""

import re
from functools import cache
from typing import Any, Final, cast

import msgspec

from atrio_protocol.errors import ERRORS, ErrorObject, RunError
from atrio_protocol.events import SESSION_EVENTS, WORKSPACE_EVENTS, Event
from atrio_protocol.methods import METHODS, InitializeParams, OpenParams, SessionParams
from atrio_protocol.notifications import CLIENT_NOTIFICATIONS, SERVER_NOTIFICATIONS, SessionEvents, WorkspaceEvents
from atrio_protocol.struct import UNSET, WireStruct
from atrio_protocol.version import PROTOCOL_VERSION

__all__ = ["schema", "schema_json"]

Json = dict[str, Any]

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_LITERAL: Final = re.compile(r"``?([^`]+)``?")
_ALWAYS_IN_EVENTS: Final = ("seq", "at")


def schema() -> Json:
    """The whole schema, as a new value."""
    defs = _type_definitions()
    defs["RequestId"] = {"type": ["string", "number", "null"]}
    defs["ErrorResponse"] = _envelope(id=_ref("RequestId"), error=_ref(ErrorObject.__name__))
    requests, responses, methods = list[Json](), list[Json](), Json()
    for method in METHODS.values():
        request, response = _pascal(method.name) + "Request", _pascal(method.name) + "Response"
        defs[request] = _call(method.name, method.params, with_id=True)
        defs[response] = _envelope(id=_ref("RequestId"), result=_ref(method.result.__name__))
        requests.append(_ref(request))
        responses.append(_ref(response))
        methods[method.name] = {
            "request": _ref(request),
            "params": _ref(method.params.__name__),
            "response": _ref(response),
            "result": _ref(method.result.__name__),
            "scope": method.scope,
            "http": method.over_http,
            "testHook": method.test_hook,
        }
    from_client = _notification_definitions(defs, CLIENT_NOTIFICATIONS)
    from_server = _notification_definitions(defs, SERVER_NOTIFICATIONS)
    defs["ClientMessage"] = {"anyOf": [*requests, *from_client.values()]}
    defs["ServerMessage"] = {"anyOf": [*responses, _ref("ErrorResponse"), *from_server.values()]}
    return {
        "$schema": _DRAFT,
        "title": f"The Atrio wire protocol, version {PROTOCOL_VERSION}",
        "anyOf": [_ref("ClientMessage"), _ref("ServerMessage")],
        "methods": methods,
        "notifications": {"client": from_client, "server": from_server},
        "events": {"session": _events_by_name(SESSION_EVENTS), "workspace": _events_by_name(WORKSPACE_EVENTS)},
        "errors": {
            kind: {"code": cls.code, "retryable": cls.retryable, "onlyInRuns": issubclass(cls, RunError)}
            for kind, cls in ERRORS.items()
        },
        "$defs": dict(sorted(defs.items())),
    }


@cache
def schema_json() -> bytes:
    """The schema as text, made once."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2) + b"\n"


def _type_definitions() -> Json:
    """A definition for every type that a message is made of."""
    sent = [method.params for method in METHODS.values()] + list(CLIENT_NOTIFICATIONS.values())
    written: list[type[WireStruct]] = [
        *(method.result for method in METHODS.values()),
        *SERVER_NOTIFICATIONS.values(),
        *SESSION_EVENTS,
        *WORKSPACE_EVENTS,
        ErrorObject,
    ]
    classes = _reachable(sent + written)
    read_too = set(_reachable(sent))
    _, defs = msgspec.json.schema_components(classes.values(), ref_template="#/$defs/{name}")
    for name, cls in classes.items():
        definition = defs[name]
        if "description" in definition:
            definition["description"] = _LITERAL.sub(r"`\1`", definition["description"])
        if name not in read_too:
            _require_what_is_written(cls, definition)
        elif issubclass(cls, SessionParams):
            _require_first(definition, "sessionId", {"type": "string"})
    # Typed loosely, so that what is wrong with them can be said by an error kind of its own.
    _require_first(defs[OpenParams.__name__], "path", {"type": "string"})
    defs[InitializeParams.__name__]["properties"]["clientId"] = {"type": ["string", "null"], "format": "uuid"}
    kind = {"enum": list(ERRORS)}
    more = {"kind": kind, "retryable": {"type": "boolean"}, "retryAfterMs": {"type": "integer"}}
    defs[ErrorObject.__name__]["properties"]["data"] |= {"properties": more, "required": ["kind", "retryable"]}
    for cls, events in ((SessionEvents, SESSION_EVENTS), (WorkspaceEvents, WORKSPACE_EVENTS)):
        defs[cls.__name__]["properties"]["events"]["items"] = {"anyOf": [_ref(event.__name__) for event in events]}
    return defs


def _reachable(roots: list[type[WireStruct]]) -> dict[str, type[WireStruct]]:
    """These types and all that they are made of, by name."""
    found: dict[str, type[WireStruct]] = {}

    def visit(place: object) -> None:
        if isinstance(place, msgspec.inspect.StructType):
            if place.cls.__name__ in found:
                return
            found[place.cls.__name__] = cast("type[WireStruct]", place.cls)
            for field in place.fields:
                visit(field.type)
        elif isinstance(place, msgspec.inspect.UnionType):
            for one in place.types:
                visit(one)
        elif isinstance(place, msgspec.inspect.VarTupleType):
            visit(place.item_type)

    for one in msgspec.inspect.multi_type_info(roots):
        visit(one)
    return found


def _require_what_is_written(cls: type[WireStruct], definition: Json) -> None:
    """A default fills in what is missing where we read; where we write, the field is always there."""
    always = [
        field.encode_name
        for field in msgspec.structs.fields(cls)
        if field.default is not UNSET or (issubclass(cls, Event) and field.encode_name in _ALWAYS_IN_EVENTS)
    ]
    for name in always:
        definition["properties"][name].pop("default", None)
    tagged = ["type"] if "type" in definition["properties"] and cls.__struct_config__.tag else []
    definition["required"] = tagged + always


def _require_first(definition: Json, name: str, what: Json) -> None:
    definition["properties"][name] = what
    definition["required"] = [name, *definition.get("required", [])]


def _notification_definitions(defs: Json, notifications: dict[str, type[WireStruct]]) -> Json:
    refs = Json()
    for name, params in notifications.items():
        defs[_pascal(name) + "Notification"] = _call(name, params, with_id=False)
        refs[name] = _ref(_pascal(name) + "Notification")
    return refs


def _events_by_name(events: tuple[type[Event], ...]) -> Json:
    return {str(event.__struct_config__.tag): _ref(event.__name__) for event in events}


def _call(method: str, params: type[WireStruct], *, with_id: bool) -> Json:
    members = {"id": _ref("RequestId")} if with_id else {}
    definition = _envelope(**members, method={"const": method}, params=_ref(params.__name__))
    if not any(field.required for field in msgspec.structs.fields(params)):
        definition["required"].remove("params")
    return definition


def _envelope(**members: Json) -> Json:
    properties = {"jsonrpc": {"const": "2.0"}, **members}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _pascal(name: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"[^a-z]+", name))


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    print(schema_json().decode(), end="")  # noqa: T201  # what the command is for
