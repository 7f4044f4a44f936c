"""The demo model: no key, no network, no AI. Rules that say so and really use the tools.

It is what a fresh clone runs on, so that everything but the thinking can be
tried, what asks for permission included. It knows seven words (`map`, `find`,
`explain`, `write`, `run`, `slow`, `help`) and answers anything else with what it
can do and how to get a real model.

It keeps nothing between requests: how far it is it sees from the tool results
since the newest user turn.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final, NamedTuple

import msgspec
import trio

from atrio_agent.models.base import (
    Finish,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
)
from atrio_agent.models.demo_deeds import run_deed, write_deed
from atrio_agent.models.demo_looks import Call, Look, explain_look, find_look, map_look
from atrio_agent.models.demo_results import results_since_prompt
from atrio_agent.models.rules import rule_answer

__all__ = ["DemoModel"]

_FIRST_LINE: Final = "demo model: rules, no AI. It needs no key and no network.\n\n"
_HELP: Final = """\
What it can do here, with the same tools that a real model gets:

  map              look round this directory and sum it up
  find TEXT        where a text occurs
  explain FILE     what a file is made of
  write FILE TEXT  write a line to a file; you are asked first
  run COMMAND      run a command; you are asked first
  slow N           N pieces of text, one every 0.1 s: to try cancel, queue and reconnect
  help             this text

For a model that thinks, set OPENAI_API_KEY, or OPENAI_BASE_URL for any server
that speaks the same API (llama.cpp, vLLM, Ollama, …), where the server starts,
and name one: atrio run -m openai/NAME "…". `atrio models` shows what there is.
"""
_WORD: Final = re.compile(r"\s*\S+\s*")
_PIECE_S: Final = 0.015
_TEXT_S: Final = 0.6
"""What the pauses within one text may take together."""
_SLOW_PIECE_S: Final = 0.1
_SLOW_MOST: Final = 10_000


class _Reply(NamedTuple):
    """What is said in answer to one request."""

    pieces: list[str]
    pause_s: float
    calls: tuple[Call, ...] = ()


class DemoModel:
    """The one demo model."""

    model_id = "demo"
    provider = "demo"
    context_size = None
    takes_images = False

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        reply = _turn(request) if request.purpose == "turn" else _text(rule_answer(request))
        async with aclosing(_say(reply, request.step)) as events:
            yield events


async def _say(reply: _Reply, step: int) -> AsyncGenerator[ModelEvent]:
    for index, piece in enumerate(reply.pieces):
        if index:
            await trio.sleep(reply.pause_s)
        yield TextDelta(piece)
    for index, (name, given) in enumerate(reply.calls):
        call_id = f"call_{step}_{index}"
        yield ToolCallStart(call_id, name)
        yield ToolCallArgs(call_id, msgspec.json.encode(given).decode())
        yield ToolCallEnd(call_id)
    yield Finish("tool_use" if reply.calls else "end_turn")


def _turn(request: ModelRequest) -> _Reply:
    # The first line is the instruction; what is piped in comes after it.
    word, _, rest = request.prompt.strip().partition("\n")[0].partition(" ")
    word, said = word.lower().strip(":,.!?"), rest.strip()
    rest = said.strip("\"'`")
    rounds = results_since_prompt(request.turns)
    has = {tool.name for tool in request.tools}
    look: Look | None = None
    match word:
        case "map":
            look = map_look(rounds, _workspace(request))
        case "find" | "search" | "grep" if rest:
            look = find_look(rounds, rest)
        case "explain" | "read" if rest:
            look = explain_look(rounds, rest)
        case "write" | "create" if rest:
            look = write_deed(rounds, said)
        case "run" if rest:
            whole = said[1:-1] if said[0] in '"`' and said.find(said[0], 1) == len(said) - 1 else said
            look = run_deed(rounds, whole)
        case "slow":
            return _slow(rest)
        case _:
            pass
    if look is None:
        return _text(_FIRST_LINE + _HELP)
    first = "" if rounds else _FIRST_LINE
    calls = tuple((name, given) for name, given in look.calls if name in has)
    if len(calls) < len(look.calls):
        missing = ", ".join(sorted({name for name, _ in look.calls} - has))
        return _text(f"{first}This needs tools that are not there: {missing}.\n")
    return _text(first + look.text, calls)


def _workspace(request: ModelRequest) -> str:
    """The directory, as the system prompt names it to every model."""
    label = "Workspace: "
    return next((line[len(label) :] for line in request.system.splitlines() if line.startswith(label)), "")


def _slow(rest: str) -> _Reply:
    number = rest.partition(" ")[0]
    count = min(int(number), _SLOW_MOST) if number.isascii() and number.isdigit() else 10
    numbered = [f"{index} " for index in range(1, count + 1)]
    return _Reply([_FIRST_LINE, *numbered, "done\n"], _SLOW_PIECE_S)


def _text(text: str, calls: tuple[Call, ...] = ()) -> _Reply:
    pieces = _WORD.findall(text)
    return _Reply(pieces, min(_PIECE_S, _TEXT_S / max(1, len(pieces))), calls)
