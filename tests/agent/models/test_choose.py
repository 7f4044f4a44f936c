"""Which model is chosen, why, and what is said when it cannot be used."""

import os
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from atrio_agent.gates import Gates
from atrio_agent.models.catalog import (
    ANTHROPIC_MODELS,
    DEFAULT_ANTHROPIC,
    DEFAULT_OPENAI,
    DEFAULT_OPENROUTER,
    OPENAI_MODELS,
)
from atrio_agent.models.choose import LOCAL_MODELS, Models, open_models
from atrio_agent.models.connection import Connection
from atrio_agent.models.demo import DemoModel
from atrio_agent.models.local import LocalServers
from atrio_agent.models.offers import Offer
from atrio_agent.models.script import Say, Script, ScriptTurn
from atrio_agent.models.scripted import ScriptedModel
from atrio_protocol.errors import AgentNotInitialized, ModelNotFound
from atrio_protocol.struct import UNSET
from model_calls import ask, request, text_of
from providers.list_mock import open_list_server
from providers.openai_mock import MockOpenAI

A_SCRIPT = b'{"name": "s", "contextSize": 5, "turns": [{"responses": [[{"say": "one"}], [{"say": "two"}]]}]}'
KEY = {"OPENAI_API_KEY": "sk-secret-key"}
CLAUDE_KEY = {"ANTHROPIC_API_KEY": "sk-secret-key"}
ROUTER_KEY = {"OPENROUTER_API_KEY": "sk-secret-key"}


@pytest.fixture
async def local_models(monkeypatch: pytest.MonkeyPatch, search_s: float) -> AsyncGenerator[dict[str, str]]:
    """An environment with an Ollama, and nobody else on this machine."""
    monkeypatch.setattr("atrio_agent.models.choose.LocalServers", partial(LocalServers, others=()))
    async with open_list_server(b'{"models": [{"name": "llama4:latest", "model": "llama4:latest"}]}') as port:
        yield {"OLLAMA_HOST": f"127.0.0.1:{port}"}


async def models_for(environ: dict[str, str], default: str | None = None, *, allow_scripts: bool = False) -> Models:
    """Models that ask nobody, so that nothing is left open."""
    async with open_models(environ, default=default, gates=Gates(), allow_scripts=allow_scripts) as models:
        return models


async def test_without_anything_it_is_the_demo_model_and_that_is_said() -> None:
    models = await models_for({"OPENAI_API_KEY": " ", "OPENAI_BASE_URL": ""})

    assert models.default_id == "demo"
    assert "No key is set" in models.reason
    assert models.get(None).model_id == "demo"
    assert [info.model_id for info in models.listing()] == ["demo"]


