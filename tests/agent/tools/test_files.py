"""`read` and `ls`: what is shown, what is left out, and how that is said."""

import os
from pathlib import Path

import pytest
import trio

from atrio_agent.tools import files
from atrio_agent.tools.base import Place, ToolFailed
from atrio_agent.tools.files import Ls, LsInput, Read, ReadInput
from atrio_protocol.parts import Location
from tool_calls import Call, Text


async def test_lines_are_numbered_from_one(root: Path, text: Text) -> None:
    (root / "a").write_text("one\n\n  three\n")
    assert await text("read", path="a") == "     1\tone\n     2\t\n     3\t  three"


async def test_a_last_line_without_an_end_is_a_line(root: Path, text: Text) -> None:
    (root / "a").write_text("one\ntwo")
    assert await text("read", path="a") == "     1\tone\n     2\ttwo"


async def test_a_piece_says_how_to_read_on(root: Path, call: Call, text: Text) -> None:
    (root / "a").write_text("".join(f"line {number}\n" for number in range(1, 11)))
    assert await text("read", path="a", offset=3, limit=2) == (
        "     3\tline 3\n     4\tline 4\n\n[Lines 3 to 4 of 10 shown. Read on with offset=5.]"
    )
    assert (await text("read", path="a", offset=9)).endswith("\n\n[Lines 9 to 10 shown, to the end of the file.]")
    assert (await call("read", path="a", limit=9)).truncated
    assert not (await call("read", path="a", limit=10)).truncated


async def test_reading_on_gives_every_line_once(root: Path, text: Text) -> None:
    (root / "a").write_text("".join(f"{number} {'x' * (number % 300)}\n" for number in range(1, 5_001)))
    numbers: list[int] = []
    offset = 1
    while True:
        said = await text("read", path="a", offset=offset)
        rows = [row.split("\t") for row in said.split("\n") if "\t" in row]
        assert all(row[1].startswith(f"{int(row[0])} ") for row in rows)
        numbers += [int(row[0]) for row in rows]
        if "Read on" not in said:
            break
        offset = int(said.rpartition("offset=")[2].rstrip(".]"))
    assert numbers == list(range(1, 5_001))


async def test_a_file_shows_two_thousand_lines_at_first(root: Path, text: Text) -> None:
    (root / "a").write_text("x\n" * 2_001)
    said = await text("read", path="a")
    assert said.endswith("  2000\tx\n\n[Lines 1 to 2,000 of 2,001 shown. Read on with offset=2001.]")
    (root / "a").write_text("x\n" * 2_000)
    assert (await text("read", path="a")).endswith("  2000\tx")


async def test_a_line_past_the_end_is_refused_with_the_number_of_lines(root: Path, call: Call) -> None:
    (root / "a").write_text("1\n2\n3")
    with pytest.raises(ToolFailed, match="has 3 lines; there is no line 4"):
        await call("read", path="a", offset=4)
    (root / "a").write_text("1\n")
    with pytest.raises(ToolFailed, match="has 1 line; there is no line 3,000,000"):
        await call("read", path="a", offset=3_000_000)


async def test_an_empty_file_is_said_to_be_empty(root: Path, call: Call, text: Text) -> None:
    (root / "a").touch()
    assert await text("read", path="a") == "'a' is empty."
    with pytest.raises(ToolFailed, match="is empty"):
        await call("read", path="a", offset=2)


async def test_a_binary_file_is_named_with_its_size(root: Path, text: Text) -> None:
    (root / "logo.bin").write_bytes(b"\x89PMG\r\n\x1a\n\0\0" + bytes(12_335))
    assert await text("read", path="logo.bin") == "'logo.bin' is a binary file of 12,345 bytes; not shown."


async def test_text_that_is_not_quite_utf8_is_read_all_the_same(root: Path, text: Text) -> None:
    (root / "a").write_bytes(b"\xef\xbb\xbfcaf\xe9\r\n" + b"x" * 9_000 + b"\0\n\xef\xbb\xbfmark\n")
    first, second, third = (await text("read", path="a")).split("\n")
    assert first == "     1\tcaf\N{REPLACEMENT CHARACTER}"
    assert second.endswith("[… cut: the line has 9,002 bytes]")
    assert third == "     3\t\ufeffmark"


async def test_a_line_end_alone_counts_as_one_and_other_breaks_do_not(root: Path, text: Text) -> None:
    (root / "a").write_bytes("a\rb\x0cc\u2028d\r\ne".encode())
    assert (await text("read", path="a")).split("\n") == ["     1\ta\rb\x0cc\u2028d", "     2\te"]


