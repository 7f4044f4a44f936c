"""What a person sees of text, changes, calls and questions, and how a line is edited."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Diff, ToolCallPart, ToolResultPart
from atrio_protocol.things import Permission, PermissionOption, Todo
from atrio_server.cli.terminal.clean import flat, stripped, visible
from atrio_server.cli.terminal.diffs import diff_rows
from atrio_server.cli.terminal.editor import Editor, Entered, Left
from atrio_server.cli.terminal.questions import choice_rows, option_for, question_rows
from atrio_server.cli.terminal.rows import Row, coloured, harmless, plain, row, todo_rows
from atrio_server.cli.terminal.screen import cut_row, folded_row, wrapped
from atrio_server.cli.terminal.tools import ended_rows, live_rows


def shown(rows: list[Row]) -> list[str]:
    return [plain(spans) for spans in rows]


def test_no_control_character_reaches_a_terminal() -> None:
    nasty = "a\x1b[2Jb\x07c\x9bd\u202ee\u2066f\rg\x00h"
    assert visible(nasty) == "a�[2Jb�c�d�e�f�g�h"
    assert visible("two\nlines\tand a tab") == "two\nlines\tand a tab"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]52;c;aGk=\x1b\\text", "text"),
        (" 10%\r 50%\r100%\ndone", "100%\ndone"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("a\tb", "a   b"),
        ("\x1b", "�"),
    ],
)
def test_the_output_of_a_program_is_shown_as_it_stands_in_the_end(said: str, seen: str) -> None:
    assert stripped(said) == seen


@given(st.text())
def test_what_is_stripped_is_harmless(text: str) -> None:
    assert all(letter in "\n\t�" or visible(letter) != "�" for letter in stripped(text))


def test_a_row_is_one_line_whatever_is_in_it() -> None:
    assert plain(harmless(row("a\nb", ("\tc\x1b", "bad")))) == "a b    c�"
    assert coloured(row("a", ("b", "bad"))) == "a\x1b[31mb\x1b[0m"
    assert flat("many  words\nin lines " * 100, max_chars=20) == "many words in lines…"


@pytest.mark.parametrize("columns", [1, 2, 10, 39])
def test_rows_are_cut_and_lines_are_broken_by_the_cells_they_take(columns: int) -> None:
    text = "wide 全角文字 and narrow letters, and more of them"
    assert cell_len(plain(cut_row(row((text, "dim")), columns))) <= columns
    assert "".join(wrapped(text, max(columns, 2))) == text
    assert all(cell_len(line) <= max(columns, 2) for line in wrapped(text, max(columns, 2)))


UNIFIED = """--- a/x.py
+++ b/x.py
@@ -1,3 +1,4 @@
 one
-two
+TWO
+and a half
 three
