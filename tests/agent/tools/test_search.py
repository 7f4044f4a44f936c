"""`glob` and `grep`: what is found, and that ripgrep and our own scan find the same."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from atrio_agent.tools import ripgrep as ripgrep_module
from atrio_agent.tools import search
from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.search import Glob, GlobInput, Grep, GrepInput
from atrio_protocol.parts import Location
from tool_calls import SECRET, Call, Text


def plant(root: Path, tree: dict[str, str | bytes]) -> None:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


async def test_files_are_found_by_name_the_newest_first(root: Path, text: Text) -> None:
    plant(root, {"src/a.py": "", "src/deep/b.py": "", "c.py": "", "d.txt": ""})
    for age_s, name in enumerate(("src/deep/b.py", "c.py", "src/a.py")):
        os.utime(root / name, (1_000_000 - age_s, 1_000_000 - age_s))
    assert await text("glob", pattern="**/*.py") == "src/deep/b.py\nc.py\nsrc/a.py"
    assert await text("glob", pattern="*.py") == "c.py"
    assert await text("glob", pattern="**/*.py", path="src") == "src/deep/b.py\nsrc/a.py"
    assert await text("glob", pattern="{c,src/*}.{py,txt}") == "c.py\nsrc/a.py"
    assert await text("glob", pattern="*.rs") == "No files match."


async def test_glob_leaves_out_what_is_ignored_and_directories(root: Path, text: Text) -> None:
    plant(root, {".gitignore": "out/", "out/a.py": "", "dir.py/x": "", ".git/hook.py": ""})
    assert await text("glob", pattern="**/*.py") == "No files match."
    assert await text("glob", pattern="*.py", path="out") == "out/a.py"


async def test_glob_names_links_and_does_not_follow_them(root: Path, outside: Path, text: Text) -> None:
    (root / "to_dir").symlink_to(outside)
    (root / "to_file").symlink_to(outside / "secret.txt")
    assert sorted((await text("glob", pattern="**")).split("\n")) == ["to_dir", "to_file"]


async def test_many_files_are_bounded_and_counted(root: Path, call: Call, text: Text) -> None:
    plant(root, {f"{number:03}": "" for number in range(510)})
    rows = (await text("glob", pattern="*")).split("\n")
    assert len(rows) == 501
    assert rows[-1] == "[The newest 500 of 510. Narrow pattern or path.]"
    assert (await call("glob", pattern="*")).truncated


@pytest.mark.parametrize("pattern", ["[a", "/etc/*", "../*", "{a,b}" * 8])
async def test_a_bad_glob_is_refused_with_the_parameter_s_name(pattern: str, call: Call) -> None:
    with pytest.raises(ToolFailed, match=r"'pattern' .* is not a usable pattern: "):
        await call("glob", pattern=pattern)
    with pytest.raises(ToolFailed, match=r"'include' .* is not a usable pattern: "):
        await call("grep", pattern="x", include=pattern)


TREE: dict[str, str | bytes] = {
    ".gitignore": "*.log\nbuild/\n",
    "a.py": "import os\nneedle = 1\n# Needle\n",
    "sub/.gitignore": "!keep.log\nhidden.py\n",
    "sub/b.py": "x needle y\n",
    "sub/keep.log": "needle kept\n",
    "sub/hidden.py": "needle\n",
    "sub/deep/c.txt": "no\nneedle",
    "build/out.py": "needle\n",
    "x.log": "needle\n",
    ".git/config": "needle\n",
    ".hidden": "needle\n",
    ".ignore": "a.py\n",
    ".rgignore": "sub\n",
    "binary": b"needle\0\n",
    "late-binary": b"needle\n" + b"x\n" * 40_000 + b"\0",
    "latin": b"needle caf\xe9\n",
    "crlf": "needle\r\nsecond needle\r\n",
    "wide": "needle " + "\N{GRINNING FACE}" * 1_000 + "\n",
    "odd name:1: x": "needle\n",
    "sub/B.py": "needle\n",
    "repo/.git/HEAD": "x\n",
    "repo/d.log": "needle\n",
    "repo/d.py": "needle\n",
}


async def test_lines_are_found_with_path_and_number(root: Path, grep: Grep, text: Text) -> None:
    plant(root, TREE | {"../.gitignore": "*"})
    wide = "\N{GRINNING FACE}" * 493
    assert (await text(grep, pattern="needle")).split("\n") == [
        ".hidden:1: needle",
        "a.py:2: needle = 1",
        "crlf:1: needle",
        "crlf:2: second needle",
        "latin:1: needle caf\N{REPLACEMENT CHARACTER}",
        "odd name:1: x:1: needle",
        "repo/d.py:1: needle",
        "sub/B.py:1: needle",
        "sub/b.py:1: x needle y",
        "sub/deep/c.txt:2: needle",
        "sub/keep.log:1: needle kept",
        f"wide:1: needle {wide} [… cut: the line has 4,008 bytes]",
    ]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"pattern": "needle$", "path": "crlf"}, ["crlf:1: needle", "crlf:2: second needle"]),
        ({"pattern": "^needle$", "include": "*.py"}, ["repo/d.py:1: needle", "sub/B.py:1: needle"]),
        ({"pattern": "needle", "include": "deep/*", "path": "sub"}, ["sub/deep/c.txt:2: needle"]),
        ({"pattern": "needle", "include": "**/*.{txt,md}"}, ["sub/deep/c.txt:2: needle"]),
        ({"pattern": "needle", "include": "*.{txt,md}"}, ["sub/deep/c.txt:2: needle"]),
        ({"pattern": "needle", "include": "[a-c].txt"}, ["sub/deep/c.txt:2: needle"]),
        ({"pattern": "(?i)^# needle"}, ["a.py:3: # Needle"]),
        ({"pattern": "needle", "path": "sub/b.py"}, ["sub/b.py:1: x needle y"]),
        ({"pattern": "needle", "path": "sub/deep"}, ["sub/deep/c.txt:2: needle"]),
        ({"pattern": "needle", "path": "build"}, ["build/out.py:1: needle"]),
        ({"pattern": "needle", "path": "x.log"}, ["x.log:1: needle"]),
        ({"pattern": "needle", "path": ".git"}, [".git/config:1: needle"]),
        ({"pattern": "kept", "path": "sub"}, ["sub/keep.log:1: needle kept"]),
        ({"pattern": "needle", "path": "binary"}, ["No matches."]),
        ({"pattern": "needle = (", "literal": True}, ["No matches."]),
        ({"pattern": "needle = 1", "literal": True}, ["a.py:2: needle = 1"]),
        ({"pattern": ".*", "path": "sub/B.py"}, ["sub/B.py:1: needle"]),
        ({"pattern": "-n", "literal": True}, ["No matches."]),
        ({"pattern": "--pre=/bin/true"}, ["No matches."]),
        ({"pattern": "nothing of the kind"}, ["No matches."]),
    ],
)
async def test_a_search_can_be_narrowed(
    raw: dict[str, object], found: list[str], root: Path, grep: Grep, text: Text
) -> None:
    plant(root, TREE)
    assert (await text(grep, **raw)).split("\n") == found


@pytest.mark.parametrize("pattern", ["foo(", "[a", "*", "a{2,1}"])
async def test_what_is_no_regular_expression_is_refused_with_the_reason(
    pattern: str, root: Path, grep: Grep, call: Call
) -> None:
    plant(root, TREE)
    with pytest.raises(ToolFailed, match=r"'pattern' was refused: .{10}"):
        await call(grep, pattern=pattern)


@pytest.mark.parametrize("pattern", ["two\nlines", "nul\0"])
async def test_a_pattern_is_one_line(pattern: str, grep: Grep, call: Call) -> None:
    with pytest.raises(ToolFailed, match="'pattern' must fit in one line"):
        await call(grep, pattern=pattern)


async def test_many_lines_are_bounded_and_the_first_ones_are_kept(
    root: Path, grep: Grep, call: Call, text: Text
) -> None:
    plant(root, {"b": "x\n" * 1_000_000, "a": "x\n" * 150})
    rows = (await text(grep, pattern="x")).split("\n")
    assert rows[149:151] == ["a:150: x", "b:1: x"]
    assert rows[199:] == ["b:50: x", "[The first 200 lines; there are more. Narrow pattern, path or include.]"]
    assert (await call(grep, pattern="x")).truncated


async def test_long_lines_do_not_break_the_bound(root: Path, grep: Grep, text: Text) -> None:
    plant(root, {"a": ("x" * 20_000 + "\n") * 150})
    said = await text(grep, pattern="x")
    assert len(said) <= 30_000
    assert "characters left out" in said


async def test_files_too_large_to_be_searched_are_passed_over(root: Path, grep: Grep, text: Text) -> None:
    with (root / "huge").open("wb") as file:
        file.write(b"needle\n")
        file.truncate(33 * 1024 * 1024)
    assert await text(grep, pattern="needle") == "No matches."


async def test_links_are_not_searched(root: Path, outside: Path, grep: Grep, text: Text) -> None:
    (root / "to_file").symlink_to(outside / "secret.txt")
    (root / "to_dir").symlink_to(outside)
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    assert await text(grep, pattern="secret") == "No matches."


async def test_the_configuration_of_the_user_s_ripgrep_does_not_count(
    root: Path, tmp_path: Path, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"a": "needle\n"})
    (tmp_path / "ripgreprc").write_text("--invert-match\n")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(tmp_path / "ripgreprc"))
    assert await text("grep", pattern="needle") == "a:1: needle"


async def test_a_regular_expression_that_never_ends_is_given_up_and_holds_up_nobody(
    root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"a": "a" * 60 + "!\n"})
    monkeypatch.setattr(search, "_SEARCH_S", 0.5)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        with trio.fail_after(60):
            while turns < 10:  # in one search; a machine that stood still meanwhile tells nothing
                turns = 0
                with pytest.raises(ToolFailed, match="the search was stopped"):
                    await call(Grep([]), pattern="(a+)+$")
        nursery.cancel_scope.cancel()


async def test_a_search_that_is_stopped_gives_what_it_has(
    root: Path, text: Text, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    plant(root, {"1": "aaa\n", "2": "a" * 60 + "!\n"})
    next_found = ripgrep_module.Search.next_found
    finds = 0

    async def found_and_then_late(self: ripgrep_module.Search) -> ripgrep_module.Found | None:
        nonlocal finds
        finds += 1
        if finds == 2:
            mock_clock.jump(20)
        return await next_found(self)

    mock_clock.rate = 1
    monkeypatch.setattr(ripgrep_module.Search, "next_found", found_and_then_late)
    assert await text(Grep([]), pattern="(a+)+$") == "1:1: aaa\n[Stopped after 20 s; there may be more.]"


def program(tmp_path: Path, script: str) -> Path:
    """Something that passes for ripgrep and does as the script says."""
    path = tmp_path / "rg"
    path.write_text(f'#!/bin/sh\ncase "$*" in *"-- x /dev/null") exit 1;; esac\n{script}\n')
    path.chmod(0o755)
    return path


def reported(path: str, line: str, offset: int = 0) -> str:
    match = f'{{"type":"match","data":{{"path":{{"text":"{path}"}},"lines":{{"text":"{line}\\\\n"}},'
    match += f'"line_number":1,"absolute_offset":{offset},"submatches":[]}}}}'
    return (
        f'printf \'%b\\n\' \'{match}\' \'{{"type":"end","data":{{"path":{{"text":"{path}"}},"binary_offset":null}}}}\''
    )


async def test_what_a_search_claims_is_shown_only_as_it_stands_in_a_file_of_ours(
    root: Path, outside: Path, tmp_path: Path, text: Text
) -> None:
    """As if links had been swapped in while it ran."""
    (root / "to_file").symlink_to(outside / "secret.txt")
    (root / "to_dir").symlink_to(outside)
    plant(root, {"a": "what stands here\n", ".gitignore": "ignored", "ignored": f"{SECRET}\n"})
    claims = [("./to_file", SECRET), ("./to_dir/secret.txt", SECRET), ("./../outside/secret.txt", SECRET)]
    claims += [
        (str(outside / "secret.txt"), SECRET),
        ("./a", SECRET),
        ("./ignored", SECRET),
        ("./a", "what stands here"),
    ]
    script = "\n".join(reported(path, line) for path, line in claims)
    assert await text(Grep([program(tmp_path, script)]), pattern="x") == "a:1: what stands here"


async def test_a_flood_without_a_line_end_is_bounded(root: Path, tmp_path: Path, text: Text) -> None:
    plant(root, {"a": "needle\n"})
    flood = f"head -c 20000000 /dev/zero | tr '\\0' x\necho\n{reported('./a', 'needle')}"
    assert await text(Grep([program(tmp_path, flood)]), pattern="x") == "a:1: needle\n[1 very long line not shown.]"


@pytest.mark.parametrize("script", ["kill -9 $$", "exit 7", "echo nonsense", "echo '{}'", "echo '\"'"])
async def test_a_search_that_breaks_off_is_an_error_result(script: str, tmp_path: Path, call: Call) -> None:
    with pytest.raises(ToolFailed, match="The search broke off"):
        await call(Grep([program(tmp_path, script)]), pattern="x")


async def test_a_ripgrep_that_is_too_old_or_gone_is_passed_over(root: Path, tmp_path: Path, text: Text) -> None:
    plant(root, {"a": "needle\n"})
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho unrecognized flag >&2\nexit 2\n")
    old.chmod(0o755)
    grep = Grep([tmp_path / "gone", old])
    assert await text(grep, pattern="needle") == "a:1: needle"
    old.unlink()
    assert await text(grep, pattern="needle") == "a:1: needle"


async def test_a_cancelled_search_leaves_no_process(
    root: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ripgrep_module, "_ENDING_S", 60)  # it may be long before it has the turn to end
    started = tmp_path / "started"
    os.mkfifo(started)
    stubborn = program(tmp_path, f"trap '' TERM INT\necho $$ > {started}\nwhile :; do :; done")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Grep([stubborn]).run, GrepInput(pattern="x"), place)
            pid = int(await trio.to_thread.run_sync(started.read_text, limiter=trio.CapacityLimiter(1)))
            os.kill(pid, 0)
            nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


async def test_searches_at_once_do_not_mix(root: Path, grep: Grep, place: Place) -> None:
    plant(root, {f"{number}": f"needle{number} \n" for number in range(20)})
    outcomes: dict[int, ToolOutcome] = {}

    async def find(number: int) -> None:
        outcomes[number] = await grep.run(GrepInput(pattern=f"needle{number} "), place)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(find, number)
    for number, outcome in outcomes.items():
        assert f"'{number}:1: needle{number} '" in str(outcome.content)


def test_titles_and_places_of_searches_are_for_people(root: Path, place: Place) -> None:
    assert Glob().title(GlobInput(pattern="**/*.py")) == "Find **/*.py"
    assert Glob().locations(GlobInput(pattern="*", path="src"), place) == (Location(path=f"{root}/src"),)
    assert Grep([]).title(GrepInput(pattern="a\nb", path="src")) == r"Search for a\nb in src"
    assert Grep([]).locations(GrepInput(pattern="x"), place) == (Location(path=str(root)),)
    assert len(Grep([]).title(GrepInput(pattern="x" * 4_000, path="y" * 4_000))) < 150


NAMES = st.sampled_from(["a", "b", "c.py", "d.log", "é", "x y", ".h"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
RULES = st.lists(st.sampled_from(["a", "b/", "/c.py", "*.log", "!d.log", "**/x y", "a/*", "!a"]), max_size=4).map(
    "\n".join
)
WORDS = st.sampled_from([b"ab", b"B", b" ", b"\n", b"\r\n", b"\0", "é".encode(), b"(1)"])
CONTENTS = st.lists(WORDS, max_size=12).map(b"".join)
PATTERNS = st.sampled_from(["a", "^a", "b$", "a.*b", "(?i)b", "[^a]", "b|1", "a?", "\\(1\\)", "é", "\\bab\\b", "\\s"])


@settings(max_examples=60)
@given(
    tree=st.dictionaries(PATHS, CONTENTS, min_size=1, max_size=8),
    rules=st.dictionaries(st.one_of(st.just("."), PATHS), RULES, max_size=3),
    pattern=PATTERNS,
    path=st.one_of(st.just("."), PATHS),
    include=st.one_of(st.none(), st.sampled_from(["*.py", "a", "a/*", "**/{a,b}"])),
    literal=st.booleans(),
)
def test_ripgrep_and_our_own_scan_find_the_same(
    tree: dict[str, bytes], rules: dict[str, str], pattern: str, path: str, include: str | None, *, literal: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        for name, content in tree.items():
            with suppress(OSError):  # one of its names is taken, by a file or a directory
                plant(root, {name: content})
        plant(root, {f"{name}/.gitignore": text for name, text in rules.items() if (root / name).is_dir()})
        place = Place(root=root, session_id="s", run_id="r", tool_call_id="t")
        given_input = GrepInput(pattern=pattern, path=path, include=include, literal=literal)

        async def find(grep: Grep) -> str:
            with trio.fail_after(30):
                try:
                    return str(await grep.run(given_input, place))
                except ToolFailed as exc:
                    return str(exc)

        assert trio.run(find, Grep()) == trio.run(find, Grep([]))
