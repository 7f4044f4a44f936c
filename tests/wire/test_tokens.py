"""Tokens in a running server: made, revoked, expired, replaced; and a file that cannot be believed."""

import errno
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from atrio_server.service import Running
from atrio_server.token import TOKEN_FILE, fresh_token, rotate_token
from atrio_server.token_store import TOKENS_FILE, revoke_token
from atrio_server.token_watch import UNREADABLE, TokenWatch
from wire.client import Wire, connect
from wire.conftest import LIMIT_S, Harness
from wire.http import http
from wire.steps import GATED, PLAIN, new_session
from wire.tokens import make_token, post, until_it_works

Json = dict[str, Any]

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that the machine lets wait for a second is not a disk that does not answer."""
    monkeypatch.setattr("atrio_server.token_watch.LOOK_S", LIMIT_S)


async def works(running: Running, token: str) -> bool:
    """Whether a token opens the server, by HTTP and by WebSocket alike."""
    over_http = (await post(running.http, token, "ping")).status
    over_socket = await handshake(running, token)
    assert (over_http, over_socket) in {(200, 101), (401, 401)}, (over_http, over_socket)
    return over_http == 200


async def handshake(running: Running, token: str) -> int:
    """The status that a WebSocket handshake gets."""
    host, port = running.http.removeprefix("http://").split(":")
    lines = [
        "GET /v1/ws HTTP/1.1",
        f"Host: {host}:{port}",
        *(f"{name}: {value}" for name, value in UPGRADE.items()),
        f"Authorization: Bearer {token}",
    ]
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while len(answer) < 12:
            answer += await stream.receive_some()
    return int(answer[9:12])


async def until(true: Callable[[], object]) -> None:
    """Wait for something that nobody announces."""
    with trio.fail_after(LIMIT_S):
        while not true():  # noqa: ASYNC110  that is what this is for
            await trio.sleep(0.02)


async def closing(wire: Wire) -> tuple[int, str]:
    """Wait until the server has closed a connection: the code and the reason."""
    code = await wire.closing()
    assert wire.ws.closed is not None
    return code, wire.ws.closed.reason or ""


async def test_a_token_made_while_the_server_runs_works_without_a_restart(bench: Harness) -> None:
    async with bench.serve() as running:
        assert not await works(running, "A" * 43)
        first = make_token(bench, "prompt", name="first")
        assert await works(running, first)  # at once: the files are looked at before anybody is refused
        second = make_token(bench, "observe")
        assert await works(running, second)
        assert await works(running, first) and await works(running, running.token)


async def test_the_files_are_looked_at_for_somebody_with_an_unknown_token_and_for_nobody_without_one(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[TokenWatch] = []

    async def look_again(watch: TokenWatch) -> None:
        looks.append(watch)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(TokenWatch, "look_again", look_again)
    async with bench.serve() as running:
        for path in ("/", "/metrics", "/v1/rpc", "/v1/ws"):
            assert (await http(running.http, "GET", path)).status == 401
        assert looks == []
        assert await handshake(running, "A" * 43) == 401
        offers = {"Sec-WebSocket-Protocol": f"atrio.v1, atrio.token.{'A' * 43}", **UPGRADE}
        assert (await http(running.http, "GET", "/v1/ws", headers=offers)).status == 401
        assert len(looks) == 2


async def test_the_sockets_of_a_revoked_token_are_closed_and_its_runs_go_on(bench: Harness) -> None:
    token = make_token(bench, "prompt", name="ci")
    model = bench.script(GATED, PLAIN)
    async with bench.serve(model=model) as running, bench.open(running) as (owner, workspace):
        async with connect(running.ws, token) as wire, connect(running.ws, token) as idle:
            session = await new_session(wire, workspace)
            await owner.attach(session)
            await wire.prompt(session, "gated", runId="one")
            await owner.call("test/gates", wait="go")
            waiting = await wire.send("run/wait", runId="one")
            revoke_token(bench.state_dir, "ci")
            assert await closing(wire) == (1008, "this token was revoked")
            assert await closing(idle) == (1008, "this token was revoked")
            assert not await works(running, token)
            await owner.call("test/release", gate="go")
            assert (await owner.completed(session, "one"))["stopReason"] == "end_turn"
            assert not wire.of_type(session, "run.completed")
            assert not [frame for frame in wire.frames if frame.get("id") == waiting]
        # The name is free again, and the old token is nobody's.
        again = make_token(bench, "prompt", name="ci")
        await until_it_works(running, again)
        assert not await works(running, token)


async def test_a_request_by_http_that_waits_ends_with_its_token(bench: Harness) -> None:
    token = make_token(bench, "observe", name="ci")
    async with bench.serve(model=bench.script(GATED)) as running, bench.open(running) as (owner, workspace):
        session = await new_session(owner, workspace)
        await owner.prompt(session, "gated", runId="one")
        await owner.call("test/gates", wait="go")
        answers = []

        async def wait() -> None:
            answers.append(await post(running.http, token, "run/wait", runId="one"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: running.server.http_requests)
            revoke_token(bench.state_dir, "ci")
        (answer,) = answers
        assert (answer.status, answer.json()["error"]) == (401, "auth_required")
        assert b"gated" not in answer.body
        assert (await owner.call("run/get", runId="one"))["run"]["state"] == "running"


@pytest.mark.scenario("E4")
async def test_a_token_that_has_expired_opens_nothing(bench: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    token = make_token(bench, "observe", expires_at=now + timedelta(hours=1))
    past = make_token(bench, "observe", expires_at=now - timedelta(seconds=1))
    later = make_token(bench, "observe", expires_at=now + timedelta(hours=3))
    async with bench.serve() as running, connect(running.ws, later) as stays, connect(running.ws, token) as wire:
        assert not await works(running, past)
        assert await works(running, token)
        monkeypatch.setattr("atrio_server.identity.time.time", (now + timedelta(hours=2)).timestamp)
        assert not await works(running, token)
        assert await closing(wire) == (1008, "this token has expired")
        assert await stays.call("ping") == {}
        assert await works(running, later) and await works(running, running.token)


async def test_a_rotated_token_is_noticed_and_the_others_stay(bench: Harness) -> None:
    token = make_token(bench, "observe")
    async with (
        bench.serve() as running,
        connect(running.ws, running.token) as owner,
        connect(running.ws, token) as other,
    ):
        new = rotate_token(bench.state_dir)
        code, reason = await closing(owner)
        assert code == 1008 and "replaced" in reason
        assert not await works(running, running.token)
        await until_it_works(running, new)
        assert await other.call("ping") == {}


# The server looks whenever it likes, so each of these happens in one step: in between it would see no file, or an empty
# one. A directory cannot take the place of a file in one step, and having no file is having revoked each token.


def _spoil(path: Path) -> None:
    _restore(path, b"{")


def _open_to_others(path: Path) -> None:
    path.chmod(0o644)


def _make_link(path: Path) -> None:
    elsewhere, link = path.with_name("elsewhere"), path.with_name("link")
    _restore(elsewhere, path.read_bytes())
    link.symlink_to(elsewhere)
    link.replace(path)


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("break_it", "reasons"),
    [
        (_spoil, {UNREADABLE}),
        (_open_to_others, {UNREADABLE}),
        (_make_link, {UNREADABLE}),
        (_make_directory, {UNREADABLE, "this token was revoked"}),
    ],
)
async def test_a_file_that_cannot_be_believed_takes_its_tokens_away_and_only_those(
    bench: Harness, break_it: Callable[[Path], None], reasons: set[str]
) -> None:
    token = make_token(bench, "observe", name="ci")
    path = bench.state_dir / TOKENS_FILE
    kept = path.read_bytes()
    with capture_logs() as log:
        async with bench.serve() as running, connect(running.ws, running.token) as owner:
            async with connect(running.ws, token) as wire:
                break_it(path)
                code, reason = await closing(wire)
                assert code == 1008 and reason in reasons
            assert not await works(running, token)
            assert await owner.call("ping") == {}
            await until(lambda: [line for line in log if line["event"] == "token file"])
            (problem,) = [line["problem"] for line in log if line["event"] == "token file"]
            assert str(path) in problem and ("delete it" in problem or "chmod 600" in problem)
            if path.is_dir():
                path.rmdir()
            _restore(path, kept)
            await until_it_works(running, token)
        # The same at the start of a server.
        break_it(path)
        async with bench.serve() as running:
            assert not await works(running, token)
            assert await works(running, running.token)
    assert len([line for line in log if line["event"] == "token file"]) == 2


def _restore(path: Path, content: bytes) -> None:
    draft = path.with_name("restored")
    draft.write_bytes(content)
    draft.chmod(0o600)
    draft.replace(path)


async def test_a_token_that_is_replaced_while_no_file_can_be_opened_ends_as_soon_as_one_can(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.open, []

    def without_descriptors(path: Any, *args: Any, **options: Any) -> int:
        if path == TOKEN_FILE:
            refused.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **options)

    async with bench.serve() as running:
        with monkeypatch.context() as patched:
            patched.setattr("os.open", without_descriptors)
            fresh = fresh_token()
            _restore(bench.state_dir / TOKEN_FILE, fresh.encode() + b"\n")
            await until(lambda: len(refused) > 3)  # it is looked at again and again, although it stays as it is
        await until_it_works(running, fresh)
        assert not await works(running, running.token)


async def test_a_token_file_that_is_gone_or_spoilt_leaves_its_token_working(bench: Harness) -> None:
    with capture_logs() as log:
        async with bench.serve() as running, connect(running.ws, running.token) as wire:
            path = bench.state_dir / TOKEN_FILE
            for break_it in (_spoil, Path.unlink):
                break_it(path)
                seen = len([line for line in log if line["event"] == "token file"])
                await until(lambda seen=seen: len([line for line in log if line["event"] == "token file"]) > seen)
                assert await works(running, running.token)
            assert await wire.call("ping") == {}
            new = rotate_token(bench.state_dir)
            await until_it_works(running, new)
            assert not await works(running, running.token)
    assert not [line for line in log if running.token in repr(line)]


async def test_a_token_whose_rights_were_changed_by_hand_has_to_come_in_again(bench: Harness) -> None:
    token = make_token(bench, "prompt", name="ci")
    path = bench.state_dir / TOKENS_FILE
    async with bench.serve() as running, connect(running.ws, token) as wire:
        kept = json.loads(path.read_text())
        kept["tokens"][0]["scopes"] = ["observe"]
        _restore(path, json.dumps(kept).encode())
        code, reason = await closing(wire)
        assert code == 1008 and "changed" in reason
        async with connect(running.ws, token, initialize=False) as again:
            hello = await again.call("initialize", protocolVersion=1, clientInfo={"name": "t", "version": "0"})
            assert hello["scopes"] == ["observe"]


async def test_the_log_names_a_token_and_never_holds_it(bench: Harness) -> None:
    token = make_token(bench, "prompt", name="ci-bot")
    nameless = make_token(bench, "prompt")
    with capture_logs() as log:
        async with bench.serve(model=bench.script(PLAIN)) as running, connect(running.ws, token) as wire:
            workspace = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
            session = await new_session(wire, workspace)
            await wire.prompt(session, "hello", runId="one")
            await wire.completed(session, "one")
            await post(running.http, nameless, "session/prompt", **wire.prompt_params(session, "hello", runId="two"))
            revoke_token(bench.state_dir, "ci-bot")
            await wire.closing()
    named = {line["event"]: line["token"] for line in log if line.get("token") == "ci-bot"}
    assert {"connected", "run accepted", "sent away"} <= set(named)
    (two,) = [line for line in log if line["event"] == "run accepted" and line["run"] == "two"]
    assert two["token"].startswith("t-")
    assert token not in repr(log) and nameless not in repr(log) and running.token not in repr(log)


async def test_what_a_tool_and_a_model_say_holds_no_token_that_somebody_came_in_with(bench: Harness) -> None:
    early, late = make_token(bench, "prompt", name="early"), make_token(bench, "prompt", name="late")
    (bench.directory / "notes").write_text(f"early={early}\nlate={late}\nhalf={late[:30]}\n")
    model = bench.script(
        {
            "responses": [
                [{"say": f"It is {late}.", "chunk": 5}, {"tool": "read", "input": {"path": "notes"}}],
                [{"say": "."}],
            ]
        }
    )
    async with bench.serve(model=model) as running, connect(running.ws, early) as wire:
        workspace = (await wire.call("workspace/open", path=str(bench.directory)))["workspace"]["workspaceId"]
        session = await new_session(wire, workspace)
        # The workspace is open already when the second token is first seen.
        assert (await post(running.http, late, "ping")).status == 200
        await wire.prompt(session, "tell me", runId="one")
        await wire.completed(session, "one")
        exported = (await post(running.http, late, "session/export", sessionId=session, format="json")).body.decode()
    for text in (json.dumps(wire.frames), exported):
        assert "[redacted]" in text
        assert not [token for token in (early, late) for at in range(27) if token[at : at + 16] in text]


async def test_a_public_path_needs_none_and_tells_nothing_of_tokens(bench: Harness) -> None:
    make_token(bench, "observe", name="secret-name")
    async with bench.serve() as running:
        for path in ("/v1/health", "/v1/version"):
            assert "secret-name" not in (await http(running.http, "GET", path)).body.decode()


async def test_modes_of_everything_are_tight_under_any_umask(bench: Harness) -> None:
    before = os.umask(0)
    try:
        make_token(bench, "observe")
        async with bench.serve() as running:
            assert await works(running, running.token)
            loose = [path.name for path in bench.state_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
            assert loose == []
    finally:
        os.umask(before)
