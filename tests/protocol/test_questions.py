"""How questions are shown where many of them, or large ones, wait."""

import msgspec

from atrio_protocol.limits import PERMISSIONS_BYTES
from atrio_protocol.parts import Diff
from atrio_protocol.questions import lean_permissions
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Permission


def question(name: str, chars: int, *, unified: str = "@@") -> Permission:
    text = "x" * chars
    return Permission(
        permission_id=name,
        session_id="s",
        run_id="r",
        tool_call_id="t",
        name="write",
        title="Write a",
        input={"path": "a", "edits": [{"old": "a", "new": text}]},
        diffs=(Diff(path="/a", old_text=text, new_text=text, unified=unified),),
        options=(),
        requested_at="2026-01-01T00:00:00.000Z",
    )


def test_questions_that_fit_are_whole() -> None:
    asked = [question(str(number), 1_000) for number in range(100)]
    assert lean_permissions(asked) == tuple(asked)


def test_all_questions_are_there_and_the_newest_are_the_wholest() -> None:
    asked = [question(str(number), 100_000) for number in range(20)]
    lean = lean_permissions(asked)
    assert [each.permission_id for each in lean] == [each.permission_id for each in asked]
    assert len(msgspec.json.encode(lean)) < PERMISSIONS_BYTES + 20 * 2_000
    assert lean[-1] == asked[-1]
    oldest = lean[0]
    assert oldest.diffs is UNSET
    assert oldest.input == {"path": "a", "edits": [{"old": "a", "new": "x" * 1_000 + "…"}]}
    assert oldest.title == asked[0].title


def test_a_question_that_is_too_large_keeps_its_input_and_diff_and_goes_without_the_texts() -> None:
    asked = question("p", 200_000, unified="@@ a diff")
    (lean,) = lean_permissions([asked])
    assert lean.input == asked.input
    assert lean.diffs == (Diff(path="/a", unified="@@ a diff"),)


def test_a_small_question_behind_a_large_one_is_whole() -> None:
    small, large = question("small", 10), question("large", 500_000)
    assert lean_permissions([small, large])[0] == small
