"""Images from a prompt on the wire, or from a tool, to the mock of a provider's API, and what people are told."""

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.base import Model
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from providers import responses_mock
from providers.anthropic_mock import MockAnthropic
from providers.openai_mock import MockOpenAI, MockServer, open_mock
from wire.client import Wire
from wire.conftest import Harness
from wire.steps import new_session

Json = dict[str, Any]

SMALL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
LARGE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100_000)).decode()
assert responses_mock.PATH


def image(data: str) -> Json:
    return {"type": "image", "mimeType": "image/png", "data": data}


class Provider(NamedTuple):
    """A provider's API behind a running server, and how an image looks in a request to it."""

    mock: MockServer
    echo: Model
    tools: Model
    part: Callable[[str], Json]

    def said(self) -> list[Json]:
        """All messages or items of the newest request."""
        body = self.mock.requests[-1].body
        return body["input"] if "input" in body else body["messages"]


async def _claude(stack: AsyncExitStack) -> Provider:
    mock = await stack.enter_async_context(open_mock(MockAnthropic))
    connection = await stack.enter_async_context(aclosing(AnthropicConnection(Address(mock.url, "key"))))
    return Provider(
        mock,
        AnthropicModel("claude-haiku-4-5", connection),
        AnthropicModel("claude-sonnet-5-5", connection),
        lambda data: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    )


async def _openai(stack: AsyncExitStack, *, responses: bool) -> tuple[MockOpenAI, OpenAIConnection]:
    mock = await stack.enter_async_context(open_mock(MockOpenAI))
    connection = OpenAIConnection(Address(mock.url, "key"), responses=responses)
    return mock, await stack.enter_async_context(aclosing(connection))


async def _chat(stack: AsyncExitStack) -> Provider:
    mock, connection = await _openai(stack, responses=False)
    return Provider(
        mock,
        OpenAIModel("gpt-4o", connection),
        OpenAIModel("tools", connection, takes_images=True),
        lambda data: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    )


async def _responses(stack: AsyncExitStack) -> Provider:
    mock, connection = await _openai(stack, responses=True)
    return Provider(
        mock,
        OpenAIModel("gpt-5.1", connection),
        OpenAIModel("gpt-5-tools", connection),
        lambda data: {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{data}"},
    )


PROVIDERS = {"anthropic": _claude, "chat": _chat, "responses": _responses}


@asynccontextmanager
async def opened(bench: Harness, name: str) -> AsyncGenerator[tuple[Provider, Wire, str]]:
    """A server with a provider's two models; gives the provider, a connection and the workspace."""
    async with AsyncExitStack() as stack:
        provider = await PROVIDERS[name](stack)
        running = await stack.enter_async_context(bench.serve())
        running.server.models.add(provider.echo)
        running.server.models.add(provider.tools)
        wire, workspace = await stack.enter_async_context(bench.open(running))
        yield provider, wire, workspace


async def run_of(wire: Wire, session: str, run_id: str, *prompt: Json, **more: Any) -> Json:
    await wire.call("session/prompt", sessionId=session, prompt=prompt, runId=run_id, **more)
    return await wire.completed(session, run_id)


def notices(wire: Wire, session: str) -> list[str]:
    return [event["title"] + " " + event["detail"] for event in wire.of_type(session, "notice")]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_prompt_of_one_image_alone_runs_and_the_image_is_whole_for_the_model_only(
    bench: Harness, name: str
) -> None:
    async with opened(bench, name) as (provider, wire, workspace):
        session = await new_session(wire, workspace, title="titled", model=provider.echo.model_id)
        run = await run_of(wire, session, "one", image(LARGE))
        told = str(wire.events) + str(await wire.attach(session)) + str(await wire.call("run/list", sessionId=session))
        stored = await wire.call("message/get", messageId=run["promptMessageId"])

    assert run["stopReason"] == "end_turn"
    assert run["attachments"] == [{"type": "image", "mimeType": "image/png"}]
    assert LARGE[:1_000] not in told
    assert "'bytes': 100008" in told
    assert stored["message"]["parts"] == [image(LARGE)]
    (content,) = [message["content"] for message in provider.said() if message["role"] == "user"]
    part = {key: value for key, value in content[0].items() if key != "cache_control"}
    assert part == provider.part(LARGE)
    assert notices(wire, session) == []


@pytest.mark.parametrize("name", PROVIDERS)
async def test_an_image_that_a_tool_read_goes_to_the_model(bench: Harness, name: str) -> None:
    (bench.directory / "a.py").write_bytes(base64.b64decode(LARGE))
    async with opened(bench, name) as (provider, wire, workspace):
        session = await new_session(wire, workspace, title="titled", model=provider.tools.model_id)
        run = await run_of(wire, session, "one", {"type": "text", "text": "look"})

    assert (run["stopReason"], run["text"]) == ("end_turn", "42")
    assert LARGE[:1_000] not in str(wire.events)
    said = provider.said()
    if name == "chat":
        results = [message["content"] for message in said if message["role"] == "tool"]
        assert "[image image/png, 97 KB: it follows after the results]" in results[0]
        assert said[-1]["content"][-1] == provider.part(LARGE)
    elif name == "responses":
        outputs = [item["output"] for item in said if item["type"] == "function_call_output"]
        assert outputs[0][-1] == provider.part(LARGE)
    else:
        assert said[-1]["content"][0]["content"][-1] == provider.part(LARGE)


async def test_a_model_without_images_is_told_of_them_and_people_too_once_a_turn(bench: Harness) -> None:
    (bench.directory / "a.png").write_bytes(base64.b64decode(SMALL))
    look = {"tool": "read", "input": {"path": "a.png"}}
    blind = bench.script({"responses": [[look], [look], [{"say": "seen"}]]}, takesImages=False)
    pdf = {"uri": "file:///a.pdf", "mimeType": "application/pdf", "blob": "JVBERi0="}
    async with bench.serve(model=blind) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace, title="titled")
        run = await run_of(wire, session, "one", image(LARGE), {"type": "resource", "resource": pdf})
        requests = (await wire.call("test/requests", sessionId=session))["requests"]
        models = (await wire.call("model/list"))["models"]

    assert run["text"] == "seen"
    named = [
        "[image image/png, 97 KB: this model takes no images]",
        "[resource file:///a.pdf application/pdf, 5 bytes: binary data is not passed on]",
    ]
    assert notices(wire, session) == [
        f"The model was told of something in the prompt, and not given it. {blind} got {', '.join(named)}."
    ]
    for request in requests:
        assert [block["text"] for block in request["turns"][0]["content"]] == named
    result = requests[-1]["turns"][2]["results"][0]["content"]
    assert result[-1] == {"type": "text", "text": "[image image/png, 24 bytes: this model takes no images]"}
    assert models[0]["takesImages"] is False


