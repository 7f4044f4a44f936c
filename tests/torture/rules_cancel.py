"""Rules about cancels: they end exactly what was accepted before them, and say so.

Part of the checker; pure. Where two requests race it is not known which was
first; then only what holds in both orders is demanded. What was decided when is
read from times that the server wrote (`finishedAt`, `startedAt`): its clock is
that of the history, and they are cut to milliseconds.
"""

from torture.facts import CLOCK_S, Facts, Request, RunFacts, seconds_of

__all__ = ["check_cancels"]

CANCELS = ("session/cancel", "session/clear_queue")
OTHERS = ("session/delete", "workspace/close", "server/shutdown")
"""What else may end runs."""


def check_cancels(facts: Facts) -> None:
    """Check all of them."""
    for request in facts.of(*CANCELS):
        if request.result is not None:
            _check_named(facts, request)
            if request.method == "session/cancel":
                _check_mark(facts, request)
                _check_covered(facts, request)
    for run in facts.runs.values():
        _check_explained(facts, run)


def _check_named(facts: Facts, request: Request) -> None:
    """What a cancel names ends cancelled, unless the server is killed first."""
    foreign = 0
    for run_id in request.result["cancelled"]:
        run = facts.runs.get(run_id)
        if run is None:
            facts.breaks("cancel_named", f"{request} names {run_id}, of which nothing else is known")
            continue
        end = run.end
        killed = facts.life(request.server).killed
        reason = end["stopReason"] if end is not None else "cancelled"
        if reason != "cancelled" and not (killed and reason == "interrupted"):
            facts.breaks("cancel_named", f"{request} names {run_id}, which ends {reason}")
        in_time = end is None or seconds_of(end["finishedAt"]) <= request.replied_at + CLOCK_S
        if request.params.get("wait") and reason == "cancelled" and not in_time:
            facts.breaks("cancel_named", f"{request} was answered before {run_id} was over")
        if request.params.get("scope") == "mine" and run.author != request.client:
            foreign += end is not None and "startedAt" not in end and "foldedInto" not in end
    if foreign > 1:  # one may have been active, and not begun
        facts.breaks("cancel_covers", f"{request} names {foreign} waiting runs of others")


def _check_mark(facts: Facts, request: Request) -> None:
    """The mark lies above what was accepted before, and below what was accepted after."""
    mark = request.result["upTo"]
    for other in facts.accepted(request.session):
        if other.replied is None or request.replied is None:
            continue
        number, run_id = other.result["run"]["acceptSeq"], other.result["run"]["runId"]
        same = other.conn == request.conn
        before = other.replied < request.sent or (same and other.sent < request.sent)
        after = request.replied < other.sent or (same and request.sent < other.sent)
        if (before and number > mark) or (after and number <= mark):
            when = "before" if before else "after"
            facts.breaks("cancel_mark", f"{request} has the mark {mark}; {run_id} came {when} it and is {number}")
    for run_id in request.result["cancelled"]:
        run = facts.runs.get(run_id)
        if run is not None and run.seq > mark:
            facts.breaks("cancel_mark", f"{request} has the mark {mark} and names {run_id}, which is {run.seq}")


def _check_covered(facts: Facts, request: Request) -> None:
    """What was accepted before and is not named had its end decided by then."""
    one = request.params.get("runId")
    for run in facts.in_session(request.session):
        end = run.end
        if run.seq > request.result["upTo"] or run.run_id in request.result["cancelled"] or end is None:
            continue
        if end["stopReason"] == "interrupted" or (one is not None and (one != run.run_id or "foldedInto" in end)):
            continue
        if request.params.get("scope") == "mine" and run.author != request.client:
            continue
        late_s = seconds_of(end["finishedAt"]) - request.replied_at
        if late_s > CLOCK_S:
            facts.breaks(
                "cancel_covers",
                f"{request} (mark {request.result['upTo']}) does not name {run.run_id} (number {run.seq}), "
                f"which ended {end['stopReason']} {late_s:.3f} s after the answer",
            )


def _check_explained(facts: Facts, run: RunFacts) -> None:
    """What ended cancelled was cancelled by somebody."""
    end = run.end
    if end is None or end["stopReason"] != "cancelled":
        return
    finished = seconds_of(end["finishedAt"])
    names = {run.run_id, end.get("foldedInto")}
    for request in facts.about_session[run.session]:
        if request.method not in CANCELS or request.sent_at > finished + CLOCK_S:
            continue
        if request.result is None:
            if request.error is None and _may_cover(request, names):
                return
        elif names & set(request.result["cancelled"]):
            return
    number = max(one.seq for one in facts.in_session(run.session) if one.run_id in names)
    for other in facts.in_session(run.session):
        if other.told[0][3]["delivery"] == "interrupt" and other.seq > number:
            return
    for request in facts.of(*OTHERS):
        if request.error is None and request.sent_at <= finished + CLOCK_S:
            return
    if any(life.asked is not None and life.asked_at <= finished + CLOCK_S for life in facts.lives.values()):
        return
    facts.breaks("cancel_explained", f"{run.run_id} (number {run.seq}) ended cancelled, and nobody has cancelled it")


def _may_cover(request: Request, names: set[str | None]) -> bool:
    one = request.params.get("runId")
    return one is None or one in names
