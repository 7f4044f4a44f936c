"""How the usage of one model request is counted, and how requests add up.

Tokens are summed; what the context holds is what the newest request took, or
the summary if that is what it was for: the next request begins with it. A
cost is the sum over the requests whose price is known: one that has none adds
nothing to it.
"""

import msgspec

from atrio_agent.models.base import Model, ModelRequest, UsageReport
from atrio_agent.models.catalog import cost_of
from atrio_agent.models.estimate import estimate_request, estimate_text
from atrio_protocol.struct import UNSET, UnsetType
from atrio_protocol.things import Cost, Usage

__all__ = ["usage_beside", "usage_of", "usage_with"]


def usage_of(model: Model, request: ModelRequest, report: UsageReport | None, answer: str) -> Usage:
    """The usage of a request, estimated where the provider did not count."""
    counted = report or UsageReport(estimate_request(request), estimate_text(answer))
    return Usage(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        context_tokens=counted.output_tokens + (0 if request.purpose == "summary" else counted.input_tokens),
        context_size=model.context_size or UNSET,
        cost=cost_of(model.model_id, counted) or UNSET,
        estimated=report is None,
    )


def usage_with(before: Usage, newest: Usage) -> Usage:
    """The usage so far, with that of the newest request."""
    return msgspec.structs.replace(
        newest,
        input_tokens=before.input_tokens + newest.input_tokens,
        output_tokens=before.output_tokens + newest.output_tokens,
        cost=_cost_with(before.cost, newest.cost),
        estimated=before.estimated or newest.estimated,
    )


def usage_beside(before: Usage, other: Usage) -> Usage:
    """The usage so far, with what was used outside of this conversation: its context is as it was."""
    return msgspec.structs.replace(
        usage_with(before, other), context_tokens=before.context_tokens, context_size=before.context_size
    )


def _cost_with(before: Cost | UnsetType, newest: Cost | UnsetType) -> Cost | UnsetType:
    # All prices that are known are in one currency.
    if before is UNSET or newest is UNSET:
        return newest if before is UNSET else before
    return Cost(amount=round(before.amount + newest.amount, 8), currency=newest.currency)
