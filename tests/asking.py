"""Runs of the fake server that ask for permissions, and answers to them."""

from typing import Any

from fake_server import AT, FakeServer, FakeSession, begin, end

Json = dict[str, Any]
OPTIONS = [
    {"optionId": "o1", "kind": "allow_once", "name": "Allow once"},
    {"optionId": "o2", "kind": "allow_always", "name": "Allow for this session"},
    {"optionId": "o3", "kind": "reject_once", "name": "Reject"},
]
UNIFIED = """--- a/greet.py
+++ b/greet.py
@@ -1,3 +1,3 @@
 def greet(name):
-    return "hi"
+    return f"hello, {name}, with a line that is long enough to be broken on a narrow terminal"
 # end 全角文字
"""


def call(status: str, **more: Any) -> Json:
    fixed = {"type": "tool_call", "toolCallId": "t1", "name": "edit", "title": "Edit greet.py", "kind": "edit"}
    return {**fixed, "input": {}, "status": status, "startedAt": AT, **more}


def permission(session_id: str, run_id: str, permission_id: str = "p1", **more: Any) -> Json:
    return {
        "permissionId": permission_id,
        "sessionId": session_id,
        "runId": run_id,
        "toolCallId": "t1",
        "name": "edit",
        "title": "Edit greet.py",
        "path": "/work/greet.py",
        "input": {},
        "diffs": [{"path": "/work/greet.py", "unified": UNIFIED}],
        "options": OPTIONS,
        "requestedAt": AT,
        **more,
    }


def ask(session: FakeSession, run: Json, **more: Any) -> None:
    """Begin a run that asks for a permission and waits."""
    message_id = begin(session, run, ["I will change it."])
    session.publish("message.part", messageId=message_id, part=1, value=call("in_progress"))
    session.publish("permission.requested", permission=permission(session.session_id, run["runId"], **more))


def take_answers(server: FakeServer) -> list[Json]:
    """Let the server take answers; gives the list of them. An answered question ends its session's runs."""
    taken: list[Json] = []

    def respond(params: Json) -> Json:
        first = not any(each["permissionId"] == params["permissionId"] for each in taken)
        taken.append(params)
        option = next(option for option in OPTIONS if option["optionId"] == params["optionId"])
        outcome = {"kind": option["kind"], "optionId": option["optionId"]}
        if first:
            resolve(server, params["permissionId"], outcome, server.hellos[-1]["clientId"])
        return {"resolved": first, "outcome": outcome}

    server.answers["permission/respond"] = respond
    return taken


def resolve(server: FakeServer, permission_id: str, outcome: Json, client_id: str, name: str = "me") -> None:
    """A question is answered, and the runs of its session end."""
    for session in server.sessions.values():
        for event in list(session.log):
            if event["type"] == "permission.requested" and event["permission"]["permissionId"] == permission_id:
                asked = event["permission"]
                session.publish(
                    "permission.resolved",
                    permissionId=permission_id,
                    sessionId=asked["sessionId"],
                    runId=asked["runId"],
                    toolCallId=asked["toolCallId"],
                    outcome=outcome,
                    by={"clientId": client_id, "name": name},
                )
                finish(session, allowed=outcome["kind"].startswith("allow"))
    server.wake()


def finish(session: FakeSession, *, allowed: bool) -> None:
    """End what runs, with a result of its call."""
    for run_id in [run_id for run_id, run in session.runs.items() if run["state"] != "completed"]:
        message_id = f"m-{run_id}"
        result = {
            "type": "tool_result",
            "toolCallId": "t1",
            "name": "edit",
            "content": [{"type": "text", "text": "Changed greet.py." if allowed else "Not permitted."}],
            "isError": not allowed,
        }
        if allowed:
            result["diffs"] = [{"path": "/work/greet.py", "unified": UNIFIED}]
        tool = {
            "messageId": f"{message_id}-results",
            "sessionId": session.session_id,
            "runId": run_id,
            "order": session.head + 1,
            "role": "tool",
            "parts": [result],
            "summary": False,
            "createdAt": AT,
            "updatedAt": AT,
        }
        session.publish("message.created", message=tool)
        ended = call("completed" if allowed else "failed", finishedAt=AT.replace("00.000", "02.500"))
        session.publish("message.part", messageId=message_id, part=1, value=ended)
        end(session, run_id, "I will change it.")
