"""Scripts: what the scripted model shall say, as JSON or as Python objects.

This is the format and its checks; `atrio_agent.models.scripted` plays it. The
Python names are those of the JSON: ``{"say": "hi", "delayMs": 20}`` is
``Say("hi", delay_ms=20)``.

A mistake is told by its place, as a JSON Pointer, and a misspelt name by its
nearest neighbour. A script that was accepted cannot fail by its form any more.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args

import msgspec

from atrio_protocol.errors import ERRORS, RunError

__all__ = [
    "CallTool",
    "CountUsage",
    "Fail",
    "Failure",
    "Finish",
    "Gate",
    "Say",
    "Script",
    "ScriptInvalid",
    "ScriptTurn",
    "Stall",
    "Step",
    "Think",
    "TokenCount",
    "checked_script",
    "parse_script",
]

FinishWord = Literal["end_turn", "tool_use", "max_tokens", "refusal"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class ScriptInvalid(Exception):
    """The script cannot be used. The message says where and why."""


class _Format(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    pass


class Say(_Format, frozen=True):
    """Say ``text`` ``times`` times, each time as one piece or in pieces of ``chunk`` characters.

    ``{{prompt}}`` in it is the newest user text. ``delay_ms`` passes between two pieces.
    """

    text: str = msgspec.field(name="say")
    times: Count = 1
    delay_ms: Milliseconds = 0
    chunk: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Think(_Format, frozen=True):
    """Say it as reasoning; as `Say` otherwise."""

    text: str = msgspec.field(name="think")
    times: Count = 1
    delay_ms: Milliseconds = 0
    chunk: Annotated[int, msgspec.Meta(ge=1)] | None = None


class CallTool(_Format, frozen=True):
    """Call a tool with ``input``, or with ``raw_input``, which need not be JSON."""

    name: Name = msgspec.field(name="tool")
    input: dict[str, Any] = {}
    raw_input: str | None = None


class Gate(_Format, frozen=True):
    """Wait until this gate is released."""

    name: Name = msgspec.field(name="gate")


class Stall(_Format, frozen=True, omit_defaults=False):
    """Never go on."""

    stall: Any = True


class Failure(_Format, frozen=True):
    """How it fails. ``after``: as soon as the response has said this many pieces, wherever the step stands."""

    kind: str
    message: str = "the script says so"
    after: Count | None = None
    retryable: bool = False
    retry_after_ms: Count | None = None


class Fail(_Format, frozen=True):
    """Fail as a provider does. Without ``retryable`` the run ends, whatever the kind."""

    fail: Failure
    retryable: bool = False


class TokenCount(_Format, frozen=True):
    input: Count
    output: Count


class CountUsage(_Format, frozen=True):
    """Report tokens."""

    usage: TokenCount


class Finish(_Format, frozen=True):
    """End the response here, for this reason."""

    finish: FinishWord


Step = Say | Think | CallTool | Gate | Stall | Fail | CountUsage | Finish
Response = tuple[Step, ...]


class _TurnHead(_Format, frozen=True, kw_only=True):
    match: str | None = None


class ScriptTurn(_TurnHead, frozen=True, kw_only=True):
    """What a run gets whose newest user text ``match`` (a regular expression) is found in; absent: always."""

    responses: tuple[Response, ...]


class _ScriptHead(_Format, frozen=True, kw_only=True):
    name: str = "script"
    context_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    takes_images: bool = True


class Script(_ScriptHead, frozen=True, kw_only=True):
    """A whole script. The first turn that fits serves the run."""

    turns: tuple[ScriptTurn, ...]


_STEPS: Final[dict[str, type[Step]]] = {
    "say": Say,
    "think": Think,
    "tool": CallTool,
    "gate": Gate,
    "stall": Stall,
    "fail": Fail,
    "usage": CountUsage,
    "finish": Finish,
}
_FAIL_KINDS: Final = tuple(kind for kind, error in ERRORS.items() if issubclass(error, RunError))

F = TypeVar("F", bound=_Format)


def parse_script(value: object) -> Script:
    """Read a script from decoded JSON.

    Raises:
        ScriptInvalid: It is not one.
    """
    fields = _object(value, "")
    _known(fields, {"name", "contextSize", "takesImages", "turns"}, "")
    turns = tuple(_turn(turn, f"/turns/{index}") for index, turn in enumerate(_list(fields, "turns", "")))
    head = _convert(fields, _ScriptHead, "")
    return Script(name=head.name, context_size=head.context_size, takes_images=head.takes_images, turns=turns)


def checked_script(script: Script) -> Script:
    """Check a script that was made of Python objects, by the same rules.

    Raises:
        ScriptInvalid: As for JSON.
    """
    return parse_script(msgspec.to_builtins(script))


def _turn(value: object, at: str) -> ScriptTurn:
    fields = _object(value, at)
    _known(fields, {"match", "responses"}, at)
    responses = tuple(
        _response(response, f"{at}/responses/{index}") for index, response in enumerate(_list(fields, "responses", at))
    )
    head = _convert(fields, _TurnHead, at)
    try:
        re.compile(head.match or "")
    except re.error as exc:
        raise ScriptInvalid(f"{at}/match: not a regular expression: {exc}") from exc
    return ScriptTurn(match=head.match, responses=responses)


def _response(value: object, at: str) -> Response:
    if not isinstance(value, list | tuple):
        raise ScriptInvalid(f"{at}: a response is a list of steps")
    steps = cast("list[object]", value)
    return tuple(_step(step, f"{at}/{index}") for index, step in enumerate(steps))


def _step(value: object, at: str) -> Step:
    fields = _object(value, at)
    words = [word for word in _STEPS if word in fields]
    if not words:
        near = next(filter(None, (_nearest(word, _STEPS) for word in fields)), "")
        raise ScriptInvalid(f"{at}: no step is named here{near}; a step is one of {', '.join(_STEPS)}")
    if len(words) > 1:
        raise ScriptInvalid(f"{at}: {' and '.join(words)} are two steps")
    kind = _STEPS[words[0]]
    _known(fields, _names(kind), at)
    if kind is Finish:
        _choice(fields["finish"], get_args(FinishWord), f"{at}/finish")
    step = _convert(fields, kind, at)
    if isinstance(step, CallTool) and step.raw_input is not None and "input" in fields:
        raise ScriptInvalid(f"{at}: input and rawInput exclude each other")
    if isinstance(step, Fail):
        _known(_object(fields["fail"], f"{at}/fail"), _names(Failure), f"{at}/fail")
        _choice(step.fail.kind, _FAIL_KINDS, f"{at}/fail/kind")
    if isinstance(step, CountUsage):
        _known(_object(fields["usage"], f"{at}/usage"), _names(TokenCount), f"{at}/usage")
    return step


def _object(value: object, at: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ScriptInvalid(f"{at or 'top level'}: an object is expected here")
    return cast("dict[str, object]", value)


def _list(fields: dict[str, object], name: str, at: str) -> list[object]:
    value = fields.get(name)
    if not isinstance(value, list | tuple) or not value:
        raise ScriptInvalid(f"{at}/{name}: a list with at least one entry is expected here")
    return list(cast("list[object]", value))


def _names(kind: type[_Format]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def _known(fields: dict[str, object], names: set[str], at: str) -> None:
    for field in fields:
        if field not in names:
            raise ScriptInvalid(f"{at}/{field}: unknown name{_nearest(field, names)}")


def _choice(value: object, choices: tuple[str, ...], at: str) -> None:
    if value not in choices:
        raise ScriptInvalid(f"{at}: not known{_nearest(str(value), choices)}; it is one of {', '.join(choices)}")


def _nearest(word: str, names: Iterable[str]) -> str:
    near = get_close_matches(word, names, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def _convert(fields: dict[str, object], kind: type[F], at: str) -> F:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as exc:
        # "Expected `int`, got `str` - at `$.times`"
        reason, _, path = str(exc).partition(" - at `$")
        steps = path.rstrip("`").replace("[", ".").replace("]", "")
        raise ScriptInvalid(f"{at}{steps.replace('.', '/')}: {reason[:1].lower()}{reason[1:]}") from exc


assert set(get_args(Step)) == set(_STEPS.values())
