"""Texts for the model: within their limit, whole characters, nothing left out in silence."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.tools.output import bounded, counted, cut_line, shown, shown_path


@given(st.text(max_size=3_000), st.integers(min_value=100, max_value=2_000))
def test_a_bounded_text_keeps_to_its_limit_and_counts_what_is_missing(text: str, limit: int) -> None:
    result, left_out = bounded(text, max_chars=limit)
    assert len(result) <= limit
    if len(text) <= limit:
        assert (result, left_out) == (text, 0)
        return
    head, _, rest = result.partition(f"\n[… {left_out:,} characters left out …]\n")
    assert text.startswith(head)
    assert text.endswith(rest)
    assert len(head) + left_out + len(rest) == len(text)


def test_wide_characters_are_cut_whole() -> None:
    result, _ = bounded("\N{GRINNING FACE}" * 1_000, max_chars=100)
    assert set(result) - set("\n[… ,0123456789characters left out …]") == {"\N{GRINNING FACE}"}


def test_a_cut_line_says_how_long_it_was() -> None:
    assert cut_line("short", max_chars=5, size_bytes=5) == "short"
    assert cut_line("longer", max_chars=4, size_bytes=1_234_567) == "long [… cut: the line has 1,234,567 bytes]"


@given(st.text(alphabet=st.characters(), max_size=50))
def test_a_shown_name_is_one_line_of_valid_text(name: str) -> None:
    result = shown(name)
    assert result.encode().decode().splitlines() in ([result], [])


def test_a_name_that_can_be_shown_is_shown_as_it_is() -> None:
    assert shown("Büro 2026/日本語 \N{NARROW NO-BREAK SPACE}x.txt") == "Büro 2026/日本語 \N{NARROW NO-BREAK SPACE}x.txt"


def test_what_cannot_be_shown_in_a_name_is_escaped() -> None:
    assert shown("a\nb\x1b[0m\udcff\ud800\u2028") == r"a\nb\x1b[0m\xff\ud800\u2028"


def test_a_long_name_is_cut_where_there_is_a_limit() -> None:
    assert shown("x" * 200, max_chars=10) == "xxxxxxxxx…"


def test_paths_of_the_workspace_are_relative_and_others_are_not() -> None:
    assert shown_path(Path("/work/a/b"), Path("/work")) == "a/b"
    assert shown_path(Path("/other/b"), Path("/work")) == "/other/b"
    assert shown_path(Path("/work"), Path("/work")) == "."


def test_one_is_not_plural() -> None:
    assert [counted(1, "line"), counted(2_000, "line"), counted(2, "entry", "entries")] == [
        "1 line",
        "2,000 lines",
        "2 entries",
    ]
