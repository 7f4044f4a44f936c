"""Histories made by hand: what a server in order shows, told in a few lines each.

For the tests of the checker. Time is in milliseconds since a beginning that is
the same for all; `Made` keeps numbers and places so that a story reads like one.
"""

from datetime import UTC, datetime
from typing import Any

__all__ = ["STORIES", "Made", "cancel", "crash", "queue", "stop", "talk"]

Json = dict[str, Any]

BEGINNING_S = 1_795_000_000.0
SESSION = "s1"
AUTHOR = {"clientId": "me", "name": "me"}


def stamp(ms: int) -> str:
    """A time as the wire has it."""
    return (
        datetime.fromtimestamp(BEGINNING_S + ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class Made:
    """A history that is being made. Every step takes a millisecond, unless `wait` lets more pass."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self.ms = 0
        self.epoch = "e0"
        self.server = 0
        self.seq = 0
        self.log: list[Json] = []
        self.messages: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self._ids = 0

    def note(self, what: str, **more: Any) -> Json:
        """An entry."""
        self.ms += 1
        entry = {"what": what, "at": BEGINNING_S + self.ms / 1000, **more}
        self.entries.append(entry)
        return entry

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms

    def start(self) -> None:
        """The server is ready."""
        self.note("start", server=self.server, pid=1)

    def open(self, conn: str, *, client: str = "me", reads: bool = True) -> None:
        """A connection."""
        self.note("open", conn=conn, server=self.server, client=client, reads=reads)

    def ask(self, conn: str, method: str, result: Any = None, error: str | None = None, **params: Any) -> None:
        """A request and its answer."""
        self._ids += 1
        self.note("send", conn=conn, id=self._ids, method=method, params=params)
        answer = {"result": result} if error is None else {"error": {"code": 0, "data": {"kind": error}}}
        self.note("reply", conn=conn, id=self._ids, **answer)

    def attach(self, conn: str, *, after: int | None = None) -> None:
        """Attach with a snapshot of how things stand, or resume."""
        if after is not None:
            place = {"epoch": self.epoch, "seq": after}
            self.ask(
                conn,
                "session/attach",
                {"stream": {**place, "recovered": True, "head": self.seq}},
                sessionId=SESSION,
                after=place,
            )
            return
        snapshot = {
            "session": {"sessionId": SESSION},
            "messages": [copied(message) for message in self.messages.values()],
            "more": False,
            "runs": [dict(run) for run in self.runs.values() if run["state"] != "completed"],
        }
        stream = {"epoch": self.epoch, "seq": self.seq, "recovered": False, "head": self.seq}
        self.ask(conn, "session/attach", {"stream": stream, "snapshot": snapshot}, sessionId=SESSION)

    def event(self, kind: str, **more: Any) -> Json:
        """The server publishes an event."""
        self.seq += 1
        self.ms += 1
        event = {"type": kind, "seq": self.seq, "at": stamp(self.ms), **more}
        self.log.append(event)
        return event

    def deliver(self, conn: str, *events: Json) -> None:
        """Some events come, by default all that were published since the last delivery."""
        self.note("events", conn=conn, of="session", thing=SESSION, epoch=self.epoch, events=[dict(e) for e in events])

    def delivered(self, *conns: str) -> None:
        """All of them get what was published since this was called last."""
        for conn in conns:
            self.deliver(conn, *self.log)
        self.log = []

    def run(self, run_id: str, number: int, **more: Any) -> Json:
        """A run that is accepted now."""
        self.runs[run_id] = {
            "runId": run_id,
            "sessionId": SESSION,
            "acceptSeq": number,
            "state": "queued",
            "delivery": "queue",
            "kind": "prompt",
            "author": AUTHOR,
            "promptText": f"do {run_id}",
            "acceptedAt": stamp(self.ms),
            **more,
        }
        return self.runs[run_id]

    def prompt(self, conn: str, run_id: str, number: int, **more: Any) -> None:
        """A prompt is sent, accepted, announced and acknowledged."""
        self.ms += 1
        run = self.run(run_id, number, **more)
        self.event("run.accepted", run=dict(run))
        prompt = [{"type": "text", "text": f"do {run_id}"}]
        result = {"run": dict(run), "duplicate": False, "position": 0}
        self.ask(conn, "session/prompt", result, sessionId=SESSION, runId=run_id, prompt=prompt)

    def begin(self, run_id: str) -> None:
        """Its turn begins: its prompt becomes a message."""
        self.runs[run_id] |= {"state": "running", "startedAt": stamp(self.ms)}
        self.event("run.started", run=dict(self.runs[run_id]))
        self.say_prompt(run_id)

    def say_prompt(self, run_id: str) -> None:
        """The prompt's message."""
        message = self.message(f"{run_id}-u", run_id, "user", f"do {run_id}")
        self.event("message.created", message=copied(message))
        self.event("message.completed", message=copied(message))

    def message(self, message_id: str, run_id: str, role: str, text: str = "") -> Json:
        """A message, not announced yet."""
        message = {
            "messageId": message_id,
            "sessionId": SESSION,
            "runId": run_id,
            "order": len(self.messages) + 1,
            "role": role,
            "parts": [{"type": "text", "text": text}] if text else [],
        }
        self.messages[message_id] = message
        return message

    def answer(self, run_id: str) -> None:
        """The answer begins, with an empty part."""
        message = self.message(f"{run_id}-a", run_id, "assistant")
        self.event("message.created", message=copied(message))
        self.part(run_id)

    def part(self, run_id: str) -> None:
        """An empty text part."""
        self.messages[f"{run_id}-a"]["parts"] = [{"type": "text", "text": ""}]
        value = {"type": "text", "text": ""}
        self.event("message.part", messageId=f"{run_id}-a", part=0, value=value)

    def say(self, run_id: str, text: str) -> Json:
        """The answer grows."""
        part = self.messages[f"{run_id}-a"]["parts"][0]
        offset = len(part["text"])
        part["text"] += text
        return self.event("message.delta", messageId=f"{run_id}-a", part=0, offset=offset, text=text)

    def reset(self, run_id: str) -> None:
        """The answer is taken back, and begins again."""
        self.messages[f"{run_id}-a"]["parts"] = []
        self.event("message.reset", messageId=f"{run_id}-a")
        self.part(run_id)

    def end(self, run_id: str, reason: str = "end_turn", *, told: bool = True, **more: Any) -> None:
        """The run ends, its answer with it."""
        answer = self.messages.get(f"{run_id}-a")
        drafted = answer is None
        if answer is None:
            answer = self.message(f"{run_id}-a", run_id, "assistant")
        answer["finish"] = {"reason": reason, "at": stamp(self.ms)}
        text = "".join(part["text"] for part in answer["parts"])
        self.runs[run_id] |= {
            "state": "completed",
            "stopReason": reason,
            "finishedAt": stamp(self.ms),
            "text": text,
            "messageId": answer["messageId"],
            "promptMessageId": f"{run_id}-u",
            **more,
        }
        if told:
            if drafted:
                self.event("message.created", message={**copied(answer)})
            self.event("message.completed", message=copied(answer))
            self.event("run.completed", run=dict(self.runs[run_id]))

    def read_all(self, conn: str) -> None:
        """Everything is asked for in the end."""
        for run_id, run in self.runs.items():
            self.ask(conn, "run/get", {"run": dict(run)}, runId=run_id)
        messages = [copied(message) for message in self.messages.values()]
        self.ask(conn, "session/messages", {"messages": messages, "more": False}, sessionId=SESSION)

    def restart(self) -> None:
        """The next server, with a new epoch."""
        self.server += 1
        self.epoch, self.seq, self.log = f"e{self.server}", 0, []
        self.wait(300)
        self.start()


def copied(message: Json) -> Json:
    """A message as it is now."""
    return {**message, "parts": [dict(part) for part in message["parts"]]}


def talk() -> Made:
    """Two prompts; one reader gets single deltas, one merged ones, a third comes late and resumes; a reset."""
    made = Made()
    made.start()
    for conn in ("a", "b", "c"):
        made.open(conn)
    made.attach("a")
    made.attach("b")
    made.prompt("a", "r1", 1)
    made.prompt("a", "r2", 3)
    made.begin("r1")
    made.answer("r1")
    made.delivered("a", "b")
    one, two, three = made.say("r1", "one "), made.say("r1", "two "), made.say("r1", "three")
    made.deliver("a", one, two)
    merged = {**three, "firstSeq": one["seq"], "offset": 0, "text": "one two three"}
    made.deliver("b", merged)
    made.deliver("a", three)
    made.attach("c")
    made.log = []
    made.reset("r1")
    made.say("r1", "again")
    made.end("r1")
    made.begin("r2")
    made.end("r2", "error")
    made.delivered("a", "b", "c")
    made.note("closed", conn="c", code=1006)
    made.open("d")
    made.attach("d", after=made.seq)
    made.ask("d", "session/prompt", {"run": dict(made.runs["r2"]), "duplicate": True, "position": 0}, **again("r2"))
    made.read_all("a")
    return made


def again(run_id: str) -> Json:
    """The parameters of a prompt that is sent once more."""
    return {"sessionId": SESSION, "runId": run_id, "prompt": [{"type": "text", "text": f"do {run_id}"}]}


def queue(*, unseen_beginning: bool = False) -> Made:
    """A turn with a steer folded into it; an interrupt goes ahead of what waits, and ends the turn."""
    made = Made()
    made.start()
    made.open("a")
    made.attach("a")
    made.prompt("a", "r1", 1)
    if unseen_beginning:
        made.delivered("a")
    made.begin("r1")
    if unseen_beginning:
        made.log = []
        made.attach("a")
    made.prompt("a", "r2", 2)
    made.prompt("a", "r3", 3, delivery="steer")
    made.runs["r3"] |= {"state": "running", "foldedInto": "r1"}
    made.event("run.folded", runId="r3", foldedInto="r1")
    made.say_prompt("r3")
    made.prompt("a", "r4", 4, delivery="interrupt")
    made.end("r1", "cancelled", told=False)
    same = {name: made.runs["r1"][name] for name in ("state", "stopReason", "finishedAt", "text", "messageId")}
    made.runs["r3"] |= same | {"promptMessageId": "r3-u"}
    answer = made.messages["r1-a"]
    made.event("message.created", message=copied(answer))
    made.event("message.completed", message=copied(answer))
    made.event("run.completed", run=dict(made.runs["r3"]))
    made.event("run.completed", run=dict(made.runs["r1"]))
    for run_id in ("r4", "r2"):
        made.begin(run_id)
        made.end(run_id)
    made.delivered("a")
    made.read_all("a")
    return made


def cancel() -> Made:
    """A cancel that names what runs and what waits; one of an idle session; a prompt after it."""
    made = Made()
    made.start()
    made.open("a")
    made.open("b", client="other")
    made.attach("a")
    made.prompt("a", "r1", 1)
    made.begin("r1")
    made.end("r1")
    made.prompt("a", "r2", 2)
    made.begin("r2")
    made.prompt("a", "r3", 3)
    made.ask("b", "session/cancel", {"upTo": 3, "cancelled": ["r2", "r3"]}, sessionId=SESSION)
    made.end("r2", "cancelled")
    made.message("r3-u", "r3", "user", "do r3")
    made.event("message.created", message=copied(made.messages["r3-u"]))
    made.event("message.completed", message=copied(made.messages["r3-u"]))
    made.end("r3", "cancelled")
    made.ask("a", "session/cancel", {"upTo": 3, "cancelled": []}, sessionId=SESSION, wait=True)
    made.prompt("a", "r4", 4)
    made.begin("r4")
    made.end("r4")
    made.delivered("a")
    made.read_all("a")
    return made


def crash() -> Made:
    """A turn and a prompt that waits, when the server is killed; what was said last was not stored."""
    made = Made()
    made.start()
    made.open("a")
    made.attach("a")
    made.prompt("a", "r1", 1)
    made.begin("r1")
    made.answer("r1")
    made.say("r1", "stored")
    made.prompt("a", "r2", 2)
    made.wait(500)
    made.say("r1", " lost")
    made.delivered("a")
    made.wait(20)
    made.note("signal", server=0, name="SIGKILL")
    made.note("closed", conn="a", code=1006)
    made.note("ended", server=0, code=-9)
    made.restart()
    made.messages["r1-a"]["parts"][0]["text"] = "stored"
    made.message("r2-u", "r2", "user", "do r2")
    for run_id in ("r1", "r2"):
        made.end(run_id, "interrupted", told=False)
    made.open("b")
    made.attach("b")
    made.read_all("b")
    return made


def stop() -> Made:
    """A turn when the server is told to end: it is cancelled, told, and stored."""
    made = Made()
    made.start()
    made.open("a")
    made.attach("a")
    made.prompt("a", "r1", 1)
    made.begin("r1")
    made.answer("r1")
    made.say("r1", "half")
    made.note("signal", server=0, name="SIGTERM")
    made.end("r1", "cancelled")
    made.delivered("a")
    made.note("detached", conn="a", of="session", thing=SESSION, reason="workspace_closed")
    made.note("closed", conn="a", code=1001)
    made.note("ended", server=0, code=0)
    made.restart()
    made.open("b")
    made.attach("b")
    made.read_all("b")
    return made


STORIES = {"talk": talk, "queue": queue, "cancel": cancel, "crash": crash, "stop": stop}
"""The stories of a server that is in order."""
