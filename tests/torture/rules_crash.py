"""Rules about what outlives a server: what was acknowledged or shown, and how open runs end.

Part of the checker; pure. A server that ended with exit code 0 has saved; any
other end is a crash. What must be known "at the end" is asked by whoever makes
the history, of the last server; not to have asked breaks `asked`, so that
nothing passes unseen.

How much text a crash may cost: what was published `LOSS_S` before the kill, by
the server's own times of the events, must be stored. Where the machine stood
still shortly before the kill (`stall` entries) the writer stood still as well,
and so much more is allowed.
"""

from typing import Any

from torture.facts import CLOCK_S, Facts, Life, RunFacts, seconds_of, text_of
from torture.logs import Log, Played

__all__ = ["LOSS_S", "check_crashes", "check_end", "text_losses"]

Json = dict[str, Any]

LOSS_S = 0.100
"""So much of the newest text may be missing after a crash."""

SLACK_S = 0.100
"""What is allowed beyond it anywhere: a commit takes a few turns of two threads on a machine that does other things."""

GIVEN_UP_S = 4.0
"""A shutdown waits so long for runs to end. Those that cannot are saved, and nobody is told any more."""

LATE_S = 0.5
"""A reader that stood still for so long between the signal and its close may be cut off: nobody waits for it longer."""

STALL_WINDOW_S = 1.0
"""Stalls of the machine count that ended at most so long before the kill, or after it."""


def check_crashes(facts: Facts, logs: list[Log], played: dict[Log, Played]) -> None:
    """Check what the ends of servers did to runs."""
    for run in facts.runs.values():
        _check_kept(facts, run)
        _check_interrupted(facts, run)
        _check_not_running(facts, run)
    for life in facts.lives.values():
        if life.asked is not None and not life.killed_at:
            _check_drained(facts, logs, life)
    for how in _lost_text(facts, played):
        facts.breaks("loss", how)


def check_end(facts: Facts, logs: list[Log], played: dict[Log, Played]) -> None:
    """Check that everything that was promised is there at the end, and was asked for."""
    for run in facts.runs.values():
        _check_asked(facts, run)
        _check_messages(facts, run)
    for session, messages in facts.messages.items():
        _check_rows(facts, session, messages)
    for log, state in played.items():
        _check_stored_as_told(facts, log, state)


def _check_kept(facts: Facts, run: RunFacts) -> None:
    """What was acknowledged or announced is known from then on, and an end stays as it was told."""
    known_since = run.told[0][0]
    for request in facts.about_run.get(run.run_id, ()):
        if request.sent <= known_since or request.session not in {"", run.session} or _deleted(facts, run):
            continue
        if request.error is not None and request.error["data"]["kind"] == "run_not_found":
            facts.breaks("durable", f"{run.run_id} was told by {run.told[0][2]}, and is not known to {request}")
        if request.method == "session/prompt" and request.result is not None and not request.result["duplicate"]:
            facts.breaks("durable", f"{run.run_id} was told by {run.told[0][2]}, and is new again to {request}")
    end: tuple[str, Json] | None = None
    for _, _, by, told in run.told:
        if told["state"] == "completed":
            parts = ("stopReason", "messageId", "finishedAt", "text")
            if end is None:
                end = by, told
            elif any(name in told and told[name] != end[1].get(name) for name in parts):
                facts.breaks("terminal_kept", f"{run.run_id} ended as {end[1]} by {end[0]}, and by {by} as {told}")


def _deleted(facts: Facts, run: RunFacts) -> bool:
    return any(request.method == "session/delete" for request in facts.about_session.get(run.session, ()))


def _check_interrupted(facts: Facts, run: RunFacts) -> None:
    """Interrupted is what a crash interrupted, and nothing else; what a crash found open is nothing else."""
    end = run.end
    if end is None:
        return
    home, finished = facts.home(run), seconds_of(end["finishedAt"])
    if end["stopReason"] == "interrupted":
        if not home.killed or finished + CLOCK_S < home.stopped_at:
            facts.breaks("interrupted", f"{run.run_id} ended interrupted, and its server was not killed")
        if any(by == "run.completed" for _, _, by, _ in run.told):
            facts.breaks("interrupted", f"{run.run_id} was told to end interrupted on its stream")
    elif home.killed and finished > home.ended_at + CLOCK_S:
        facts.breaks("interrupted", f"{run.run_id} outlived its server, and ended {end['stopReason']}")


