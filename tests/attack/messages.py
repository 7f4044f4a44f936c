"""Messages of every method, and what becomes of them when somebody means ill: the same for the same numbers.

A message is made from the method's own schema, as docs/schema.json has it, with
ids that the server knows. Then it is spoilt: in its values, in its envelope, or in
its very text.
"""

import json
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

__all__ = ["ACCIDENTS", "Known", "Said", "spoilt_message"]

Json = dict[str, Any]

SCHEMA = Path(__file__).parents[2] / "docs/schema.json"

NEVER = {"server/shutdown"}
"""What would succeed: it is only sent in ways that cannot."""

WAITING = {"run/wait", "test/gates", "session/cancel"}
"""Methods whose answer may wait for something that never comes."""

RAW = "@raw@"
RAW_VALUES = (
    "NaN",
    "-Infinity",
    "1e400",
    "-0",
    "1E+2",
    "01",
    "9" * 400,
    "-" + "9" * 5000,
    "0." + "3" * 5000,
    '"\\ud800"',
    '"\\udfff\\ud800 x"',
    '"\\u0000"',
    '"\\x41"',
    '"a\tb"',
    "'single'",
    "undefined",
    "[1,]",
    '{"a":1,"a":2}',
    '{"sessionId":"x","session\\u0049d":"y"}',
    "[" * 63 + "]" * 63,
    "[" * 200 + "]" * 200,
    '{"a":' * 5000 + "1" + "}" * 5000,
    "[" * 20_000,
    "[" + "0," * 20_000 + "0]",
    "{" + ",".join(f'"k{number}":{number}' for number in range(3000)) + "}",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    2**64,
    1.5,
    1e308,
    -1e-308,
    "",
    " ",
    "\0",
    "\n\r\t\x1b[31m",
    "\u202e\ufeff\u2028",
    "\U0001f980" * 50,
    "../../../../etc/passwd",
    "%00%ff",
    "__class__",
    "constructor",
    "x" * 129,
    "x" * 5000,
    "é" * 40_000,
    [],
    [[]],
    {},
    [None],
    {"type": "text"},
    {"": ""},
    ["text"],
)
TEXT_ACCIDENTS = ("cut", "flip", "insert", "double", "bytes", "prefix", "suffix")
IDS: tuple[Any, ...] = (0, -1, 1.5, True, [], {}, [1], {"a": 1}, "", "x" * 2000, "\0", "é", "null")
ACCIDENTS = ("none", "value", "value", "value", "several", "envelope", "id", "batch", "text", "text", "notification")


@dataclass
class Known:
    """What an attacker knows of the server."""

    directory: str
    workspace: str
    sessions: list[str]
    runs: list[str] = field(default_factory=list[str])


class Said(NamedTuple):
    """A message. ``is_answered``: there is an answer at once, to its id, or to null where that cannot be read."""

    data: bytes
    key: Any
    is_answered: bool


@cache
def _schema() -> Json:
    return json.loads(SCHEMA.read_text())


def spoilt_message(known: Known, chance: random.Random, number: int) -> Said:
    """A message of any method with any accident."""
    method = chance.choice(sorted(_schema()["methods"]))
    accident = chance.choice(ACCIDENTS)
    params = _params(method, known, chance)
    key: Any = chance.choice([number, f"m{number}", number + 0.5])
    message: Json = {"jsonrpc": "2.0", "id": key, "method": method, "params": params}
    is_answered = method not in WAITING
    match accident:
        case "value":
            message["params"] = _spoilt(params, chance)
        case "several":
            for _ in range(chance.randint(2, 4)):
                message["params"] = _spoilt(message["params"], chance)
        case "envelope":
            name = chance.choice(["jsonrpc", "method", "params", "id", "result", "error", "extra"])
            message[name] = _odd(chance)
            is_answered = False
        case "id":
            key = message["id"] = chance.choice(IDS)
        case "batch":
            data = json.dumps(chance.choice([[], [message], [message, message], [1], [[message]]]))
            return Said(data.encode(), None, is_answered=True)
        case "notification":
            del message["id"]
            is_answered = False
        case _:
            pass
    if method in NEVER and not isinstance(message["params"], list):
        message["params"] = {"ifIdle": chance.choice(["yes", 1, [], {}, 0.5])}
    text = _text(message, chance)
    if accident == "text":
        return Said(_with_accident(text.encode(), chance), key, is_answered=False)
    return Said(text.encode(), key, is_answered)


