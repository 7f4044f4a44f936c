"""The token file: whole or absent, ours alone, and never through a link."""

import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atrio_server.token import TOKEN_FILE, TokenFileUnsafe, load_or_make_token, rotate_token


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_token_has_256_bits_and_is_safe_in_a_header(state_dir: Path) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", load_or_make_token(state_dir))


def test_a_token_is_made_once(state_dir: Path) -> None:
    assert load_or_make_token(state_dir) == load_or_make_token(state_dir)


def test_only_its_owner_can_read_it_whatever_the_umask(state_dir: Path, umask: int) -> None:
    load_or_make_token(state_dir)
    assert mode(state_dir / TOKEN_FILE) == 0o600
    rotate_token(state_dir)
    assert mode(state_dir / TOKEN_FILE) == 0o600


def test_nothing_is_left_beside_it(state_dir: Path) -> None:
    load_or_make_token(state_dir)
    rotate_token(state_dir)
    assert [path.name for path in state_dir.iterdir()] == [TOKEN_FILE]


def test_two_makers_at_once_end_up_with_one_token(state_dir: Path) -> None:
    with ThreadPoolExecutor(8) as makers:
        tokens = set(makers.map(load_or_make_token, [state_dir] * 40))
    assert len(tokens) == 1
    assert [path.name for path in state_dir.iterdir()] == [TOKEN_FILE]


def test_a_rotated_token_is_another_one_and_stays(state_dir: Path) -> None:
    old = load_or_make_token(state_dir)
    new = rotate_token(state_dir)
    assert new != old
    assert load_or_make_token(state_dir) == new


@pytest.mark.parametrize("target", ["outside", "missing", "directory"])
def test_a_planted_link_is_neither_read_nor_written_through(state_dir: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / target
    if target == "outside":
        outside.write_text("A" * 43)
        outside.chmod(0o600)
    elif target == "directory":
        outside.mkdir()
    (state_dir / TOKEN_FILE).symlink_to(outside)
    with pytest.raises(TokenFileUnsafe, match="delete it"):
        load_or_make_token(state_dir)
    assert outside.exists() == (target != "missing")
    rotate_token(state_dir)
    assert not (state_dir / TOKEN_FILE).is_symlink()
    assert target != "outside" or outside.read_text() == "A" * 43


def test_a_planted_pipe_does_not_hold_us_up(state_dir: Path) -> None:
    os.mkfifo(state_dir / TOKEN_FILE, 0o600)
    with pytest.raises(TokenFileUnsafe):
        load_or_make_token(state_dir)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_token_that_others_can_reach_is_not_used(state_dir: Path, bits: int) -> None:
    load_or_make_token(state_dir)
    (state_dir / TOKEN_FILE).chmod(bits)
    with pytest.raises(TokenFileUnsafe, match="can be read by others"):
        load_or_make_token(state_dir)


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_holds_no_token(state_dir: Path, bits: int) -> None:
    state_dir.chmod(bits)
    for make in (load_or_make_token, rotate_token):
        with pytest.raises(TokenFileUnsafe, match="chmod 700"):
            make(state_dir)
    assert list(state_dir.iterdir()) == []


@pytest.mark.parametrize("text", ["", "short", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\xe4"])
def test_a_file_that_holds_no_token_is_not_guessed_at(state_dir: Path, text: str) -> None:
    path = state_dir / TOKEN_FILE
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(TokenFileUnsafe, match="holds no token"):
        load_or_make_token(state_dir)
    assert path.read_text() == text


def test_no_error_repeats_what_is_in_the_file(state_dir: Path) -> None:
    path = state_dir / TOKEN_FILE
    path.write_text("almost-a-token")
    path.chmod(0o600)
    with pytest.raises(TokenFileUnsafe) as caught:
        load_or_make_token(state_dir)
    assert "almost" not in str(caught.value)
