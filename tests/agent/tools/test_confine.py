"""No path leads out of the workspace: not by its form, not by links, not by a swap in between.

Each way out is tried on a real disk. A refusal must come at once and must not
have opened what it refuses.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sized
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.tools import confine, replacing
from atrio_agent.tools.base import FileSeen, Place, Tool, ToolFailed
from atrio_agent.tools.change import EditFile, MultiEdit, Write
from atrio_agent.tools.confine import Inside, LinkMet, Outside, classify, open_beneath, open_exactly
from atrio_agent.tools.files import Read, ReadInput
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.replacing import Rewritten, make_change
from atrio_agent.tools.shell import ShellInput, _opener
from atrio_agent.tools.threads import Chance, in_files_thread
from tool_calls import SECRET, Call, Text, place_in

SWAPS = 1_000
MOST_S = 60


def tries(through: Sized) -> Iterator[int]:
    """The numbers of some tries, and of more until one has got ``through``.

    Whoever swaps may stand still, and does so where nothing gets through as often as not.
    """
    ends_at = time.monotonic() + MOST_S
    for number in count():
        if (number >= SWAPS and len(through)) or time.monotonic() >= ends_at:
            return
        yield number


@pytest.fixture
def maze(root: Path, outside: Path) -> Path:
    """A workspace with links of all sorts."""
    (root / "dir").mkdir()
    (root / "a.txt").write_text("inside\n")
    (root / "dir/b.txt").write_text("inside too\n")
    for name, target in {
        "to_file": outside / "secret.txt",
        "to_dir": outside,
        "relative": Path("../outside/secret.txt"),
        "first": Path("second"),
        "second": Path("third"),
        "third": outside / "secret.txt",
        "dir/up": Path("../.."),
        "self": Path("self"),
        "ping": Path("pong"),
        "pong": Path("ping"),
        "dangling": outside / "not-there",
        "null": Path("/dev/null"),
        "process": Path("/proc/self/root"),
        "inner": Path("dir/b.txt"),
        "absolute_inner": root / "a.txt",
        "dir_inner": Path("dir"),
        "round_about": Path("../outside/../work/a.txt"),
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    (root.parent / "work-evil").mkdir()
    (root.parent / "work-evil/secret.txt").write_text(SECRET)
    return root


ESCAPES = {
    "one up": "../outside/secret.txt",
    "up from below": "dir/../../outside/secret.txt",
    "up through what is not there": "nowhere/../../outside/secret.txt",
    "far up": "../" * 100 + "etc/passwd",
    "absolute": "{outside}/secret.txt",
    "absolute, through the workspace": "{root}/../outside/secret.txt",
    "two slashes": "//etc/passwd",
    "slashes and dots": ".//..//.//outside///secret.txt",
    "trailing dot": "../outside/secret.txt/.",
    "trailing slash": "../outside/",
    "neighbour with the same beginning": "{root}-evil/secret.txt",
    "the parent": "..",
    "the parent, with a dot": "./..",
    "the root of all": "/",
    "link to a file": "to_file",
    "link to a directory": "to_dir/secret.txt",
    "relative link": "relative",
    "link to a link to a link": "first",
    "link below that goes up": "dir/up/outside/secret.txt",
    "up behind a link": "to_dir/../outside/secret.txt",
    "link to what is not there": "dangling",
    "link to itself": "self",
    "links in a circle": "ping",
    "link to a device": "null",
    "link into /proc": "process/etc/passwd",
    "/proc": "/proc/self/environ",
    "the root by way of /proc": "/proc/self/root/etc/passwd",
    "the workspace by way of /proc": "/proc/self/root{root}/a.txt",
    "the server's own descriptors": "/dev/fd/0",
    "a device": "/dev/zero",
    "/sys": "/sys/kernel/uevent_seqnum",
    "home": "~/.ssh/id_rsa",
    "somebody's home": "~root/.bashrc",
    "a variable": "$HOME/.profile",
    "a variable in braces": "${{HOME}}/.profile",
    "a URL": "file:///etc/passwd",
    "percent signs": "%2e%2e/outside/secret.txt",
    "backslashes": "..\\outside\\secret.txt",
    "wide dots": "\uff0e\uff0e/outside/secret.txt",
    "a NUL": "a.txt\0../../outside/secret.txt",
    "only a NUL": "\0",
    "half a character": "a\ud800.txt",
    "a byte that is no UTF-8": "a\udcff.txt",
    "a long name": "x" * 300,
    "a long path": "d/" * 3_000 + "x",
    "a pipe": "pipe",
    "upper case": "A.TXT",
    "trailing space": "a.txt ",
    "a file as a directory": "a.txt/b",
}


@pytest.mark.parametrize("path", ESCAPES.values(), ids=ESCAPES.keys())
async def test_a_path_that_leads_out_is_refused(path: str, maze: Path, outside: Path, place: Place) -> None:
    given = ReadInput(path=path.format(root=maze, outside=outside))
    with trio.fail_after(30), pytest.raises(ToolFailed) as refusal:
        await Read().run(given, place)
    assert SECRET not in str(refusal.value)
    str(refusal.value).encode()


def everything_beside(root: Path) -> dict[str, str]:
    """What lies beside the workspace, by path, with its content."""
    return {
        str(path): path.read_text() if path.is_file() else ""
        for path in root.parent.rglob("*")
        if not path.is_relative_to(root)
    }


@pytest.mark.parametrize("tool", [Write(), EditFile(), MultiEdit()], ids=["write", "edit", "multi_edit"])
@pytest.mark.parametrize("path", ESCAPES.values(), ids=ESCAPES.keys())
async def test_a_path_that_leads_out_is_not_written_to(
    tool: Tool, path: str, maze: Path, outside: Path, place: Place
) -> None:
    pair = {"old": "", "new": "x\n"}
    raw = {"write": {"content": "x\n"}, "edit": pair, "multi_edit": {"edits": [pair]}}[tool.name]
    before = everything_beside(maze)
    tools = Tools([tool])
    said = ""
    try:
        given = tools.validate(tool.name, {"path": path.format(root=maze, outside=outside), **raw})
        with trio.fail_after(30):
            asked = await tool.ask(given, place)
            assert asked is not None
            await tool.run(given, place)
    except ToolFailed as refusal:
        said = str(refusal)
    else:  # a new name in the workspace that only looks like a way out
        assert Path(asked.where).is_relative_to(maze)
    assert SECRET not in said
    said.encode()
    assert everything_beside(maze) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a.txt", "inside"),
        ("./dir/../a.txt", "inside"),
        ("{root}/a.txt", "inside"),
        ("/{root}/a.txt", "inside"),
        ("../work/a.txt", "inside"),
        ("inner", "inside too"),
        ("absolute_inner", "inside"),
        ("dir_inner/b.txt", "inside too"),
        ("round_about", "inside"),
    ],
)
async def test_a_path_that_stays_inside_is_read_however_it_is_spelled(
    path: str, said: str, maze: Path, text: Text
) -> None:
    assert await text("read", path=path.format(root=maze)) == f"     1\t{said}"


async def test_a_name_that_only_looks_special_is_a_name(root: Path, text: Text) -> None:
    for name in ("~", "$HOME", "...", "-rf", "c:\\x", "\u202ex", "na\nme"):
        (root / name).write_text("as it is")
        assert await text("read", path=name) == "     1\tas it is"


async def test_a_refusal_says_what_can_be_done_instead(maze: Path, call: Call) -> None:
    with pytest.raises(ToolFailed, match=r"outside the workspace .* ask the user to copy the file"):
        await call("read", path="/etc/passwd")
    with pytest.raises(ToolFailed, match="variables are not expanded"):
        await call("read", path="~/notes")
    with pytest.raises(ToolFailed, match="is a pipe, not a file"):
        await call("read", path="pipe")


async def test_a_hard_link_is_a_file_of_the_workspace(maze: Path, outside: Path, text: Text) -> None:
    """It cannot be told from one: the limit of what paths can do, written down."""
    (maze / "hard").hardlink_to(outside / "secret.txt")
    assert SECRET in await text("read", path="hard")


async def test_a_socket_is_refused_without_being_opened(
    maze: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(maze)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(ToolFailed, match="is a socket"):
            await call("read", path="socket")


@pytest.mark.parametrize("tool", ["ls", "glob", "grep"])
@pytest.mark.parametrize("path", ["..", "to_dir", "/etc", "dir/up", "/proc/self", "self"])
async def test_no_tool_looks_beneath_a_directory_outside(tool: str, path: str, maze: Path, call: Call) -> None:
    raw = {"glob": {"pattern": "**"}, "grep": {"pattern": "secret"}}.get(tool, {})
    with pytest.raises(ToolFailed):
        await call(tool, path=path, **raw)


async def test_an_allowed_directory_is_open_and_what_lies_beside_it_is_not(maze: Path, outside: Path) -> None:
    place = place_in(maze, allowed=(outside,))
    with trio.fail_after(30):
        outcome = await Read().run(ReadInput(path="to_file"), place)
        assert SECRET in str(outcome.content)
        with pytest.raises(ToolFailed):
            await Read().run(ReadInput(path="../work-evil/secret.txt"), place)


def test_classify_tells_a_permission_where_a_path_really_leads(maze: Path, outside: Path) -> None:
    assert classify("to_dir/new.txt", maze) == Outside(outside / "new.txt")
    assert classify("to_dir/new.txt", maze, (outside,)) == Inside(outside / "new.txt", outside)
    assert classify("dir_inner/new/file", maze) == Inside(maze / "dir/new/file", maze)
    assert classify("", maze) == Inside(maze, maze)
    with pytest.raises(ToolFailed):
        classify("/proc/1/environ", maze, (Path("/"),))


def test_a_workspace_beneath_a_closed_tree_is_still_a_workspace() -> None:
    assert classify("a.txt", Path("/dev/shm/work")) == Inside(Path("/dev/shm/work/a.txt"), Path("/dev/shm/work"))
    with pytest.raises(ToolFailed):
        classify("/proc/version", Path("/dev/shm/work"))


def test_opening_exactly_meets_every_link_on_the_way(maze: Path) -> None:
    for parts in (("inner",), ("dir_inner", "b.txt"), ("self",), ("dangling",)):
        with pytest.raises(LinkMet):
            open_exactly(maze, parts)
    for parts in (("..",), ("dir", "..", "a.txt"), (".",), ("",), ("dir/../..",), ("", "etc", "passwd"), ("/etc",)):
        with pytest.raises(LinkMet):
            open_exactly(maze, parts)
    os.close(open_exactly(maze, ("dir", "b.txt")))


def open_beneath_of(directory: Path) -> list[str]:
    """What is open there. Elsewhere others may open and close what they like: threads, the garbage collector."""
    found: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of this very look
            found.append(str(descriptor.readlink()))
    return [path for path in found if Path(path).is_relative_to(directory)]


def test_nothing_stays_open_after_a_refusal_or_an_error(maze: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no way to count descriptors here")
    with (maze / "a.txt").open():
        assert open_beneath_of(maze.parent) == [str(maze / "a.txt")]
    for path in ("a.txt", "dir", "pipe", "self", "to_file", "nowhere/x", "a.txt/b", "dir/b.txt"):
        with pytest.raises((ToolFailed, ZeroDivisionError)), open_beneath(path, place_in(maze)):
            raise ZeroDivisionError
    assert open_beneath_of(maze.parent) == []


@pytest.mark.parametrize("swapped", ["a.txt", "dir/b.txt"])
def test_a_link_that_is_put_there_after_the_check_is_not_followed(
    swapped: str, maze: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []

    def classify_then_swap(path: str, root: Path, *further: tuple[Path, ...]) -> Inside | Outside:
        found = classify(path, root, *further)
        checks.append(path)
        if len(checks) == 1:
            first = root / Path(swapped).parts[0]
            first.rename(root.parent / "moved")
            first.symlink_to(outside / "secret.txt" if swapped == "a.txt" else outside)
        return found

    (outside / "b.txt").write_text(SECRET)
    monkeypatch.setattr(confine, "classify", classify_then_swap)
    with pytest.raises(ToolFailed, match="is outside the workspace"), open_beneath(swapped, place_in(maze)):
        pass
    assert len(checks) == 2


def test_a_link_that_is_put_there_just_before_the_opening_is_not_followed(
    maze: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_then_swap(status: os.stat_result, name: str) -> None:
        monkeypatch.undo()
        confine.refuse_special(status, name)
        (maze / name).unlink()
        (maze / name).symlink_to(outside / "secret.txt")

    monkeypatch.setattr(confine, "refuse_special", look_then_swap)
    with pytest.raises(LinkMet):
        open_exactly(maze, ("a.txt",))


SWAPPER = """
import os, sys
work, outside = sys.argv[1:]
os.chdir(work)
print("ready", flush=True)
while True:
    # A file that is a link in every other instant.
    os.symlink(outside + "/secret.txt", "new"); os.replace("new", "door.txt")
    os.link("a.txt", "new"); os.replace("new", "door.txt")
    # A link to a directory, now inside, now outside.
    os.symlink(outside, "new"); os.replace("new", "gate")
    os.symlink("dir", "new"); os.replace("new", "gate")
    # A directory that gives way to a link.
    os.rename("real", "moved"); os.symlink(outside, "real")
    os.unlink("real"); os.rename("moved", "real")
