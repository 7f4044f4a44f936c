"""`write`, `edit` and `multi_edit`: what is changed, what is kept, and what is refused."""

import os
import socket
import stat
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.ask import Ask
from atrio_agent.tools import replacing
from atrio_agent.tools.base import FileVersion, Place, Tool, ToolFailed
from atrio_agent.tools.change import EditFile, MultiEdit, Write
from atrio_agent.tools.files import Read
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.threads import Chance
from atrio_protocol.parts import Diff, Location
from atrio_protocol.struct import UNSET
from tool_calls import SECRET, Call, Text

EDIT = {"old": "two", "new": "2"}


@pytest.fixture
def versions() -> list[FileVersion]:
    """The versions that were kept, in order."""
    return []


@pytest.fixture
def place(root: Path, versions: list[FileVersion]) -> Place:
    return Place(root=root, session_id="s", run_id="r", tool_call_id="t", keep_version=versions.append)


async def ask(tool: Tool, place: Place, **raw: Any) -> Ask:
    with trio.fail_after(30):
        asked = await tool.ask(Tools([tool]).validate(tool.name, raw), place)
    assert asked is not None
    return asked


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


async def test_an_edit_says_what_it_changed_shows_the_diff_and_keeps_the_version(
    root: Path, call: Call, text: Text, versions: list[FileVersion]
) -> None:
    (root / "a.txt").write_text("one\ntwo\nthree\n")
    await text("read", path="a.txt")
    outcome = await call("edit", path="a.txt", old="two\n", new="2\n2.5\n")
    (said,) = outcome.content
    assert getattr(said, "text", "") == "Changed a.txt: 2 lines added, 1 removed."
    assert outcome.diffs == (
        Diff(
            path=str(root / "a.txt"),
            old_text="one\ntwo\nthree\n",
            new_text="one\n2\n2.5\nthree\n",
            unified="--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2.5\n three\n",
        ),
    )
    assert versions == [
        FileVersion(path=str(root / "a.txt"), before=b"one\ntwo\nthree\n", after=b"one\n2\n2.5\nthree\n")
    ]
    assert (root / "a.txt").read_text() == "one\n2\n2.5\nthree\n"
    assert names(root) == ["a.txt"]


async def test_what_is_asked_is_what_would_be_done_and_does_nothing(
    root: Path, call: Call, text: Text, place: Place, versions: list[FileVersion]
) -> None:
    (root / "dir").mkdir()
    (root / "dir/a").write_text("one\ntwo\n")
    (root / "link").symlink_to("dir/a")
    await text("read", path="link")
    asked = await ask(EditFile(), place, path="link", **EDIT)
    assert (asked.action, asked.title, asked.where) == ("write", "Edit link", str(root / "dir"))
    assert asked.detail == "Changes dir/a: 1 line added, 1 removed."
    assert asked.path == str(root / "dir/a")
    assert (root / "dir/a").read_text() == "one\ntwo\n"
    assert not versions
    assert (await call("edit", path="link", **EDIT)).diffs == asked.diffs
    assert (root / "link").is_symlink()
    made = await ask(Write(), place, path="new/deep/b", content="x\n")
    assert (made.where, made.detail) == (str(root / "new/deep"), "Makes new/deep/b: 1 line added.")
    assert made.diffs[0].old_text is None
    assert not (root / "new").exists()


async def test_a_file_that_was_not_read_is_not_changed(root: Path, call: Call, text: Text, place: Place) -> None:
    (root / "a").write_text("two\n")
    for tool, raw in (
        ("write", {"content": "x"}),
        ("edit", EDIT),
        ("multi_edit", {"edits": [EDIT]}),
    ):
        with pytest.raises(ToolFailed, match="has not been read in this session"):
            await call(tool, path="a", **raw)
    with pytest.raises(ToolFailed, match="has not been read in this session"):
        await ask(Write(), place, path="a", content="x")
    assert (root / "a").read_text() == "two\n"


@pytest.mark.parametrize("how", ["content", "same size and time", "time", "replaced"])
async def test_a_file_that_changed_since_it_was_read_is_not_changed(
    how: str, root: Path, call: Call, text: Text, versions: list[FileVersion]
) -> None:
    file = root / "a"
    file.write_text("two\n")
    await text("read", path="a")
    status = file.stat()
    match how:
        case "content":
            file.write_text("two\nmore\n")
        case "same size and time":
            file.write_text("owt\n")
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "time":
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case _:
            (root / "b").write_text("other\n")
            (root / "b").rename(file)
    now = file.read_text()
    with pytest.raises(ToolFailed, match="has changed since it was read"):
        await call("edit", path="a", **EDIT)
    assert file.read_text() == now
    assert not versions


