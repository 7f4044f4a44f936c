"""Configuration files: what is in them counts, and what is wrong with them is said with its place."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_server.config import ConfigError
from atrio_server.config.file import MAX_FILE_BYTES, ConfigFile, parse_file, read_file
from atrio_server.config.lines import key_lines
from atrio_server.config.settings import server_settings
from atrio_server.config.table import SETTINGS
from atrio_server.config.user import server_config, user_config_file

FILE = Path("/f.toml")


def parsed(text: str | bytes) -> ConfigFile:
    return parse_file(text if isinstance(text, bytes) else text.encode(), FILE, "user")


def write_user_file(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    path = user_config_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_a_value_of_the_file_wins_over_the_default_and_yields_to_a_variable() -> None:
    values = parsed('host = "::1"\nport = 5000\ndetach_grace_s = 3\nallow_hosts = ["a.example"]').values
    settings = server_settings({"state_dir": "/s"}, {"ATRIO_PORT": "6000"}, values)
    assert (settings.host, settings.port, settings.detach_grace_s) == ("::1", 6000, 3.0)
    assert settings.allow_hosts == ("a.example",)
    assert settings.fixed == {"state_dir", "port"}


def test_lists_and_servers_are_read() -> None:
    file = parsed(
        '[shell]\nallow = ["pytest", "npm run *"]\n'
        '[mcp.servers.git]\ncommand = "uvx"\nargs = ["a"]\nenv = {A = "b"}\n'
        '[mcp.servers.web]\nurl = "https://e.example/mcp"\nheaders = {Authorization = "x"}\nenabled = false\n'
    )
    assert file.problems == ()
    settings = server_settings({"state_dir": "/s"}, {}, file.values)
    assert settings.shell_allow == ("pytest", "npm run *")
    git, web = settings.mcp_servers
    assert (git.name, git.command, git.args, git.env, git.enabled) == ("git", "uvx", ("a",), {"A": "b"}, True)
    assert (web.name, web.url, web.enabled) == ("web", "https://e.example/mcp", False)
    assert "Authorization" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('permision = "ask"', "/f.toml line 1: unknown key 'permision'; did you mean 'permissions'?"),
        ('\n\nPermissions = "ask"', "line 3: unknown key 'Permissions'; did you mean 'permissions'?"),
        ('allow_path = ["/a"]', "did you mean 'allow_paths'?"),
        ('base_url = "http://x"', "did you mean 'providers.openai.base_url'?"),
        ("[provider.openai]", "line 1: unknown key 'provider'; did you mean 'providers'?"),
        ("[providers.opnai]", "unknown key 'providers.opnai'; did you mean 'providers.openai'?"),
        ('[providers.openai]\nbaseurl = "x"', "line 2: unknown key 'providers.openai.baseurl'; did you mean"),
        ('[mcp.servers.x]\ncmd = "a"', "line 2: unknown key 'mcp.servers.x.cmd'; did you mean"),
        ('[mcp.servers."a b"]\ncommand = "a"', "line 1: 'a b' is no name"),
        ("zzz = 1", "unknown key 'zzz'"),
        ("hooks = 1", "unknown key 'hooks'"),
        ('"{here}" = 1', "unknown key '{here}'"),
        ("port = 'http'", "line 1: port takes a port from 0 to 65535, not 'http'"),
        ("port = true", "port takes a port from 0 to 65535, not true"),
        ("port = 65536", "not 65536"),
        ("host = 1", "host takes a host name or address, not 1"),
        ("model = ''", "model takes a model"),
        ("shell = 'pytest'", "line 1: shell is a table, not 'pytest'"),
        ("shell.allow = 'pytest'", "shell.allow takes a list of plain commands"),
        ("shell.allow = [1]", "shell.allow takes a list of plain commands"),
        ("[[shell]]\nallow=[]", "shell is a table, not such a list"),
        ("detach_grace_s = inf", "detach_grace_s takes seconds"),
        ("detach_grace_s = nan", "detach_grace_s takes seconds"),
        ("detach_grace_s = 1979-05-27", "not a date or time"),
        (f"detach_grace_s = {'9' * 400}", "not a number"),
        ("allow_paths = ['here']", "absolute"),
        ("allow_paths = ['~nobody-of-that-name/x']", "absolute"),
        ("providers.openai.api_key = 123456", "providers.openai.api_key takes a key, as text without spaces, not a nu"),
        ("providers.openai.base_url = 'ftp://x'", "providers.openai.base_url takes an address"),
        ("mcp.servers.x.timeout_s = 1", "mcp.servers.x needs a command to start, or the url of a server"),
        ("mcp.servers.x = {command = 'a', url = 'http://b'}", "has both a command and a url"),
        ("mcp.servers.x = {url = 'http://b', args = []}", "has args, which does not go with a url"),
        ("mcp.servers.x = {command = 'b', headers = {}}", "has headers, which does not go with a command"),
        ("mcp.servers.x = {url = 'http://b', headers = {'a b' = 'c'}}", "a table of texts, one for each header"),
        ("mcp.servers.x = {url = 'http://b', headers = {a = \"c\\r\\nd: e\"}}", "one for each header, not a table"),
        ("a = ", "/f.toml line 1 is not TOML: invalid value"),
        ("[shell\n", "line 1 is not TOML"),
        ("model = 'a'\nmodel = 'b'", "line 2 is not TOML"),
        ('model = "a\n', "line 1 is not TOML"),
        (b"# ok\nmodel = '\xff'", "/f.toml line 2 is not UTF-8"),
        ("a = " + "[" * 5_000, "is nested too deeply"),
        ("a = 1" + "1" * 5_000, "is not TOML"),
        ("a." * 100_000 + "a = 1", "line 1 has more than 200 dots"),
        ("state_dir = '/s'", "unknown key 'state_dir'"),
        ("test_hooks = true", "unknown key 'test_hooks'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, said: str) -> None:
    file = parsed(text)
    assert file.values == {}
    (problem,) = file.problems
    assert said in problem
    assert problem.startswith("/f.toml")
    assert "\n" not in problem
    assert "123456" not in problem


def test_what_is_right_beside_what_is_wrong_is_kept() -> None:
    file = parsed(
        "mode = 1\nmodel = 'demo'\nport = 'x'\n[mcp.servers.a]\ncommand = 'b'\ncwd = 1\n[mcp.servers.b]\ncommand='c'"
    )
    assert set(file.values) == {"model", "mcp.servers.b.command"}  # a server is there whole or not at all
    assert [problem.split(":")[0] for problem in file.problems] == [f"/f.toml line {line}" for line in (1, 3, 6)]


def test_a_line_is_that_of_the_key_whatever_stands_before_it() -> None:
    text = '#\nx = [\n 1,\n # ]\n]\ny = """\nz = 1\n"""\n[a.b] # c\n\nc.d = 1\n[[l]]\nq = {r = 1}\n'
    tomllib.loads(text)
    lines = key_lines(text)
    assert lines["x",] == 2
    assert lines["y",] == 6
    assert ("z",) not in lines
    assert (lines["a",], lines["a", "b"], lines["a", "b", "c", "d"]) == (9, 9, 11)
    assert lines["l", "q", "r"] == 13


def test_finding_lines_is_given_up_before_it_takes_long() -> None:
    lines = key_lines("a = 1\nb = [\n" + "1,\n" * 60_000 + "]\nc = 1\n")
    assert lines["a",] == 1
    assert ("c",) not in lines


@given(st.binary(max_size=200) | st.text(alphabet="ab=[]{}.\"'\n #1", max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert all("\n" not in problem for problem in parsed(data).problems)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path / "none" / "none.toml"):
        assert read_file(path, "user") == ConfigFile(path=path)


def test_what_is_no_plain_small_file_is_told(tmp_path: Path) -> None:
    large, full, pipe = tmp_path / "large", tmp_path / "full", tmp_path / "pipe"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    full.write_bytes(b"#" * MAX_FILE_BYTES)
    os.mkfifo(pipe)
    assert "larger than 256 KiB" in read_file(large, "user").problems[0]
    assert read_file(full, "user").problems == ()
    assert "is no plain file" in read_file(pipe, "user").problems[0]
    assert "is no plain file" in read_file(tmp_path, "user").problems[0]


def test_a_server_starts_by_the_users_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_user_file(
        'model = "demo"\nlocal_models = false\n[providers.openai]\napi_key = "of-the-file"\nbase_url = "http://f/v1"\n',
        monkeypatch,
        tmp_path,
    )
    config = server_config({"state_dir": "/s"}, {"OPENAI_API_KEY": "of-the-environment", "OPENAI_BASE_URL": " "})
    assert config.settings.model == "demo"
    assert config.environ == {
        "OPENAI_API_KEY": "of-the-environment",
        "OPENAI_BASE_URL": "http://f/v1",
        "ATRIO_LOCAL_MODELS": "0",
    }
    assert "of-the" not in repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "prot = 1\nhots = 2",
            "line 1: unknown key 'prot'; did you mean 'port'? (and 1 more; see `atrio config show`)",
        ),
        ("shell.allow = ['a', 'b | c']", "line 1: shell.allow: 'b | c' is not one plain command"),
        ("tls_cert = '/c.pem'", "give --tls-key as well"),
    ],
)
def test_a_mistake_in_the_users_file_stops_the_server(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_user_file(text, monkeypatch, tmp_path)
    with pytest.raises(ConfigError) as told:
        server_config({"state_dir": "/s"}, {})
    assert said in str(told.value)


def test_every_setting_says_what_it_is_and_takes_its_own_default() -> None:
    for setting in SETTINGS:
        assert setting.about.endswith(".")
        if setting.in_file and setting.default is not None:
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            assert setting.kind.take(default) == setting.default
