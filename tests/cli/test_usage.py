"""What `atrio` says about itself, and what it says to whoever holds it wrong."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import trio

from atrio_process import COMMAND, Atrio
from atrio_protocol.version import VERSION
from atrio_server.statedir import running_server

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("hypercorn", "quart", "openai", "httpx2", "sqlite3", "sqlite_utils", "rich")
"""What a command that only talks to a server has no use for."""


async def imported(atrio: Atrio, *words: str) -> set[str]:
    """The top-level packages that a command imports."""
    atrio.environ |= {"PYTHONPROFILEIMPORTTIME": "1", "ATRIO_TOKEN": "t"}
    done = await atrio(*words)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines() if "|" in line}


async def test_the_version_is_printed(atrio: Atrio) -> None:
    done = await atrio("version")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"atrio {VERSION} (protocol 1)\n"


async def test_the_schema_is_the_one_in_the_docs(atrio: Atrio) -> None:
    done = await atrio("schema")
    assert done.code == 0
    assert json.loads(done.out) == json.loads((ROOT / "docs/schema.json").read_text())


async def test_version_imports_nothing_that_it_does_not_need(atrio: Atrio) -> None:
    assert await imported(atrio, "version") & {*HEAVY, "trio", "platformdirs"} == set()


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("serve", "--help")])
async def test_help_imports_neither_the_server_nor_an_sdk(atrio: Atrio, words: tuple[str, ...]) -> None:
    assert await imported(atrio, *words) & (set(HEAVY) - {"rich"}) == set()


async def test_a_run_against_a_server_imports_only_the_client(atrio: Atrio) -> None:
    modules = await imported(atrio, "run", "hello", "--server", "ws://127.0.0.1:9")
    assert {"trio", "trio_websocket", "msgspec"} <= modules
    assert modules & {*HEAVY, "atrio_agent", "platformdirs"} == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), 'Unknown command "bogus"; `atrio --help` shows what there is'),
        (("runn",), 'Unknown command "runn" (did you mean "run"?); `atrio --help` shows what there is'),
        (("run", "x", "--modle", "m"), "Unknown option: --modle (did you mean --model?); `atrio run --help` shows"),
        (("tail",), "SESSION is missing; `atrio tail --help` shows what there is"),
        (("sessions", "lst"), "'lst' is not something that `atrio sessions` takes"),
        (("sessions", "--limit", "0"), "--limit"),
        (("wait", "r1", "--timeout", "-1"), "--timeout"),
        (("wait", "r1", "--timeout", "nan"), "--timeout"),
        (("run", "x", "--server", "ws://127.0.0.1:9", "--token-file", "missing"), "cannot read the token from missing"),
        (("run", "x", "--bogus"), "Unknown option: --bogus"),
        (("run", "x", "--approve", "some"), "--approve"),
        (("attach", "s1", "--new"), "--new and a session do not go together"),
        (("shell", "s1"), "there is no command"),
        (("permissions", "revoke"), "name what to take back"),
        (("export", "s1", "-o", "missing/out.txt"), "cannot write missing/out.txt"),
        (("run", "x", "-s"), "-s requires an argument"),
        (("run",), "there is nothing to ask"),
        (("run", "  "), "there is nothing to ask"),
        (("run", "x", "--json", "--quiet"), "--json and --quiet do not go together"),
        (("run", "x", "-c", "-s", "y"), "-c and -s do not go together"),
        (("run", "x", "--standalone", "--no-wait"), "--standalone and --no-wait"),
        (("run", "x", "-f", "missing.txt"), "cannot attach missing.txt: No such file or directory"),
        (("run", "x", "-o", "missing/out.txt"), "cannot write missing/out.txt"),
        (("run", "x", "--server", "ftp://host"), "--server takes a URL"),
        (("run", "x", "--server", "ws://host:port"), "--server takes a URL"),
        (("tail", "s1", "--after", "12"), "--after takes EPOCH:SEQ"),
        (("wait", "r1", "--timeout", "soon"), "--timeout"),
        (("sessions", "search"), "nothing to search for"),
        (("serve", "--port", "99999"), "--port takes a port from 0 to 65535, not '99999'"),
        (("serve", "--tls-cert", "c.pem"), "give --tls-key as well"),
    ],
)
async def test_a_wrong_use_is_told_in_one_sentence(atrio: Atrio, words: tuple[str, ...], said: str) -> None:
    done = await atrio(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("atrio: ")
    assert done.err.count("\n") == 1
    assert not (atrio.state_dir / "server.json").exists()  # no server is started for it


async def test_help_names_what_a_command_takes_and_what_keys_do(atrio: Atrio) -> None:
    done = await atrio("run", "--help")
    assert done.code == 0
    assert "atrio run [OPTIONS] [PROMPT...|-]" in done.out
    assert "Ctrl-C cancels the run" in done.out
    listed = (await atrio("--help")).out
    assert listed.index(" run ") < listed.index(" sessions ") < listed.index(" version ")


async def test_a_state_directory_that_cannot_be_made_is_told_with_the_way_out(atrio: Atrio) -> None:
    done = await atrio("token", "show", "--state-dir", "/proc/nope")
    assert (done.code, done.out) == (6, "")
    why = "No such file or directory; name another directory with --state-dir"
    assert done.err == f"atrio: cannot use /proc/nope for state: {why}\n"


async def test_a_directory_that_is_gone_is_told_with_the_way_out(atrio: Atrio, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = await trio.run_process(
        ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", str(gone), *COMMAND, "sessions"],
        env=atrio.environ,
        check=False,
        capture_stderr=True,
    )
    assert done.returncode == 2
    assert b"atrio: the present directory is gone; go to another, or name one with --dir\n" in done.stderr
    started = running_server(atrio.state_dir)
    if started is not None:
        os.kill(started.pid, signal.SIGTERM)


async def test_a_server_that_is_not_there_is_told_in_one_sentence(atrio: Atrio) -> None:
    done = await atrio("run", "hello", "--server", "ws://127.0.0.1:9", ATRIO_TOKEN="t")
    assert (done.code, done.out) == (6, "")
    assert (
        done.err == "atrio: cannot reach ws://127.0.0.1:9/v1/ws: Connection refused; is `atrio serve` running there?\n"
    )


async def test_our_token_is_not_given_to_a_server_elsewhere(atrio: Atrio) -> None:
    assert (await atrio("token", "show")).code == 0
    done = await atrio("run", "hello", "--server", "ws://192.0.2.1:4317")
    assert done.code == 6
    assert "no token for ws://192.0.2.1:4317; give --token-file or set ATRIO_TOKEN" in done.err


async def test_the_token_is_shown_and_replaced(atrio: Atrio) -> None:
    first = await atrio("token", "show")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", first.out)
    assert (await atrio("token", "show")).out == first.out
    second = await atrio("token", "rotate")
    assert second.out != first.out
    assert (await atrio("token", "show")).out == second.out


async def test_a_reader_that_leaves_ends_the_command_quietly(atrio: Atrio) -> None:
    async with atrio.started("schema") as command:
        assert command.process.stdout is not None
        await command.process.stdout.aclose()
        assert command.process.stderr is not None
        assert await command.process.stderr.receive_some() == b""


async def test_a_traceback_is_shown_only_on_demand(atrio: Atrio) -> None:
    async with atrio.started("serve", "--port", "x", ATRIO_DEBUG="1") as command:
        await command.read_err("Traceback")
        await command.read_err("atrio: --port takes")
