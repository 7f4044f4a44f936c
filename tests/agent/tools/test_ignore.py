"""`.gitignore` as git reads it, and walks that show nothing else."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from atrio_agent.tools import ignore
from atrio_agent.tools.confine import open_beneath
from atrio_agent.tools.ignore import Entry, RuleFile, View
from atrio_agent.tools.threads import in_files_thread
from tool_calls import place_in

DECIDED = [
    ("build", "build", True, True),
    ("build", "deep/build", False, True),
    ("build/", "build", True, True),
    ("build/", "build", False, None),
    ("/build", "build", False, True),
    ("/build", "deep/build", False, None),
    ("a/b", "a/b", False, True),
    ("a/b", "x/a/b", False, None),
    ("**/b", "x/y/b", False, True),
    ("//b", "b", False, None),
    ("a//b", "a/b", False, None),
    ("a/**", "a", True, None),
    ("a/**", "a/x/y", False, True),
    ("a/**/b", "a/b", False, True),
    ("*.log", "x/y.log", False, True),
    ("*.log\n!keep.log", "keep.log", False, False),
    ("!keep.log\n*.log", "keep.log", False, True),
    ("a/*\n!keep", "a/keep", False, False),
    ("keep\n!a/keep", "a/keep", False, False),
    ("# note", "# note", False, None),
    ("\\# note", "# note", False, True),
    ("\\!loud", "!loud", False, True),
    ("trail   ", "trail", False, True),
    ("trail\\ ", "trail ", False, True),
    ("trail\\\\  ", "trail\\", False, True),
    ("  lead", "  lead", False, True),
    ("dos\r\n*.bak\r\n", "dos", False, True),
    ("\ufeffmark", "mark", False, True),
    ("[ab].txt", "b.txt", False, True),
    ("[unclosed\nfine", "fine", False, True),
    ("\\\nfine", "fine", False, True),
    ("/", "x", True, None),
    ("", "x", False, None),
    ("Name", "name", False, None),
    ("*", ".hidden", False, True),
]


@pytest.mark.parametrize(("rules", "path", "is_dir", "hidden"), DECIDED)
def test_a_rule_decides_as_in_git(rules: str, path: str, *, is_dir: bool, hidden: bool | None) -> None:
    assert RuleFile(rules, depth=0).decide(path.split("/"), is_dir=is_dir) is hidden


def test_a_hostile_ignore_file_costs_no_time() -> None:
    rules = RuleFile("\n".join(["*a" * 40 + "*b", "**/*a" * 20 + "/b", "[" * 500, "{" * 500, "\\" * 501]), depth=0)
    assert rules.decide(("a" * 255,) * 20, is_dir=False) is None


async def seen(root: Path, start: str = ".", *, max_depth: int = 1_000) -> list[str]:
    """What a walk gives, as paths."""

    def walk() -> list[Entry]:
        with open_beneath(start, place_in(root)) as opened:
            return list(View(opened).walk(max_depth=max_depth))

    with trio.fail_after(30):
        return ["/".join(entry.parts) for entry in await in_files_thread(walk)]


def plant(root: Path, tree: dict[str, str]) -> None:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


async def test_what_is_beneath_an_ignored_directory_cannot_be_brought_back(root: Path) -> None:
    plant(root, {".gitignore": "out/\n!out/keep", "out/keep": "", "out/.gitignore": "!keep", "in": ""})
    assert await seen(root) == [".gitignore", "in"]


async def test_the_nearest_ignore_file_counts_first(root: Path) -> None:
    plant(root, {".gitignore": "*.log", "a/.gitignore": "!b.log", "a/b.log": "", "a/c/b.log": "", "a/d.log": ""})
    assert await seen(root) == [".gitignore", "a", "a/.gitignore", "a/b.log", "a/c", "a/c/b.log"]


async def test_rules_from_above_count_in_a_directory_that_is_named(root: Path) -> None:
    plant(root, {".gitignore": "*.log\n/a/x", "a/x": "", "a/y.log": "", "a/z": ""})
    assert await seen(root, "a") == ["z"]


async def test_an_ignored_directory_that_is_named_shows_what_is_in_it(root: Path) -> None:
    plant(
        root,
        {".gitignore": "deps\n*.log", "deps/x/y": "", "deps/z.log": "", "deps/.gitignore": "secret", "deps/secret": ""},
    )
    assert await seen(root, "deps") == [".gitignore", "x", "x/y", "z.log"]
    assert await seen(root, "deps/x") == ["y"]


async def test_rules_above_the_workspace_do_not_count(root: Path) -> None:
    plant(root, {"../.gitignore": "*", "a": ""})
    assert await seen(root) == ["a"]


async def test_git_s_own_files_are_never_shown(root: Path) -> None:
    plant(root, {".git/config": "", "sub/.git": "gitdir: elsewhere", "a": "", ".github/x": ""})
    assert await seen(root) == [".github", ".github/x", "a", "sub"]


async def test_an_ignore_file_that_is_a_link_does_not_count(root: Path, outside: Path) -> None:
    plant(root, {"a": "", "rules": "a"})
    (outside / "rules").write_text("a")
    (root / ".gitignore").symlink_to(outside / "rules")
    assert await seen(root) == [".gitignore", "a", "rules"]


async def test_a_walk_gives_links_and_does_not_follow_them(root: Path, outside: Path) -> None:
    (root / "out").symlink_to(outside)
    (root / "loop").symlink_to(".")
    assert await seen(root) == ["loop", "out"]


async def test_a_walk_is_in_the_order_of_bytes_and_goes_as_deep_as_told(root: Path) -> None:
    plant(root, {"b/x/y": "", "B": "", "a": "", "é": "", "b-": ""})
    assert await seen(root, max_depth=2) == ["B", "a", "b", "b/x", "b-", "é"]


async def test_a_walk_ends_at_its_limit_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(root, {f"d{i}/f": "" for i in range(10)})
    monkeypatch.setattr(ignore, "MAX_SEEN", 7)

    def walk() -> tuple[int, bool]:
        with open_beneath(".", place_in(root)) as opened:
            view = View(opened)
            return len(list(view.walk())), view.was_cut

    with trio.fail_after(30):
        assert await in_files_thread(walk) == (7, True)


async def test_a_cancelled_walk_ends(root: Path) -> None:
    plant(root, {"a/b": ""})
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def walk_for_ever() -> None:
        try:
            with open_beneath(".", place_in(root)) as opened:
                while True:
                    for _ in View(opened).walk():
                        pass
        finally:
            trio.from_thread.run_sync(ended.set, trio_token=token)

    with trio.fail_after(30):
        with trio.move_on_after(0.1):
            await in_files_thread(walk_for_ever)
        await ended.wait()


async def test_the_deepest_tree_is_walked_without_running_out_of_anything(root: Path) -> None:
    deep = root.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    assert len(await seen(root)) == 64


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "x y", "#a", "!b", "A"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PIECES = st.sampled_from(
    ["a", "b", "*", "?", "**", "/", "/", ".", "[ab]", "[!a]", "\\", " ", "!", "#", "A", "x", "*.b"]
)
# Git takes "b**/a" for "b/**/a", against its own manual; nobody else does.
LINES = (
    st.lists(PIECES, min_size=1, max_size=5)
    .map("".join)
    .filter(lambda line: all(name == "**" or "**" not in name for name in line.removeprefix("!").split("/")))
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is what it is compared with")
@settings(max_examples=100)
@given(
    files=st.lists(PATHS, min_size=1, max_size=12),
    rules=st.dictionaries(st.one_of(st.just("."), PATHS), st.lists(LINES, max_size=5).map("\n".join), max_size=3),
)
def test_a_walk_shows_the_files_that_git_would_add(files: list[str], rules: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        for path in files:
            with suppress(OSError):  # one of its names is taken, by a file or a directory
                plant(root, {path: ""})
        plant(root, {f"{path}/.gitignore": text for path, text in rules.items() if (root / path).is_dir()})
        by_us = {path for path in trio.run(seen, root) if (root / path).is_file()}
        assert by_us == listed_by_git(root)


def listed_by_git(root: Path) -> set[str]:
    """The files that git would add, in a repository that is made for it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    listed = b""
    for command in (["init", "-q"], ["ls-files", "--others", "--exclude-standard", "-z"]):
        done = subprocess.run(["git", *command], cwd=root, env=environment, check=True, capture_output=True)
        listed = done.stdout
    return set(listed.decode().split("\0")) - {""}
