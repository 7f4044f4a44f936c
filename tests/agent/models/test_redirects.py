"""No key goes where a provider's redirect leads."""

from collections.abc import AsyncGenerator

import pytest

from atrio_agent.models.anthropic import AnthropicConnection, AnthropicModel
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from atrio_protocol.errors import ProviderError
from model_calls import ask
from providers.openai_mock import MockOpenAI, open_openai_mock

KEY = "sk-secret-key"
STATUS = (301, 302, 303, 307, 308)


@pytest.fixture
async def elsewhere() -> AsyncGenerator[MockOpenAI]:
    """Where the redirects lead."""
    async with open_openai_mock() as server:
        yield server


def check(error: ProviderError, status: int, elsewhere: MockOpenAI) -> None:
    assert not error.retryable
    assert f"answered {status}, a redirect to {elsewhere.url}" in error.message
    assert "BASE_URL" in error.message
    assert KEY not in error.message
    assert list(elsewhere.requests) == []


@pytest.mark.parametrize("status", STATUS)
async def test_a_redirect_of_an_openai_server_is_told_and_not_followed(
    connection: OpenAIConnection, elsewhere: MockOpenAI, status: int
) -> None:
    name = f"status,status={status},location={elsewhere.url}"
    with pytest.raises(ProviderError) as failed:
        await ask(OpenAIModel(name, connection), most_s=30)
    check(failed.value, status, elsewhere)


@pytest.mark.parametrize("status", STATUS)
async def test_a_redirect_of_an_anthropic_server_is_told_and_not_followed(
    anthropic: AnthropicConnection, elsewhere: MockOpenAI, status: int
) -> None:
    name = f"status,status={status},location={elsewhere.url}"
    with pytest.raises(ProviderError) as failed:
        await ask(AnthropicModel(name, anthropic), most_s=30)
    check(failed.value, status, elsewhere)
