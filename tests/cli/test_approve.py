"""`--approve` without a terminal, and attaching without one."""

import json
from typing import Any

import pytest

from asking import ask, call, permission, take_answers
from atrio_process import Atrio, serving
from fake_server import AT, FakeServer, FakeSession, begin, end, run_json, say_pong, session_json

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("words", "name", "option", "code"),
    [
        ((), "edit", "o3", 5),
        (("--approve", "none"), "edit", "o3", 5),
        (("--approve", "ask"), "edit", "o3", 5),
        (("--approve", "all"), "edit", "o1", 0),
        (("--approve", "reads"), "read", "o1", 0),
        (("--approve", "reads"), "shell", "o3", 5),
        (("--approve", "all", "-q"), "edit", "o1", 0),
        (("--json",), "edit", "o3", 5),
    ],
)
async def test_without_a_terminal_the_policy_answers(
    atrio: Atrio, words: tuple[str, ...], name: str, option: str, code: int
) -> None:
    server = FakeServer()
    server.on_prompt = lambda session, run: ask(session, run, name=name)
    taken = take_answers(server)
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", *words, "change it")
    assert done.code == code
    assert [each["optionId"] for each in taken] == [option]
    if code:
        assert "denied by policy" in done.err
    if "--json" in words:
        assert all(json.loads(line)["type"] for line in done.out.splitlines())


async def test_changes_are_told_on_stderr_as_plain_lines(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = ask
    take_answers(server)
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", "--approve", "all", "change it")
    assert done.out == "I will change it.\n"
    assert (
        "· Edit greet.py\n✓ allowed once: Edit greet.py\n✓ Edit greet.py  2.5 s\n  /work/greet.py +1 -1\n" in done.err
    )
    assert '     2 -     return "hi"\n' in done.err


async def test_the_servers_own_denial_has_the_same_exit_code(atrio: Atrio) -> None:
    def denied(session: FakeSession, run: Json) -> None:
        ask(session, run)
        outcome = {"kind": "policy", "optionId": "reject_once"}
        told = {"permissionId": "p1", "sessionId": "s1", "runId": run["runId"], "toolCallId": "t1", "outcome": outcome}
        session.publish("permission.resolved", **told)
        end(session, run["runId"], "I will change it.")

    server = FakeServer()
    server.on_prompt = denied
    take_answers(server)
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", "--approve", "all", "change it")
    assert done.code == 5
    assert "rejected by the server's policy" in done.err


async def test_only_questions_of_the_own_run_and_its_sub_agents_are_answered(atrio: Atrio) -> None:
    def several(session: FakeSession, run: Json) -> None:
        other = run_json("s1", "other", "theirs")
        session.runs["other"] = other
        session.publish("run.accepted", run=other)
        session.publish("permission.requested", permission=permission("s1", "other", "of-another"))
        message_id = begin(session, run, ["Asking a sub-agent."])
        task = call("in_progress", name="task", title="Look round", kind="other", childSessionId="child")
        session.publish("message.part", messageId=message_id, part=1, value=task)
        foreign = permission("stranger", "r9", "of-a-stranger", rootSessionId="s1")
        session.publish("permission.requested", permission=foreign)
        own = permission("child", "r8", "of-the-child", rootSessionId="s1")
        session.publish("permission.requested", permission=own)

    server = FakeServer()
    server.on_prompt = several
    taken = take_answers(server)
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", "--approve", "all", "change it")
    assert done.code == 0
    assert [each["permissionId"] for each in taken] == ["of-the-child"]


async def test_a_question_that_was_pending_when_the_connection_broke_is_answered_afterwards(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = ask
    server.swallow = {"permission/respond"}
    taken = take_answers(server)
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", "--approve", "all", "change it")
    assert done.code == 0
    assert {each["optionId"] for each in taken} == {"o1"}


async def test_without_a_terminal_each_line_is_a_prompt(atrio: Atrio) -> None:
    server = FakeServer()
    server.answers["session/view"] = lambda _: {}
    server.answers["client/list"] = lambda _: {
        "clients": [{"clientId": "x", "name": "Mara", "sessionId": "s1", "since": AT}]
    }
    server.on_prompt = say_pong
    async with serving(atrio, server):
        done = await atrio("attach", "s1", stdin=b"ping\n/who\n\n//etc is what\n/nothing\n")
    assert (done.code, done.out) == (0, "pong pong\npong pong\n")
    assert "Mara  here" in done.err
    assert "there is no /nothing" in done.err
    sent = [params for method, params in server.asked if method == "session/prompt"]
    assert [params["prompt"][0]["text"] for params in sent] == ["ping", "/etc is what"]
    assert {params["delivery"] for params in sent} == {"steer"}


async def test_nobody_is_waited_for_when_the_input_has_ended(atrio: Atrio) -> None:
    server = FakeServer()
    server.answers["session/view"] = lambda _: {}
    server.on_prompt = ask
    taken = take_answers(server)
    async with serving(atrio, server):
        done = await atrio("attach", "s1", stdin=b"change it")
    assert done.code == 0
    assert [each["optionId"] for each in taken] == ["o3"]
    assert "nobody is here to answer" in done.err


async def test_a_new_session_that_nobody_used_is_not_left_behind(atrio: Atrio) -> None:
    server = FakeServer()
    server.answers["session/view"] = lambda _: {}
    server.answers["session/list"] = lambda _: {"sessions": [session_json("s1")]}
    async with serving(atrio, server):
        assert (await atrio("attach", "--new", stdin=b"/help\n")).code == 0
        assert list(server.sessions) == ["s1"]
        assert (await atrio("attach", "--new", stdin=b"ping\n")).code == 0
    assert list(server.sessions) == ["s1", "s2"]
