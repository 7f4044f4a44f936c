"""The tokens of `tokens.json`: made, listed, revoked, and never believed where something is wrong with the file."""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from atrio_server import token_store
from atrio_server.token_files import TokenFileUnsafe
from atrio_server.token_store import (
    TOKENS_FILE,
    NoSuchToken,
    TokenRefused,
    create_token,
    list_tokens,
    revoke_token,
)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_token_is_kept_by_its_digest_alone(state_dir: Path) -> None:
    token, record = create_token(state_dir, scopes=["prompt"], name="ci", workspace=Path("/srv/project"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert list_tokens(state_dir) == (record,)
    assert record.sha256 == sha256(token.encode()).hexdigest()
    kept = b"".join(path.read_bytes() for path in state_dir.iterdir())
    assert token.encode() not in kept and token[:16].encode() not in kept
    identity = record.identity()
    assert (identity.scopes, identity.token_name, identity.workspace) == (
        {"observe", "prompt"},
        "ci",
        Path("/srv/project"),
    )
    assert token not in repr(record) and record.sha256 not in repr(identity)


def test_only_its_owner_can_read_the_file_whatever_the_umask(state_dir: Path, umask: int) -> None:
    create_token(state_dir, scopes=["observe"])
    revoke_token(state_dir, create_token(state_dir, scopes=["observe"]).record.token_id)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state_dir.iterdir()}
    assert modes[TOKENS_FILE] == 0o600
    assert set(modes) == {TOKENS_FILE, "tokens.lock"}
    assert not any(mode & 0o077 for mode in modes.values())


def test_a_token_is_revoked_by_its_id_or_its_name_and_only_once(state_dir: Path) -> None:
    named = create_token(state_dir, scopes=["admin"], name="ops").record
    nameless = create_token(state_dir, scopes=["observe"]).record
    assert nameless.called == nameless.token_id
    assert revoke_token(state_dir, "ops") == named
    with pytest.raises(NoSuchToken):
        revoke_token(state_dir, "ops")
    assert list_tokens(state_dir) == (nameless,)
    assert revoke_token(state_dir, nameless.token_id) == nameless
    assert list_tokens(state_dir) == ()


@pytest.mark.parametrize("name", ["ci", "file", "t-0123abcd"])
def test_a_name_means_one_token(state_dir: Path, name: str) -> None:
    create_token(state_dir, scopes=["observe"], name="ci")
    with pytest.raises(TokenRefused, match="choose another name"):
        create_token(state_dir, scopes=["observe"], name=name)
    assert len(list_tokens(state_dir)) == 1


def test_commands_at_once_lose_nothing(state_dir: Path) -> None:
    kept = [create_token(state_dir, scopes=["observe"], name=f"old-{number}") for number in range(10)]

    def work(number: int) -> str:
        if number % 2:
            return revoke_token(state_dir, f"old-{number // 2}").called
        return create_token(state_dir, scopes=["prompt"], name=f"new-{number // 2}").record.called

    with ThreadPoolExecutor(8) as commands:
        done = list(commands.map(work, range(20)))
    assert sorted(done) == sorted([token.record.called for token in kept] + [f"new-{number}" for number in range(10)])
    assert sorted(record.called for record in list_tokens(state_dir)) == [f"new-{number}" for number in range(10)]


def test_there_are_only_so_many(state_dir: Path) -> None:
    with patch.object(token_store, "MAX_TOKENS", 2):
        for _ in range(2):
            create_token(state_dir, scopes=["observe"])
        with pytest.raises(TokenRefused, match="revoke some"):
            create_token(state_dir, scopes=["observe"])
    assert len(list_tokens(state_dir)) == 2


def test_what_ends_and_when_is_kept(state_dir: Path) -> None:
    ends = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    record = create_token(state_dir, scopes=["observe"], expires_at=ends).record
    assert list_tokens(state_dir)[0].expires_at == ends
    assert record.identity().expires_at == ends.timestamp()
    assert datetime.now(UTC) - record.created_at < timedelta(minutes=5)


def _replace(key: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        kept = json.loads(path.read_text())
        kept["tokens"][0][key] = value
        path.write_text(json.dumps(kept))

    return change


def _twice(path: Path) -> None:
    kept = json.loads(path.read_text())
    kept["tokens"] *= 2
    path.write_text(json.dumps(kept))


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _state_of(path: Path) -> tuple[int, ...]:
    """What tells that nobody wrote to a file, or replaced it; not when it was read, which it may be."""
    info = os.lstat(path)
    return info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"version": 2, "tokens": []}'),
        lambda path: path.write_text('{"version": 1, "tokens": [], "more": 1}'),
        lambda path: path.chmod(0o640),
        lambda path: path.chmod(0o602),
        lambda path: path.parent.chmod(0o770),
        _replace("scopes", []),
        _replace("scopes", ["root"]),
        _replace("sha256", "00"),
        _replace("name", "a b"),
        _replace("expiresAt", "tomorrow"),
        _replace("expiresAt", "2030-01-01T00:00:00"),
        _replace("onlyOnSundays", True),
        _twice,
        _link,
        _pipe,
    ],
)
def test_a_file_that_cannot_be_believed_holds_no_token_and_is_not_overwritten(
    state_dir: Path, break_it: Callable[[Path], None]
) -> None:
    create_token(state_dir, scopes=["observe"], name="ci")
    break_it(state_dir / TOKENS_FILE)
    before = _state_of(state_dir / TOKENS_FILE)
    for act in (list_tokens, lambda path: create_token(path, scopes=["admin"]), lambda path: revoke_token(path, "ci")):
        with pytest.raises(TokenFileUnsafe, match=r"delete it|chmod"):
            act(state_dir)
    assert _state_of(state_dir / TOKENS_FILE) == before


def test_a_planted_lock_is_not_followed(state_dir: Path, tmp_path: Path) -> None:
    (state_dir / "tokens.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFileUnsafe, match="delete it"):
        create_token(state_dir, scopes=["observe"])
    assert not (tmp_path / "elsewhere").exists()


def test_a_token_that_could_not_be_stored_leaves_the_file_as_it_was(state_dir: Path) -> None:
    create_token(state_dir, scopes=["observe"], name="ci")
    with patch("os.rename", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError, match="space"):
        create_token(state_dir, scopes=["observe"])
    assert [record.called for record in list_tokens(state_dir)] == ["ci"]
    assert {path.name for path in state_dir.iterdir()} == {TOKENS_FILE, "tokens.lock"}


@pytest.mark.parametrize("act", [list_tokens, lambda path: revoke_token(path, "ci")])
def test_a_file_that_cannot_be_opened_for_now_is_not_blamed(state_dir: Path, act: Callable[[Path], object]) -> None:
    create_token(state_dir, scopes=["observe"], name="ci")
    real = os.open

    def without_descriptors(path: str | Path, *args: Any, **options: Any) -> int:
        if str(path).startswith("tokens."):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **options)

    with patch("os.open", without_descriptors), pytest.raises(OSError, match="Too many open files"):
        act(state_dir)
    assert [record.called for record in list_tokens(state_dir)] == ["ci"]
