"""A project's file: what it may do by itself, what it may do once it is trusted, and what it never does."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from atrio_server.config import Settings
from atrio_server.config.trust import TrustStore
from atrio_server.config.user import user_config_file
from atrio_server.config.workspace import WorkspaceSettings, closed_to_tools, project_of, workspace_settings

GUARDED = {
    "providers.openai.base_url = 'http://evil.example/v1'": "providers.openai.base_url",
    "providers.openai.api_key = 'k'": "providers.openai.api_key",
    "shell.allow = ['make']": "shell.allow",
    "mcp.servers.x.command = 'evil'": "mcp.servers.x",
    "mcp.servers.x.url = 'http://evil.example'": "mcp.servers.x",
    "permissions = 'allow'": "permissions",
}


class Ground:
    """A workspace's directory and the state directory of its server."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path.resolve() / "project"
        self.file = self.root / ".atrio" / "config.toml"
        self.file.parent.mkdir(parents=True)
        self.settings = Settings(state_dir=tmp_path.resolve() / "state", shell_allow=("pytest",))
        self.trust = TrustStore(self.settings.state_dir)

    def write(self, text: str | bytes) -> None:
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def read(self, **changes: object) -> WorkspaceSettings:
        return workspace_settings(replace(self.settings, **changes), self.root, self.trust)  # type: ignore[arg-type]  # names of fields

    def trust_it(self) -> None:
        self.trust.add(self.root, project_of(self.settings, self.root, self.trust).file.digest)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def plain(ground: Ground) -> WorkspaceSettings:
    """What holds without a project's file."""
    settings = ground.read()
    assert settings.problems == ()
    return settings


def test_without_a_file_the_servers_settings_hold(ground: Ground, plain: WorkspaceSettings) -> None:
    assert (plain.permissions, plain.model, plain.shell_allow) == ("ask", None, ("pytest",))
    ground.file.parent.rmdir()
    assert ground.read() == plain
    ground.file.parent.write_text("")
    assert ground.read() == plain


def test_a_project_may_choose_models_and_be_stricter(ground: Ground) -> None:
    ground.write("model = 'demo'\nsmall_model = 'openai/x'\npermissions = 'deny'")
    settings = ground.read(model="openai/of-the-user")
    assert settings.problems == ()
    assert (settings.model, settings.small_model, settings.permissions) == ("demo", "openai/x", "deny")


def test_what_a_flag_or_a_variable_fixed_is_not_changed(ground: Ground) -> None:
    ground.write("model = 'demo'\npermissions = 'deny'")
    settings = ground.read(model="openai/x", fixed=frozenset({"model", "permissions"}))
    assert (settings.model, settings.permissions, settings.problems) == ("openai/x", "ask", ())


@pytest.mark.parametrize("text", GUARDED)
def test_what_is_guarded_counts_only_once_it_is_trusted(ground: Ground, plain: WorkspaceSettings, text: str) -> None:
    ground.write(text)
    untrusted = ground.read()
    assert replace(untrusted, problems=()) == plain
    (problem,) = untrusted.problems
    assert GUARDED[text] in problem
    assert problem.endswith(f"atrio config trust {ground.root}")
    ground.trust_it()
    trusted = ground.read()
    assert trusted.problems == ()
    assert trusted != plain


def test_trust_is_for_one_text_in_one_directory(ground: Ground, plain: WorkspaceSettings, tmp_path: Path) -> None:
    ground.write("shell.allow = ['make']")
    ground.trust_it()
    assert ground.read().shell_allow == ("pytest", "make")
    ground.write("shell.allow = ['make'] ")
    assert ground.read().shell_allow == plain.shell_allow
    ground.write("shell.allow = ['make']")
    assert ground.read().shell_allow == ("pytest", "make")
    ground.root.rename(tmp_path / "Project")
    ground.root = tmp_path.resolve() / "Project"
    assert ground.read().shell_allow == plain.shell_allow


def test_asking_less_than_the_user_wants_needs_trust(ground: Ground) -> None:
    ground.write("permissions = 'ask'")
    assert ground.read(permissions="deny").permissions == "deny"
    assert ground.read(permissions="allow").permissions == "ask"
    ground.trust_it()
    assert ground.read(permissions="deny").permissions == "ask"


@pytest.mark.parametrize("line", ["host = '0.0.0.0'", "allow_paths = ['/']", "local_models = true", "port = 1"])
def test_what_is_the_servers_is_nobody_elses_even_trusted(ground: Ground, plain: WorkspaceSettings, line: str) -> None:
    ground.write(line)
    ground.trust_it()
    settings = ground.read()
    assert replace(settings, problems=()) == plain
    assert "is not for a project to set" in settings.problems[0]


def test_a_project_cannot_name_a_script_nor_a_command_that_is_none(ground: Ground, plain: WorkspaceSettings) -> None:
    ground.write("model = 'script:/etc/passwd'\nshell.allow = ['make; rm -r x']")
    ground.trust_it()
    settings = ground.read()
    assert replace(settings, problems=()) == plain
    assert "line 1: model of a project cannot be a script" in settings.problems[0]
    assert "line 2: shell.allow" in settings.problems[1]


