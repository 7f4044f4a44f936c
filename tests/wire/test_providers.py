"""Whole turns with providers' models, from a prompt on the wire to the mock of the provider's API."""

from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.connection import Address
from atrio_agent.models.local import LocalServers
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from providers.anthropic_mock import MockAnthropic
from providers.list_mock import open_list_server
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


async def test_usage_has_a_cost_where_the_price_is_known_and_is_marked_where_nobody_counted(bench: Harness) -> None:
    async with (
        open_mock(MockOpenAI) as mock,
        bench.serve(environ={"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": mock.url}) as running,
        bench.open(running) as (wire, workspace),
    ):
        session = await new_session(wire, workspace, title="titled", model="openai/gpt-4o")
        runs = []
        for run_id, more in (("one", {}), ("two", {"model": "openai/no-usage"}), ("three", {})):
            await wire.prompt(session, "hello", runId=run_id, **more)
            runs.append(await wire.completed(session, run_id))
        view = (await wire.call("session/get", sessionId=session))["session"]

    first, second, third = (run["usage"] for run in runs)
    # 7 tokens in and 3 out, at 2.5 and 10 dollars per million.
    cost = {"amount": pytest.approx(0.0000475), "currency": "USD"}
    assert (first["inputTokens"], first["outputTokens"], first["contextSize"]) == (7, 3, 128_000)
    assert (first["cost"], first["estimated"], third["cost"], third["estimated"]) == (cost, False, cost, False)
    assert second["estimated"] and second["inputTokens"] > 0 and "cost" not in second
    assert view["usage"]["estimated"] and view["usage"]["cost"]["amount"] == pytest.approx(0.000095)
    assert view["model"] == "openai/gpt-4o"
    assert [seen.body["model"] for seen in mock.requests] == ["gpt-4o", "no-usage", "gpt-4o"]


async def test_the_list_of_models_tells_sizes_prices_and_images_and_what_was_found_on_this_machine(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_list_server(b"", lets_wait=True) as silent, open_list_server(b'{"data":[{"id":"qwen"}]}') as found:
        others = (("silent", silent), ("found", found))
        monkeypatch.setattr("atrio_agent.models.choose.LocalServers", partial(LocalServers, others=others))
        environ = {"ANTHROPIC_API_KEY": "key", "OLLAMA_HOST": "127.0.0.1:9"}
        async with bench.serve(model=None, environ=environ) as running, bench.open(running) as (wire, _):
            models: dict[str, Any] = {}
            # A search ends after 300 ms, and the machine may have stood still in them.
            while "local/qwen" not in models:
                await running.server.models.search()
                models = {model["modelId"]: model for model in (await wire.call("model/list"))["models"]}

    first = models["anthropic/claude-sonnet-5-5"]
    assert (first["default"], first["reason"]) == (True, "ANTHROPIC_API_KEY is set.")
    assert (first["contextSize"], first["takesImages"]) == (1_000_000, True)
    assert first["price"] == {"input": 2, "output": 10, "currency": "USD"}
    local = models["local/qwen"]
    assert (local["provider"], local["default"], local["takesImages"]) == ("local", False, False)
    assert "price" not in local and "contextSize" not in local
    assert not any(name.startswith("openai/") for name in models)
