"""What a client sees of a provider that fails: the tries, the end of the run, and that the queue goes on."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.base import Model
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from providers import responses_mock
from providers.anthropic_mock import MockAnthropic
from providers.openai_mock import MockOpenAI, MockServer, open_mock
from wire.client import Wire
from wire.conftest import Harness
from wire.in_memory import open_in_memory
from wire.steps import new_session, terminals

assert responses_mock.PATH

Make = Callable[[str], Model]


async def _claude(stack: AsyncExitStack) -> tuple[MockServer, Make]:
    mock = await stack.enter_async_context(open_mock(MockAnthropic))
    connection = await stack.enter_async_context(aclosing(AnthropicConnection(Address(mock.url, "key"))))
    return mock, lambda name: AnthropicModel(name, connection)


async def _openai(stack: AsyncExitStack, prefix: str) -> tuple[MockServer, Make]:
    mock = await stack.enter_async_context(open_mock(MockOpenAI))
    opened = OpenAIConnection(Address(mock.url, "key"), responses=bool(prefix))
    connection = await stack.enter_async_context(aclosing(opened))
    return mock, lambda name: OpenAIModel(f"{prefix}{name}", connection)


@asynccontextmanager
async def failing(bench: Harness, provider: str, behaviour: str) -> AsyncGenerator[tuple[MockServer, Wire, str]]:
    """A session whose model fails so; gives the mock, a connection and the session."""
    async with AsyncExitStack() as stack:
        prefix = "gpt-5-" if provider == "responses" else ""
        mock, make = await (_claude(stack) if provider == "anthropic" else _openai(stack, prefix))
        running = await stack.enter_async_context(bench.serve())
        model = make(behaviour)
        running.server.models.add(model)
        wire, workspace = await stack.enter_async_context(bench.open(running))
        yield mock, wire, await new_session(wire, workspace, title="titled", model=model.model_id)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sockets need the real clock; so the waits between two tries are short, and grow all the same."""
    monkeypatch.setattr("atrio_agent.asking.FIRST_DELAY_S", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("provider", ["chat", "responses", "anthropic"])
@pytest.mark.parametrize(
    ("behaviour", "kind", "tries", "text"),
    [
        ("cut,how=reset", "provider_unreachable", 3, "half"),
        ("status,status=429,after-ms=30", "provider_rate_limited", 3, ""),
        ("status,status=503", "provider_error", 3, ""),
        ("status,status=401", "provider_auth", 1, ""),
        ("status,status=400", "provider_error", 1, ""),
        ("raw,what=malformed", "provider_error", 1, "word"),
    ],
)
async def test_a_failing_provider_is_tried_as_often_as_it_makes_sense_and_then_the_queue_goes_on(
    bench: Harness, provider: str, behaviour: str, kind: str, tries: int, text: str
) -> None:
    async with failing(bench, provider, behaviour) as (mock, wire, session):
        await wire.prompt(session, "one", runId="one")
        await wire.prompt(session, "two", runId="two", model="demo")
        run = await wire.completed(session, "one")
        await wire.completed(session, "two")

    assert terminals(wire, session) == [("one", "error"), ("two", "end_turn")]
    assert (run["error"]["data"]["kind"], run["text"]) == (kind, text)
    assert f"127.0.0.1:{mock.port}" in run["error"]["message"]
    assert len(mock.requests) == tries
    told = wire.of_type(session, "notice", "message.reset")
    again = [event for event in told if event["type"] == "notice"]
    assert [event["severity"] for event in again] == ["warning"] * (tries - 1)
    assert all(event["runId"] == "one" and f"127.0.0.1:{mock.port}" in event["detail"] for event in again)
    # What was said before the cut is taken back each time, so that no text is doubled.
    assert [event["type"] for event in told] == (["notice", "message.reset"] if text else ["notice"]) * (tries - 1)


@pytest.mark.parametrize(
    ("asked_ms", "waits"), [(None, ["0.5 s", "2.0 s"]), (1_500, ["1.5 s", "2.0 s"]), (9_000, ["9.0 s", "9.0 s"])]
)
async def test_the_waits_between_tries_grow_and_are_never_shorter_than_the_provider_asks(
    asked_ms: int | None, waits: list[str], autojump_clock: MockClock, tmp_path: Path
) -> None:
    asked = {} if asked_ms is None else {"retryAfterMs": asked_ms}
    fail: dict[str, Any] = {"fail": {"kind": "provider_rate_limited", "message": "slow down", **asked}}
    script = {"turns": [{"responses": [[{"say": "half"}, fail | {"retryable": True}]]}]}
    with trio.fail_after(1_000):
        async with open_in_memory(tmp_path, script) as server:
            peer = await server.connect("6f1c0a52-7d0e-4f6b-9a55-6d3f0a1b2c3d")
            made = await peer.call("session/new", workspaceId=server.workspace_id, title="titled")
            session: str = made["session"]["sessionId"]
            await peer.call("session/attach", sessionId=session)
            began = trio.current_time()
            prompt = [{"type": "text", "text": "hi"}]
            await peer.call("session/prompt", sessionId=session, prompt=prompt, runId="one")
            run = (await peer.call("run/wait", runId="one"))["run"]
            took_s = trio.current_time() - began
            told = [event["title"] for event in peer.events(session) if event["type"] == "notice"]

    assert told == [f"The model did not answer; trying again in {wait}." for wait in waits]
    slept_s = sum(float(wait.removesuffix(" s")) for wait in waits)
    assert slept_s <= took_s < slept_s + 1
    assert (run["stopReason"], run["error"]["data"]["kind"], run["text"]) == ("error", "provider_rate_limited", "half")
