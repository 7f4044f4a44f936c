"""Which models there are, which one is the default, and why.

The default is the model that was named; else the first whose key is in the
environment (`atrio_agent.models.offers`); else the first that a server on this
machine has; else the demo model. There is no falling back: a model that was
named and cannot be used is an error at every request, with the way out, and
never silently another one.

`Models` owns the providers' connections. It looks at the environment once.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

import trio

from atrio_agent.gates import Gates
from atrio_agent.models.base import Model
from atrio_agent.models.catalog import ANTHROPIC_MODELS, OPENAI_MODELS, SMALL_MODELS, known_model
from atrio_agent.models.demo import DemoModel
from atrio_agent.models.local import LocalServers
from atrio_agent.models.offers import Offer, offers_in
from atrio_agent.models.script import ScriptInvalid
from atrio_agent.models.scripted import ScriptedModel, load_script
from atrio_protocol.errors import AgentNotInitialized, ModelNotFound, WireError
from atrio_protocol.methods import ModelInfo, ModelPrice
from atrio_protocol.struct import UNSET, UnsetType

__all__ = ["LOCAL_MODELS", "NAMED_BY", "Models", "open_models", "open_own_models"]

LOCAL_MODELS: Final = "ATRIO_LOCAL_MODELS"
"""The variable that keeps a server, with 0, from looking for others on its machine."""

NAMED_BY: Final = "It was named by a flag or in the configuration."
"""Why a model is the default that was named for the whole server."""

_SCRIPT: Final = "script:"
_LOCAL: Final = ("ollama", "local")
_MAX_SCRIPTS: Final = 64
_NAMES: Final = "openai/NAME, anthropic/NAME, openrouter/NAME, ollama/NAME, local/NAME, demo, script:FILE"


class _Stamp(NamedTuple):
    """What changes when a file is written."""

    mtime_ns: int
    size_bytes: int


class Models:
    """All models of one server, or of a workspace that has its own. Made by `open_models` and `open_own_models`.

    ``default_id`` is what a prompt gets that names no model, ``reason`` a
    sentence that says why. The default may be unusable: `get` says so.
    ``named_by`` is that sentence for a ``default`` that was named. ``kin`` are
    the server's, whose added models a workspace has as well.
    """

    def __init__(
        self,
        *,
        default: str | None,
        offers: tuple[Offer, ...],
        local: LocalServers,
        looks_around: bool,
        gates: Gates,
        allow_scripts: bool,
        small: str | None = None,
        named_by: str = NAMED_BY,
        kin: "Models | None" = None,
    ) -> None:
        self._offers = {offer.provider: offer for offer in offers}
        self._local = local
        self._looks_around = looks_around
        self._gates = gates
        self._allow_scripts = allow_scripts
        self._small = small
        self._demo = DemoModel()
        self._added: dict[str, Model] = {} if kin is None else kin._added  # noqa: SLF001  its own kind
        self._scripts: OrderedDict[str, tuple[_Stamp, ScriptedModel]] = OrderedDict()
        self._named = default
        self._named_by = named_by

    @property
    def default_id(self) -> str:
        """The model of whoever names none."""
        return self._choice()[0]

    @property
    def reason(self) -> str:
        """Why it is that one: a sentence."""
        return self._choice()[1]

    def _choice(self) -> tuple[str, str]:
        if self._named is not None:
            return self._named, self._named_by
        for offer in self._offers.values():
            if offer.reason:
                return f"{offer.provider}/{offer.default_name}", offer.reason
        for found in self._local.found()[:1]:
            return found.model_id, f"No key is set, and there is {found.where}."
        return self._demo.model_id, (
            "No key is set (OPENAI_API_KEY, ANTHROPIC_API_KEY, OPENROUTER_API_KEY, or an address of a compatible"
            " server) and no local server was found: rules answer, no AI, so that everything else can be tried."
        )

    async def search(self) -> None:
        """Look for model servers on this machine, unless that is switched off. Takes at most 300 ms."""
        if self._looks_around:
            await self._local.search()

    def get(self, model_id: str | None) -> Model:
        """Find a model by its name; None for the default. A script is read from its file, if that is new.

        Raises:
            ModelNotFound: There is no such model.
            AgentNotInitialized: It cannot be used, or the default cannot.
        """
        if model_id is None:
            try:
                return self._find(self.default_id)
            except ModelNotFound as exc:
                raise AgentNotInitialized(exc.message) from exc
        return self._find(model_id)

    def small(self, model: Model) -> Model:
        """The model for what takes no thought, such as titles, in a session of this one.

        The one that was named for it; else the maker's cheapest, where the maker itself is asked; else the same one.

        Raises:
            ModelNotFound, AgentNotInitialized: One was named and cannot be used.
        """
        if self._small is not None:
            return self._find(self._small)
        offer, name = self._offers.get(model.provider), SMALL_MODELS.get(model.provider)
        # An address of somebody else, or a model that a harness made, has no sibling that we know of.
        if model.model_id in self._added or offer is None or name is None or name not in offer.listed:
            return model
        return offer.make(name)

    def add(self, model: Model) -> None:
        """Make a model known by its id, ahead of all others: for harnesses that build theirs in Python."""
        self._added[model.model_id] = model

    def listing(self) -> tuple[ModelInfo, ...]:
        """The models that can be used without naming them oneself, the default first."""
        ids = [self.default_id]
        for offer in self._offers.values():
            if offer.problem is None:
                ids += [f"{offer.provider}/{name}" for name in offer.listed]
        ids += [model.model_id for model in self._local.found()]
        return tuple(self._info(model_id) for model_id in dict.fromkeys([*ids, self._demo.model_id]))

    def choosing(
        self,
        *,
        default: str | None,
        named_by: str,
        small: str | None,
        offers: tuple[Offer, ...] | None = None,
        local: LocalServers | None = None,
    ) -> "Models":
        """The same models with another choice among them. What is not given is shared; see `open_own_models`."""
        return Models(
            default=default,
            offers=tuple(self._offers.values()) if offers is None else offers,
            local=local or self._local,
            looks_around=self._looks_around,
            gates=self._gates,
            allow_scripts=self._allow_scripts,
            small=small,
            named_by=named_by,
            kin=self,
        )

    async def warm(self) -> None:
        """Load what the default model needs, so that its first request need not wait for it."""
        provider, _, name = self.default_id.partition("/")
        offer = self._offers.get(provider)
        if offer is not None and offer.problem is None:
            await offer.connection.client()
        elif provider in _LOCAL:
            await self._local.warm(provider, name)

    async def aclose(self) -> None:
        """Close the connections to providers, all at once: what each may take must not add up."""
        async with trio.open_nursery() as nursery:
            for offer in self._offers.values():
                nursery.start_soon(offer.connection.aclose)
            nursery.start_soon(self._local.aclose)

    def _info(self, model_id: str) -> ModelInfo:
        is_default = model_id == self.default_id
        reason = self.reason if is_default else ""
        try:
            model = self.get(None) if is_default else self._find(model_id)
        except WireError as exc:
            provider = model_id.partition("/")[0].partition(":")[0]
            return ModelInfo(
                model_id=model_id,
                provider=provider,
                name=model_id,
                default=True,
                reason=f"{reason} It cannot be used: {exc.message}",
            )
        return ModelInfo(
            model_id=model_id,
            provider=model.provider,
            name=model_id.removeprefix(f"{model.provider}/"),
            context_size=model.context_size or UNSET,
            takes_images=model.takes_images,
            price=_price(model.provider, model_id),
            default=is_default,
            reason=reason or UNSET,
        )

    def _find(self, model_id: str) -> Model:
        if model_id in self._added:
            return self._added[model_id]
        if model_id == self._demo.model_id:
            return self._demo
        provider, _, name = model_id.partition("/")
        offer = self._offers.get(provider)
        if offer is not None and name:
            if offer.problem is not None:
                raise AgentNotInitialized(f"{model_id} cannot be used: {offer.problem}")
            return offer.make(name)
        if provider in _LOCAL and name:
            return self._local.model(provider, name)
        if model_id.startswith(_SCRIPT):
            return self._script(model_id)
        known = [self._demo.model_id, *(f"openai/{known}" for known in OPENAI_MODELS)]
        known += [f"anthropic/{known}" for known in ANTHROPIC_MODELS]
        near = get_close_matches(model_id, known, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise ModelNotFound(f"There is no model {model_id!r}{hint}. Models are named {_NAMES}.")

    def _script(self, model_id: str) -> ScriptedModel:
        if not self._allow_scripts and model_id != self.default_id:
            raise ModelNotFound("A script can be named by a client only if the server runs with --test-hooks.")
        path = Path(model_id.removeprefix(_SCRIPT)).expanduser().absolute()
        try:
            status = path.stat()
            stamp = _Stamp(status.st_mtime_ns, status.st_size)
            known = self._scripts.get(model_id)
            if known is None or known[0] != stamp:
                script = load_script(path)
                known = self._scripts[model_id] = stamp, ScriptedModel(script, model_id=model_id, gates=self._gates)
        except OSError as exc:
            raise ModelNotFound(f"The script {path} cannot be read: {exc.strerror or exc}.") from exc
        except ScriptInvalid as exc:
            raise ModelNotFound(f"The script has a mistake: {exc}") from exc
        self._scripts.move_to_end(model_id)
        if len(self._scripts) > _MAX_SCRIPTS:
            self._scripts.popitem(last=False)
        return known[1]


@asynccontextmanager
async def open_models(
    environ: Mapping[str, str],
    *,
    default: str | None,
    gates: Gates,
    allow_scripts: bool = False,
    small: str | None = None,
    origins: Mapping[str, str] | None = None,
) -> AsyncGenerator[Models]:
    """Own the models of a server. Nothing is loaded and nobody is asked before the first request or `Models.search`.

    Args:
        environ: Where keys and addresses are looked up, now and never again.
        default: The model that was named, by whatever means.
        gates: Where scripts wait.
        allow_scripts: Whether clients may name scripts, and not only ``default``.
        small: The model for titles that was named; None for what `Models.small` finds.
        origins: Where a value of ``environ`` comes from if it is no variable of the process: for sentences.
    """
    models = Models(
        default=default,
        offers=offers_in(environ, origins),
        local=LocalServers(environ),
        looks_around=environ.get(LOCAL_MODELS, "").strip() != "0",
        gates=gates,
        allow_scripts=allow_scripts,
        small=small,
    )
    try:
        yield models
    finally:
        await models.aclose()


@asynccontextmanager
async def open_own_models(
    models: Models,
    *,
    default: str | None,
    named_by: str,
    small: str | None,
    environ: Mapping[str, str] | None = None,
    origins: Mapping[str, str] | None = None,
) -> AsyncGenerator[Models]:
    """Own the models of a workspace that chooses otherwise than its server.

    With nothing but another choice they share the server's connections. With an
    ``environ`` they have connections of their own, which end with the block, and
    look for local servers themselves: that takes up to 300 ms.

    Args:
        models: The server's. They outlive these.
        default: The model that was named, or None.
        named_by: A sentence that says where it was.
        small: The model for titles that was named, or None.
        environ: Where keys and addresses are looked up, if that is not where the server has them from.
        origins: As for `open_models`.
    """
    if environ is None:
        yield models.choosing(default=default, named_by=named_by, small=small)
        return
    own = models.choosing(
        default=default,
        named_by=named_by,
        small=small,
        offers=offers_in(environ, origins),
        local=LocalServers(environ),
    )
    try:
        await own.search()
        yield own
    finally:
        await own.aclose()


def _price(provider: str, model_id: str) -> ModelPrice | UnsetType:
    price = known_model(provider, model_id.removeprefix(f"{provider}/")).price
    return UNSET if price is None else ModelPrice(input=price.input, output=price.output, currency="USD")