@pytest.mark.parametrize(
    ("environ", "chosen", "variable"),
    [
        (KEY, f"openai/{DEFAULT_OPENAI}", "OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, f"openai/{DEFAULT_OPENAI}", "OPENAI_BASE_URL"),
        (CLAUDE_KEY, f"anthropic/{DEFAULT_ANTHROPIC}", "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}, f"anthropic/{DEFAULT_ANTHROPIC}", "ANTHROPIC_BASE_URL"),
        (ROUTER_KEY, f"openrouter/{DEFAULT_OPENROUTER}", "OPENROUTER_API_KEY"),
        (ROUTER_KEY | CLAUDE_KEY, f"anthropic/{DEFAULT_ANTHROPIC}", "ANTHROPIC_API_KEY"),
        (ROUTER_KEY | CLAUDE_KEY | KEY, f"openai/{DEFAULT_OPENAI}", "OPENAI_API_KEY"),
    ],
)
async def test_the_first_key_or_address_in_the_environment_chooses_the_provider(
    environ: dict[str, str], chosen: str, variable: str
) -> None:
    models = await models_for(environ)

    assert models.default_id == chosen
    assert models.reason == f"{variable} is set."
    assert models.get(None).model_id == chosen
    assert models.get(None).provider == chosen.partition("/")[0]


async def test_every_provider_that_has_a_key_can_be_named() -> None:
    models = await models_for(KEY | CLAUDE_KEY | ROUTER_KEY)

    assert models.get("anthropic/claude-haiku-4-5-20251001").context_size == 200_000
    assert models.get("openrouter/maker/model:free").model_id == "openrouter/maker/model:free"
    listed = [info.model_id for info in models.listing()]
    assert listed == [
        *(f"openai/{name}" for name in OPENAI_MODELS),
        *(f"anthropic/{name}" for name in ANTHROPIC_MODELS),
        f"openrouter/{DEFAULT_OPENROUTER}",
        "demo",
    ]


@pytest.mark.parametrize(
    ("name", "variable"),
    [("anthropic/claude-opus-5-5", "ANTHROPIC_API_KEY"), ("openrouter/maker/model", "OPENROUTER_API_KEY")],
)
async def test_a_model_whose_key_is_missing_names_the_variable_and_no_other_answers(name: str, variable: str) -> None:
    models = await models_for(KEY, name)

    with pytest.raises(AgentNotInitialized, match=f"set {variable}"):
        models.get(None)


async def test_a_local_server_is_the_default_only_where_nothing_else_is(local_models: dict[str, str]) -> None:
    for environ, default, chosen in (
        ({}, None, "ollama/llama4:latest"),
        (KEY, None, f"openai/{DEFAULT_OPENAI}"),
        ({}, "demo", "demo"),
    ):
        async with open_models(environ | local_models, default=default, gates=Gates()) as models:
            await models.search()

            assert models.default_id == chosen
            assert "ollama/llama4:latest" in [info.model_id for info in models.listing()]
            assert models.get("ollama/llama4:latest").provider == "ollama"

    assert "Ollama on 127.0.0.1:" not in models.reason


async def test_the_reason_for_a_local_default_says_where_it_is(local_models: dict[str, str]) -> None:
    async with open_models(local_models, default=None, gates=Gates()) as models:
        await models.search()

        assert f"Ollama on {local_models['OLLAMA_HOST']}" in models.reason
        assert models.listing()[0].reason == models.reason


async def test_no_server_is_looked_for_where_that_is_switched_off(local_models: dict[str, str]) -> None:
    async with open_models(local_models | {LOCAL_MODELS: "0"}, default=None, gates=Gates()) as models:
        await models.search()

        assert models.default_id == "demo"
        assert [info.model_id for info in models.listing()] == ["demo"]


async def test_a_model_that_is_named_goes_before_all_else() -> None:
    models = await models_for(KEY, "demo")

    assert models.get(None).model_id == "demo"
    assert "named" in models.reason


async def test_any_name_of_openai_is_taken_and_its_size_told_where_known() -> None:
    models = await models_for(KEY)

    known, unknown = models.get("openai/gpt-4o"), models.get("openai/org/some-model:free")
    assert (known.model_id, known.context_size) == ("openai/gpt-4o", 128_000)
    assert (unknown.model_id, unknown.context_size) == ("openai/org/some-model:free", None)


async def test_a_named_model_without_a_key_is_an_error_and_no_other_model() -> None:
    models = await models_for({}, "openai/gpt-4o")

    for name in (None, "openai/gpt-4o"):
        with pytest.raises(AgentNotInitialized, match="set OPENAI_API_KEY"):
            models.get(name)
    assert models.get("demo").model_id == "demo"
    first, *_ = models.listing()
    assert first.default
    assert "cannot be used: " in str(first.reason)


@pytest.mark.parametrize(
    "environ",
    [
        {"OPENAI_BASE_URL": "127.0.0.1:8000/v1"},
        {"OPENAI_BASE_URL": "http://"},
        {"OPENAI_BASE_URL": "http://host:port/"},
        {"OPENAI_API_KEY": "sk-ключ"},
        {"OPENAI_API_KEY": "sk-a\nb"},
        {"ANTHROPIC_BASE_URL": "http://"},
        {"ANTHROPIC_API_KEY": "sk-ключ"},
        {"OPENROUTER_API_KEY": "sk-ключ"},
    ],
)
async def test_an_address_or_key_that_cannot_be_one_is_told_before_anybody_is_asked(environ: dict[str, str]) -> None:
    models = await models_for(environ)

    with pytest.raises(AgentNotInitialized) as caught:
        models.get(None)
    assert next(iter(environ)) in caught.value.message
    assert "sk-" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dmo", 'did you mean "demo"'),
        ("gpt-4o", 'did you mean "openai/gpt-4o"'),
        ("claude-opus-5-5", 'did you mean "anthropic/claude-opus-5-5"'),
        ("nobody/x", ""),
        ("openai/", ""),
        ("", ""),
    ],
)
async def test_an_unknown_name_is_not_found_and_the_nearest_is_told(name: str, hint: str) -> None:
    models = await models_for(KEY)

    with pytest.raises(ModelNotFound) as caught:
        models.get(name)
    assert hint in caught.value.message
    assert "local/NAME, demo, script:FILE" in caught.value.message


async def test_an_unknown_default_leaves_no_usable_model() -> None:
    models = await models_for(KEY, "nonsense")

    with pytest.raises(AgentNotInitialized):
        models.get(None)


async def test_the_list_has_the_default_first_with_its_reason_and_known_sizes() -> None:
    infos = (await models_for(KEY)).listing()

    assert [info.model_id for info in infos] == [*(f"openai/{name}" for name in OPENAI_MODELS), "demo"]
    assert [info.default for info in infos] == [True, *[False] * len(OPENAI_MODELS)]
    assert infos[0].reason == "OPENAI_API_KEY is set."
    assert {info.name: info.context_size for info in infos}["gpt-4o"] == 128_000
    assert all(info.reason is UNSET for info in infos[1:])


