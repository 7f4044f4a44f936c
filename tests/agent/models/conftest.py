"""The mocks of the providers' APIs in the test's own event loop, and connections to them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from atrio_agent.models.anthropic import AnthropicConnection
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection
from providers.anthropic_mock import MockAnthropic, open_anthropic_mock
from providers.openai_mock import MockOpenAI, open_openai_mock

KEY = "sk-secret-key"


@pytest.fixture
def search_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long model servers on this machine are looked for: not given up because the machine stands still."""
    monkeypatch.setattr("atrio_agent.models.local.SEARCH_S", 30.0)
    return 30.0


@pytest.fixture
async def mock() -> AsyncGenerator[MockOpenAI]:
    async with open_openai_mock() as server:
        yield server


@pytest.fixture
async def connection(mock: MockOpenAI) -> AsyncGenerator[OpenAIConnection]:
    async with aclosing(OpenAIConnection(Address(mock.url, KEY, "OPENAI_API_KEY", "OPENAI_BASE_URL"))) as opened:
        yield opened


@pytest.fixture
async def anthropic_mock() -> AsyncGenerator[MockAnthropic]:
    async with open_anthropic_mock() as server:
        yield server


@pytest.fixture
async def anthropic(anthropic_mock: MockAnthropic) -> AsyncGenerator[AnthropicConnection]:
    address = Address(anthropic_mock.url, KEY, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    async with aclosing(AnthropicConnection(address)) as opened:
        yield opened