async def test_a_session_goes_on_with_a_model_that_takes_no_images_and_another_sees_them_again(bench: Harness) -> None:
    async with opened(bench, "chat") as (provider, wire, workspace):
        session = await new_session(wire, workspace, title="titled", model=provider.echo.model_id)
        hello = {"type": "text", "text": "hello"}
        await run_of(wire, session, "one", image(SMALL), hello)
        blind = bench.script({"responses": [[{"say": "{{prompt}}"}]]}, takesImages=False)
        await wire.call("session/set_model", sessionId=session, modelId=blind)
        second = await run_of(wire, session, "two", hello)
        requests = (await wire.call("test/requests", sessionId=session))["requests"]
        assert notices(wire, session) == []
        third = await run_of(wire, session, "three", hello, model=provider.echo.model_id)

    assert (second["text"], third["text"]) == ("hello", "hello")
    words = "[image image/png, 24 bytes: this model takes no images]"
    assert requests[-1]["turns"][0]["content"][0] == {"type": "text", "text": words}
    assert provider.said()[1]["content"][0] == provider.part(SMALL)


async def test_an_image_that_the_provider_refuses_does_not_end_this_turn_nor_those_after_it(bench: Harness) -> None:
    async with AsyncExitStack() as stack:
        mock, connection = await _openai(stack, responses=False)
        running = await stack.enter_async_context(bench.serve())
        running.server.models.add(OpenAIModel("blind", connection, takes_images=True))
        wire, workspace = await stack.enter_async_context(bench.open(running))
        session = await new_session(wire, workspace, title="titled", model="openai/blind")
        first = await run_of(wire, session, "one", image(SMALL), {"type": "text", "text": "look"})
        second = await run_of(wire, session, "two", {"type": "text", "text": "again"})

    words = "[image image/png, 24 bytes: the provider refused the images]"
    assert [(run["stopReason"], run["text"]) for run in (first, second)] == [
        ("end_turn", f"{words}\n\nlook"),
        ("end_turn", "again"),
    ]
    assert len(mock.requests) == 4
    told = notices(wire, session)
    assert len(told) == 2
    assert all(text.startswith("The request was refused; asking again without its images.") for text in told)
    assert words in str(mock.requests[-1].body["messages"])