"""


@pytest.fixture(params=[SWAPPER], ids=["swaps"])
def swapping(request: pytest.FixtureRequest, maze: Path, outside: Path) -> Generator[None]:
    """Another process swaps links for files and directories as fast as it can."""
    (maze / "real").mkdir()
    (outside / "outside.txt").write_text(SECRET)
    for directory in (maze / "real", maze / "dir"):
        (directory / "secret.txt").write_text("harmless\n")
    swapper = subprocess.Popen([sys.executable, "-c", request.param, maze, outside], stdout=subprocess.PIPE)
    assert swapper.stdout is not None
    with swapper.stdout:
        assert swapper.stdout.readline() == b"ready\n"
        yield
        still_swapping = swapper.poll() is None
        swapper.kill()
        swapper.wait()
    assert still_swapping


@pytest.mark.parametrize("path", ["door.txt", "gate/secret.txt", "real/secret.txt"])
@pytest.mark.usefixtures("swapping")
def test_a_link_swapped_all_the_time_never_leads_a_read_out(path: str, maze: Path) -> None:
    seen: set[bytes] = set()
    for _ in tries(seen):
        try:
            with open_beneath(path, place_in(maze)) as opened:
                seen.add(os.read(opened.fd, 100))
        except ToolFailed:
            continue
    assert seen <= {b"inside\n", b"harmless\n"}
    assert seen, "not one of the reads got through: the test shows nothing"


@pytest.mark.usefixtures("swapping")
async def test_a_link_swapped_all_the_time_never_leads_a_search_out(text: Text) -> None:
    for look in range(20):
        said = await text("grep", pattern="secret that|harmless", path="." if look % 2 else "dir")
        said += await text("ls", depth=4)
        assert SECRET not in said


@pytest.mark.parametrize("path", ["gate", "real"])
@pytest.mark.usefixtures("swapping")
def test_a_link_swapped_all_the_time_never_leads_a_listing_or_a_command_out(path: str, maze: Path) -> None:
    command = ShellInput(command="ls", cwd=path)
    seen: set[str] = set()
    for number in tries(seen):
        try:
            if number % 2:
                directory = _opener(command, place_in(maze))().fd
                seen.update(os.listdir(directory))  # noqa: PTH208  a descriptor
                os.close(directory)
            else:
                with open_beneath(path, place_in(maze)) as opened:
                    seen.update(os.listdir(opened.fd))  # noqa: PTH208  a descriptor
        except ToolFailed:
            continue
    assert seen, "not one of the looks got through: the test shows nothing"
    assert "outside.txt" not in seen


WRITE_SWAPPER = """
import os, shutil, sys
work, outside = sys.argv[1:]
os.chdir(work)
print("ready", flush=True)
def attempt(do, *paths):
    # A write may have made something in between.
    try:
        do(*paths)
    except OSError:
        pass
