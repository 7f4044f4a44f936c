"""The models that are known by name: how much they hold and what they cost.

A table for lists, context sizes and costs, no gate: a provider's other models
work as well, they are only not listed and of unknown size and price. Sizes are
in tokens, prices in US dollars per million tokens, as their maker publishes
them (November 2026); None where it is not known for sure.
"""

import re
from typing import Final, NamedTuple

from atrio_agent.models.base import UsageReport
from atrio_protocol.things import Cost

__all__ = [
    "ANTHROPIC_MODELS",
    "DEFAULT_ANTHROPIC",
    "DEFAULT_OPENAI",
    "DEFAULT_OPENROUTER",
    "OPENAI_MODELS",
    "SMALL_MODELS",
    "Known",
    "Price",
    "cost_of",
    "known_model",
    "listed_name",
    "takes_images_by_name",
    "thinks_adaptively",
    "wants_responses",
]


class Price(NamedTuple):
    """Dollars per million tokens. A cache write that costs nothing extra costs what input does."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def times(self, input_factor: float, output_factor: float) -> "Price":
        """The price of requests that are charged more."""
        return Price(
            self.input * input_factor,
            self.output * output_factor,
            self.cache_read * input_factor,
            self.cache_write * input_factor,
        )


class Known(NamedTuple):
    """What is known of a model. Requests of over ``long_tokens`` input cost ``long_price`` as a whole."""

    context_size: int | None
    price: Price | None = None
    long_tokens: int | None = None
    long_price: Price | None = None


_LONG: Final = 272_000
_SOL: Final = Price(2, 10, 0.2, 2.5)
_LUNA: Final = Price(0.1, 0.5, 0.01, 0.125)
_ASTRA: Final = Price(10, 50, 1, 12.5)
_GPT_5_5: Final = Price(5, 30, 0.5, 5)
_GPT_5_4: Final = Price(2.5, 15, 0.25, 2.5)

OPENAI_MODELS: Final[dict[str, Known]] = {
    "gpt-6-sol": Known(1_050_000, _SOL, _LONG, _SOL.times(2, 1.5)),
    "gpt-6-luna": Known(1_050_000, _LUNA, _LONG, _LUNA.times(2, 1.5)),
    "gpt-6-astra": Known(1_050_000, _ASTRA, _LONG, _ASTRA.times(2, 1.5)),
    "gpt-5.5": Known(1_050_000, _GPT_5_5, _LONG, _GPT_5_5.times(2, 1.5)),
    "gpt-5.4": Known(1_050_000, _GPT_5_4, _LONG, _GPT_5_4.times(2, 1.5)),
    "gpt-5.4-mini": Known(None, Price(0.75, 4.5, 0.075, 0.75)),
    "gpt-5.1": Known(400_000, Price(1.25, 10, 0.125, 1.25)),
    "gpt-5-mini": Known(400_000, Price(0.25, 2, 0.025, 0.25)),
    "gpt-4.1": Known(1_047_576, Price(2, 8, 0.5, 2)),
    "gpt-4o": Known(128_000, Price(2.5, 10, 1.25, 2.5)),
}

_HAIKU: Final = Price(0.1, 0.5, 0.01, 0.125)
_OPUS_5: Final = Price(5, 25, 0.5, 6.25)

ANTHROPIC_MODELS: Final[dict[str, Known]] = {
    "claude-sonnet-5-5": Known(1_000_000, Price(2, 10, 0.1, 2.5)),
    "claude-opus-5-5": Known(1_000_000, Price(4, 20, 0.2, 5)),
    "claude-haiku-5-5": Known(1_000_000, _HAIKU, 100_000, _HAIKU.times(5, 5)),
    "claude-fable-5-2": Known(1_000_000),
    "claude-opus-5": Known(1_000_000, _OPUS_5),
    "claude-sonnet-5": Known(1_000_000, Price(2, 10, 0.2, 2.5)),
    "claude-opus-4-8": Known(1_000_000, _OPUS_5),
    "claude-sonnet-4-6": Known(1_000_000, Price(3, 15, 0.3, 3.75)),
    "claude-haiku-4-5": Known(200_000, Price(1, 5, 0.1, 1.25)),
}

# What is asked where there is a key and no model is named: of each maker the one in the middle, at the same price.
DEFAULT_OPENAI: Final = "gpt-6-sol"
DEFAULT_ANTHROPIC: Final = "claude-sonnet-5-5"
DEFAULT_OPENROUTER: Final = "openrouter/auto"

SMALL_MODELS: Final = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-5-5"}
"""Of each maker the cheapest, for what takes no thought."""

_TABLES: Final = {"openai": OPENAI_MODELS, "anthropic": ANTHROPIC_MODELS}
_DATE: Final = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_REASONING: Final = re.compile(r"(gpt-([5-9]|\d\d)|o\d)")
_CLAUDE: Final = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?(?:-|$)")
_SEEING: Final = re.compile(
    r"(^|[-_.])("
    r"(chatgpt-|gpt-)4o(?!-(audio|transcribe|mini-tts))|gpt-4\.[15]|gpt-4-turbo|gpt-([5-9]|[12]\d)(?!\d)"
    r"|o1(?!-(mini|preview))\b|o3(?!-mini)\b|o[4-9]\b"
    r"|claude-(?!2|instant)|gemini|gemma-?[3-9]|grok-[4-9]|llama-?4|mistral-(small|medium|large)-?3|pixtral"
    r"|llava|bakllava|moondream|minicpm-v|internvl\d*|qwen[\d.]*-?vl|vl|vision|multimodal"
    r")"
)
_UNKNOWN: Final = Known(None)


def known_model(provider: str, name: str) -> Known:
    """What is known of a model; a name with a date is the one without."""
    table = _TABLES.get(provider, {})
    return table.get(name) or table.get(_DATE.sub("", name)) or _UNKNOWN


def listed_name(model_id: str) -> str | None:
    """The name by which a model is in the table, without its date; None if it is not in it."""
    provider, _, name = model_id.partition("/")
    table = _TABLES.get(provider, {})
    return next((known for known in (name, _DATE.sub("", name)) if known in table), None)


def wants_responses(name: str) -> bool:
    """Whether a model of OpenAI reasons, and so can use tools and reason at once only through the Responses API."""
    return _REASONING.match(name) is not None and "-chat" not in name


def thinks_adaptively(name: str) -> bool:
    """Whether a model of Anthropic decides itself how much it thinks: Claude 4.6 and all after it."""
    found = _CLAUDE.match(name)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (4, 6)


def takes_images_by_name(name: str) -> bool:
    """Whether a model of this name, whoever serves it, is known to take images.

    A gateway's own choice among many (OpenRouter) goes by what a request holds.
    """
    return name == DEFAULT_OPENROUTER or _SEEING.search(name.lower().rpartition("/")[2]) is not None


def cost_of(model_id: str, usage: UsageReport) -> Cost | None:
    """What a request cost: as the provider says, else by the table; None where the price is not known."""
    provider, _, name = model_id.partition("/")
    if provider == "openrouter":
        return None if usage.cost_usd is None else Cost(amount=usage.cost_usd, currency="USD")
    known = known_model(provider, name)
    is_long = known.long_tokens is not None and usage.input_tokens > known.long_tokens
    price = known.long_price if is_long else known.price
    if price is None:
        return None
    plain = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    dollars = (
        plain * price.input
        + usage.cache_read_tokens * price.cache_read
        + usage.cache_write_tokens * price.cache_write
        + usage.output_tokens * price.output
    ) / 1_000_000
    return Cost(amount=round(dollars, 8), currency="USD")