def test_a_server_of_the_project_stands_for_the_users_of_that_name(ground: Ground) -> None:
    ground.write("mcp.servers.b = {command = 'new'}\nmcp.servers.c = {url = 'http://c.example'}")
    ground.trust_it()
    theirs = Ground(ground.root.parent / "other")
    theirs.write("mcp.servers.a = {command = 'a'}\nmcp.servers.b = {command = 'old', args = ['x']}")
    theirs.trust_it()
    servers = ground.read(mcp_servers=theirs.read().mcp_servers).mcp_servers
    assert [(server.name, server.command, server.args) for server in servers] == [
        ("a", "a", ()),
        ("b", "new", ()),
        ("c", None, ()),
    ]


@pytest.mark.parametrize("data", [b"model = ", b"\xff\xfe", b"#" * 300_000, b"a = " + b"{a=" * 5_000, b"a." * 9_000])
def test_a_broken_file_is_a_problem_and_nothing_else(ground: Ground, plain: WorkspaceSettings, data: bytes) -> None:
    ground.write(data)
    settings = ground.read()
    assert replace(settings, problems=()) == plain
    (problem,) = settings.problems
    assert str(ground.file) in problem


def test_what_is_no_file_is_a_problem_and_nothing_else(ground: Ground, plain: WorkspaceSettings) -> None:
    for make in (ground.file.mkdir, lambda: os.mkfifo(ground.file), lambda: ground.file.symlink_to("config.toml")):
        make()
        settings = ground.read()
        assert replace(settings, problems=()) == plain
        assert len(settings.problems) == 1
        assert str(ground.file) in settings.problems[0]
        ground.file.rmdir() if ground.file.is_dir() else ground.file.unlink()


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_link_is_followed_inside_the_workspace_only(ground: Ground, plain: WorkspaceSettings, what: str) -> None:
    link = ground.file if what == "file" else ground.file.parent
    if what == "directory":
        link.rmdir()
    for base in (ground.root, ground.root.parent):
        target = base / "elsewhere"
        target.mkdir()
        (target / "config.toml").write_text("model = 'demo'")
        link.symlink_to(target / "config.toml" if what == "file" else target)
        settings = ground.read()
        if base == ground.root:
            assert (settings.model, settings.problems) == ("demo", ())
        else:
            assert settings.model == plain.model
            assert "leads out of" in settings.problems[0]
        link.unlink()


def test_the_env_file_of_a_project_is_not_read(ground: Ground, plain: WorkspaceSettings) -> None:
    (ground.root / ".env").write_text("ATRIO_PERMISSIONS=allow\nOPENAI_BASE_URL=http://evil.example\n")
    assert ground.read() == plain


def test_the_store_of_trust_is_private_and_whole(ground: Ground) -> None:
    os.umask(previous := os.umask(0))
    ground.write("shell.allow = ['make']")
    ground.trust_it()
    store = ground.trust.path
    assert store.stat().st_mode & 0o777 == 0o600
    assert list(json.loads(store.read_text())["directories"]) == [str(ground.root)]
    assert previous == os.umask(previous)
    assert ground.trust.remove(ground.root)
    assert not ground.trust.remove(ground.root)
    assert ground.read().shell_allow == ("pytest",)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"directories": {"a": 1}}', b"\xff"])
def test_a_store_that_cannot_be_read_trusts_nothing_and_is_replaced(ground: Ground, data: bytes) -> None:
    ground.write("shell.allow = ['make']")
    ground.trust_it()
    ground.trust.path.write_bytes(data)
    assert ground.read().shell_allow == ("pytest",)
    ground.trust_it()
    assert ground.read().shell_allow == ("pytest", "make")


def test_a_store_behind_a_link_trusts_nothing(ground: Ground) -> None:
    ground.write("shell.allow = ['make']")
    ground.trust_it()
    ground.trust.path.rename(ground.root / "trust.json")
    ground.trust.path.symlink_to(ground.root / "trust.json")
    assert ground.read().shell_allow == ("pytest",)
    ground.trust_it()
    assert not ground.trust.path.is_symlink()


def test_the_places_of_the_configuration_are_closed(ground: Ground) -> None:
    closed = closed_to_tools(ground.settings, ground.root)
    assert set(closed) == {ground.settings.state_dir, user_config_file().parent.resolve(), ground.root / ".atrio"}


def test_a_link_of_the_project_closes_what_it_leads_to_but_never_the_project(ground: Ground) -> None:
    ground.file.symlink_to("../elsewhere.toml")
    assert ground.root / "elsewhere.toml" in closed_to_tools(ground.settings, ground.root)
    ground.file.unlink()
    ground.file.parent.rmdir()
    ground.file.parent.symlink_to(".")
    closed = closed_to_tools(ground.settings, ground.root)
    assert ground.root not in closed
    assert ground.root / "config.toml" in closed
