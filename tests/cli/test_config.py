"""`atrio config`: what holds and why, and trust that somebody gave after a look."""

import json
from pathlib import Path

import pytest

from atrio_process import Atrio
from atrio_server.config.schema import schema_text

USER = """\
model = "demo"
[providers.openai]
api_key = "sk-of-the-user"
base_url = "http://name:pass@127.0.0.1:9/v1?key=k"
[mcp.servers.git]
command = "uvx"
env = {TOKEN = "t-of-the-user"}
"""
PROJECT = """\
permissions = "deny"
[shell]
allow = ["npm test"]
[mcp.servers.x]
command = "sh"
args = ["-c", "echo a\\n- harmless"]
"""


@pytest.fixture
def configured(atrio: Atrio, tmp_path: Path) -> Atrio:
    """A user and a project with configuration files."""
    atrio.environ["XDG_CONFIG_HOME"] = str(tmp_path / "conf")
    for path, text in ((tmp_path / "conf/atrio", USER), (atrio.directory / ".atrio", PROJECT)):
        path.mkdir(parents=True)
        (path / "config.toml").write_text(text)
    return atrio


async def shown(atrio: Atrio) -> dict[str, list[str]]:
    done = await atrio("config", "show", "--origin")
    return {row[0]: row[1:] for line in done.out.splitlines() if (row := line.split("\t"))}


async def test_every_value_is_shown_with_its_origin_and_no_secret(configured: Atrio, tmp_path: Path) -> None:
    done = await configured("config", "show", "--origin", ATRIO_PORT="5000", ANTHROPIC_API_KEY="sk-of-the-variable")
    assert done.code == 0
    lines = done.out.splitlines()
    user, project = tmp_path / "conf/atrio/config.toml", configured.directory / ".atrio/config.toml"
    assert f'model\t"demo"\t{user}:1\t' in lines
    assert "port\t5000\tATRIO_PORT\t" in lines
    assert 'host\t"127.0.0.1"\tdefault\t' in lines
    assert f'permissions\t"deny"\t{project}:1\t' in lines
    assert f'shell.allow\t["npm test"]\t{project}:3\tnot trusted, ignored' in lines
    assert 'providers.anthropic.api_key\t"[redacted]"\tANTHROPIC_API_KEY\t' in lines
    assert f'mcp.servers.git.env\t{{"TOKEN":"[redacted]"}}\t{user}:7\t' in lines
    assert not any(secret in done.out + done.err for secret in ("of-the", "pass", "key=k"))
    assert "which counts only once you trust the file" in done.err


async def test_json_is_one_object_a_setting(configured: Atrio) -> None:
    done = await configured("config", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {"key": "host", "value": "127.0.0.1", "from": "default"} in rows
    assert [row["ignored"] for row in rows if row["key"].startswith("mcp.servers.x")] == ["not trusted"] * 2


async def test_trust_tells_what_it_is_for_and_ends_when_the_file_changes(configured: Atrio) -> None:
    asked = await configured("config", "trust")
    assert asked.code == 2
    assert "--yes" in asked.err
    assert asked.out.splitlines()[1:] == [
        "- run without a question: npm test",
        r"- start the MCP server x: sh -c 'echo a\n- harmless'",
    ]
    assert (await shown(configured))["shell.allow"][2] == "not trusted, ignored"
    assert (await configured("config", "trust", "--yes", ".")).code == 0
    assert (await shown(configured))["shell.allow"][2] == ""
    with (configured.directory / ".atrio/config.toml").open("a") as file:
        file.write("# changed\n")
    assert (await shown(configured))["shell.allow"][2] == "not trusted, ignored"


async def test_trust_is_taken_back(configured: Atrio) -> None:
    await configured("config", "trust", "--yes")
    assert "trusted already" in (await configured("config", "trust")).err
    assert "not trusted any more" in (await configured("config", "untrust")).err
    assert "was not trusted" in (await configured("config", "untrust")).err
    assert (await shown(configured))["shell.allow"][2] == "not trusted, ignored"


async def test_there_is_nothing_to_trust_where_nothing_needs_it(atrio: Atrio) -> None:
    done = await atrio("config", "trust")
    assert done.code == 0
    assert "is not there" in done.err
    gone = await atrio("config", "trust", "nowhere")
    assert gone.code == 2
    assert "is no directory" in gone.err


async def test_a_mistake_in_the_users_file_is_shown_and_keeps_the_server_from_starting(
    configured: Atrio, tmp_path: Path
) -> None:
    (tmp_path / "conf/atrio/config.toml").write_text('permision = "ask"\nmodel = "demo"\n')
    sentence = "config.toml line 1: unknown key 'permision'; did you mean 'permissions'?"
    done = await configured("config", "show")
    assert (done.code, sentence in done.err) == (2, True)
    assert 'model\t"demo"\t' in done.out
    for words in (("serve", "--port", "0"), ("run", "hello")):
        failed = await configured(*words)
        assert failed.code in {2, 6}
        assert sentence in failed.err


async def test_the_files_are_named(configured: Atrio) -> None:
    done = await configured("config", "path")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["user", "project", "trust"]
    assert done.out.splitlines()[2].endswith("not there")


async def test_the_schema_is_printed(atrio: Atrio) -> None:
    assert (await atrio("config", "schema")).out == schema_text()


async def test_a_run_uses_the_users_file(configured: Atrio, tmp_path: Path) -> None:
    (tmp_path / "conf/atrio/config.toml").write_text('model = "demo"\n')
    done = await configured("run", "hello", "--standalone")
    assert done.code == 0
    assert "named by a flag or in the configuration" in done.err or "model demo" in done.err


async def test_the_models_of_a_directory_are_those_of_its_configuration(atrio: Atrio) -> None:
    (atrio.directory / ".atrio").mkdir()
    (atrio.directory / ".atrio/config.toml").write_text('model = "demo"\n')
    atrio.environ["OPENAI_API_KEY"] = "sk-none-that-is-asked"
    listed = {words: await atrio("models", *words, "--json") for words in ((), ("--dir", "."))}
    await atrio("stop")
    of_server, of_directory = (
        [model["modelId"] for model in map(json.loads, done.out.splitlines()) if model["default"]]
        for done in listed.values()
    )
    assert [name.partition("/")[0] for name in of_server] == ["openai"]
    assert of_directory == ["demo"]
