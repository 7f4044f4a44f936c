"""The checker: reads a history and says which promises it breaks.

A second account of what a client may rely on, written from the contract and not
from the server: it imports none of it. `RULES` is the list; a mutation of the
server that breaks none of them means that one is missing.

It judges only what the history shows. What must be known in the end has to be
asked for by whoever makes the history: `run/get` of every run and
`session/messages` of every session, of the last server.
"""

from typing import Any

from torture.facts import Broken, Facts, read
from torture.history import History
from torture.logs import Log, Played, logs_of, play
from torture.rules_cancel import check_cancels
from torture.rules_crash import check_crashes, check_end, text_losses
from torture.rules_runs import check_runs

__all__ = ["RULES", "Checked", "check", "require"]

RULES = {
    "answered": "each request is answered at most once, and nothing else is",
    "attachment": "on an attachment the next event is the last one plus one, and it begins where it says",
    "epoch": "an epoch never outlives its server",
    "agreement": "all readers get the same events, byte for byte; merged ones say the same",
    "snapshot": "a snapshot is true as of its place in the stream",
    "text": "a text is what its part was set to and the deltas since, offsets and resets included",
    "run_text": "a run's text is that of its message, on the stream and in the store",
    "identity": "a run keeps its session, number, author and prompt, and is acknowledged as what was sent",
    "repeat": "a prompt that is sent again is answered as the run that it became",
    "one_accept": "a prompt is accepted once, however often it is sent",
    "one_terminal": "a run completes once, and every run does",
    "accept_order": "numbers rise in the order of acceptance, and never repeat",
    "story": "a run's events come in their order, the first accepted, the last completed",
    "one_turn": "two turns of a session never overlap",
    "queue_order": "turns begin in the queue's order",
    "fold": "a steered prompt folds into the running turn alone, and ends with it",
    "cancel_named": "what a cancel names ends cancelled",
    "cancel_mark": "the mark of a cancel lies between what came before and what came after it",
    "cancel_covers": "a cancel names everything that was accepted before it and not decided",
    "cancel_explained": "nothing ends cancelled that nobody cancelled",
    "durable": "what was acknowledged or announced is known from then on",
    "asked": "the history asks in the end for everything that must be known",
    "messages": "a prompt and its answer are in the session, once, whole and finished",
    "stored": "what was told of a message is what is stored of it",
    "terminal_kept": "an end stays as it was told first",
    "running": "after a restart nothing of before is open",
    "interrupted": "what a crash found open ends interrupted, and nothing else does",
    "loss": "a crash costs at most the last 100 ms of text",
    "saved": "a server that is told to end ends with 0",
    "drained": "who reads gets every end before a shutdown, and is closed with 1001",
}


class Checked:
    """What came out: ``broken`` is empty if all is well."""

    def __init__(self, facts: Facts, played: dict[Log, Played]) -> None:
        self.facts = facts
        self.broken: list[Broken] = list(dict.fromkeys(facts.broken))
        self.losses_s = text_losses(facts, played)
        """How old the oldest text was that each message lost that a kill found growing."""
        self.runs = len(facts.runs)

    @property
    def rules(self) -> set[str]:
        """The rules that are broken."""
        return {one.rule for one in self.broken}


def check(entries: list[dict[str, Any]], *, ended: bool = True) -> Checked:
    """Check a history. ``ended``: everything was asked for at its end."""
    facts = read(entries)
    logs = logs_of(facts)
    played = {log: state for log in logs if log.of == "session" and (state := play(facts, log)) is not None}
    check_runs(facts, logs)
    check_cancels(facts)
    check_crashes(facts, logs, played)
    if ended:
        check_end(facts, logs, played)
    checked = Checked(facts, played)
    unknown = checked.rules - RULES.keys()
    assert not unknown, f"rules without a sentence: {unknown}"
    return checked


def require(history: History, *, ended: bool = True) -> Checked:
    """Check a history that must be in order.

    Raises:
        AssertionError: It is not; the first of what is broken is told.
    """
    checked = check(history.entries, ended=ended)
    if checked.broken:
        shown = "\n".join(str(one)[:600] for one in checked.broken[:8])
        raise AssertionError(f"seed {history.seed}: {len(checked.broken)} times a rule is broken:\n{shown}")
    return checked
