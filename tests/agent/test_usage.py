"""How tokens and costs of model requests are counted and added up."""

from atrio_agent.models.base import UsageReport
from atrio_agent.models.connection import Address
from atrio_agent.models.demo import DemoModel
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from atrio_agent.usage import usage_of, usage_with
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Cost, Usage
from model_calls import request


def sol() -> OpenAIModel:
    """A model whose price is known: 2 dollars per million tokens of input, 10 of output."""
    return OpenAIModel("gpt-6-sol", OpenAIConnection(Address("http://127.0.0.1:9")), context_size=1_050_000)


def dollars(amount: float) -> Cost:
    return Cost(amount=amount, currency="USD")


def test_what_a_provider_counted_is_taken_as_it_is_and_has_its_cost() -> None:
    usage = usage_of(sol(), request(), UsageReport(1_000, 100), "")

    assert usage == Usage(
        input_tokens=1_000, output_tokens=100, context_tokens=1_100, context_size=1_050_000, cost=dollars(0.003)
    )


def test_what_nobody_counted_is_estimated_and_so_is_its_cost() -> None:
    usage = usage_of(sol(), request("word " * 1_000), None, "answer")

    assert usage.estimated
    assert usage.input_tokens > 1_000
    assert usage.cost is not UNSET
    assert usage.cost.amount > 0.002


def test_a_model_without_a_price_has_no_cost() -> None:
    assert usage_of(DemoModel(), request(), None, "").cost is UNSET


def test_tokens_and_costs_add_up_and_the_context_is_that_of_the_newest_request() -> None:
    first = Usage(input_tokens=10, output_tokens=1, context_tokens=11, cost=dollars(0.1), estimated=True)
    second = Usage(input_tokens=20, output_tokens=2, context_tokens=22, context_size=100, cost=dollars(0.2))

    assert usage_with(first, second) == Usage(
        input_tokens=30, output_tokens=3, context_tokens=22, context_size=100, cost=dollars(0.3), estimated=True
    )


def test_a_request_without_a_price_adds_nothing_to_the_cost() -> None:
    priced, free = Usage(input_tokens=1, cost=dollars(0.1)), Usage(input_tokens=1)

    assert usage_with(priced, free).cost == usage_with(free, priced).cost == dollars(0.1)
    assert usage_with(free, free).cost is UNSET
