"""`atrio run` and `atrio attach` on a terminal, against a server that can be told how to behave."""

from functools import partial
from typing import Any

import pytest

from asking import ask, call, finish, permission, resolve, take_answers
from atrio_process import Atrio, serving
from fake_server import AT, FakeServer, FakeSession, begin
from pty_rig import on_terminal

Json = dict[str, Any]


def has(wanted: str, text: str) -> bool:
    """Whether it is on the screen, wherever the lines are broken."""
    return wanted.replace(" ", "") in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("key", "option", "said", "code"),
    [("y", "o1", "allowed once", 0), ("a", "o2", "allowed for this session", 0), ("n", "o3", "rejected", 0)],
)
async def test_a_person_is_asked_and_answers_with_a_key(
    atrio: Atrio, key: str, option: str, said: str, code: int
) -> None:
    server = FakeServer()
    server.on_prompt = ask
    taken = take_answers(server)
    async with serving(atrio, server), on_terminal(atrio, "run", "-s", "s1", "change it") as seat:
        shown = await seat.see("allow? [y]es")
        assert "? Edit greet.py  needs permission" in shown
        assert "- " in shown and "return f" in shown
        seat.type(key)
        assert await seat.end() == code
    assert [(each["permissionId"], each["optionId"]) for each in taken] == [("p1", option)]
    assert "allow?" not in seat.shown.text
    assert f"{said}: Edit greet.py" in seat.shown.text


def others_here(server: FakeServer) -> None:
    server.answers["session/view"] = lambda _: {}
    server.answers["client/list"] = lambda _: {
        "clients": [
            {"clientId": server.hellos[-1]["clientId"], "name": "me", "sessionId": "s1", "since": AT},
            {"clientId": "x", "name": "Mara", "since": AT},
        ]
    }
    server.answers["session/queue"] = lambda _: {
        "runs": [run for run in server.sessions["s1"].runs.values() if run["state"] != "completed"]
    }


async def test_one_talks_to_a_session_sees_who_is_here_and_leaves(atrio: Atrio) -> None:
    server = FakeServer()
    others_here(server)
    async with serving(atrio, server), on_terminal(atrio, "attach", "s1") as seat:
        await seat.see("/help lists the commands")
        seat.type("hallo wrold\x1b[D\x1b[D\x1b[D\x7f\x1b[Cr\n")
        await seat.see("pong pong")
        seat.type("/who\n")
        await seat.see("Mara  in this directory")
        seat.type("/help\n")
        await seat.see("twice: leave")
        seat.type("\x04")
        assert await seat.end() == 0
    assert [params["prompt"][0]["text"] for method, params in server.asked if method == "session/prompt"] == [
        "hallo world"
    ]


async def test_what_is_typed_stays_whole_while_text_streams(atrio: Atrio) -> None:
    server = FakeServer()
    others_here(server)
    server.on_prompt = partial(begin, pieces=["first words "])
    async with serving(atrio, server), on_terminal(atrio, "attach", "s1", columns=40) as seat:
        await seat.see("/help lists the commands")
        seat.type("go\n")
        await seat.see("first words")
        session = server.sessions["s1"]
        run_id = next(iter(session.runs))
        offset = 12
        for number, letter in enumerate("typed while it talks"):
            seat.type(letter)
            text = f"word{number}" + ("\n" if number % 7 == 6 else " ")
            server.publish("s1", "message.delta", messageId=f"m-{run_id}", part=0, offset=offset, text=text)
            offset += len(text)
            await seat.see(partial(has, f"word{number}"))
        await seat.see("> typed while it talks")
        lines = seat.shown.text.split("\n")
        assert lines[-1] == "> typed while it talks"
        assert "first words word0 word1 word2 word3 word4 word5 word6".replace(" ", "") in "".join(lines).replace(
            " ", ""
        )
        seat.type("\x03")
        await seat.see(lambda text: text.split("\n")[-1] == ">")
        seat.type("\x03")
        await seat.see("the run was cancelled")
        seat.type("\x04")
        assert await seat.end() == 0


