"""Whole turns with providers' models, from a prompt on the wire to the mock of the provider's API."""

from contextlib import aclosing

import pytest

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from providers.anthropic_mock import MockAnthropic
from providers.openai_mock import MockOpenAI, open_mock
from providers.responses_mock import PATH
from wire.conftest import Harness
from wire.steps import new_session


async def test_a_turn_with_claude_gives_thoughts_back_from_step_to_step_and_turn_to_turn(bench: Harness) -> None:
    (bench.directory / "a.py").write_text("x = 1\n")
    async with (
        open_mock(MockAnthropic) as mock,
        aclosing(AnthropicConnection(Address(mock.url, "key"))) as connection,
        bench.serve() as running,
        bench.open(running) as (wire, workspace),
    ):
        running.server.models.add(AnthropicModel("claude-sonnet-5-5", connection))
        session = await new_session(wire, workspace, title="titled", model="anthropic/claude-sonnet-5-5")
        for run_id in ("one", "two"):
            await wire.prompt(session, "look", runId=run_id)
            run = await wire.completed(session, run_id)
            assert (run["stopReason"], run["text"]) == ("end_turn", "42")
        usage = (await wire.call("session/get", sessionId=session))["session"]["usage"]

    kinds = [[block["type"] for block in message["content"]] for message in mock.requests[-1].body["messages"]]
    called = ["thinking", "redacted_thinking", "text", "tool_use"]
    assert kinds == [["text"], called, ["tool_result"], ["thinking", "text"], ["text"]]
    # Three requests of 7 tokens in and 3 out, at 2 and 10 dollars per million.
    assert usage["cost"] == {"amount": pytest.approx(0.000132), "currency": "USD"}


async def test_a_turn_with_a_reasoning_model_of_openai_gives_its_reasoning_back(bench: Harness) -> None:
    async with (
        open_mock(MockOpenAI) as mock,
        aclosing(OpenAIConnection(Address(mock.url, "key"), responses=True)) as connection,
        bench.serve() as running,
        bench.open(running) as (wire, workspace),
    ):
        running.server.models.add(OpenAIModel("gpt-5-tools", connection))
        session = await new_session(wire, workspace, title="titled", model="openai/gpt-5-tools")
        await wire.prompt(session, "look", runId="one")
        run = await wire.completed(session, "one")

    assert (run["stopReason"], run["text"]) == ("end_turn", "42")
    assert mock.requests[-1].path == PATH
    kinds = [item["type"] for item in mock.requests[-1].body["input"]]
    assert kinds == ["message", "reasoning", "message", *["function_call"] * 3, *["function_call_output"] * 3]