@pytest.mark.parametrize("size", [7_996, 8_000, 8_004, 8_012, 8_016, 8_020, 300_000, 5_000_000])
async def test_a_long_line_is_cut_and_the_next_one_is_whole(size: int, root: Path, text: Text) -> None:
    (root / "a").write_text("\N{GRINNING FACE}" * (size // 4) + "\nnext\n")
    first, second = (await text("read", path="a")).split("\n")
    cut = f" [… cut: the line has {size + 1:,} bytes]" if size > 8_000 else ""
    assert first == "     1\t" + "\N{GRINNING FACE}" * min(size // 4, 2_000) + cut
    assert second == "     2\tnext"


async def test_a_huge_file_is_bounded_and_read_no_further_than_needed(root: Path, text: Text) -> None:
    with (root / "huge").open("wb") as file:
        file.write(b"start\n" * 2_000)
        file.truncate(1 << 40)  # a hole: to read it all would take hours
    said = await text("read", path="huge", limit=10)
    assert said.endswith("[Lines 1 to 10 shown. Read on with offset=11.]")


async def test_what_is_shown_of_wide_files_is_bounded(root: Path, text: Text) -> None:
    (root / "wide").write_text(("y" * 1_900 + "\n") * 2_000)
    said = await text("read", path="wide")
    assert len(said) <= 100_100
    assert said.endswith("[Lines 1 to 52 of 2,000 shown. Read on with offset=53.]")


async def test_a_read_that_is_cancelled_ends_at_once(root: Path, place: Place) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"start\n" * 2_000)
    with trio.fail_after(30), trio.move_on_after(0.1) as cancelled:
        await Read().run(ReadInput(path="huge", offset=10**9), place)
    assert cancelled.cancelled_caught


async def test_read_sends_a_directory_to_ls_and_ls_a_file_to_read(root: Path, call: Call) -> None:
    (root / "dir").mkdir()
    (root / "file").touch()
    with pytest.raises(ToolFailed, match="is a directory"):
        await call("read", path="dir")
    with pytest.raises(ToolFailed, match="is a file"):
        await call("ls", path="file")


async def test_a_file_that_may_not_be_read_is_refused_with_the_reason(
    root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").touch()

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open_beneath", files.open_beneath)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ToolFailed, match="permission denied by the operating system"):
        await call("read", path="a")


async def test_a_workspace_that_is_gone_is_said_to_be_gone(root: Path, call: Call) -> None:
    await trio.Path(root).rmdir()
    with pytest.raises(ToolFailed, match=r"The workspace .* is gone"):
        await call("ls")


async def test_a_directory_is_shown_as_a_tree(root: Path, outside: Path, text: Text) -> None:
    (root / "src/pkg/deep").mkdir(parents=True)
    (root / "src/pkg/deep/x").touch()
    (root / "src/main.py").touch()
    (root / "README.md").touch()
    (root / "link").symlink_to(outside)
    (root / ".git").mkdir()
    os.mkfifo(root / "pipe")
    assert await text("ls") == (
        f"./\n  README.md\n  link -> {outside}\n  pipe (not a file)\n  src/\n    main.py\n    pkg/"
    )
    assert await text("ls", path="src", depth=3) == "src/\n  main.py\n  pkg/\n    deep/\n      x"
    assert await text("ls", path="src", depth=1) == "src/\n  main.py\n  pkg/"


async def test_what_is_ignored_is_not_listed(root: Path, text: Text) -> None:
    (root / ".gitignore").write_text("*.pyc\nvenv/\n")
    (root / "a.pyc").touch()
    (root / "venv").mkdir()
    assert await text("ls") == "./\n  .gitignore"
    assert await text("ls", path="venv") == "venv/ is empty, or all in it is ignored."


async def test_a_name_with_a_line_end_cannot_forge_an_entry(root: Path, text: Text) -> None:
    (root / "a\n  forged").touch()
    (root / os.fsdecode(b"b\xff")).touch()
    assert await text("ls") == "./\n  a\\n  forged\n  b\\xff"


async def test_a_large_directory_does_not_push_out_its_neighbours(root: Path, call: Call, text: Text) -> None:
    for name, count in {"big": 1_500, "small": 3}.items():
        (root / name).mkdir()
        for number in range(count):
            (root / name / f"{number:04}").touch()
    (root / "zzz").touch()
    said = await text("ls")
    rows = said.split("\n")
    assert rows[1] == "  big/"
    assert rows[995:] == [
        "    0993",
        "    … 506 more",
        "  small/",
        "    0000",
        "    0001",
        "    0002",
        "  zzz",
        "[506 entries left out. List a directory further down.]",
    ]
    assert (await call("ls")).truncated


async def test_long_names_do_not_break_the_bound(root: Path, text: Text) -> None:
    for number in range(300):
        (root / f"{number:03}{'n' * 200}").touch()
    said = await text("ls")
    assert len(said) <= 30_000
    assert "characters left out" in said


def test_titles_and_places_are_for_people(root: Path, place: Place) -> None:
    given = ReadInput(path="src/../a.py", offset=12)
    assert Read().title(given) == "Read src/../a.py from line 12"
    assert Read().locations(given, place) == (Location(path=f"{root}/a.py", line=12),)
    assert Ls().title(LsInput()) == "List ."
    assert Ls().locations(LsInput(path="/etc"), place) == (Location(path="/etc"),)
    assert len(Read().title(ReadInput(path="x" * 5_000))) < 150
    assert Read().title(ReadInput(path="a\nb\0\ud800")) == r"Read a\nb\x00\ud800"
    assert Read().locations(ReadInput(path="a\0\ud800"), place)[0].path == rf"{root}/a\x00\ud800"
