"""Leaving the workspace: what is asked for, what a permission opens and what none does; what reading remembers."""

import base64
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.ask import Ask
from atrio_agent.tools.base import FileSeen, Place, Tool, ToolFailed, ToolOutcome
from atrio_agent.tools.files import Ls, Read
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.search import Glob, Grep
from atrio_protocol.content import ImageBlock, TextBlock
from tool_calls import SECRET, Call, Text

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def looking(path: str) -> list[tuple[Tool, dict[str, Any]]]:
    """Every tool that looks, told to look there."""
    return [
        (Read(), {"path": f"{path}/secret.txt"}),
        (Ls(), {"path": path}),
        (Glob(), {"path": path, "pattern": "*"}),
        (Grep(), {"path": path, "pattern": "secret"}),
        (Grep([]), {"path": path, "pattern": "secret"}),
    ]


async def ask(tool: Tool, raw: dict[str, Any], place: Place) -> Ask | None:
    with trio.fail_after(30):
        return await tool.ask(Tools([tool]).validate(tool.name, raw), place)


async def run(tool: Tool, raw: dict[str, Any], place: Place) -> ToolOutcome:
    with trio.fail_after(30):
        return await tool.run(Tools([tool]).validate(tool.name, raw), place)


async def test_looking_inside_asks_nothing_and_outside_asks_for_the_directory(
    root: Path, outside: Path, place: Place
) -> None:
    (root / "out").symlink_to(outside)
    (root / "in").mkdir()
    for tool, raw in looking("in"):
        assert await ask(tool, raw, place) is None
    for path in ("../outside", str(outside), "out", "in/../out"):
        for tool, raw in looking(path):
            asked = await ask(tool, raw, place)
            assert asked is not None
            assert (asked.action, asked.where) == ("read", str(outside))
            assert asked.path == str(outside / "secret.txt" if tool.name == "read" else outside)


async def test_nothing_is_asked_for_in_a_directory_that_was_allowed(outside: Path, place: Place) -> None:
    for tool, raw in looking(str(outside)):
        assert await ask(tool, raw, replace(place, allowed=(outside,))) is None


async def test_what_was_permitted_is_done(outside: Path, place: Place) -> None:
    for tool, raw in looking("../outside"):
        with pytest.raises(ToolFailed, match="nobody has permitted"):
            await run(tool, raw, place)
        for where in (None, str(outside)):
            said = await run(tool, raw, replace(place, permitted=True, permitted_where=where))
            (block,) = said.content
            assert isinstance(block, TextBlock)
            assert (SECRET if tool.name in {"read", "grep"} else f"{outside}") in block.text


async def test_a_permission_does_not_follow_a_link_that_leads_elsewhere_by_now(
    root: Path, outside: Path, place: Place
) -> None:
    (root.parent / "harmless").mkdir()
    (root / "link").symlink_to(root.parent / "harmless")
    for tool, raw in looking("link"):
        asked = await ask(tool, raw, place)
        assert asked is not None
        (root / "link").unlink()
        (root / "link").symlink_to(outside)
        with pytest.raises(ToolFailed, match="another place now"):
            await run(tool, raw, replace(place, permitted=True, permitted_where=asked.where))
        (root / "link").unlink()
        (root / "link").symlink_to(root.parent / "harmless")


async def test_no_permission_opens_what_is_closed(root: Path, outside: Path, place: Place) -> None:
    (root / ".atrio").mkdir()
    (root / ".atrio/secret.txt").write_text(SECRET)
    (root / "link").symlink_to(".atrio")
    closed = replace(place, closed=(outside, root / ".atrio"), permitted=True, allowed=(outside,))
    for path in ("../outside", ".atrio", "link", "/proc/self", "/sys", "/dev/fd", "/dev"):
        for tool, raw in looking(path):
            with pytest.raises(ToolFailed, match="closed to tools"):
                await ask(tool, raw, closed)
            with pytest.raises(ToolFailed, match="closed to tools"):
                await run(tool, raw, closed)


async def test_what_is_closed_is_not_searched_from_above(root: Path, place: Place) -> None:
    for name in ("state/deep", "open"):
        (root / name).mkdir(parents=True)
        (root / name / "file.txt").write_text(SECRET)
    closed = replace(place, closed=(root / "state",))
    for tool, raw in (
        (Ls(), {"depth": 5}),
        (Glob(), {"pattern": "**/*.txt"}),
        (Grep(), {"pattern": "secret"}),
        (Grep([]), {"pattern": "secret"}),
    ):
        (block,) = (await run(tool, raw, closed)).content
        assert isinstance(block, TextBlock)
        assert "deep" not in block.text
        assert "file.txt" in block.text


async def test_a_workspace_in_a_closed_directory_is_open_and_its_neighbours_are_not(
    root: Path, outside: Path, place: Place
) -> None:
    (root / "a").write_text("mine\n")
    inside = replace(place, closed=(root.parent,), permitted=True)
    assert "mine" in str((await run(Read(), {"path": "a"}, inside)).content)
    with pytest.raises(ToolFailed, match="closed to tools"):
        await run(Read(), {"path": "../outside/secret.txt"}, inside)


async def test_a_place_that_cannot_be_named_cannot_be_asked_for(root: Path, place: Place) -> None:
    (root / "link").symlink_to(os.fsdecode(b"/tmp/\xff"))
    with pytest.raises(ToolFailed, match="not valid text"):
        await ask(Read(), {"path": "link"}, place)


async def test_reading_remembers_time_size_and_hash(root: Path, place: Place, text: Text) -> None:
    (root / "a").write_text("one\ntwo\n")
    (root / "link").symlink_to("a")
    await text("read", path="link", limit=1)
    status = (root / "a").stat()
    assert place.seen == {
        str(root / "a"): FileSeen(mtime_ns=status.st_mtime_ns, size=8, digest=hashlib.sha256(b"one\ntwo\n").hexdigest())
    }


async def test_a_file_that_is_too_large_to_be_changed_is_not_remembered(root: Path, place: Place, text: Text) -> None:
    with (root / "large").open("wb") as file:
        file.write(b"x\n")
        file.truncate(10 * 1024 * 1024 + 1)
    await text("read", path="large", limit=1)
    assert not place.seen


@pytest.mark.parametrize(
    ("head", "mime_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg"),
        (b"GIF89a" + bytes(20), "image/gif"),
        (b"GIF87a" + bytes(20), "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20), "image/webp"),
    ],
)
async def test_an_image_is_given_as_one_whatever_its_name(head: bytes, mime_type: str, root: Path, call: Call) -> None:
    data = head + os.urandom(20_000)
    (root / "picture.txt").write_bytes(data)
    said, image = (await call("read", path="picture.txt")).content
    assert said == TextBlock(text=f"'picture.txt' is an image ({mime_type}) of {len(data):,} bytes.")
    assert isinstance(image, ImageBlock)
    assert image.mime_type == mime_type
    assert isinstance(image.data, str)
    assert base64.b64decode(image.data) == data


async def test_a_large_image_and_another_riff_file_are_only_named(root: Path, text: Text) -> None:
    (root / "large.png").write_bytes(PNG + bytes(5 * 1024 * 1024))
    assert "not shown: the limit is 5,242,880" in await text("read", path="large.png")
    (root / "sound").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    assert "binary file" in await text("read", path="sound")