async def test_a_question_that_another_answers_is_no_longer_asked(atrio: Atrio) -> None:
    server = FakeServer()
    others_here(server)
    server.on_prompt = ask
    async with serving(atrio, server), on_terminal(atrio, "run", "-s", "s1", "change it", columns=40) as seat:
        await seat.see("[n]o")
        resolve(server, "p1", {"kind": "allow_once", "optionId": "o1"}, "x", "Mara")
        assert await seat.end() == 0
    assert has("allowed once (answered by Mara): Edit greet.py", seat.shown.text)
    assert "[n]o" not in seat.shown.text


async def test_a_key_that_was_pressed_before_the_question_is_no_answer(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = partial(begin, pieces=["thinking"])
    taken = take_answers(server)
    async with serving(atrio, server), on_terminal(atrio, "run", "-s", "s1", "change it") as seat:
        await seat.see("thinking")
        seat.type("yyyy")
        session = server.sessions["s1"]
        run_id = next(iter(session.runs))
        server.publish("s1", "permission.requested", permission=permission("s1", run_id))
        await seat.see("[n]o")
        seat.type("d")
        await seat.see(lambda text: text.count("? Edit greet.py") == 2)
        assert taken == []
        seat.type("n")
        assert await seat.end() == 0
    assert [each["optionId"] for each in taken] == ["o3"]


async def test_ctrl_c_at_a_question_cancels_the_run_and_leaves_the_terminal_as_it_was(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = ask
    taken = take_answers(server)
    async with serving(atrio, server), on_terminal(atrio, "run", "-s", "s1", "change it") as seat:
        await seat.see("[n]o")
        assert seat.mode() != seat.usual_mode
        seat.type("\x03")
        await seat.see("the run was cancelled")
        assert await seat.end() == 130
        assert seat.mode() == seat.usual_mode
    assert taken == []
    assert any(method == "session/cancel" for method, _ in server.asked)


async def test_a_tool_shows_its_last_lines_while_it_works_and_nothing_of_that_is_left(atrio: Atrio) -> None:
    server = FakeServer()

    def work(session: FakeSession, run: Json) -> None:
        message_id = begin(session, run, ["Looking."])
        session.publish("message.part", messageId=message_id, part=1, value=call("in_progress", title="Look"))
        text = "".join(f"step {number}\n" for number in range(9)) + "\x1b]0;title\x07half a line"
        session.publish("tool.output", messageId=message_id, part=1, offset=0, text=text)

    server.on_prompt = work
    async with serving(atrio, server), on_terminal(atrio, "run", "-s", "s1", "look") as seat:
        shown = await seat.see("half a line")
        assert "● Look" in shown
        assert "step 5" in shown
        assert "step 4" not in shown
        seat.resize(40, 10)
        finish(server.sessions["s1"], allowed=True)
        server.wake()
        assert await seat.end() == 0
    assert "step 8" not in seat.shown.text
    assert "✓ Edit greet.py  2.5 s" in seat.shown.text


async def test_a_question_in_a_session_is_answered_by_a_line(atrio: Atrio) -> None:
    server = FakeServer()
    others_here(server)
    server.on_prompt = ask
    taken = take_answers(server)
    async with serving(atrio, server), on_terminal(atrio, "attach", "s1") as seat:
        await seat.see("/help lists the commands")
        seat.type("change it\n")
        await seat.see("[n]o")
        seat.type("a")
        await seat.see("> a")
        assert taken == []
        seat.type("\n")
        await seat.see("allowed for this session")
        await seat.see("✓ Edit greet.py")
        seat.type("/quit\n")
        assert await seat.end() == 0
    assert [each["optionId"] for each in taken] == ["o2"]


async def test_colours_are_used_unless_they_are_not_wanted(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = ask
    codes: list[set[str]] = []
    for no_color in ("1", ""):
        take_answers(server)
        async with (
            serving(atrio, server),
            on_terminal(atrio, "run", "-s", "s1", "change it", NO_COLOR=no_color) as seat,
        ):
            await seat.see("[n]o")
            seat.type("y")
            assert await seat.end() == 0
            codes.append(seat.shown.codes)
        server.sessions["s1"] = FakeSession("s1")
    assert codes[0] == set()
    assert {"31", "32"} <= codes[1] <= {"0", "1", "2", "31", "32", "33", "36"}


async def test_an_error_brings_no_control_code_to_the_terminal(atrio: Atrio) -> None:
    async with on_terminal(atrio, "run", "-f", "a\x1b]0;t\x07b", "hi") as seat:
        await seat.see("cannot attach a�]0;t�b")
