"""What models hold and cost."""

import pytest

from atrio_agent.models.base import UsageReport
from atrio_agent.models.catalog import (
    ANTHROPIC_MODELS,
    OPENAI_MODELS,
    cost_of,
    known_model,
    takes_images_by_name,
    thinks_adaptively,
    wants_responses,
)


@pytest.mark.parametrize(
    ("model_id", "usage", "dollars"),
    [
        ("openai/gpt-6-sol", UsageReport(1_000, 100), 0.003),
        ("openai/gpt-6-sol", UsageReport(1_000, 100, cache_read_tokens=400, cache_write_tokens=100), 0.00233),
        ("openai/gpt-6-sol", UsageReport(272_000, 1_000), 0.554),
        ("openai/gpt-6-sol", UsageReport(272_001, 1_000), 1.103004),
        ("openai/gpt-4o-2024-11-20", UsageReport(1_000_000, 0), 2.5),
        ("anthropic/claude-haiku-4-5-20251001", UsageReport(1_000_000, 1_000_000), 6),
        (
            "anthropic/claude-opus-5-5",
            UsageReport(100_000, 10, cache_read_tokens=99_000, cache_write_tokens=990),
            0.02499,
        ),
        ("openrouter/maker/model", UsageReport(5, 5, cost_usd=0.25), 0.25),
    ],
)
def test_a_request_costs_what_its_tokens_cost(model_id: str, usage: UsageReport, dollars: float) -> None:
    cost = cost_of(model_id, usage)

    assert cost is not None
    assert cost.amount == pytest.approx(dollars)
    assert cost.currency == "USD"


@pytest.mark.parametrize(
    "model_id",
    [
        "openai/some-model",
        "anthropic/claude-fable-5-2",
        "openrouter/openai/gpt-6-sol",
        "ollama/gpt-4o",
        "demo",
        "script:a",
    ],
)
def test_what_has_no_known_price_has_no_cost(model_id: str) -> None:
    assert cost_of(model_id, UsageReport(1_000, 1_000)) is None


def test_a_count_that_does_not_add_up_costs_no_less_than_its_cache() -> None:
    cost = cost_of("openai/gpt-6-sol", UsageReport(0, 0, cache_read_tokens=1_000_000))

    assert cost is not None
    assert cost.amount == pytest.approx(0.2)


def test_all_that_is_known_makes_sense() -> None:
    for known in [*OPENAI_MODELS.values(), *ANTHROPIC_MODELS.values()]:
        assert known.context_size is None or known.context_size >= 100_000
        assert (known.long_tokens is None) == (known.long_price is None)
        for price in (known.price, known.long_price):
            assert price is None or price.cache_read < price.input <= price.cache_write < price.output
        assert known.long_price is None or known.price is None or known.long_price.input > known.price.input


def test_a_name_of_another_provider_is_not_known() -> None:
    assert known_model("ollama", "gpt-4o").context_size is None
    assert known_model("openai", "gpt-4o").context_size == 128_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-6-sol", True),
        ("gpt-5.4-mini", True),
        ("gpt-10", True),
        ("o4-mini", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4.1", False),
        ("gpt-4o", False),
        ("omni", False),
    ],
)
def test_models_that_reason_want_the_responses_api(name: str, expected: bool) -> None:
    assert wants_responses(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude-sonnet-4-6", True),
        ("claude-opus-5", True),
        ("claude-newname-12-1-20300101", True),
        ("claude-haiku-4-5-20251001", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-3-7-sonnet-20250219", False),
        ("kimi-k3", False),
    ],
)
def test_claude_thinks_as_it_likes_since_4_6(name: str, expected: bool) -> None:
    assert thinks_adaptively(name) is expected


@pytest.mark.parametrize("name", [*OPENAI_MODELS, *ANTHROPIC_MODELS])
def test_every_current_model_of_the_makers_takes_images(name: str) -> None:
    assert takes_images_by_name(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-4o-2024-11-20", True),
        ("o4-mini", True),
        ("openrouter/auto", True),
        ("anthropic/claude-sonnet-5-5", True),
        ("google/gemini-3-pro:free", True),
        ("qwen/Qwen2.5-VL-72B", True),
        ("qwen3-vl:8b", True),
        ("llama3.2-vision:11b", True),
        ("llava:latest", True),
        ("gpt-oss:20b", False),
        ("gpt-35-turbo", False),
        ("o3-mini", False),
        ("gpt-4o-audio-preview", False),
        ("anthropic/claude-2.1", False),
        ("deepseek/deepseek-r1", False),
        ("auto", False),
        ("", False),
    ],
)
def test_a_name_tells_whether_a_model_takes_images(name: str, expected: bool) -> None:
    assert takes_images_by_name(name) is expected
