"""`atrio token`, and what other commands say to whoever comes in with a token that may do less."""

import json
import re
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_process import Atrio, Done
from atrio_server.cli.failure import Failure
from atrio_server.cli.token_words import end_from, scopes_from
from atrio_server.statedir import make_state_dir, running_server
from atrio_server.token_store import TOKENS_FILE, create_token, list_tokens, revoke_token
from wire.tokens import post

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

SCRIPT: dict[str, Any] = {
    "name": "test",
    "turns": [
        {"match": "^slow", "responses": [[{"say": "begun "}, {"stall": True}]]},
        {"match": "^ask", "responses": [[{"tool": "shell", "input": {"command": "touch asked"}}], [{"say": "done"}]]},
        {"responses": [[{"say": "you said: {{prompt}}"}]]},
    ],
}


@asynccontextmanager
async def serving(atrio: Atrio) -> AsyncGenerator[None]:
    """A server on the state directory of these commands."""
    script = atrio.state_dir.parent / "script.json"
    await trio.Path(script).write_text(json.dumps(SCRIPT))
    async with atrio.started("serve", "--port", "0", "--test-hooks", "--model", f"script:{script}") as server:
        await server.read_out("ready")
        yield


async def made(atrio: Atrio, *words: str) -> str:
    """Make a token by the command."""
    done = await atrio("token", "create", *words)
    assert done.code == 0, done.err
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", done.out)
    assert done.out.strip() not in done.err
    return done.out.strip()


@pytest.mark.parametrize(
    ("words", "scopes"),
    [
        (["observe"], ("observe",)),
        (["admin,prompt"], ("prompt", "admin")),
        (["prompt", "approve"], ("prompt", "approve")),
        (["Prompt, approve ,,prompt"], ("prompt", "approve")),
        (["prompt approve"], ("prompt", "approve")),
    ],
)
def test_scopes_are_read_as_people_write_them(words: list[str], scopes: tuple[str, ...]) -> None:
    assert scopes_from(words) == scopes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what the token is for: --scope with one or more of observe, prompt, approve, admin"),
        ([","], "say what the token is for"),
        (["obsrve"], "there is no scope 'obsrve' (did you mean 'observe'?); there are observe, prompt,"),
        (["prompt,xyz"], "there is no scope 'xyz'; there are observe, prompt, approve, admin"),
    ],
)
def test_a_scope_that_is_none_is_told_with_those_there_are(words: list[str], said: str) -> None:
    with pytest.raises(Failure, match=re.escape(said)):
        scopes_from(words)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("90m", NOW + timedelta(minutes=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2 W", NOW + timedelta(weeks=2)),
        ("2026-11-20", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2027-01-31T18:00", datetime(2027, 1, 31, 18, tzinfo=UTC)),
        ("2027-01-31 18:00+01:00", datetime(2027, 1, 31, 17, tzinfo=UTC)),
        ("2027-01-31T18:00:00Z", datetime(2027, 1, 31, 18, tzinfo=UTC)),
    ],
)
def test_an_end_is_read_as_people_write_it(text: str, end: datetime) -> None:
    assert end_from(text, NOW) == end


@pytest.mark.parametrize("text", ["2026-11-19", "2026-11-20T11:59", "0d", "2020-01-01", "0001-01-01T00:00+14:00"])
def test_an_end_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(Failure, match=r"is in the past|too far away"):
        end_from(text, NOW)


@pytest.mark.parametrize("text", ["soon", "", "30", "30x", "-1d", "1.5h", "2027-13-01", "2027-02-30", "9" * 30 + "d"])
def test_an_end_that_is_none_is_told_what_one_is(text: str) -> None:
    with pytest.raises(Failure, match="12h or 30d, or a date"):
        end_from(text, NOW)


@pytest.mark.parametrize("text", ["999999w", "9999-12-31", "9999-12-31T23:59:59-14:00"])
def test_an_end_beyond_all_calendars_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="too far away"):
        end_from(text, NOW)


