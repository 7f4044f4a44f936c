"""Which models there are, which one is the default, and why.

The default is the model that was named; else the one whose key is in the
environment; else the demo model. There is no falling back: a model that was
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
from urllib.parse import urlsplit

from atrio_agent.gates import Gates
from atrio_agent.models.base import Model
from atrio_agent.models.catalog import DEFAULT_OPENAI, OPENAI_MODELS
from atrio_agent.models.demo import DemoModel
from atrio_agent.models.openai import OPENAI_URL, OpenAIConnection, OpenAIModel, open_openai
from atrio_agent.models.script import ScriptInvalid
from atrio_agent.models.scripted import ScriptedModel, load_script
from atrio_protocol.errors import AgentNotInitialized, ModelNotFound, WireError
from atrio_protocol.methods import ModelInfo
from atrio_protocol.struct import UNSET

__all__ = ["Models", "open_models"]

_OPENAI: Final = "openai/"
_SCRIPT: Final = "script:"
_MAX_SCRIPTS: Final = 64
_NAMES: Final = "openai/NAME, demo, script:FILE"


class _Stamp(NamedTuple):
    """What changes when a file is written."""

    mtime_ns: int
    size_bytes: int


class Models:
    """All models of one server. Made by `open_models`.

    ``default_id`` is what a prompt gets that names no model, ``reason`` a
    sentence that says why. The default may be unusable: `get` says so.
    """

    def __init__(
        self,
        *,
        default: str | None,
        openai: OpenAIConnection,
        openai_problem: str | None,
        openai_reason: str,
        gates: Gates,
        allow_scripts: bool,
    ) -> None:
        self._openai = openai
        self._openai_problem = openai_problem
        self._gates = gates
        self._allow_scripts = allow_scripts
        self._demo = DemoModel()
        self._added: dict[str, Model] = {}
        self._scripts: OrderedDict[str, tuple[_Stamp, ScriptedModel]] = OrderedDict()
        if default is not None:
            self.default_id, self.reason = default, "It was named by a flag or in the configuration."
        elif openai_reason:
            self.default_id, self.reason = f"{_OPENAI}{DEFAULT_OPENAI}", openai_reason
        else:
            self.default_id = self._demo.model_id
            self.reason = (
                "No key is set (OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server):"
                " rules answer, no AI, so that everything else can be tried."
            )

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

    def add(self, model: Model) -> None:
        """Make a model known by its id, ahead of all others: for harnesses that build theirs in Python."""
        self._added[model.model_id] = model

    def listing(self) -> tuple[ModelInfo, ...]:
        """The models that can be used without naming them oneself, the default first."""
        known = [*(OPENAI_MODELS if self._openai_problem is None and self._openai.base_url == OPENAI_URL else ())]
        ids = [self.default_id, *(f"{_OPENAI}{name}" for name in known), self._demo.model_id]
        return tuple(self._info(model_id) for model_id in dict.fromkeys(ids))

    async def warm(self) -> None:
        """Load what the default model needs, so that its first request need not wait for it."""
        if self.default_id.startswith(_OPENAI) and self._openai_problem is None:
            await self._openai.client()

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
            name=model_id.removeprefix(_OPENAI),
            context_size=model.context_size or UNSET,
            default=is_default,
            reason=reason or UNSET,
        )

    def _find(self, model_id: str) -> Model:
        if model_id in self._added:
            return self._added[model_id]
        if model_id == self._demo.model_id:
            return self._demo
        if model_id.startswith(_OPENAI) and len(model_id) > len(_OPENAI):
            if self._openai_problem is not None:
                raise AgentNotInitialized(f"{model_id} cannot be used: {self._openai_problem}")
            name = model_id.removeprefix(_OPENAI)
            return OpenAIModel(name, self._openai, context_size=OPENAI_MODELS.get(name))
        if model_id.startswith(_SCRIPT):
            return self._script(model_id)
        near = get_close_matches(model_id, [self._demo.model_id, *(_OPENAI + name for name in OPENAI_MODELS)], n=1)
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
    environ: Mapping[str, str], *, default: str | None, gates: Gates, allow_scripts: bool = False
) -> AsyncGenerator[Models]:
    """Own the models of a server. Nothing is loaded and nobody is asked before the first request.

    Args:
        environ: Where keys and addresses are looked up, now and never again.
        default: The model that was named, by whatever means.
        gates: Where scripts wait.
        allow_scripts: Whether clients may name scripts, and not only ``default``.
    """
    key = environ.get("OPENAI_API_KEY", "").strip()
    base_url = environ.get("OPENAI_BASE_URL", "").strip()
    reason = "OPENAI_API_KEY is set." if key else "OPENAI_BASE_URL is set." if base_url else ""
    async with open_openai(base_url or OPENAI_URL, key) as openai:
        yield Models(
            default=default,
            openai=openai,
            openai_problem=_openai_problem(key, base_url),
            openai_reason=reason,
            gates=gates,
            allow_scripts=allow_scripts,
        )


def _openai_problem(key: str, base_url: str) -> str | None:
    """Why OpenAI's models cannot be used, or None if they can."""
    if not key and not base_url:
        return "set OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server that needs no key."
    if not (key.isascii() and key.isprintable()):
        return "OPENAI_API_KEY holds characters that no key has."
    try:
        parts = urlsplit(base_url or OPENAI_URL)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    return None if is_address else "OPENAI_BASE_URL must be an address such as http://127.0.0.1:8000/v1."