def _check_not_running(facts: Facts, run: RunFacts) -> None:
    """No later server knows a run as open."""
    home = facts.home(run)
    for place, server, by, told in run.told:
        if server > home.number and told["state"] != "completed":
            facts.breaks("running", f"{run.run_id} is {told['state']} by {by} after a restart (entry {place})")


def _check_drained(facts: Facts, logs: list[Log], life: Life) -> None:
    """Who reads gets the end of every run that it knows of, and then 1001."""
    if life.code != 0:
        facts.breaks("saved", f"server {life.number} was told to end, and ended with {life.code}")
        return
    for log in logs:
        if log.of != "session" or log.server != life.number:
            continue
        for reading in log.readings:
            if not reading.reads or reading.left or reading.over is None or reading.over < (life.asked or 0):
                continue
            place, code, closed_at = facts.closed.get(reading.conn, (0, 0, 0.0))
            stood_still_s = sum(s for at, s in facts.stalls if life.asked_at < at <= closed_at)
            if code == 1000 or stood_still_s > LATE_S:
                continue  # it left by itself, or the machine stood in its way
            if place > (life.asked or 0) and code != 1001:
                facts.breaks("drained", f"{reading.conn} was closed with {code}")
            shot = reading.snapshot or {"runs": []}
            open_runs = {run["runId"] for run in shot["runs"] if run["state"] != "completed"}
            for _, event in reading.events:
                if event["type"] == "run.accepted":
                    open_runs.add(event["run"]["runId"])
                elif event["type"] == "run.completed":
                    open_runs.discard(event["run"]["runId"])
            if open_runs and closed_at < life.asked_at + GIVEN_UP_S:
                facts.breaks("drained", f"{reading.conn} was not told the end of {sorted(open_runs)}")


def _check_asked(facts: Facts, run: RunFacts) -> None:
    """The last server was asked for the run, and it is over."""
    if _deleted(facts, run):
        return
    asked = [told for _, server, by, told in run.told if server == facts.last_server and by in {"run/get", "run/wait"}]
    if not asked:
        facts.breaks("asked", f"{run.run_id} was told by {run.told[0][2]}, and nobody has asked for it in the end")
    elif asked[-1]["state"] != "completed":
        facts.breaks("one_terminal", f"{run.run_id} has not ended: it is {asked[-1]['state']}")
    elif facts.messages_read.get(run.session, -1) < run.told[-1][0] and not _read_since(facts, run):
        facts.breaks("asked", f"nobody has read the messages of {run.run_id} in the end")


def _read_since(facts: Facts, run: RunFacts) -> bool:
    """Whether its session's messages were read after its end was known."""
    known = next(place for place, _, _, told in run.told if told["state"] == "completed")
    return facts.messages_read.get(run.session, -1) > known


def _check_messages(facts: Facts, run: RunFacts) -> None:
    """A prompt is in its session once, as it was sent, and so is its answer."""
    end = run.end
    messages = facts.messages.get(run.session)
    if end is None or messages is None or end["kind"] != "prompt" or _deleted(facts, run):
        return
    mine = [message for message in messages.values() if message.get("runId") == run.run_id]
    prompts = [message for message in mine if message["role"] == "user"]
    if len(prompts) != 1:
        facts.breaks("messages", f"{run.run_id} has {len(prompts)} user messages")
    elif text_of(prompts[0])[:2000] != end["promptText"] or prompts[0]["messageId"] != end.get("promptMessageId"):
        facts.breaks("messages", f"{run.run_id} was sent as {end['promptText']!r}, and its message is {prompts[0]}")
    sent = {
        "".join(block.get("text", "") for block in ack.params["prompt"]) for ack in run.acks if "prompt" in ack.params
    }
    if prompts and sent and sent != {text_of(prompts[0])}:
        facts.breaks("messages", f"{run.run_id} was sent as {sent}, and is stored as {text_of(prompts[0])!r}")
    answer = messages.get(end.get("messageId", ""))
    whose = end.get("foldedInto", run.run_id)
    if answer is None or answer["role"] != "assistant" or answer.get("runId") != whose:
        facts.breaks("messages", f"{run.run_id} ends with the message {end.get('messageId')}, which is {answer}")
    elif end.get("text") != text_of(answer):
        facts.breaks(
            "run_text", f"{run.run_id} ends with {end.get('text')!r}, and its message says {text_of(answer)!r}"
        )
    elif "foldedInto" not in end and answer.get("finish", {}).get("reason") != end["stopReason"]:
        last = max((one for one in mine if one["role"] == "assistant"), key=lambda one: one["order"])
        if last.get("finish", {}).get("reason") != end["stopReason"]:
            facts.breaks("messages", f"{run.run_id} ends {end['stopReason']}, and its message {last.get('finish')}")


