"""Settings: which place wins, and what a value that cannot be is told."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from atrio_server.config import ConfigError, Settings, server_settings, state_dir_setting


def settings(environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    return server_settings({"state_dir": "/state", **flags}, environ or {})


def test_without_flags_and_variables_the_defaults_hold() -> None:
    assert settings() == Settings(state_dir=Path("/state"))


def test_a_variable_wins_over_the_default_and_a_flag_over_both() -> None:
    environ = {"ATRIO_PORT": "5000", "ATRIO_HOST": "::1"}
    assert settings(environ).port == 5000
    assert settings(environ, port="6000").port == 6000
    assert settings(environ, port="6000").host == "::1"


def test_a_variable_may_hold_several_values() -> None:
    environ = {"ATRIO_ALLOW_PATH": "/a:/b", "ATRIO_ALLOW_HOST": "one.example, two.example", "ATRIO_TEST_HOOKS": "1"}
    made = settings(environ)
    assert made.allow_paths == (Path("/a"), Path("/b"))
    assert made.allow_hosts == ("one.example", "two.example")
    assert made.test_hooks


def test_relative_paths_are_made_absolute_and_the_home_directory_is_known() -> None:
    made = settings(allow_paths=("here", "~/there"))
    assert made.allow_paths == (Path.cwd() / "here", Path.home() / "there")


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        ({"port": "http"}, {}, "--port takes a port from 0 to 65535, not 'http'"),
        ({"port": "65536"}, {}, "--port"),
        ({}, {"ATRIO_PORT": "-1"}, "ATRIO_PORT takes a port"),
        ({"detach_grace_s": "nan"}, {}, "--detach-grace takes seconds"),
        ({"detach_grace_s": "-1"}, {}, "--detach-grace"),
        ({"permission_timeout_s": "0"}, {}, "--permission-timeout"),
        ({"keep_alive": "always"}, {}, "--keep-alive takes runs or clients, not 'always'"),
        ({"permissions": "yes"}, {}, "--permissions takes ask, allow or deny"),
        ({"log_format": "xml"}, {}, "--log-format"),
        ({"allow_hosts": ("a b",)}, {}, "--allow-host"),
        ({}, {"ATRIO_INSECURE_BIND": "maybe"}, "ATRIO_INSECURE_BIND takes 1 or 0"),
        ({"tls_cert": "/c.pem"}, {}, "give --tls-key as well"),
        ({}, {"ATRIO_TLS_KEY": "/k.pem"}, "give --tls-cert as well"),
        ({"allow_paths": ("~nobody-of-that-name/x",)}, {}, "--allow-path"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_the_place_it_came_from(
    flags: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as told:
        settings(environ, **flags)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_the_state_directory_comes_from_the_flag_the_variable_or_the_platform() -> None:
    assert state_dir_setting("/flag", {"ATRIO_STATE_DIR": "/variable"}) == Path("/flag")
    assert state_dir_setting(None, {"ATRIO_STATE_DIR": "/variable"}) == Path("/variable")
    assert state_dir_setting(None, {}).name == "atrio"


def test_no_setting_can_hold_a_key() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert not {name for name in names if "token" in name or name.endswith(("_api_key", "secret"))}
