"""The logic of changing a text: what is found, what is kept, and how the difference is written."""

import difflib
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from atrio_agent.tools import linediff
from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.edits import Edit, apply_edit, apply_edits, rewritten
from atrio_agent.tools.linediff import MAX_UNIFIED_CHARS, changes, lines_of, unified

pieces = st.text(alphabet="ab \t\n", max_size=30)
raw_texts = st.lists(
    st.tuples(st.sampled_from(["a", "b", "ab", " a", "", "\tb"]), st.sampled_from(["\n", "\r\n"])), max_size=12
).map(lambda lines: "".join(line + end for line, end in lines))
ended = st.tuples(raw_texts, st.sampled_from(["", "a", "ab"])).map("".join)


def edited(text: str, old: str, new: str, *, everywhere: bool = False) -> str:
    return apply_edits(text, [Edit(old, new, everywhere)])[-1].text


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        ("one two three", "two", "2", "one 2 three"),
        ("a\nb\nc\n", "b\n", "", "a\nc\n"),
        ("a\r\nb\r\nc\r\n", "a\nb\n", "x\ny\nz\n", "x\r\ny\r\nz\r\nc\r\n"),
        ("a\r\nb\r\n", "a\r\nb", "b\r\na", "b\r\na\r\n"),
        ("a\nb\n", "a\r\nb", "x\r\ny", "x\ny\n"),
        ("a\r\nb\nc\r\n", "b\nc", "B\nc", "a\r\nB\nc\r\n"),
        ("a\r\nb\nc\nd\n", "a\nb", "a\nx\nb", "a\r\nx\nb\nc\nd\n"),
        ("a\r\nb\nc\n", "a\nb\nc", "x\ny\nz", "x\r\ny\nz\n"),
        ("a\nb", "b", "b\n\nc\n", "a\nb\n\nc"),
        ("a\nb\n", "b\n", "c", "a\nc\n"),
        ("a\r\nb\r\n", "\nb\n", "", "a\r\n"),
        ("mac\rline\n", "mac\rline", "x", "x\n"),
        ("a\n", "a\n", "", ""),
        ("ab\u2028c\x0cd", "b\u2028", "B", "aBc\x0cd"),
    ],
)
def test_an_edit_keeps_line_ends_and_how_the_text_ends(before: str, old: str, new: str, after: str) -> None:
    assert edited(before, old, new) == after


def test_a_text_that_occurs_more_than_once_needs_more_around_it_or_replace_all() -> None:
    text = "x\ny\nx\ny\nx\n"
    with pytest.raises(ToolFailed, match=r"3 times \(from lines 1, 3, 5\).*replaceAll"):
        edited(text, "x", "z")
    assert edited(text, "x\ny\nx\ny", "z") == "z\nx\n"
    done = apply_edit(text, Edit("x", "z", everywhere=True))
    assert done == ("z\ny\nz\ny\nz\n", 3, False)


def test_two_places_that_overlap_are_two() -> None:
    with pytest.raises(ToolFailed, match="2 times"):
        edited("aaa", "aa", "b")
    assert edited("aaa", "aa", "b", everywhere=True) == "ba"


def test_the_second_try_ignores_spaces_says_so_and_keeps_the_depth() -> None:
    text = "def f():\n\tif x:\n\t\treturn  1\n\treturn 2\n"
    done = apply_edit(text, Edit("if x:\n    return 1\n", "if y:\n    return 3\n"))
    assert done.loosely
    assert done.text == "def f():\n\tif y:\n\t    return 3\n\treturn 2\n"
    deeper = apply_edit("  a = 1\n  b = 2\n", Edit("    a = 1\n    b  =  2", "    c = 3\n\n      d = 4"))
    assert deeper == ("  c = 3\n\n    d = 4\n", 1, True)
    assert not apply_edit("a = 1\n", Edit("a = 1", "b")).loosely


def test_the_second_try_must_find_one_place_too() -> None:
    with pytest.raises(ToolFailed, match=r"with other spaces 2 times \(from lines 1, 2\)"):
        edited("a  b\na   b\n", "a b", "c")
    assert edited("a  b\na   b\n", "a b", "c", everywhere=True) == "c\nc\n"


@pytest.mark.parametrize("old", ["nowhere", " \n ", "a\nc", "b a"])
def test_what_is_not_there_is_refused_with_a_hint(old: str) -> None:
    with pytest.raises(ToolFailed, match="is not in the file"):
        edited("a\nb\nc\n", old, "x")
    with pytest.raises(ToolFailed, match=r"first line is line 2 and 1 other, but what follows differs"):
        edited("a\nb\nc\nb\n", "b\nx", "y")


def test_all_edits_are_made_in_order_or_none() -> None:
    done = apply_edits("a\nb\n", [Edit("a", "b1"), Edit("b1\nb", "c")])
    assert [each.text for each in done] == ["b1\nb\n", "c\n"]
    with pytest.raises(ToolFailed, match=r"Edit 2 of 2: 'old' is not in the file\..*None of the edits was made"):
        apply_edits("a\n", [Edit("a", "b"), Edit("a", "c")])
    with pytest.raises(ToolFailed, match="changes nothing"):
        apply_edits("a\n", [Edit("a", "b"), Edit("b", "a")])


def test_a_rewrite_keeps_the_line_ends_of_each_line_that_stays() -> None:
    assert rewritten("a\r\nb\r\n", "a\nx\nb") == "a\r\nx\r\nb\r\n"
    assert rewritten("a\r\nb\nc\r\nd\n", "a\nb\nx\nc\nd\n") == "a\r\nb\nx\nc\r\nd\n"
    assert rewritten("a\nb", "a\r\nc\r\n") == "a\nc"
    assert rewritten("", "a\r\nb\n") == "a\r\nb\n"
    assert rewritten("a\n", "") == ""
    with pytest.raises(ToolFailed, match="changes nothing"):
        rewritten("a\r\nb\r\n", "a\nb\n")