def _check_rows(facts: Facts, session: str, messages: dict[str, Json]) -> None:
    """No message is half written: each is finished, each call has its result, and their order is clear."""
    orders = [message["order"] for message in messages.values()]
    if len(set(orders)) != len(orders):
        facts.breaks("messages", f"{session}: two messages have one place: {sorted(orders)}")
    open_runs = {run.run_id for run in facts.in_session(session) if run.end is None}
    results = {
        part["toolCallId"] for one in messages.values() for part in one["parts"] if part["type"] == "tool_result"
    }
    for message in messages.values():
        if message["role"] != "assistant" or message.get("runId") in open_runs:
            continue
        if "finish" not in message:
            facts.breaks("messages", f"{session}: {message['messageId']} has no finish")
        for part in message["parts"]:
            if part["type"] == "tool_call" and (
                part["status"] in {"pending", "in_progress"} or part["toolCallId"] not in results
            ):
                facts.breaks("messages", f"{session}: the call {part['toolCallId']} has no end")


def _check_stored_as_told(facts: Facts, log: Log, state: Played) -> None:
    """What is stored of a message that was completed is what was told."""
    stored = facts.messages.get(log.thing)
    if stored is None:
        return
    for message_id, said in state.messages.items():
        if not said.completed:
            continue
        row = stored.get(message_id)
        if row is None or text_of(row) != text_of(said.message):
            killed = facts.life(log.server).killed
            if not killed or _published_in_time(facts, log, said.times):
                facts.breaks("stored", f"{log.thing}: {message_id} was told as {text_of(said.message)!r} and is {row}")


def _published_in_time(facts: Facts, log: Log, times: list[list[tuple[int, float]]]) -> bool:
    until = _durable_until(facts, facts.life(log.server))
    return all(at <= until for part in times for _, at in part)


def _durable_until(facts: Facts, life: Life) -> float:
    """What was published until then must be stored."""
    window = life.stopped_at - STALL_WINDOW_S
    stalled = sum(s for at, s in facts.stalls if window <= at and at - s <= life.stopped_at)
    return life.stopped_at - LOSS_S - SLACK_S - stalled


def _lost_text(facts: Facts, played: dict[Log, Played]) -> list[str]:
    found: list[str] = []
    for log, message_id, part, kept, lost_at in _losses(facts, played):
        life = facts.life(log.server)
        if lost_at <= _durable_until(facts, life):
            found.append(
                f"{log.thing}: of part {part} of {message_id} {kept} characters are stored; "
                f"what is missing was told {life.stopped_at - lost_at:.3f} s before the kill"
            )
    return found


def text_losses(facts: Facts, played: dict[Log, Played]) -> list[float]:
    """How long before its kill the oldest text was told that each message lost, in seconds; 0 where it lost none."""
    lost: dict[tuple[str, str], float] = {}
    for log, state in played.items():
        if facts.life(log.server).killed and log.thing in facts.messages:
            lost |= {(log.thing, message_id): 0.0 for message_id, said in state.messages.items() if not said.completed}
    for log, message_id, _, _, lost_at in _losses(facts, played):
        key = log.thing, message_id
        lost[key] = max(lost.get(key, 0.0), facts.life(log.server).stopped_at - lost_at)
    return list(lost.values())


def _losses(facts: Facts, played: dict[Log, Played]) -> list[tuple[Log, str, int, int, float]]:
    """What was told and is not stored: where, how much is stored, and by when the first of what is missing was told."""
    found: list[tuple[Log, str, int, int, float]] = []
    for log, state in played.items():
        rows = facts.messages.get(log.thing)
        if not facts.life(log.server).killed or rows is None:
            continue
        for message_id, said in state.messages.items():
            row = rows.get(message_id, {"parts": []})
            parts = row["parts"]
            for index, text in enumerate(said.texts):
                part = parts[index] if index < len(parts) else {"type": "text", "text": ""}
                if part["type"] == "tool_call":
                    continue  # what was said of its input is gone with its end
                kept = part.get("text", "")
                if not (kept.startswith(text) or text.startswith(kept)):
                    facts.breaks("stored", f"{log.thing}: {message_id} said {text!r}, and is stored as {kept!r}")
                missing = [at for end, at in said.times[index] if end > len(kept)]
                if missing and len(text) > len(kept):
                    found.append((log, message_id, index, len(kept), min(missing)))
    return found