async def test_tokens_are_made_listed_and_revoked_without_a_server(atrio: Atrio) -> None:
    nothing = await atrio("token", "list")
    assert (nothing.code, nothing.out) == (0, "") and "atrio token create" in nothing.err
    assert not await trio.Path(atrio.state_dir).exists()
    await made(atrio, "--scope", "prompt,approve", "--name", "ci", "--workspace", ".", "--expires", "30d")
    json_made = await atrio("token", "create", "--scope", "observe", "--scope", "admin", "--json")
    second = json.loads(json_made.out)
    assert set(second) == {"token", "tokenId", "scopes", "createdAt", "state"}
    listed = await atrio("token", "list", "--json")
    first, again = (json.loads(line) for line in listed.out.splitlines())
    assert (first["name"], first["scopes"], first["state"]) == ("ci", ["observe", "prompt", "approve"], "active")
    assert first["workspace"] == str(atrio.directory) and first["expiresAt"] > first["createdAt"]
    assert again == {key: value for key, value in second.items() if key != "token"}
    assert second["token"] not in listed.out + listed.err
    rows = (await atrio("token", "list")).out.splitlines()
    assert rows[0].split("\t")[:4] == [first["tokenId"], "ci", "active", "observe,prompt,approve"]
    revoked = await atrio("token", "revoke", "ci")
    assert (revoked.code, revoked.out) == (0, "") and revoked.err.startswith("revoked: ci (t-")
    assert (await atrio("token", "revoke", second["tokenId"])).code == 0
    assert (await atrio("token", "list", "--json")).out == ""
    assert stat.S_IMODE((await trio.Path(atrio.state_dir / TOKENS_FILE).stat()).st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("create",), 2, "say what the token is for"),
        (("create", "--scope", "obsrve"), 2, "did you mean 'observe'?"),
        (("create", "--scope", "prompt", "--expires", "2020-01-01"), 2, "is in the past"),
        (("create", "--scope", "prompt", "--workspace", "nowhere"), 2, "name a directory that is there"),
        (("create", "--scope", "prompt", "--name", "a b"), 2, "cannot be named"),
        (("create", "--scope", "prompt", "--name", "file"), 2, "choose another name"),
        (("create", "--scope", "prompt", "--name", "ci"), 2, "there is a token named 'ci' already"),
        (("revoke", "cii"), 4, "(did you mean 'ci'?); `atrio token list` shows"),
        (("revoke", "file"), 2, "`atrio token rotate`"),
        (("revoke",), 2, "TOKEN is missing"),
        (("revoke", "A" * 43), 2, "by its id or its name"),
    ],
)
async def test_what_is_wrong_is_told_with_a_way_out(atrio: Atrio, words: tuple[str, ...], code: int, said: str) -> None:
    make_state_dir(atrio.state_dir)
    create_token(atrio.state_dir, scopes=["observe"], name="ci")
    done = await atrio("token", *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err and "A" * 43 not in done.err
    assert [record.called for record in list_tokens(atrio.state_dir)] == ["ci"]


async def test_a_spoilt_file_is_told_by_every_command_and_by_the_doctor(atrio: Atrio) -> None:
    await made(atrio, "--scope", "observe", "--name", "ci")
    path = trio.Path(atrio.state_dir / TOKENS_FILE)
    await path.write_text("{")
    for words in (("list",), ("create", "--scope", "observe"), ("revoke", "ci")):
        done = await atrio("token", *words)
        assert done.code == 6 and "delete it" in done.err and str(path) in done.err
    assert await path.read_text() == "{"
    looked = await atrio("doctor", "--offline", "--json")
    (finding,) = [found for line in looked.out.splitlines() if (found := json.loads(line))["name"] == "tokens"]
    assert (finding["state"], looked.code) == ("problem", 1) and f"rm {path}" in finding["fix"]
    await path.chmod(0o640)
    looked = await atrio("doctor", "--offline", "--json")
    (finding,) = [found for line in looked.out.splitlines() if (found := json.loads(line))["name"] == "tokens"]
    assert finding["state"] == "problem" and finding["fix"].startswith(f"chmod 600 {path}; ")


async def test_a_command_says_plainly_what_its_token_may_not_do(atrio: Atrio) -> None:
    other = Path(atrio.directory.parent / "other")
    await trio.Path(other).mkdir()
    observer = await made(atrio, "--scope", "observe")
    bound = await made(atrio, "--scope", "prompt,approve,admin", "--workspace", str(other))
    async with serving(atrio):
        assert (await atrio("run", "hello")).code == 0
        session = (await atrio("sessions", "list")).out.split("\t")[0]

        def refused(done: Done, said: str) -> None:
            assert done.code == 5, done
            assert done.err.count("\n") == 1 and said in done.err, done.err

        refused(await atrio("run", "hello", ATRIO_TOKEN=observer), "session/new needs a token with the scope 'prompt'")
        refused(await atrio("stop", ATRIO_TOKEN=observer), "the scope 'admin'")
        assert "you said: hello" in (await atrio("attach", session, ATRIO_TOKEN=observer)).out
        talked = await atrio("attach", session, stdin=b"hello there\n", ATRIO_TOKEN=observer)
        assert talked.code == 5 and "may only watch" in talked.err and "the scope 'prompt'" in talked.err
        refused(await atrio("run", "hello", ATRIO_TOKEN=bound), f"This token is for {other} alone; name it with --dir")
        assert (await atrio("sessions", "show", session, ATRIO_TOKEN=bound)).code == 4
        refused(await atrio("stop", ATRIO_TOKEN=bound), "about the whole server")
        assert (await atrio("run", "--dir", str(other), "hello", ATRIO_TOKEN=bound)).code == 0
        file = trio.Path(atrio.state_dir.parent / "token-file")
        await file.write_text(observer + "\n")
        refused(await atrio("run", "hello", "--token-file", str(file)), "the scope 'prompt'")
        unknown = await atrio("run", "hello", ATRIO_TOKEN="nobody's")
        assert unknown.code == 6 and "does not accept this token" in unknown.err


async def test_who_may_not_answer_waits_for_somebody_who_may(atrio: Atrio) -> None:
    token = await made(atrio, "--scope", "prompt")
    async with serving(atrio):
        async with atrio.started("run", "ask", ATRIO_TOKEN=token) as run:
            await run.read_err("the run waits for somebody who may")
            (question,) = (await atrio("permissions", "--json")).out.splitlines()
            assert not (atrio.directory / "asked").exists()
            assert (await atrio("permissions", "allow", json.loads(question)["permissionId"])).code == 0
            assert (await run.end()).code == 0
        assert (atrio.directory / "asked").exists()


async def test_a_command_whose_token_is_revoked_ends_and_its_run_goes_on(atrio: Atrio) -> None:
    token = await made(atrio, "--scope", "prompt", "--name", "ci")
    async with serving(atrio):
        async with atrio.started("run", "slow", ATRIO_TOKEN=token) as run:
            await run.read_out("begun")
            revoke_token(atrio.state_dir, "ci")
            done = await run.end()
        assert done.code == 6 and "does not accept this token" in done.err
        (listed,) = (await atrio("runs", "--json")).out.splitlines()
        assert json.loads(listed)["state"] == "running"


async def test_a_command_goes_on_when_the_token_of_the_state_directory_is_replaced(atrio: Atrio) -> None:
    async with serving(atrio):
        async with atrio.started("run", "slow") as run:
            await run.read_out("begun")
            rotated = await atrio("token", "rotate")
            assert "takes it now" in rotated.err
            await run.read_err("connected again")
            run.interrupt()
            assert (await run.end()).code == 130


async def test_a_token_works_once_it_is_printed_and_no_more_once_it_is_revoked(atrio: Atrio) -> None:
    async with serving(atrio):
        for name in ("one", "two"):
            token = await made(atrio, "--scope", "observe", "--name", name)
            server = running_server(atrio.state_dir)
            assert server is not None
            assert (await post(server.http, token, "server/info")).status == 200
            assert (await atrio("token", "revoke", name)).code == 0
            assert (await post(server.http, token, "server/info")).status == 401