@given(text=ended, start=st.integers(0, 40), length=st.integers(1, 10), new=pieces)
def test_nothing_outside_of_what_is_replaced_changes(text: str, start: int, length: int, new: str) -> None:
    plain = text.replace("\r\n", "\n")
    assume(plain)
    start %= len(plain)
    old = plain[start : start + length]
    assume(old != new)
    assume(plain.find(old) == plain.rfind(old))
    at = plain.find(old)
    done = apply_edit(text, Edit(old, new))
    assert not done.loosely
    assert done.text.replace("\r\n", "\n") == plain[:at] + new + plain[at + len(old) :]

    def ends(lines: str, count: int) -> list[bool]:
        return [line.endswith("\r\n") for line in lines_of(lines)[:count]]

    untouched = plain[:at].count("\n")
    assert ends(done.text, untouched) == ends(text, untouched)
    below = plain[at + len(old) :].count("\n")
    assert not below or ends(done.text, 10**6)[-below:] == ends(text, 10**6)[-below:] or not text.endswith("\n")


@given(text=ended, content=st.one_of(ended, pieces))
def test_a_rewrite_has_the_new_lines_and_the_old_manner_of_ending(text: str, content: str) -> None:
    try:
        after = rewritten(text, content)
    except ToolFailed:
        after = text
    assert after.replace("\r\n", "\n").rstrip("\n") == content.replace("\r\n", "\n").rstrip("\n")
    if text and after:
        assert after.endswith("\n") == text.endswith("\n")
    if "\n" in text and "\r\n" not in text:
        assert "\r" not in after
    if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
        assert "\n" not in after.replace("\r\n", "")


@given(text=ended, edits=st.lists(st.tuples(pieces, pieces, st.booleans()), min_size=1, max_size=4))
def test_edits_end_in_a_text_or_a_refusal(text: str, edits: list[tuple[str, str, bool]]) -> None:
    try:
        done = apply_edits(text, [Edit(*edit) for edit in edits])
    except ToolFailed as exc:
        str(exc).encode()
        return
    assert done[-1].text != text
    if text and done[-1].text:
        assert done[-1].text.endswith("\n") == text.endswith("\n")


line_lists = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n"]), max_size=25)


@given(old=line_lists, new=line_lists)
def test_changes_make_the_new_lines_of_the_old_and_are_no_more_than_needed(old: list[str], new: list[str]) -> None:
    found = changes(old, new)
    made = list(old)
    for change in reversed(found):
        assert old[change.old_start : change.old_end] != new[change.new_start : change.new_end]
        made[change.old_start : change.old_end] = new[change.new_start : change.new_end]
    assert made == new
    for one, next_one in pairwise(found):
        assert next_one.old_start > one.old_end
        assert next_one.old_start - one.old_end == next_one.new_start - one.new_end
    steps = sum(change.old_end - change.old_start + change.new_end - change.new_start for change in found)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    assert steps <= len(old) + len(new) - 2 * sum(block.size for block in matcher.get_matching_blocks())


@given(old=ended, new=ended)
def test_a_unified_diff_says_what_the_line_lists_say(old: str, new: str) -> None:
    rows = unified("f", old, new).split("\n")
    assume(old != new)
    assert rows[:2] == ["--- a/f", "+++ b/f"]
    taken = [row[1:] for row in rows[2:] if row.startswith("-")]
    put = [row[1:] for row in rows[2:] if row.startswith("+")]
    found = changes(lines_of(old), lines_of(new))
    assert taken == [
        line.removesuffix("\n") for change in found for line in lines_of(old)[change.old_start : change.old_end]
    ]
    assert put == [
        line.removesuffix("\n") for change in found for line in lines_of(new)[change.new_start : change.new_end]
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\nc\n", "a\nB\nc\n"),
        (None, "a\nb\n"),
        ("".join(f"{n}\n" for n in range(50)), "".join(f"{n * (n % 13 > 0)}\n" for n in range(50))),
        ("a\nb", "a\nb\n"),
        ("a\r\nb\n", "a\nb\r\n"),
        ("x\n" * 20, "x\n" * 19 + "y"),
    ],
)
def test_git_can_apply_what_is_shown(old: str | None, new: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    if old is not None:
        file.write_bytes(old.encode())
    patch = unified("f", old, new).encode()
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], cwd=tmp_path, input=patch, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == new.encode()


def test_texts_with_little_in_common_cost_no_time_and_no_room() -> None:
    old = "".join(f"{n}\n" for n in range(60_000))
    new = "".join(f"{n * n + 1}\n" for n in range(60_000))
    assert len(changes(lines_of(old), lines_of(new))) <= 600
    text = unified("f", old, new)
    assert len(text) <= MAX_UNIFIED_CHARS + 100
    assert "characters left out" in text


def test_where_too_much_differs_it_is_one_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linediff, "_MAX_STEPS", 3)
    assert changes(["k", "a", "b", "c", "k"], ["k", "x", "b", "y", "k"]) == [(1, 4, 1, 4)]
    monkeypatch.setattr(linediff, "_MAX_STEPS", 4)
    assert changes(["k", "a", "b", "c", "k"], ["k", "x", "b", "y", "k"]) == [(1, 2, 1, 2), (3, 4, 3, 4)]


def test_no_difference_has_no_diff() -> None:
    assert unified("f", "a\n", "a\n") == ""
    assert unified("f", None, "") == "--- /dev/null\n+++ b/f\n"
