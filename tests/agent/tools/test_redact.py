"""A secret of the server is in nothing that a change shows."""

import msgspec

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
