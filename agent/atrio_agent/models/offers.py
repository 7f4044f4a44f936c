"""What the environment offers: a provider for each key or address that is set.

The order is the order of choice. A maker's own key goes before that of a
gateway to many makers (OpenRouter), because it is the shorter way to the same
models; OpenAI goes before Anthropic, because that is what a server with both
keys has always chosen. Whoever wants it otherwise names a model.

Nothing is connected or imported here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from atrio_agent.models.anthropic import ANTHROPIC_URL, AnthropicConnection, AnthropicModel
from atrio_agent.models.base import Model
from atrio_agent.models.catalog import (
    ANTHROPIC_MODELS,
    DEFAULT_ANTHROPIC,
    DEFAULT_OPENAI,
    DEFAULT_OPENROUTER,
    OPENAI_MODELS,
    known_model,
)
from atrio_agent.models.connection import Address, Connection
from atrio_agent.models.openai import OPENAI_URL, OpenAIConnection, OpenAIModel

__all__ = ["Offer", "offers_in"]

_OPENROUTER_URL: Final = "https://openrouter.ai/api/v1"


class Offer(NamedTuple):
    """One provider.

    ``reason`` says why it is one of those to choose from, and is empty if it is
    not; ``problem`` why it cannot be used. ``listed`` are the names worth showing.
    """

    provider: str
    connection: Connection[Any]
    make: Callable[[str], Model]
    default_name: str
    listed: tuple[str, ...]
    reason: str
    problem: str | None


def offers_in(environ: Mapping[str, str], origins: Mapping[str, str] | None = None) -> tuple[Offer, ...]:
    """The providers that need a key or an address, in the order of choice.

    Args:
        environ: Keys and addresses, by their variables.
        origins: What people set instead of a variable, where that was so: for sentences.
    """
    said = origins or {}
    return (
        _openai(_address(environ, "OPENAI", OPENAI_URL, said)),
        _anthropic(_address(environ, "ANTHROPIC", ANTHROPIC_URL, said)),
        _openrouter(environ, said),
    )


def _openai(address: Address) -> Offer:
    connection = OpenAIConnection(address)

    def make(name: str) -> Model:
        return OpenAIModel(name, connection, context_size=known_model("openai", name).context_size)

    listed = tuple(OPENAI_MODELS) if address.base_url == OPENAI_URL else ()
    return Offer(
        "openai", connection, make, DEFAULT_OPENAI, listed, _reason(address, OPENAI_URL), _problem(address, OPENAI_URL)
    )


def _anthropic(address: Address) -> Offer:
    connection = AnthropicConnection(address)

    def make(name: str) -> Model:
        return AnthropicModel(name, connection, context_size=known_model("anthropic", name).context_size)

    return Offer(
        "anthropic",
        connection,
        make,
        DEFAULT_ANTHROPIC,
        tuple(ANTHROPIC_MODELS) if address.base_url == ANTHROPIC_URL else (),
        _reason(address, ANTHROPIC_URL),
        _problem(address, ANTHROPIC_URL),
    )


def _openrouter(environ: Mapping[str, str], said: Mapping[str, str]) -> Offer:
    key = environ.get("OPENROUTER_API_KEY", "").strip()
    address = Address(_OPENROUTER_URL, key, said.get("OPENROUTER_API_KEY", "OPENROUTER_API_KEY"))
    connection = OpenAIConnection(address)

    def make(name: str) -> Model:
        return OpenAIModel(name, connection, provider="openrouter")

    problem = _key_problem(address) if key else "set OPENROUTER_API_KEY."
    reason = f"{address.key_name} is set." if key else ""
    return Offer("openrouter", connection, make, DEFAULT_OPENROUTER, (DEFAULT_OPENROUTER,), reason, problem)


def _address(environ: Mapping[str, str], name: str, default_url: str, said: Mapping[str, str]) -> Address:
    key_name, url_name = f"{name}_API_KEY", f"{name}_BASE_URL"
    base_url, key = environ.get(url_name, "").strip(), environ.get(key_name, "").strip()
    return Address(base_url or default_url, key, said.get(key_name, key_name), said.get(url_name, url_name))


def _reason(address: Address, default_url: str) -> str:
    if address.key:
        return f"{address.key_name} is set."
    return "" if address.base_url == default_url else f"{address.url_name} is set."


def _problem(address: Address, default_url: str) -> str | None:
    if not address.key and address.base_url == default_url:
        return f"set {address.key_name}, or {address.url_name} for a compatible server that needs no key."
    if (problem := _key_problem(address)) is not None:
        return problem
    try:
        parts = urlsplit(address.base_url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    return None if is_address else f"{address.url_name} must be an address such as http://127.0.0.1:8000/v1."


def _key_problem(address: Address) -> str | None:
    fits = address.key.isascii() and address.key.isprintable()
    return None if fits else f"{address.key_name} holds characters that no key has."