async def test_a_change_counts_as_seen_so_that_the_next_one_can_follow(root: Path, call: Call) -> None:
    await call("write", path="a", content="one\ntwo\n")
    await call("edit", path="a", **EDIT)
    await call("multi_edit", path="a", edits=[{"old": "one", "new": "1"}, {"old": "2", "new": "3"}])
    assert (root / "a").read_text() == "1\n3\n"


async def test_several_edits_are_made_together_or_not_at_all(
    root: Path, call: Call, versions: list[FileVersion]
) -> None:
    await call("write", path="a", content="one\ntwo\n")
    with pytest.raises(ToolFailed, match=r"Edit 2 of 2: 'old' is not in the file.*None of the edits was made"):
        await call("multi_edit", path="a", edits=[{"old": "one", "new": "1"}, {"old": "three", "new": "3"}])
    assert (root / "a").read_text() == "one\ntwo\n"
    assert len(versions) == 1


async def test_an_empty_old_makes_a_file_and_nothing_else(root: Path, call: Call, text: Text) -> None:
    said = await text("edit", path="sub/dir/a", old="", new="one\n")
    assert said == "Made sub/dir/a: 1 line added."
    with pytest.raises(ToolFailed, match="'old' is empty"):
        await call("edit", path="sub/dir/a", old="", new="two\n")
    with pytest.raises(ToolFailed, match=r"does not exist\. To make it"):
        await call("edit", path="b", old="x", new="y")
    await call("multi_edit", path="c", edits=[{"old": "", "new": "x\n"}, {"old": "x", "new": "y"}])
    assert (root / "c").read_text() == "y\n"
    (root / "empty").touch()
    await text("read", path="empty")
    await call("edit", path="empty", old="", new="filled\n")
    assert (root / "empty").read_text() == "filled\n"
    assert not (root / "b").exists()


async def test_an_empty_new_deletes_text_and_never_the_file(root: Path, call: Call) -> None:
    await call("write", path="a", content="one\n")
    await call("edit", path="a", old="one\n", new="")
    assert (root / "a").read_bytes() == b""


async def test_a_place_that_was_found_loosely_is_said_to_be(root: Path, call: Call, text: Text) -> None:
    await call("write", path="a", content="\tif  x:\n\t\tpass\n")
    said = await text("edit", path="a", old="if x:\n", new="if y:\n")
    assert "when spaces were ignored" in said
    assert (root / "a").read_text() == "\tif y:\n\t\tpass\n"


async def test_replacing_all_says_how_many(call: Call, text: Text) -> None:
    await call("write", path="a", content="x x\nx\n")
    assert "3 places replaced." in await text("edit", path="a", old="x", new="y", replaceAll=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"one\r\ntwo\r\nthree\r\n", b"one\r\n2\r\nthree\r\n"),
        (b"one\r\ntwo\nthree\r\n", b"one\r\n2\nthree\r\n"),
        (b"\xef\xbb\xbfone\ntwo\n", b"\xef\xbb\xbfone\n2\n"),
        (b"one\ntwo", b"one\n2"),
        ("naïve\ntwo 数\n".encode(), "naïve\n2 数\n".encode()),
    ],
)
async def test_line_ends_encoding_and_the_last_line_s_end_are_kept(
    before: bytes, after: bytes, root: Path, call: Call, text: Text
) -> None:
    (root / "a").write_bytes(before)
    (root / "b").write_bytes(before)
    await text("read", path="a")
    await text("read", path="b")
    await call("edit", path="a", **EDIT)
    assert (root / "a").read_bytes() == after
    content = after.decode("utf-8-sig").replace("\r\n", "\n")
    await call("write", path="b", content=content)
    assert (root / "b").read_bytes() == after


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("one two".encode("utf-16"), "UTF-16 or UTF-32"),
        (b"caf\xe9 two\n", r"not UTF-8 text \(byte 3\)"),
        (b"two\0", "binary file"),
        (b"\x89PNG\r\n\x1a\n\0two", "binary file"),
    ],
)
async def test_what_is_not_utf8_is_refused(
    content: bytes, reason: str, root: Path, call: Call, versions: list[FileVersion]
) -> None:
    (root / "a").write_bytes(content)
    await call("read", path="a")
    for tool, raw in (("edit", EDIT), ("write", {"content": "x"})):
        with pytest.raises(ToolFailed, match=reason):
            await call(tool, path="a", **raw)
    assert (root / "a").read_bytes() == content
    assert not versions


async def test_the_mode_is_kept(root: Path, call: Call, text: Text) -> None:
    for mode in (0o755, 0o600, 0o644, 0o4755):
        file = root / f"{mode:o}"
        file.write_text("two\n")
        file.chmod(mode)
        await text("read", path=file.name)
        await call("edit", path=file.name, **EDIT)
        assert stat.S_IMODE(file.stat().st_mode) == mode & 0o777


