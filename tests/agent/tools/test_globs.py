"""Patterns for names: what fits, and that no pattern takes long."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.tools.globs import GlobMalformed, Globs, PathGlob, name_regex

FITS = [
    ("*.py", "a.py", True),
    ("*.py", "dir/a.py", False),
    ("**/*.py", "a.py", True),
    ("**/*.py", "x/y/a.py", True),
    ("src/**/*.py", "src/a.py", True),
    ("src/**/*.py", "src/x/y/a.py", True),
    ("src/**/*.py", "lib/src/a.py", False),
    ("src/**", "src/x/y", True),
    ("src/**", "src", False),
    ("src/", "src/x", True),
    ("**", "x/y/z", True),
    ("a/**/b/**/c", "a/b/c", True),
    ("a/**/b/**/c", "a/1/2/b/3/c", True),
    ("a/**/b/**/c", "a/1/2/3/c", False),
    ("./a.py", "a.py", True),
    ("a?c", "abc", True),
    ("a?c", "ac", False),
    ("[a-c]x", "bx", True),
    ("[!a-c]x", "bx", False),
    ("[^a-c]x", "dx", True),
    ("[]]x", "]x", True),
    ("[a\\]]x", "]x", True),
    ("[\\\\]x", "\\x", True),
    ("[c-a]x", "bx", False),
    ("\\*", "*", True),
    ("\\*", "a", False),
    ("*.{ts,tsx}", "a.tsx", True),
    ("*.{ts,tsx}", "a.js", False),
    ("{a,b/{c,d}}/x", "b/d/x", True),
    ("{a}", "{a}", True),
    ("a{b", "a{b", True),
    ("*", ".hidden", True),
    ("a**b", "axxb", True),
    ("a.c", "abc", False),
    ("*a*b*", "xxaxxbxx", True),
    ("*a*b*", "xxbxxaxx", False),
    ("*\n*", "a\nb", True),
]


@pytest.mark.parametrize(("pattern", "path", "fits"), FITS)
def test_a_pattern_fits_as_people_expect(pattern: str, path: str, *, fits: bool) -> None:
    assert Globs(pattern).matches(path.split("/")) is fits


def test_a_pattern_without_slash_can_stand_for_any_directory() -> None:
    assert Globs("*.py", anywhere=True).matches(("x", "y", "a.py"))
    assert not Globs("y/*.py", anywhere=True).matches(("x", "y", "a.py"))


@pytest.mark.parametrize(
    ("pattern", "enter"), [("src/*.py", False), ("src/**/x", True), ("**/x", True), ("*/*/x", True)]
)
def test_only_directories_that_may_hold_a_match_are_entered(pattern: str, *, enter: bool) -> None:
    globs = Globs(pattern)
    assert globs.may_match_beneath(("src",))
    assert globs.may_match_beneath(("src", "deep")) is enter


@pytest.mark.parametrize(
    "pattern", ["[abc", "[", "[!", "abc\\", "/etc/*", "../x", "a/../b", "[[:alpha:]]", "{a,b}" * 7]
)
def test_what_is_no_pattern_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(GlobMalformed, match=r"\w+ \w+"):
        Globs(pattern)


@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab", max_size=12))
def test_stars_and_question_marks_mean_what_they_mean_elsewhere(pattern: str, name: str) -> None:
    assert bool(re.fullmatch(name_regex(pattern), name)) is fnmatch.fnmatchcase(name, pattern)


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_text_breaks_the_matcher(pattern: str, name: str) -> None:
    try:
        glob = PathGlob(pattern)
    except GlobMalformed:
        return
    glob.matches(name.split("/"))


def test_many_stars_take_no_longer_than_few() -> None:
    """As one regular expression, each of these would run for longer than anybody waits."""
    name = "a" * 255
    assert not Globs("*a" * 60 + "*b").matches((name,))
    assert not Globs("**/*a" * 30 + "/b").matches((name,) * 60)