while True:
    attempt(os.symlink, outside + "/secret.txt", "new"); attempt(os.replace, "new", "door.txt")
    attempt(os.link, "a.txt", "new"); attempt(os.replace, "new", "door.txt")
    attempt(os.symlink, outside, "new"); attempt(os.replace, "new", "gate")
    attempt(os.symlink, "dir", "new"); attempt(os.replace, "new", "gate")
    attempt(os.rename, "real", "moved"); attempt(os.symlink, outside, "real")
    sum(range(2000))  # about as long a link as not
    attempt(os.unlink, "real"); attempt(os.rename, "moved", "real")
    shutil.rmtree("moved", True)
"""

SEEN = FileSeen(mtime_ns=0, size=0, digest="")


class _AllSeen(dict[str, FileSeen]):
    """Whatever is there was seen, just as it is."""

    def __contains__(self, path: object) -> bool:
        return True

    def __missing__(self, path: str) -> FileSeen:
        return SEEN


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("path", ["a.txt", "dir/b.txt", "dir/new.txt", "dir/new/file.txt"])
@pytest.mark.parametrize("swapped_at", [1, 2, 3])
async def test_a_link_that_is_put_there_in_the_course_of_a_write_is_not_followed(
    path: str, swapped_at: int, maze: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outside / "b.txt").write_text(SECRET)
    monkeypatch.setattr(replacing, "seen_as", lambda *_: SEEN)
    place = place_in(maze, seen=_AllSeen())
    steps: list[str] = []

    def swap_before(step: Callable[..., Any]) -> Callable[..., Any]:
        def swap_then_do(*given: Any, **named: Any) -> Any:
            steps.append(step.__name__)
            if len(steps) == swapped_at:
                first = maze / Path(path).parts[0]
                first.rename(maze.parent / "moved")
                first.symlink_to(outside / "secret.txt" if path == "a.txt" else outside)
            return step(*given, **named)

        return swap_then_do

    # Where a path leads was found out before each of these.
    monkeypatch.setattr(replacing, "open_parent", swap_before(replacing.open_parent))
    monkeypatch.setattr(replacing, "_replaced", swap_before(replacing._replaced))

    def write() -> None:
        with suppress(ToolFailed):
            make_change(path, place, lambda _old: Rewritten("written\n"), Chance())

    with trio.fail_after(30):
        await in_files_thread(write)
    assert len(steps) >= min(swapped_at, 2)
    assert names_in(outside) == ["b.txt", "secret.txt"]
    assert (outside / "secret.txt").read_text() == f"{SECRET}\n"
    assert (outside / "b.txt").read_text() == SECRET


WRITES = ["door.txt", "gate/secret.txt", "gate/new/file.txt", "real/secret.txt", "real/new/file.txt"]


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("swapping", [WRITE_SWAPPER], indirect=True, ids=["swaps"])
@pytest.mark.usefixtures("swapping")
async def test_a_link_swapped_all_the_time_never_leads_a_write_out(
    path: str, maze: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "seen_as", lambda *_: SEEN)  # what is to be shown is where a write goes
    place = place_in(maze, seen=_AllSeen())
    written: list[int] = []

    def write_all_the_time() -> None:
        for number in tries(written):
            try:
                make_change(path, place, lambda _old, number=number: Rewritten(f"written {number}\n"), Chance())
            except ToolFailed:
                continue
            written.append(number)

    with trio.fail_after(MOST_S + 30):
        await in_files_thread(write_all_the_time)
    assert written, "not one of the writes got through: the test shows nothing"
    assert names_in(outside) == ["outside.txt", "secret.txt"]
    assert (outside / "secret.txt").read_text() == f"{SECRET}\n"
