"""`atrio run` against a server that can be told how to behave."""

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_process import COMMAND, Atrio, Done, serving
from atrio_protocol.content import TextBlock
from atrio_server.cli import connect
from atrio_server.cli.failure import Exit, explain
from atrio_server.cli.options import Target
from atrio_server.cli.running import Order, follow_order
from atrio_server.client import ServerGone, open_client
from atrio_server.client.nursery import open_plain_nursery
from fake_server import TOKEN, FakeServer, FakeSession, RpcError, begin, end, run_json, say_pong, session_json, stall
from pty_rig import all_shown

Json = dict[str, Any]


def ends_with(stop_reason: str, **more: Any) -> Any:
    def answer(session: FakeSession, run: Json) -> None:
        begin(session, run, ["half"])
        end(session, run["runId"], "half", stop_reason, **more)

    return answer


def failed(kind: str) -> Json:
    return {"error": {"code": -32030, "message": "It broke.", "data": {"kind": kind, "retryable": False}}}


def prompts(server: FakeServer) -> list[Json]:
    return [params for method, params in server.asked if method == "session/prompt"]


async def test_the_text_is_the_result_and_everything_else_is_a_notice(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        done = await atrio("run", "map", "this", "project")
    assert (done.code, done.out) == (0, "pong pong\n")
    assert done.err == "session s2\nmodel m1: KEY is set\n"
    assert prompts(server)[0]["prompt"] == [{"type": "text", "text": "map this project"}]
    assert prompts(server)[0]["runId"]


@pytest.mark.parametrize(
    ("words", "session", "said"),
    [
        ((), {}, "model m1: nothing is set"),
        (("-m", "m2"), {}, "model m2: named by -m"),
        ((), {"model": "m3"}, "model m3: this session's own"),
    ],
)
async def test_the_model_is_named_with_the_reason_for_it(
    atrio: Atrio, words: tuple[str, ...], session: Json, said: str
) -> None:
    server = FakeServer()
    server.model |= {"reason": "Nothing is set (A, or B): so rules answer."}
    server.answers["session/get"] = lambda _: {"session": session_json("s1") | session}
    async with serving(atrio, server):
        done = await atrio("run", "-s", "s1", *words, "ping")
        quiet = await atrio("run", "-q", "-s", "s1", *words, "ping")
    assert (done.code, done.err) == (0, f"{said}\n")
    assert quiet.err == ""


async def test_a_refused_prompt_leaves_no_new_session_behind(atrio: Atrio) -> None:
    server = FakeServer()

    def refuse(_: Json) -> Json:
        raise RpcError("model_not_found", -32002, "There is no such model.")

    server.answers["session/prompt"] = refuse
    async with serving(atrio, server):
        done = await atrio("run", "-m", "nosuch", "ping")
        assert list(server.sessions) == ["s1"]
        await atrio("run", "-s", "s1", "-m", "nosuch", "ping")
    assert (done.code, done.out) == (7, "")
    assert done.err == "atrio: There is no such model; `atrio models` shows what there is\n"
    assert list(server.sessions) == ["s1"]


@pytest.mark.parametrize("closed", [1, 2])
async def test_a_stream_that_the_caller_closed_is_no_error(atrio: Atrio, closed: int) -> None:
    async with serving(atrio, FakeServer()):
        line = f'"$@" {closed}>&-'
        done = await trio.run_process(
            ["sh", "-c", line, "sh", *COMMAND, "run", "ping"],
            env=atrio.environ,
            capture_stdout=True,
            capture_stderr=True,
        )
    assert done.returncode == 0
    assert b"bug" not in done.stderr


async def test_output_that_finds_no_room_is_told_in_one_sentence(atrio: Atrio) -> None:
    done = await trio.run_process(
        ["sh", "-c", '"$@" >/dev/full', "sh", *COMMAND, "version"],
        env=atrio.environ,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"atrio: cannot write the output: No space left on device\n"


async def test_the_text_comes_as_it_is_said(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with serving(atrio, server), atrio.started("run", "ping") as command:
        await command.read_out("po")
        session = server.sessions["s2"]
        end(session, next(iter(session.runs)), "pong")
        server.wake()
        done = await command.end()
    assert (done.code, done.out) == (0, "pong\n")


async def test_quiet_prints_the_final_text_alone(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()):
        assert await atrio("run", "-q", "ping") == Done(0, "pong pong\n", "")


async def test_json_prints_the_events_as_the_socket_brings_them(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        done = await atrio("run", "--json", "ping")
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines == [{**event, "sessionId": "s2", "epoch": "e1"} for event in server.sessions["s2"].log]


async def test_the_final_text_is_written_to_a_file_in_one_step(atrio: Atrio) -> None:
    target = atrio.directory / "answer.txt"
    target.write_text("old")
    os.chmod(target, 0o640)  # noqa: PTH101 - the other rule asks for a thread round a Path method
    async with serving(atrio, FakeServer()):
        done = await atrio("run", "-q", "-o", "answer.txt", "ping")
    assert done.code == 0
    assert target.read_text() == "pong pong\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in atrio.directory.iterdir()] == ["answer.txt"]


async def test_a_file_keeps_what_it_had_when_the_run_fails(atrio: Atrio) -> None:
    (atrio.directory / "answer.txt").write_text("old")
    server = FakeServer()
    server.on_prompt = ends_with("error", **failed("provider_error"))
    async with serving(atrio, server):
        done = await atrio("run", "-o", "answer.txt", "ping")
    assert done.code == 7
    assert "answer.txt is left as it was" in done.err
    assert (atrio.directory / "answer.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (ends_with("end_turn"), 0, ""),
        (ends_with("max_tokens"), 1, "limit of tokens"),
        (ends_with("max_turn_requests"), 1, "as many requests"),
        (ends_with("refusal"), 1, "refused"),
        (ends_with("interrupted"), 1, "the server died during the run"),
        (ends_with("cancelled", cancelledBy={"clientId": "x", "name": "Bob"}), 130, "cancelled by Bob"),
        (ends_with("error", **failed("provider_auth")), 7, "It broke; check the key"),
        (ends_with("error", **failed("provider_unreachable")), 7, "It broke"),
        (ends_with("error", **failed("agent_failed")), 1, "It broke"),
    ],
)
async def test_the_exit_code_says_how_the_run_ended(atrio: Atrio, answer: Any, code: int, said: str) -> None:
    server = FakeServer()
    server.on_prompt = answer
    async with serving(atrio, server):
        done = await atrio("run", "ping")
    assert (done.code, done.out) == (code, "half\n")
    assert said in done.err


async def test_an_unknown_session_has_an_exit_code_of_its_own(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()):
        done = await atrio("run", "-s", "nobody", "ping")
    assert (done.code, done.out) == (4, "")
    assert "atrio sessions list" in done.err


async def test_a_wrong_token_is_told_with_the_way_out(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()):
        done = await atrio("run", "ping", ATRIO_TOKEN="wrong")
    assert done.code == 6
    assert "does not accept this token; `atrio token show`" in done.err


async def test_a_session_is_gone_on_in(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        assert (await atrio("run", "-s", "s1", "ping")).code == 0
        assert (await atrio("run", "-s", "s1", "ping")).code == 0
        # The fake's newest session is its first one.
        server.answers["session/list"] = lambda _: {"sessions": [session_json("s1")]}
        assert (await atrio("run", "-c", "ping")).code == 0
        assert (await atrio("run", "-s", "last", "ping")).code == 0
        server.answers["session/list"] = lambda _: {"sessions": []}
        assert (await atrio("run", "-c", "ping")).code == 0
        assert (await atrio("run", "-s", "last", "ping")).code == 4
    assert [params["sessionId"] for params in prompts(server)] == ["s1", "s1", "s1", "s1", "s2"]


async def test_piped_input_is_the_context_of_the_words(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        assert (await atrio("run", "explain", stdin=b"the context\n")).code == 0
        assert (await atrio("run", "-", stdin=b"all of it\n")).code == 0
        assert (await atrio("run", stdin=b"nothing else\n")).code == 0
        assert (await atrio("run", "explain", "-", stdin=b"more\n")).code == 0
    texts = [[block["text"] for block in params["prompt"]] for params in prompts(server)]
    assert texts == [["explain", "the context\n"], ["all of it\n"], ["nothing else\n"], ["explain", "more\n"]]


async def test_a_pipe_that_says_nothing_is_not_waited_for(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()):
        read_end, write_end = os.pipe()
        try:
            process = await trio.run_process(
                [*COMMAND, "run", "ping"],
                stdin=read_end,
                capture_stdout=True,
                capture_stderr=True,
                cwd=atrio.directory,
                env=atrio.environ,
            )
        finally:
            os.close(read_end)
            os.close(write_end)
    assert process.stdout == b"pong pong\n"
    assert b"going on without it" in process.stderr


async def test_files_are_attached_as_what_they_are(atrio: Atrio) -> None:
    (atrio.directory / "a.py").write_text("print('é')")
    (atrio.directory / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (atrio.directory / "c.bin").write_bytes(b"\xff\x00")
    async with serving(atrio, FakeServer()) as server:
        done = await atrio("run", "look", "-f", "a.py", "-f", "b.png", "-f", "c.bin")
    assert done.code == 0
    _, text, image, blob = prompts(server)[0]["prompt"]
    uri = (atrio.directory / "a.py").as_uri()
    assert text == {"type": "resource", "resource": {"uri": uri, "mimeType": "text/x-python", "text": "print('é')"}}
    assert (image["type"], image["mimeType"], image["data"]) == ("image", "image/png", "iVBORw0KGgpyZXN0")
    assert blob["resource"]["blob"] == "/wA="


async def test_too_much_text_is_refused_before_anything_is_sent(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        done = await atrio("run", "-", stdin=b"x" * (1024 * 1024 + 1))
    assert done.code == 2
    assert "longer than 1048576 bytes" in done.err
    assert server.asked == []


async def test_no_wait_prints_the_run_and_leaves_it(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with serving(atrio, server):
        done = await atrio("run", "--no-wait", "ping")
        assert done.code == 0
        assert done.out.strip() in server.sessions["s2"].runs
        assert f"atrio wait {done.out.strip()}" in done.err


async def test_a_model_is_asked_for_by_flag_or_variable_unless_it_is_the_default(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        model = {"modelId": "demo", "provider": "demo", "name": "demo", "default": True}
        server.answers["model/list"] = lambda _: {"models": [model]}
        assert (await atrio("run", "-m", "openai/x", "ping")).code == 0
        assert (await atrio("run", "ping", ATRIO_MODEL="openai/y")).code == 0
        assert (await atrio("run", "ping", ATRIO_MODEL="demo")).code == 0
        assert (await atrio("run", "-m", "script:here.json", "ping")).code == 0
    asked = [params.get("model") for params in prompts(server)]
    assert asked == ["openai/x", "openai/y", None, f"script:{atrio.directory / 'here.json'}"]


@pytest.mark.parametrize("frames", [4, 5, 7, 9])
async def test_a_connection_that_breaks_on_the_way_is_mended(atrio: Atrio, frames: int) -> None:
    server = FakeServer()
    server.cut_after = lambda connection: frames if connection == 0 else None
    async with serving(atrio, server):
        done = await atrio("run", "ping")
    assert (done.code, done.out) == (0, "pong pong\n")
    assert "connected again" in done.err
    assert len(server.sessions["s2"].runs) == 1


async def test_a_lost_answer_to_the_prompt_does_not_make_a_second_run(atrio: Atrio) -> None:
    server = FakeServer()
    server.swallow = {"session/prompt"}
    async with serving(atrio, server):
        done = await atrio("run", "ping")
    assert (done.code, done.out) == (0, "pong pong\n")
    assert len(prompts(server)) == 2
    assert len(server.sessions["s2"].runs) == 1


async def test_an_end_that_was_missed_for_good_is_told_by_the_snapshot(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with serving(atrio, server), atrio.started("run", "ping") as command:
        await command.read_out("po")
        session = server.sessions["s2"]
        end(session, next(iter(session.runs)), "pong", "interrupted")
        session.forget(epoch="after the restart")
        await server.drop_all()
        done = await command.end()
    assert (done.code, done.out) == (1, "pong\n")
    assert "the server died" in done.err


async def test_a_server_that_is_gone_for_good_is_never_a_success(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, because the patience of the command is 30 s."""
    server = FakeServer()
    server.on_prompt = stall
    monkeypatch.setattr(connect, "open_client", partial(open_client, dial=server.dial))
    monkeypatch.setenv("ATRIO_TOKEN", TOKEN)
    order = Order(
        prompt=(TextBlock(text="ping"),),
        session="s1",
        or_new=False,
        model=None,
        directory=None,
        as_json=False,
        quiet=False,
        output=None,
        no_wait=False,
    )

    async def lose_it() -> None:
        await trio.sleep(1)  # by then nothing moves any more
        assert server.sessions["s1"].runs
        server.refused_dials = 10_000
        await server.drop_all()

    async def follow_and_lose() -> None:
        async with server.serving(), open_plain_nursery() as nursery:
            nursery.start_soon(lose_it)
            await follow_order(order, Target(server="ws://127.0.0.1:4317"), None)

    with trio.fail_after(120), pytest.raises(ServerGone) as gone:
        await follow_and_lose()
    assert explain(gone.value) == (Exit.UNREACHABLE, f"{gone.value}; is `atrio serve` running there?")
    assert "the connection is lost" in capsys.readouterr().err
    assert 28 <= trio.current_time() <= 31


async def test_another_runs_failure_is_not_ours(atrio: Atrio) -> None:
    def foreign_failure_first(session: FakeSession, run: Json) -> None:
        foreign = run_json(session.session_id, "foreign", "theirs")
        session.runs["foreign"] = foreign
        session.publish("run.accepted", run=foreign)
        begin(session, foreign, ["foreign words"])
        end(session, "foreign", "foreign words", "error", **failed("provider_error"))
        say_pong(session, run)

    server = FakeServer()
    server.on_prompt = foreign_failure_first
    async with serving(atrio, server):
        done = await atrio("run", "ping")
    assert (done.code, done.out) == (0, "pong pong\n")


async def test_ctrl_c_cancels_the_run_and_waits_for_its_end(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with serving(atrio, server), atrio.started("run", "ping") as command:
        await command.read_out("po")
        command.interrupt()
        done = await command.end()
    assert (done.code, done.out) == (130, "po\n")
    assert "the run was cancelled" in done.err
    cancelled = [params for method, params in server.asked if method == "session/cancel"]
    assert [params["runId"] for params in cancelled] == list(server.sessions["s2"].runs)


async def test_a_second_ctrl_c_leaves_the_run_to_itself(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    server.answers["session/cancel"] = lambda _: {"upTo": 1, "cancelled": []}
    async with serving(atrio, server), atrio.started("run", "ping") as command:
        await command.read_out("po")
        command.interrupt()
        await command.read_err("press Ctrl-C again")
        command.interrupt()
        done = await command.end()
    assert done.code == 130


async def test_sigterm_leaves_the_run_to_itself_at_once(atrio: Atrio) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with serving(atrio, server), atrio.started("run", "ping") as command:
        await command.read_out("po")
        command.process.send_signal(signal.SIGTERM)
        done = await command.end()
    assert done.code == 128 + signal.SIGTERM
    assert "atrio wait" in done.err
    assert "session/cancel" not in [method for method, _ in server.asked]


async def test_text_that_is_taken_back_is_told(atrio: Atrio) -> None:
    def retried(session: FakeSession, run: Json) -> None:
        message_id = begin(session, run, ["wro"])
        session.publish("message.reset", messageId=message_id)
        session.publish("message.part", messageId=message_id, part=0, value={"type": "text", "text": ""})
        session.publish("message.delta", messageId=message_id, part=0, offset=0, text="right")
        end(session, run["runId"], "right")

    server = FakeServer()
    server.on_prompt = retried
    async with serving(atrio, server):
        done = await atrio("run", "ping")
        quiet = await atrio("run", "-q", "ping")
    assert (done.code, done.out) == (0, "wro\nright\n")
    assert "tried again" in done.err
    assert quiet.out == "right\n"


async def test_tools_are_told_on_stderr(atrio: Atrio) -> None:
    def with_tool(session: FakeSession, run: Json) -> None:
        message_id = begin(session, run, ["let me look"])
        call = {
            "type": "tool_call",
            "toolCallId": "t1",
            "name": "read",
            "title": "read a.py",
            "kind": "read",
            "input": {},
        }
        session.publish("message.part", messageId=message_id, part=1, value={**call, "status": "in_progress"})
        session.publish("message.part", messageId=message_id, part=1, value={**call, "status": "failed"})
        end(session, run["runId"], "let me look")

    server = FakeServer()
    server.on_prompt = with_tool
    async with serving(atrio, server):
        done = await atrio("run", "ping")
    assert done.out == "let me look\n"
    assert "· read a.py\n✗ read a.py  failed\n" in done.err


async def test_the_command_waits_its_turn_and_says_so(atrio: Atrio) -> None:
    server = FakeServer()
    async with serving(atrio, server):
        server.position = 2
        done = await atrio("run", "ping")
    assert done.code == 0
    assert "waiting for 2 other runs" in done.err


async def test_on_a_terminal_control_characters_are_made_visible(atrio: Atrio) -> None:
    def dangerous(session: FakeSession, run: Json) -> None:
        begin(session, run, ["clear \x1b[2J the screen"])
        end(session, run["runId"], "clear \x1b[2J the screen")

    server = FakeServer()
    server.on_prompt = dangerous
    ours, theirs = os.openpty()
    try:
        async with serving(atrio, server):
            assert (await atrio("run", "-q", "ping")).out == "clear \x1b[2J the screen\n"
            with trio.fail_after(30):
                await trio.run_process(
                    [*COMMAND, "run", "ping"],
                    stdin=subprocess.DEVNULL,
                    stdout=theirs,
                    stderr=theirs,
                    cwd=atrio.directory,
                    env=atrio.environ,
                )
    finally:
        os.close(theirs)
        shown = all_shown(ours)
        os.close(ours)
    assert "clear \N{REPLACEMENT CHARACTER}[2J the screen" in shown
    assert "\x1b" not in shown


async def test_sessions_are_a_table_for_people_and_lines_for_programs(atrio: Atrio) -> None:
    server = FakeServer()
    server.answers["session/list"] = lambda _: {"sessions": [session_json("s1", "two\nlines \x1b[0m")]}
    ours, theirs = os.openpty()
    try:
        async with serving(atrio, server):
            piped = await atrio("sessions", "list")
            with trio.fail_after(30):
                await trio.run_process(
                    [*COMMAND, "sessions", "list"],
                    stdin=subprocess.DEVNULL,
                    stdout=theirs,
                    cwd=atrio.directory,
                    env=atrio.environ | {"COLUMNS": "120", "TERM": "dumb"},
                )
    finally:
        os.close(theirs)
        shown = all_shown(ours)
        os.close(ours)
    assert piped.out == "s1\t2026-11-20T09:30:00.000Z\tidle\ttwo lines \x1b[0m\n"
    assert "SESSION" in shown
    assert "two lines \N{REPLACEMENT CHARACTER}[0m" in shown


async def test_what_is_no_text_is_told_and_not_a_bug(atrio: Atrio) -> None:
    async with serving(atrio, FakeServer()) as server:
        done = await atrio("run", "--dir", os.fsdecode(b"/caf\xe9"), "ping")
        assert done.code == 2
        assert "no text in UTF-8" in done.err
        assert (await atrio("run", os.fsdecode(b"caf\xe9"))).code == 0
    assert prompts(server)[0]["prompt"] == [{"type": "text", "text": "caf\N{REPLACEMENT CHARACTER}"}]


def test_the_fake_is_not_part_of_the_product() -> None:
    assert not list((Path(__file__).parent.parent.parent / "server").rglob("fake*"))
