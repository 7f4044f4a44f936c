"""Which model answers and why, by which keys, and whether their providers do.

The choice is made by the very code that a server makes it with; where one runs,
its own counts. Keys are named by where they come from and never shown. A
provider is asked once, for what costs nothing.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from atrio_agent.gates import Gates
from atrio_agent.models.anthropic import ANTHROPIC_URL
from atrio_agent.models.choose import Models, open_models
from atrio_agent.models.connection import Connection
from atrio_agent.models.offers import Offer, offers_in
from atrio_agent.models.openai import OPENAI_URL
from atrio_protocol.errors import RunError, WireError
from atrio_protocol.methods import ModelInfo
from atrio_protocol.struct import UNSET, given
from atrio_server.cli.checks.finding import Finding, ok, problem, warning
from atrio_server.cli.checks.server import ServerSeen
from atrio_server.config import Settings

if TYPE_CHECKING:
    from atrio_agent.models.reach import Probe

__all__ = ["PROVIDER_S", "check_models"]

PROVIDER_S: Final = 5.0
"""How long a provider may take to answer."""

_USUAL_URLS: Final = {ANTHROPIC_URL, OPENAI_URL}
_NAME_ANOTHER: Final = "mend that, or name another model: `atrio models` lists them, and demo always works"
_SET_KEY: Final = "set OPENAI_API_KEY, ANTHROPIC_API_KEY or OPENROUTER_API_KEY, or start Ollama"


async def check_models(
    settings: Settings,
    environ: Mapping[str, str],
    origins: Mapping[str, str],
    *,
    seen: ServerSeen,
    offline: bool,
) -> list[Finding]:
    """The model in use, the keys, the providers, and what this machine has.

    Args:
        settings: Those that a server would run by, in the directory that it is about.
        environ: Where keys and addresses are looked up.
        origins: What was set instead of a variable, for sentences.
        seen: What the running server said.
        offline: Nobody on the network is asked.
    """
    async with _opened(settings, environ, origins) as models:
        used = seen.model or _choice(models)
        findings = [_used(used, models, seen, is_named=settings.model == used.model_id)]
        local = tuple(model.model_id for model in models.listing() if model.provider in {"ollama", "local"})
    offers = [offer for offer in offers_in(environ, origins) if offer.reason]
    findings.append(_keys(offers))
    if local:
        more = f" and {len(local) - 3} more" if len(local) > 3 else ""
        findings.append(ok("local models", ", ".join(local[:3]) + more))
    results: dict[str, Finding] = {}

    async def ask(offer: Offer) -> None:
        results[offer.provider] = await _provider(offer, is_used=used.provider == offer.provider, offline=offline)

    async with trio.open_nursery() as nursery:
        for offer in offers:
            nursery.start_soon(ask, offer)
    return [*findings, *(results[offer.provider] for offer in offers)]


@asynccontextmanager
async def _opened(settings: Settings, environ: Mapping[str, str], origins: Mapping[str, str]) -> AsyncGenerator[Models]:
    async with open_models(
        environ, default=settings.model, gates=Gates(), small=settings.small_model, origins=origins
    ) as models:
        await models.search()
        yield models


def _choice(models: Models) -> ModelInfo:
    return next(model for model in models.listing() if model.default)


def _used(used: ModelInfo, models: Models, seen: ServerSeen, *, is_named: bool) -> Finding:
    """The model of whoever names none."""
    whose = " (the running server's)" if seen.model is not None else ""
    detail = f"{used.model_id}{whose}: {given(used.reason, '')}".rstrip(": ")
    if seen.unseen_key:
        return warning("model", detail, seen.unseen_key)
    if used.provider == "demo":
        return ok("model", detail) if is_named else warning("model", detail, _SET_KEY)
    if seen.model is not None and used.takes_images is UNSET:
        # A server that could make nothing of the model knows nothing of it either; its reason says why.
        return problem("model", detail, _NAME_ANOTHER)
    if seen.model is None:
        try:
            models.get(None)
        except WireError as exc:
            return problem("model", exc.message, _NAME_ANOTHER)
    return ok("model", detail)


def _keys(offers: list[Offer]) -> Finding:
    """By which variables or files keys are set."""
    named: list[str] = []
    for address in (offer.connection.address for offer in offers):
        named += [address.key_name] if address.key else []
        named += [address.url_name] if address.url_name and address.base_url not in _USUAL_URLS else []
    return ok("keys", ", ".join(named) if named else "none is set")


async def _provider(offer: Offer, *, is_used: bool, offline: bool) -> Finding:
    """Whether a provider answers to its key. That of the model in use has to."""
    name, address = f"provider {offer.provider}", offer.connection.address
    bad = problem if is_used else warning
    if offer.problem is not None:
        return bad(name, "cannot be used", offer.problem)
    if offline:
        return ok(name, f"{address.server}, not asked (--offline)")
    fix = f"look at the network and the proxy{f', and at {address.url_name}' if address.url_name else ''}"
    connection: Connection[Probe] = Connection(address, "atrio_agent.models.reach:Probe")
    try:
        with trio.fail_after(PROVIDER_S):
            is_there = await (await connection.client()).ask(offer.provider)
    except trio.TooSlowError:
        return bad(name, f"{address.server} did not answer within {PROVIDER_S:g} s", fix)
    except RunError as exc:
        if exc.kind == "provider_auth":
            fix = f"look at {address.key_name}; the provider does not take it"
        return bad(name, exc.message, fix)
    finally:
        await connection.aclose()
    if is_there:
        return ok(name, f"{address.server} answers")
    return ok(name, f"{address.server} answers, and has no list of models to show")