async def test_of_another_server_only_what_was_chosen_is_listed() -> None:
    infos = (await models_for({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai/llama")).listing()

    assert [info.model_id for info in infos] == ["openai/llama", "demo"]


async def test_a_script_is_read_anew_only_when_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(A_SCRIPT)
    models = await models_for({}, allow_scripts=True)

    first = models.get(f"script:{path}")
    assert models.get(f"script:{path}") is first
    assert (first.provider, first.context_size) == ("script", 5)
    assert text_of(await ask(first)) == "one"
    assert text_of(await ask(models.get(f"script:{path}"))) == "two"

    path.write_bytes(A_SCRIPT.replace(b"one", b"new"))
    os.utime(path, ns=(1, 1))
    assert text_of(await ask(models.get(f"script:{path}"), request(run_id="r2"))) == "new"
    assert text_of(await ask(first, request(run_id="r3"))) == "one"


async def test_a_client_may_name_a_script_only_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(A_SCRIPT)
    models = await models_for({}, f"script:{path}")

    assert models.get(None).provider == "script"
    assert models.get(f"script:{path}").provider == "script"
    with pytest.raises(ModelNotFound, match="--test-hooks"):
        models.get(f"script:{tmp_path / 'b.json'}")


@pytest.mark.parametrize(("content", "sentence"), [(None, "No such file"), (b'{"turn": []}', 'did you mean "turns"')])
async def test_a_script_that_cannot_be_used_is_told_with_the_reason(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    models = await models_for({}, f"script:{path}", allow_scripts=True)

    with pytest.raises(ModelNotFound, match=sentence):
        models.get(f"script:{path}")
    with pytest.raises(AgentNotInitialized, match=sentence):
        models.get(None)


async def test_a_model_made_in_python_is_found_by_its_id() -> None:
    gates = Gates()
    script = Script(turns=(ScriptTurn(responses=((Say("hi"),),)),))
    async with open_models({}, default="script:inline", gates=gates) as models:
        models.add(ScriptedModel(script, model_id="script:inline", gates=gates))

        assert text_of(await ask(models.get(None))) == "hi"


async def test_the_chosen_model_is_asked_at_the_address_of_the_environment(mock: MockOpenAI) -> None:
    environ = {"OPENAI_BASE_URL": mock.url, "OPENAI_API_KEY": " sk-secret-key\n"}
    async with open_models(environ, default="openai/echo", gates=Gates()) as models:
        await models.warm()
        assert text_of(await ask(models.get(None), request("hello"), most_s=30)) == "hello"

    assert mock.requests[0].headers["authorization"] == "Bearer sk-secret-key"


@pytest.mark.parametrize(
    ("environ", "name", "small"),
    [
        (KEY, "openai/gpt-6-astra", "openai/gpt-6-luna"),
        (KEY | CLAUDE_KEY, "anthropic/claude-opus-5", "anthropic/claude-haiku-5-5"),
        (ROUTER_KEY, "openrouter/a/b", "openrouter/a/b"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "openai/mine", "openai/mine"),
        ({}, "demo", "demo"),
    ],
)
async def test_the_small_model_is_the_makers_own_cheapest_or_the_same(
    environ: dict[str, str], name: str, small: str
) -> None:
    models = await models_for(environ)
    assert models.small(models.get(name)).model_id == small


async def test_a_small_model_that_was_named_is_taken_and_one_that_cannot_be_used_is_an_error() -> None:
    async with open_models(KEY, default=None, gates=Gates(), small="demo") as models:
        assert models.small(models.get(None)).model_id == "demo"
    async with open_models(KEY, default=None, gates=Gates(), small="anthropic/claude-haiku-5-5") as models:
        with pytest.raises(AgentNotInitialized):
            models.small(models.get(None))


class Slow:
    """A connection that closes only when all of them are being closed."""

    def __init__(self, others: "list[Slow]") -> None:
        self._others = others
        self.begun = trio.Event()
        self.closed = False

    async def aclose(self) -> None:
        self.begun.set()
        for other in self._others:
            await other.begun.wait()
        self.closed = True


async def test_connections_are_closed_at_once_and_not_one_after_the_other() -> None:
    slow: list[Slow] = []
    slow += [Slow(slow) for _ in range(5)]
    offers = tuple(
        Offer(str(number), cast("Connection[Any]", each), lambda _name: DemoModel(), "", (), "", None)
        for number, each in enumerate(slow)
    )
    models = await models_for({})
    with trio.fail_after(30):
        await models.choosing(default=None, named_by="", small=None, offers=offers).aclose()
    assert all(each.closed for each in slow)