def _params(method: str, known: Known, chance: random.Random) -> Any:
    schema = _schema()["methods"][method]["params"]
    return _value(schema, "params", known, chance)


def _value(schema: Any, name: str, known: Known, chance: random.Random) -> Any:
    """A value that fits a schema, with what the server knows in the places for it."""
    if not isinstance(schema, dict):
        return "x"
    schema = cast("Json", schema)
    if "$ref" in schema:
        return _value(_schema()["$defs"][schema["$ref"].rpartition("/")[2]], name, known, chance)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _value(chance.choice(schema[union]), name, known, chance)
    match schema.get("type"):
        case "object":
            properties: Json = schema.get("properties", {})
            required = set(schema.get("required", []))
            return {
                key: _value(inner, key, known, chance)
                for key, inner in properties.items()
                if key in required or chance.random() < 0.6
            }
        case "array":
            return [_value(schema.get("items"), name, known, chance) for _ in range(chance.randint(0, 2))]
        case "integer":
            return chance.choice([0, 1, 5])
        case "number":
            return chance.choice([0, 0.5, 3])
        case "boolean":
            return name != "wait" and chance.random() < 0.5
        case "string":
            return _string(name, known, chance)
        case _:
            return None


def _string(name: str, known: Known, chance: random.Random) -> str:
    match name:
        case "sessionId" | "view":
            return chance.choice(known.sessions)
        case "workspaceId":
            return known.workspace
        case "runId":
            return chance.choice([*known.runs[-3:], f"r{chance.getrandbits(48)}"])
        case "path":
            return known.directory
        case "command":
            return "true"
        case "clientId":
            return "00000000-0000-4000-8000-000000000000"
        case "messageId" | "permissionId" | "grantId" | "cursor":
            return f"{known.workspace}-maaaaaaaaaaaaaaaa"
        case "data" | "blob":
            return "aGVsbG8="
        case "mimeType":
            return "image/png"
        case _:
            return "hello"


def _odd(chance: random.Random) -> Any:
    if chance.random() < 0.35:
        return f"{RAW}{chance.randrange(len(RAW_VALUES))}{RAW}"
    return chance.choice(VALUES)


def _spoilt(value: Any, chance: random.Random) -> Any:
    """The same value with one of the values inside it replaced, left out, or with another beside it."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        inside = cast("Json", dict(cast("Json", value)))
        name = chance.choice(sorted(inside))
        match chance.randrange(6):
            case 0:
                del inside[name]
            case 1:
                inside[chance.choice(["extra", "_meta", name.upper(), name + "\0"])] = _odd(chance)
            case _:
                inside[name] = _spoilt(inside[name], chance)
        return inside
    if isinstance(value, list) and value and chance.random() < 0.7:
        items = cast("list[Any]", value)
        at = chance.randrange(len(items))
        return [*items[:at], _spoilt(items[at], chance), *items[at + 1 :]]
    return _odd(chance)


def _text(message: Json, chance: random.Random) -> str:
    text = json.dumps(message, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, 1]))
    while RAW in text:
        before, _, rest = text.partition(f'"{RAW}')
        if not rest:
            return text.replace(RAW, "raw")
        number, _, after = rest.partition(f'{RAW}"')
        text = before + RAW_VALUES[int(number)] + after
    return text


def _with_accident(data: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(spoilt)) if spoilt else 0
        match chance.choice(TEXT_ACCIDENTS):
            case "cut":
                del spoilt[at:]
            case "flip" if spoilt:
                spoilt[at] ^= 1 << chance.randrange(8)
            case "insert":
                spoilt[at:at] = chance.choice([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\0", b"null", b"//"])
            case "double":
                spoilt[at:at] = spoilt[at : at + chance.randint(1, 80)]
            case "bytes":
                spoilt[at:at] = chance.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xef\xbb\xbf"])
            case "prefix":
                spoilt[:0] = chance.choice([b"\xef\xbb\xbf", b" " * 1000, b")]}',\n", b"\x1e", b"[" * 1000])
            case _:
                spoilt += chance.choice([b"{}", b"\n\n", b"\0", b",", spoilt[:200]])
    return bytes(spoilt)
