"""A secret of the server is in nothing that a change shows."""

from hashlib import sha256

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.ask import Ask
from atrio_agent.tools.base import ToolOutcome
from atrio_agent.tools.redact import REDACTED, Redactor
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Diff

TOKEN = "a-token-of-the-server"

DIFF = Diff(path="/work/a", old_text=f"x {TOKEN}\n", new_text=None, unified=f"-x {TOKEN}\n")


def test_no_secret_is_in_the_diffs_of_an_outcome() -> None:
    outcome = Redactor([TOKEN]).outcome(ToolOutcome(content=(TextBlock(text=TOKEN),), diffs=(DIFF,)))
    assert TOKEN not in repr(outcome)
    assert outcome.diffs == (
        Diff(path="/work/a", old_text=f"x {REDACTED}\n", new_text=None, unified=f"-x {REDACTED}\n"),
    )


def test_no_secret_is_in_a_question_and_what_it_is_about_stays() -> None:
    large = Diff(path="/work/b", unified="")
    asked = Ask(
        action="write", title=f"Write {TOKEN}", where="/work", detail=TOKEN, path="/work/a", diffs=(DIFF, large)
    )
    shown = Redactor([TOKEN]).ask(asked)
    assert TOKEN not in repr(shown)
    assert (shown.where, shown.path, shown.diffs[1]) == ("/work", "/work/a", large)
    msgspec.json.encode(shown)


KEY = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEF"


def test_a_long_piece_of_a_long_secret_is_taken_for_it() -> None:
    redactor = Redactor([KEY, TOKEN])
    for cut in range(len(KEY) + 1):
        head, tail = KEY[:cut], KEY[cut:]
        said = redactor.text(f"{head}\n[… left out …]\n{tail}")
        longest = max(len(piece) for piece in (*_pieces(said), ""))
        assert longest < 16, said
    assert redactor.text(f"key={KEY[10:30]};") == f"key={REDACTED};"
    assert redactor.text(f"{KEY}{KEY}") == REDACTED * 2
    assert redactor.text("sk-proj-01234 is how keys begin") == "sk-proj-01234 is how keys begin"
    assert redactor.text(TOKEN[:18]) == TOKEN[:18]


def _pieces(text: str) -> list[str]:
    """What of the key is in a text, by its longest pieces."""
    return [
        KEY[start:end] for start in range(len(KEY)) for end in range(start + 1, len(KEY) + 1) if KEY[start:end] in text
    ]


@given(
    st.lists(st.sampled_from(["a", "sk-", "sk-proj", KEY, KEY[:20], KEY[20:], KEY[:3], TOKEN, "\n"]), max_size=8),
    st.lists(st.integers(1, 60), max_size=30),
)
def test_a_secret_in_pieces_is_never_live_and_nothing_else_is_lost(words: list[str], sizes: list[int]) -> None:
    text = "".join(words)
    redactor = Redactor([KEY, TOKEN])
    live = redactor.live()
    shown: list[str] = []
    at = 0
    for size in [*sizes, len(text)]:
        shown.append(live(text[at : at + size]))
        at += size
    shown.append(live.rest())
    said = "".join(shown)
    # Of a secret at most those characters are out that may begin any word.
    assert KEY not in said
    assert TOKEN not in said
    if KEY[:4] not in text and TOKEN[:4] not in text and KEY[20:] not in text:
        assert said == text


def test_what_cannot_be_a_secret_is_live_at_once() -> None:
    live = Redactor([KEY]).live()
    assert live("words") + live(" that end in s") + live("k-") == "words that end in sk-"
    assert live(KEY[3:]) == REDACTED
    assert live("x sk-p") == "x "
    assert live("x") == "sk-px"


def test_all_texts_of_a_value_are_without_secrets() -> None:
    value = {"a": [KEY, {"b": f"x{KEY}", KEY: 1}], "c": None}
    assert Redactor([KEY]).value(value) == {"a": [REDACTED, {"b": f"x{REDACTED}", REDACTED: 1}], "c": None}


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.tuples(st.integers(0, len(KEY)), st.integers(0, len(KEY))).map(lambda cut: KEY[min(cut) : max(cut)]),
            st.just(TOKEN),
        ),
        max_size=12,
    )
)
def test_a_long_text_is_looked_through_as_well_as_a_short_one(pieces: list[str]) -> None:
    redactor = Redactor([KEY, TOKEN])
    text = "".join(pieces)
    padding = "\N{GRINNING FACE}." * 3000
    for shift in range(3):  # wherever its pieces stand in the blocks of the long way
        assert redactor.text(padding + "y" * shift + text) == padding + redactor.text("y" * shift + text)


def test_a_piece_is_found_wherever_it_stands_by_one_who_learnt_many_secrets() -> None:
    secrets = [sha256(str(number).encode()).hexdigest() for number in range(500)]
    at_once, bit_by_bit = Redactor([*secrets, KEY, TOKEN]), Redactor([TOKEN])
    for secret in (KEY, *secrets):
        bit_by_bit.learn([secret])
    assert bit_by_bit.secrets == at_once.secrets
    for before in range(9):  # wherever it stands in the blocks of the text
        for start in range(0, len(KEY) - 15, 5):
            for filler in (".", "\N{GRINNING FACE}"):
                said = f"{filler * before}{KEY[start : start + 16]}!"
                assert bit_by_bit.text(said) == at_once.text(said) == f"{filler * before}{REDACTED}!"
    for told in (f"{secrets[7]}", f"{secrets[7][:40]} {TOKEN}", "no secret"):
        assert bit_by_bit.text(told) == at_once.text(told)
        assert TOKEN not in at_once.text(told) and secrets[7][:16] not in at_once.text(told)