async def test_a_read_only_file_is_not_replaced(root: Path, call: Call, text: Text) -> None:
    (root / "a").write_text("two\n")
    (root / "a").chmod(0o444)
    await text("read", path="a")
    with pytest.raises(ToolFailed, match="is read-only"):
        await call("edit", path="a", **EDIT)


async def test_another_hard_link_keeps_the_old_content_and_that_is_said(
    root: Path, outside: Path, call: Call, text: Text
) -> None:
    (root / "a").hardlink_to(outside / "secret.txt")
    await text("read", path="a")
    assert "other hard links" in await text("write", path="a", content="mine\n")
    assert (root / "a").read_text() == "mine\n"
    assert (outside / "secret.txt").read_text() == f"{SECRET}\n"


async def test_what_is_no_file_is_refused(root: Path, call: Call) -> None:
    os.mkfifo(root / "pipe")
    (root / "dir").mkdir()
    (root / "null").symlink_to("/dev/null")
    (root / "file").write_text("x\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "sock"))
        for path, reason in {
            "pipe": "is a pipe",
            "sock": "is a socket",
            "dir": "is a directory",
            ".": "is a directory",
            "null": "closed to tools",
            "/dev/shm/x": "closed to tools",
            "/proc/self/comm": "closed to tools",
            "file/x": "a part of it is a file",
            "x" * 300: "name in it is too long",
        }.items():
            with pytest.raises(ToolFailed, match=reason):
                await call("write", path=path, content="x")
    assert names(root) == ["dir", "file", "null", "pipe", "sock"]


async def test_a_huge_file_and_a_huge_content_are_refused(root: Path, call: Call) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    with pytest.raises(ToolFailed, match="the limit for a change is 10,485,760"):
        await call("write", path="huge", content="x")
    with pytest.raises(ToolFailed, match="would have 10,485,761 bytes"):
        await call("write", path="new", content="x" * (10 * 1024 * 1024 + 1))


async def test_large_texts_are_left_out_of_a_diff(root: Path, call: Call) -> None:
    (diff,) = (await call("write", path="a", content="x" * (256 * 1024))).diffs
    assert isinstance(diff.new_text, str)
    (diff,) = (await call("write", path="b", content="x\n" * (128 * 1024) + "x")).diffs
    assert (diff.old_text, diff.new_text) == (UNSET, UNSET)
    assert len(diff.unified) < 101_000


async def test_nothing_outside_is_written_without_a_permission_for_that_place(
    root: Path, outside: Path, call: Call, place: Place
) -> None:
    (root / "out").symlink_to(outside)
    tools = Tools([Write(), Read()])

    async def write(path: str, **changes: Any) -> None:
        with trio.fail_after(30):
            await tools.run("write", {"path": path, "content": "x\n"}, replace(place, **changes))

    for path in ("../outside/new", str(outside / "new"), "out/new"):
        assert (await ask(Write(), place, path=path, content="x\n")).where == str(outside)
        with pytest.raises(ToolFailed, match="nobody has permitted"):
            await write(path)
        with pytest.raises(ToolFailed, match="another place now"):
            await write(path, permitted=True, permitted_where=str(root))
    assert names(outside) == ["secret.txt"]
    await write("out/new", permitted=True, permitted_where=str(outside))
    assert (outside / "new").read_text() == "x\n"
    with pytest.raises(ToolFailed, match="does not exist"):
        await write("../outside/sub/new", permitted=True)
    with pytest.raises(ToolFailed, match="has not been read"):
        await write("../outside/secret.txt", permitted=True)
    for closed in (outside, root / "dir"):
        for path in ("out/other", "dir/other"):
            if (closed == outside) == path.startswith("out"):
                with pytest.raises(ToolFailed, match="closed to tools"):
                    await write(path, permitted=True, closed=(closed,))
    assert names(outside) == ["new", "secret.txt"]


async def test_a_permission_for_one_directory_of_the_workspace_is_none_for_another(root: Path, place: Place) -> None:
    for name in ("one", "two"):
        (root / name).mkdir()
    (root / "link").symlink_to("one")
    asked = await ask(Write(), place, path="link/a", content="x\n")
    (root / "link").unlink()
    (root / "link").symlink_to("two")
    with pytest.raises(ToolFailed, match="another place now"):
        await Tools([Write()]).run(
            "write", {"path": "link/a", "content": "x\n"}, replace(place, permitted=True, permitted_where=asked.where)
        )
    assert not names(root / "two")


async def test_a_file_that_is_changed_at_the_last_moment_is_left_alone(
    root: Path, call: Call, text: Text, place: Place
) -> None:
    (root / "a").write_text("two\n")
    await text("read", path="a")

    def change_first(_version: FileVersion) -> None:
        (root / "a").write_text("somebody else's\n")

    with pytest.raises(ToolFailed, match="just been changed by somebody else"):
        await Tools([EditFile()]).run("edit", {"path": "a", **EDIT}, replace(place, keep_version=change_first))
    assert (root / "a").read_text() == "somebody else's\n"

    def make_first(_version: FileVersion) -> None:
        (root / "b").write_text("somebody else's\n")

    with pytest.raises(ToolFailed, match="just been changed by somebody else"):
        await Tools([Write()]).run("write", {"path": "b", "content": "x"}, replace(place, keep_version=make_first))
    assert (root / "b").read_text() == "somebody else's\n"
    assert names(root) == ["a", "b"]


async def test_a_file_is_made_where_there_are_no_hard_links(
    root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    await call("write", path="a", content="x\n")
    assert (root / "a").read_text() == "x\n"
    assert names(root) == ["a"]


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
async def test_a_disk_that_fails_leaves_the_file_as_it_was(
    failing: str, root: Path, call: Call, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_text("two\n")
    await text("read", path="a")

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(replacing.os, failing, fail)
        with pytest.raises(ToolFailed, match=r"cannot be written: No space left on device\. Nothing was changed"):
            await call("edit", path="a", **EDIT)
    assert (root / "a").read_text() == "two\n"
    assert names(root) == ["a"]
    await call("edit", path="a", **EDIT)


async def test_a_cancel_does_not_cut_a_change_in_two(root: Path, call: Call, text: Text, place: Place) -> None:
    (root / "a").write_text("two\n")
    await text("read", path="a")
    with trio.fail_after(30), trio.CancelScope() as scope:
        await Tools([EditFile()]).run(
            "edit", {"path": "a", **EDIT}, replace(place, keep_version=lambda _version: scope.cancel())
        )
    assert (root / "a").read_text() == "2\n"
    assert names(root) == ["a"]
    await call("edit", path="a", old="2", new="3")  # it is remembered as seen, too


async def test_a_change_that_was_cancelled_before_it_began_is_not_made(root: Path, call: Call) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await call("write", path="a", content="x")
    assert not names(root)


async def test_a_change_that_was_given_up_is_not_made_later(
    root: Path, call: Call, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_text("two\n")
    await text("read", path="a")
    monkeypatch.setattr("atrio_agent.tools.threads.CHANGE_S", 0.2)
    hung, ended = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    fsync, replaced = os.fsync, replacing._replaced

    def hang(fd: int) -> None:
        trio.from_thread.run(hung.wait, trio_token=token)
        fsync(fd)

    def watched(*args: Any) -> Any:
        try:
            return replaced(*args)
        finally:
            trio.from_thread.run_sync(ended.set, trio_token=token)

    monkeypatch.setattr(replacing.os, "fsync", hang)
    monkeypatch.setattr(replacing, "_replaced", watched)
    with pytest.raises(ToolFailed, match=r"did not answer .* Nothing was changed"):
        await call("edit", path="a", **EDIT)
    hung.set()
    with trio.fail_after(30):
        await ended.wait()
    assert (root / "a").read_text() == "two\n"
    assert names(root) == ["a"]


async def test_changes_of_one_file_at_once_are_all_made_or_refused(
    root: Path, call: Call, versions: list[FileVersion]
) -> None:
    await call("write", path="a", content="".join(f"<{n}>\n" for n in range(20)))
    refused: list[int] = []

    async def edit(number: int) -> None:
        try:
            await call("edit", path="a", old=f"<{number}>", new=f"[{number}]")
        except ToolFailed:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(edit, number)
    lines = (root / "a").read_text().split()
    assert lines == [f"<{n}>" if n in refused else f"[{n}]" for n in range(20)]
    for one, next_one in pairwise(versions):
        assert one.after == next_one.before


def test_a_chance_is_taken_once() -> None:
    chance = Chance()
    assert [chance.take(), chance.take()] == [True, False]


def test_titles_and_places_are_for_people(root: Path, place: Place) -> None:
    given: Any = Tools([MultiEdit()]).validate("multi_edit", {"path": "b/../a", "edits": [EDIT, EDIT]})
    assert MultiEdit().title(given) == "Edit b/../a in 2 places"
    assert MultiEdit().locations(given, place) == (Location(path=f"{root}/a"),)
    with pytest.raises(ToolFailed, match="edits"):
        Tools([MultiEdit()]).validate("multi_edit", {"path": "a", "edits": []})