@@ -10,2 +11,2 @@
-ten
+TEN \x1b[2J
 eleven
\\ No newline at end of file
"""


def test_a_change_is_shown_with_the_numbers_of_its_lines() -> None:
    diff = Diff(path="/w/src/x.py", unified=UNIFIED)
    assert shown(diff_rows(diff, directory="/w")) == [
        "  src/x.py +3 -2",
        "     1   one",
        "     2 - two",
        "     2 + TWO",
        "     3 + and a half",
        "     4   three",
        "     ⋮",
        "    10 - ten",
        "    11 + TEN \x1b[2J",
        "    12   eleven",
        "       \\  No newline at end of file",
    ]
    assert shown(diff_rows(diff, max_lines=2))[-1].strip() == "… 8 more lines"
    assert "/w/src/x.py" in shown(diff_rows(diff, directory="/other"))[0]


def call(status: Any, **more: Any) -> ToolCallPart:
    fixed: dict[str, Any] = {"tool_call_id": "t", "name": "shell", "title": "pytest", "kind": "execute", "input": {}}
    return ToolCallPart(**{**fixed, "status": status, **more})


def result(text: str, **more: Any) -> ToolResultPart:
    fixed: dict[str, Any] = {"tool_call_id": "t", "name": "shell", "is_error": False}
    return ToolResultPart(content=(TextBlock(text=text),), **{**fixed, **more})


def test_a_call_that_goes_on_shows_the_last_lines_that_it_printed() -> None:
    printed = "".join(f"line {number}\n" for number in range(20)) + "\x1b[32mhalf"
    assert shown(live_rows(call("in_progress", output=printed))) == [
        "● $ pytest",
        "  line 16",
        "  line 17",
        "  line 18",
        "  line 19",
        "  half",
    ]


def test_a_call_that_has_ended_shows_how_long_it_took_and_the_gist() -> None:
    times = {"started_at": "2026-11-20T09:00:00.000Z", "finished_at": "2026-11-20T09:01:05.000Z"}
    text = "\n".join(f"line {number}" for number in range(20))
    rows = shown(ended_rows(call("completed", **times), result(text, exit_code=1)))
    assert rows[0] == "✗ $ pytest  exit 1 · 1 min 5 s"
    assert rows[1] == "  … 12 lines before"
    assert rows[-1] == "  line 19"
    assert shown(ended_rows(call("cancelled"), result("gone", is_error=True))) == ["⊘ $ pytest  cancelled"]
    assert shown(ended_rows(call("failed"), result("It is not there.", is_error=True))) == [
        "✗ $ pytest  failed",
        "  It is not there.",
    ]
    assert shown(ended_rows(call("completed"), result("out\n[Exit status 3.]", exit_code=3))) == [
        "✗ $ pytest  exit 3",
        "  out",
    ]
    kept = call("completed", name="todos", title="To do: 0 of 2 done", kind="think")
    assert ended_rows(kept, result("Kept: 2 entries, 2 not completed.")) == []  # the list itself is shown
    read = call("completed", name="read", title="Read a.py", kind="read")
    assert shown(ended_rows(read, result("1\n2\n3"))) == ["✓ Read a.py  3 lines"]


def permission(**more: Any) -> Permission:
    options = (
        PermissionOption(option_id="1", kind="allow_once", name="Allow once"),
        PermissionOption(option_id="2", kind="reject_once", name="Reject"),
    )
    fixed: dict[str, Any] = {
        "permission_id": "p",
        "session_id": "s",
        "run_id": "r",
        "tool_call_id": "t",
        "name": "shell",
        "title": "Run rm",
        "input": {"command": "rm -r build"},
        "options": options,
        "requested_at": "",
    }
    return Permission(**{**fixed, **more})


def test_a_question_shows_all_that_is_to_be_allowed_or_says_what_is_left_out() -> None:
    assert shown(question_rows(permission())) == ["? Run rm  needs permission", "  rm -r build"]
    assert shown(question_rows(permission(title="Run rm -r build"))) == ["? Run rm -r build  needs permission"]
    long = permission(detail="\n".join(f"line {number}" for number in range(50)), root_session_id="root")
    assert shown(question_rows(long))[0] == "? Run rm  needs permission, for a sub-agent"
    assert shown(question_rows(long))[-1] == "  … 20 more lines (d shows all)"
    assert shown(question_rows(long, whole=True))[-1] == "  line 49"
    other = permission(name="fetch", input={"url": "http://x/\x1b[2J"})
    assert shown(question_rows(other))[1] == '  {"url": "http://x/\\u001b[2J"}'
    outside = permission(name="read", title="Read ../x", path="/w/../x", input={"path": "../x"})
    assert shown(question_rows(outside)) == ["? Read ../x  needs permission", "  /w/../x"]


@pytest.mark.parametrize("hidden", ["rm -rf ~ #\recho hi", "echo hi \x1b]; rm -rf ~ \x07", "echo hi\x1b[2K\rrm -rf ~"])
def test_no_control_code_hides_what_is_to_be_allowed(hidden: str) -> None:
    asked = question_rows(permission(detail=hidden))
    assert "rm -rf ~" in plain(harmless(asked[-1])) and "echo hi" in plain(harmless(asked[-1]))
    diff = Diff(path="/w/x.sh", unified=f"@@ -0,0 +1 @@\n+{hidden}\n")
    change = plain(harmless(question_rows(permission(diffs=(diff,)))[-1]))
    assert "rm -rf ~" in change and "echo hi" in change


def test_a_long_input_is_shown_whole_to_whoever_wants_details() -> None:
    long = permission(name="other", input={"text": "x" * 900})
    assert shown(question_rows(long))[-1].endswith("…")
    assert "x" * 900 in shown(question_rows(long, whole=True))[-1]


def test_only_answers_that_are_there_are_offered() -> None:
    assert shown(choice_rows(permission())) == ["allow? [y]es  [n]o  "]
    long = permission(detail="\n".join(f"line {number}" for number in range(50)))
    assert shown(choice_rows(long)) == ["allow? [y]es  [n]o  [d]etails"]
    assert option_for(permission(), "allow_always") == "1"
    assert option_for(permission(), "reject_once") == "2"
    assert option_for(permission(options=()), "allow_once") is None


ALWAYS = PermissionOption(option_id="3", kind="allow_always", name="Allow for this session")


@pytest.mark.parametrize(
    ("more", "extent"),
    [
        ({}, "any command in this directory"),
        ({"input": {"command": "make", "cwd": "/w/docs"}}, "any command in docs"),
        ({"name": "edit", "path": "/w/a.py"}, "any edit in this directory"),
        ({"name": "write", "path": "/elsewhere/a.py"}, "any write in /elsewhere"),
        ({"name": "fetch", "input": {"url": "https://example.org/a"}}, "any page of example.org"),
        ({"name": "read", "path": "/etc/hosts"}, "any read in this place"),
        ({"name": "mcp_files_list"}, "any call of this tool"),
    ],
)
def test_a_person_is_told_how_far_always_goes(more: dict[str, Any], extent: str) -> None:
    asked = permission(**more, options=(*permission().options, ALWAYS))
    rows = shown(choice_rows(asked, directory="/w"))
    assert rows[0] == f"always: {extent}, in this session"
    assert "[a]lways" in rows[1]


def test_a_change_that_is_shown_is_not_counted_in_words() -> None:
    change = Diff(path="/w/a.py", old_text="a\n", new_text="b\n", unified="@@ -1 +1 @@\n-a\n+b\n")
    counts = "Changes a.py: 1 line added, 1 removed."
    asked = permission(name="edit", detail=counts, diffs=(change,))
    assert shown(question_rows(asked, directory="/w"))[1] == "  a.py +1 -1"
    noted = permission(name="edit", detail=f"{counts} Spaces were ignored.", diffs=(change,))
    assert shown(question_rows(noted, directory="/w"))[1:3] == ["  Spaces were ignored.", "  a.py +1 -1"]
    made = Diff(path="/w/b.py", old_text=None, new_text="b\n", unified="@@ -0,0 +1 @@\n+b\n")
    assert shown(diff_rows(made, directory="/w"))[0] == "  b.py +1  new file"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("✗ two words that are long", ["✗ two words", "  that are", "  long"]),
        ("  a/path/that/has/no/room", ["  a/path/tha", "  t/has/no/r", "  oom"]),
        ("  12 - removed text", ["  12 - remov", "    ed text"]),
    ],
)
def test_a_row_that_is_too_wide_is_broken_between_words(text: str, lines: list[str]) -> None:
    assert shown(folded_row(row((text, "dim")), 12)) == lines


@given(st.text(), st.integers(4, 40))
def test_a_broken_row_loses_nothing_but_spaces(text: str, columns: int) -> None:
    lines = folded_row(row((text, "dim")), columns)
    assert all(cell_len(plain(line)) <= columns for line in lines)
    assert "".join("".join(shown(lines)).split()) == "".join(plain(harmless(row((text, "dim")))).split())


def test_things_to_do_are_marked_by_more_than_a_colour() -> None:
    todos = [Todo(content="a", status="completed"), Todo(content="b", status="in_progress")]
    assert shown(todo_rows([*todos, Todo(content="c", status="pending")])) == [
        "to do, 1 of 3 done",
        "  ✓ a",
        "  ▸ b",
        "  · c",
    ]


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("hello\n", "hello"),
        ("helo\x1b[Dl\n", "hello"),
        ("xhello\x01\x1b[3~\n", "hello"),
        ("one two\x17three\n", "one three"),
        ("one two\x1b[1;5D\x1b[1;5D\x0bend\n", "end"),
        ("gone\x15kept\n", "kept"),
        ("one\\\ntwo\n", "one\ntwo"),
        ("one\x1b\ntwo\n", "one\ntwo"),
        ("\x1b[200~pasted\nlines\x1b[201~ and more\n", "pasted\nlines and more"),
        ("全角\x7f字\n", "全字"),
        ("a\x1b[99~\x1b[5;7X\x00\x07b\n", "ab"),
        ("one\x1b\ntwo\x1b[AX\x1b[BY\n", "oneX\ntwoY"),
    ],
)
def test_keys_edit_the_line(typed: str, text: str) -> None:
    assert list(Editor().feed(typed)) == [Entered(text)]
    one_by_one = Editor()
    assert [done for letter in typed for done in one_by_one.feed(letter)] == [Entered(text)]


def test_what_was_entered_before_comes_back_and_ctrl_d_leaves_an_empty_line_only() -> None:
    editor = Editor()
    assert list(editor.feed("one\ntwo\ndraft\x1b[A\x1b[A\x1b[A")) == [Entered("one"), Entered("two")]
    assert editor.text == "one"
    assert list(editor.feed("\x1b[B\x1b[B\x1b[B\x04")) == []
    assert editor.text == "draft"
    assert list(editor.feed("\x15\x04")) == [Left()]


@given(st.text(alphabet="ab 全\n\x1b[]OABCD~;0123\x7f\x04\x15\x17\x0b"))
def test_the_cursor_stays_in_the_text_whatever_is_typed(typed: str) -> None:
    editor = Editor()
    for _ in editor.feed(typed):
        pass
    assert 0 <= editor.at <= len(editor.text)
    rows, (at, column) = editor.rows(20)
    assert 0 <= at < len(rows)
    assert column <= 20
    assert all(cell_len(plain(spans)) <= 20 for spans in rows)
