"""The model that says what a script tells it to: for tests of clients and harnesses.

The first turn of the script that fits a run's newest user text, at the run's
first request, serves the whole run; each request of the run, one that is sent
again after a failure too, takes the next response, and the last one repeats. A
title or a summary takes none.

It waits nowhere but where the script says so: in delays, at gates and in a
stall. What it remembers of runs is bounded.
"""

import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, cast

import msgspec
import trio

from atrio_agent.gates import Gates
from atrio_agent.models.base import (
    Finish,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallArgs,
    ToolCallEnd,
    ToolCallStart,
    UsageReport,
)
from atrio_agent.models.rules import rule_answer
from atrio_agent.models.script import (
    CallTool,
    CountUsage,
    Fail,
    Gate,
    Response,
    Say,
    Script,
    ScriptInvalid,
    Stall,
    Think,
    checked_script,
    parse_script,
)
from atrio_protocol.errors import ERRORS, ProviderError, RunError

__all__ = ["ScriptedModel", "load_script"]

_MAX_RUNS: Final = 10_000
_EVENTS_A_CHECKPOINT: Final = 16


def load_script(path: Path) -> Script:
    """Read a script file. Blocks for as long as that takes; files are small.

    Raises:
        ScriptInvalid: It cannot be read, or is no script.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ScriptInvalid(f"{path}: {exc.strerror or exc}") from exc
    try:
        return parse_script(msgspec.json.decode(data))
    except msgspec.DecodeError as exc:
        raise ScriptInvalid(f"{path}: not JSON: {exc}") from exc
    except ScriptInvalid as exc:
        raise ScriptInvalid(f"{path}: {exc}") from exc


class _Progress:
    """How far a run has come in its turn of the script."""

    def __init__(self, responses: tuple[Response, ...]) -> None:
        self._responses = responses
        self._next = 0

    def take(self) -> Response:
        response = self._responses[min(self._next, len(self._responses) - 1)]
        self._next += 1
        return response


class ScriptedModel:
    """Plays a script.

    Args:
        script: From a file or made of Python objects.
        model_id: Such as ``script:/tmp/a.json``.
        gates: Where its gates are.

    Raises:
        ScriptInvalid: The script has a mistake.
    """

    provider = "script"

    def __init__(self, script: Script, *, model_id: str, gates: Gates) -> None:
        self._script = checked_script(script)
        self._gates = gates
        self._runs: OrderedDict[tuple[str, str], _Progress] = OrderedDict()
        self.model_id = model_id
        self.context_size = script.context_size
        self.takes_images = script.takes_images
        self.name = script.name

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        response = self._take(request) if request.purpose == "turn" else (Say(rule_answer(request)),)
        async with aclosing(_play(response, request, self._gates)) as events:
            yield events

    def _take(self, request: ModelRequest) -> Response:
        key = request.session_id, request.run_id  # a run's id is free again when its session is deleted
        progress = self._runs.get(key)
        if progress is None:
            turns = (turn for turn in self._script.turns if re.search(turn.match or "", request.prompt))
            turn = next(turns, None)
            if turn is None:
                raise ProviderError(f"no turn of the script {self.name} fits this prompt")
            progress = self._runs[key] = _Progress(turn.responses)
            if len(self._runs) > _MAX_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return progress.take()


async def _play(response: Response, request: ModelRequest, gates: Gates) -> AsyncGenerator[ModelEvent]:
    early = next((step for step in response if isinstance(step, Fail) and step.fail.after is not None), None)
    limit = float("inf") if early is None else cast("int", early.fail.after)
    said = 0
    calls = 0
    for step in response:
        match step:
            case Say() | Think():
                event = TextDelta if isinstance(step, Say) else ReasoningDelta
                for index, piece in enumerate(_pieces(step, request.prompt)):
                    if early is not None and said >= limit:
                        raise _failure(early)
                    if index and step.delay_ms:
                        await trio.sleep(step.delay_ms / 1000)
                    elif not said % _EVENTS_A_CHECKPOINT:
                        await trio.lowlevel.checkpoint()
                    yield event(piece)
                    said += 1
            case CallTool():
                call_id = f"call_{request.step}_{calls}"
                calls += 1
                yield ToolCallStart(call_id, step.name)
                raw = step.raw_input
                yield ToolCallArgs(call_id, msgspec.json.encode(step.input).decode() if raw is None else raw)
                yield ToolCallEnd(call_id)
            case Gate():
                await gates.wait(step.name, session_id=request.session_id, run_id=request.run_id)
            case Stall():
                await trio.sleep_forever()
            case Fail():
                raise _failure(step)
            case CountUsage():
                yield UsageReport(step.usage.input, step.usage.output)
            case _:
                yield Finish(step.finish)
                return
    yield Finish("tool_use" if calls else "end_turn")


def _pieces(step: Say | Think, prompt: str) -> Iterator[str]:
    text = step.text.replace("{{prompt}}", prompt)
    size = step.chunk or max(1, len(text))
    for _ in range(step.times):
        for start in range(0, len(text), size):
            yield text[start : start + size]


def _failure(step: Fail) -> RunError:
    failure = step.fail
    cls = cast("type[RunError]", ERRORS[failure.kind])
    retryable = step.retryable or failure.retryable
    return cls(failure.message, retryable=retryable, retry_after_ms=failure.retry_after_ms)
