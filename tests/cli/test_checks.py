"""What `atrio doctor` finds of what a test cannot make so: a full disk, another owner, a wrong clock."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from atrio_agent.store.trial import PlaceUnusable, commit_time_s
from atrio_protocol.things import McpState
from atrio_server.cli.checks import machine, storage
from atrio_server.cli.checks.machine import check_clock, check_open_files, check_processes
from atrio_server.cli.checks.mcp import check_mcp
from atrio_server.cli.checks.places import check_space, check_state_dir
from atrio_server.cli.checks.storage import check_storage
from atrio_server.config import McpServer


@pytest.mark.parametrize(
    ("free_bytes", "state"), [(5e9, "ok"), (999e6, "warning"), (51e6, "warning"), (49e6, "problem"), (0, "problem")]
)
def test_scarce_room_is_a_warning_and_none_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: float, state: str
) -> None:
    status = SimpleNamespace(f_bavail=int(free_bytes) // 512, f_frsize=512)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    found = check_space(tmp_path / "not" / "there" / "yet")
    assert (found.state, "make room" in found.fix) == (state, state != "ok")


def test_a_state_directory_of_somebody_else_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    assert check_state_dir(tmp_path).state == "ok"
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    found = check_state_dir(tmp_path)
    assert found.state == "problem"
    assert f"belongs to the user with id {owner}" in found.detail
    assert "--state-dir" in found.fix


def test_mcp_servers_are_told_as_the_server_knows_them(tmp_path: Path) -> None:
    states = [
        McpState(name="a", transport="stdio", state="ready", tools=3),
        McpState(name="b", transport="stdio", state="failed", tools=0, detail="exited with 1"),
        McpState(name="c", transport="http", state="starting", tools=0),
        McpState(name="d", transport="http", state="stopped", tools=0),
    ]
    found = {each.name: (each.state, each.detail) for each in check_mcp([], states, tmp_path)}
    assert found == {
        "mcp a": ("ok", "ready, 3 tools"),
        "mcp b": ("problem", "failed: exited with 1"),
        "mcp c": ("ok", "starting"),
        "mcp d": ("problem", "stopped"),
    }


def test_mcp_servers_that_no_server_has_opened_are_looked_at_as_far_as_that_goes(tmp_path: Path) -> None:
    configured = [
        McpServer(name="there", command="sh"),
        McpServer(name="not-there", command="no-such-program-anywhere"),
        McpServer(name="off", command="no-such-program-anywhere", enabled=False),
        McpServer(name="web", url="https://user:secret@example.org/mcp"),
        McpServer(name="odd", url="nowhere"),
    ]
    found = {each.name: each for each in check_mcp(configured, None, tmp_path)}
    assert [found[f"mcp {name}"].state for name in ("there", "not-there", "off", "web", "odd")] == [
        *("ok", "problem", "ok", "ok", "problem")
    ]
    assert "secret" not in found["mcp web"].detail
    assert "mcp.servers.odd" in found["mcp odd"].fix


def test_a_clock_of_another_age_is_a_problem() -> None:
    assert check_clock().state == "ok"
    assert check_clock(datetime(1970, 1, 1, tzinfo=UTC)).state == "problem"


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for hard, state in ((256, "warning"), (4_096, "ok"), (machine.resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(machine.resource, "getrlimit", lambda _, hard=hard: (hard, hard))
        assert check_open_files().state == state


def test_processes_that_cannot_be_seen_are_a_warning(tmp_path: Path) -> None:
    assert check_processes(tmp_path).state == "warning"


def test_locks_that_do_not_hold_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)
    assert "locks do not hold" in check_storage(tmp_path).detail
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_sqlite_cannot_work_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> float:
        raise PlaceUnusable("SQLite cannot work here: disk I/O error")

    monkeypatch.setattr(storage, "commit_time_s", fail)
    assert check_storage(tmp_path).detail == "SQLite cannot work here: disk I/O error"


def test_a_directory_that_cannot_be_written_keeps_no_store(tmp_path: Path) -> None:
    with pytest.raises(PlaceUnusable, match="SQLite cannot work here"):
        commit_time_s(tmp_path / "not there" / "try.db")


def test_a_slow_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SLOW_S", 0.0)
    assert check_storage(tmp_path).state == "warning"
