"""The mock of OpenAI's API in the test's own event loop, and a connection to it."""

from collections.abc import AsyncGenerator

import pytest

from atrio_agent.models.openai import OpenAIConnection, open_openai
from providers.openai_mock import MockOpenAI, open_openai_mock

KEY = "sk-secret-key"


@pytest.fixture
async def mock() -> AsyncGenerator[MockOpenAI]:
    async with open_openai_mock() as server:
        yield server


@pytest.fixture
async def connection(mock: MockOpenAI) -> AsyncGenerator[OpenAIConnection]:
    async with open_openai(mock.url, KEY) as opened:
        yield opened
