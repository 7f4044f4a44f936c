"""Every command against a real server with the demo and scripted models."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from atrio_process import COMMAND, LIMIT_S, Atrio, Done
from atrio_protocol import methods
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import WorkspaceNotFound
from atrio_protocol.events import Event, RunCompleted
from atrio_protocol.reducer import SessionState, WorkspaceState, apply_event, apply_workspace_event
from atrio_server.client import Client, Resync, open_client
from atrio_server.client.link import dial_tcp

SCRIPT: dict[str, Any] = {
    "name": "test",
    "turns": [
        {"match": "^wait", "responses": [[{"say": "before "}, {"gate": "go"}, {"say": "after"}]]},
        {"match": "^hold", "responses": [[{"gate": "go"}, {"fail": {"kind": "provider_error", "message": "Broken."}}]]},
        {
            "match": "^fail",
            "responses": [[{"say": "some "}, {"fail": {"kind": "provider_error", "message": "Broken."}}]],
        },
        {"match": "^look", "responses": [[{"tool": "read", "input": {"path": "a.txt"}}], [{"say": "seen"}]]},
        {"match": "^count", "responses": [[{"say": "tok ", "times": 50, "delayMs": 10}]]},
        {"responses": [[{"say": "you said: {{prompt}}"}]]},
    ],
}


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The state directory of a server that all tests of this module share."""
    home = tmp_path_factory.mktemp("server")
    script = home / "script.json"
    script.write_text(json.dumps(SCRIPT))
    first = Atrio(home)
    words = ("serve", "--port", "0", "--model", f"script:{script}", "--test-hooks")
    with subprocess.Popen([*COMMAND, *words], env=first.environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["pid"] == server.pid
        assert Path(ready["tokenFile"]).read_text().strip()
        yield first.state_dir
        server.terminate()
        assert server.wait(timeout=60) == 0
        assert server.stdout.read() == ""


@pytest.fixture
def atrio(tmp_path: Path, state_dir: Path) -> Atrio:
    """Commands in a directory of this test, with the shared server."""
    made = Atrio(tmp_path)
    made.environ["ATRIO_STATE_DIR"] = str(state_dir)
    return made


async def session_of(atrio: Atrio) -> str:
    listed = await atrio("sessions", "list", "--json")
    return json.loads(listed.out.splitlines()[0])["sessionId"]


async def test_a_prompt_is_run_and_its_text_printed(atrio: Atrio) -> None:
    done = await atrio("run", "hello", "there")
    assert (done.code, done.out) == (0, "you said: hello there\n")
    again = await atrio("run", "-c", "-q", "once more")
    assert again == Done(0, "you said: once more\n", "")
    listed = await atrio("runs", "--json")
    texts = [json.loads(line)["promptText"] for line in listed.out.splitlines()]
    assert texts == ["once more", "hello there"]


async def test_the_demo_model_reads_the_directory(atrio: Atrio) -> None:
    (atrio.directory / "a.py").write_text("print('hello')\n")
    done = await atrio("run", "-m", "demo", "map this project")
    assert done.code == 0
    assert "demo" in done.out.splitlines()[0]
    assert "Python" in done.out
    assert "·" in done.err


async def test_json_lines_are_the_stream_without_a_gap(atrio: Atrio) -> None:
    done = await atrio("run", "--json", "count")
    assert (done.code, done.err) == (0, "")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert len({(event["sessionId"], event["epoch"]) for event in events}) == 1
    for before, event in pairwise(events):
        assert event.get("firstSeq", event["seq"]) == before["seq"] + 1
    assert "".join(event["text"] for event in events if event["type"] == "message.delta") == "tok " * 50
    assert events[-1]["type"] == "run.completed"
    assert events[-1]["run"]["text"] == "tok " * 50


async def test_a_failing_model_has_an_exit_code_of_its_own(atrio: Atrio) -> None:
    done = await atrio("run", "fail")
    assert done.code == 7
    assert done.out == "some \n"
    assert "Broken" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("run", "-s", "nobody", "x"), 4),
        (("run", "-m", "openai/nothing", "x"), 7),
        (("run", "--dir", "/nowhere/at/all", "x"), 2),
        (("wait", "nobody"), 4),
        (("wait", "last"), 4),
        (("tail", "nobody"), 4),
        (("cancel", "nobody"), 4),
        (("sessions", "show", "nobody"), 4),
        (("sessions", "rm", "nobody"), 4),
        (("runs", "last"), 4),
    ],
)
async def test_what_is_not_there_is_told_in_one_sentence(atrio: Atrio, words: tuple[str, ...], code: int) -> None:
    done = await atrio(*words)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("atrio: ")


async def test_ctrl_c_cancels_on_the_server(atrio: Atrio) -> None:
    async with atrio.started("run", "wait") as command:
        await command.read_out("before ")
        command.interrupt()
        done = await command.end()
    assert (done.code, done.out) == (130, "before \n")
    listed = await atrio("runs", "--json")
    assert json.loads(listed.out)["stopReason"] == "cancelled"


async def test_a_run_that_is_left_is_waited_for_cancelled_and_watched_by_others(atrio: Atrio) -> None:
    left = await atrio("run", "--no-wait", "wait for me")
    run_id = left.out.strip()
    session_id = await session_of(atrio)
    too_soon = await atrio("wait", run_id, "--timeout", "0.2")
    assert (too_soon.code, too_soon.out) == (3, "")
    assert "it goes on" in too_soon.err

    # After an epoch that is gone, the JSON begins with how things stand: so one sees that it is being read.
    as_json = ("tail", session_id, "--json", "--after", "gone:0")
    async with atrio.started("tail", session_id) as text, atrio.started(*as_json) as lines:
        await text.read_out("before ")
        await lines.read_out("\n")
        async with atrio.started("wait", "last") as waiting:
            await trio.lowlevel.checkpoint()
            cancelled = await atrio("cancel", session_id, "--run", run_id)
            assert (cancelled.code, cancelled.out) == (0, f"{run_id}\n")
            done = await waiting.end()
        assert (done.code, done.out) == (130, "before \n")
        await lines.read_out('"run.completed"')
        await text.read_out("before \n")
        text.interrupt()
        assert (await text.end()).code == 130
    assert (await atrio("cancel", "last")).out == ""


async def test_tail_begins_after_what_one_has(atrio: Atrio) -> None:
    ran = await atrio("run", "--json", "one two three")
    events = [json.loads(line) for line in ran.out.splitlines()]
    after = f"{events[2]['epoch']}:{events[2]['seq']}"
    async with atrio.started("tail", "last", "--json", "--after", after) as tail:
        await tail.read_out('"run.completed"')
    first = json.loads(tail.out.splitlines()[0])
    assert (first["type"], first.get("firstSeq", first["seq"])) == (events[3]["type"], events[2]["seq"] + 1)


async def test_tail_after_an_epoch_that_is_gone_says_how_things_stand(atrio: Atrio) -> None:
    await atrio("run", "one")
    async with atrio.started("tail", "last", "--json", "--after", "gone:3") as tail:
        await tail.read_out("\n")
    first = json.loads(tail.out.splitlines()[0])
    assert first["type"] == "resync"
    assert first["snapshot"]["messages"][-1]["role"] == "assistant"


async def test_sessions_are_listed_shown_renamed_found_and_removed(atrio: Atrio) -> None:
    await atrio("run", "the quick brown fox")
    await atrio("run", "something else")
    session_id = await session_of(atrio)
    listed = await atrio("sessions", "list")
    assert [line.split("\t")[0] == session_id for line in listed.out.splitlines()] == [True, False]

    assert (await atrio("sessions", "rename", session_id, "A", "new", "title")).code == 0
    shown = await atrio("sessions", "show", session_id)
    assert shown.out.startswith("# A new title\n")
    assert "you said: something else" in shown.out

    found = await atrio("sessions", "search", "brown", "fox")
    assert len(found.out.splitlines()) == 1
    assert session_id not in found.out

    assert (await atrio("sessions", "rm", session_id)).code == 0
    assert session_id not in (await atrio("sessions", "list")).out
    assert (await atrio("sessions", "show", session_id)).code == 4


async def test_a_session_that_is_removed_ends_its_tail(atrio: Atrio) -> None:
    await atrio("run", "hello")
    async with atrio.started("tail", "last") as tail:
        await tail.read_out("hello\n")
        assert (await atrio("sessions", "rm", "last")).code == 0
        done = await tail.end()
    assert done.code == 0
    assert "removed" in done.err


async def test_models_say_which_one_is_used_and_why(atrio: Atrio) -> None:
    listed = await atrio("models")
    marked = [line.split("\t") for line in listed.out.splitlines() if "\tdefault\t" in line]
    assert len(marked) == 1
    assert marked[0][0].startswith("script:")
    assert marked[0][4]


async def test_a_wish_for_the_default_model_needs_no_right(atrio: Atrio) -> None:
    listed = await atrio("models", "--json")
    default = next(model for model in map(json.loads, listed.out.splitlines()) if model["default"])
    done = await atrio("run", "-q", "hello", ATRIO_MODEL=default["modelId"])
    assert done == Done(0, "you said: hello\n", "")


async def test_files_and_piped_text_reach_the_model(atrio: Atrio) -> None:
    (atrio.directory / "a.txt").write_text("from the file")
    done = await atrio("run", "-q", "look", stdin=b"at the pipe")
    assert done == Done(0, "seen\n", "")
    done = await atrio("run", "-q", "say", "-f", "a.txt", stdin=b"piped words")
    assert done.code == 0
    assert "piped words" in done.out


@asynccontextmanager
async def connected(state_dir: Path, **more: Any) -> AsyncGenerator[Client]:
    """A client of this process."""
    record = json.loads((state_dir / "server.json").read_text())
    token = (state_dir / "token").read_text().strip()
    with trio.fail_after(LIMIT_S):
        async with open_client(record["ws"], token, client_name="test", **more) as client:
            yield client


@pytest.mark.scenario("E9")
async def test_another_runs_failure_is_not_ours(atrio: Atrio, state_dir: Path) -> None:
    assert (await atrio("run", "--no-wait", "hold it")).code == 0
    async with connected(state_dir) as client, atrio.started("run", "-c", "hello") as ours:
        await ours.read_err("waiting for 1 other run")
        await client.call("test/gates", methods.GatesParams(wait="go"))  # accepted first, it may get there last
        await client.call("test/release", methods.ReleaseParams(gate="go"))
        done = await ours.end()
    assert (done.code, done.out) == (0, "you said: hello\n")
    listed = await atrio("runs", "--json")
    assert [json.loads(line)["stopReason"] for line in listed.out.splitlines()] == ["end_turn", "error"]


class CutStream(trio.abc.Stream):
    """A connection that breaks after so many bytes from the server."""

    def __init__(self, stream: trio.abc.Stream, after_bytes: int) -> None:
        self.stream = stream
        self.left = after_bytes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.left <= 0:
            await trio.aclose_forcefully(self.stream)
        data = await self.stream.receive_some(min(max_bytes or self.left, max(self.left, 1)))
        self.left -= len(data)
        return data

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.scenario("E8")
@pytest.mark.parametrize("after_bytes", [900, 2_500, 3_700, 5_100, 9_000])
async def test_connections_that_break_at_any_byte_lose_and_repeat_nothing(
    atrio: Atrio, state_dir: Path, after_bytes: int
) -> None:
    dials = 0

    async def dial(url: str) -> trio.abc.Stream:
        nonlocal dials
        dials += 1
        return CutStream(await dial_tcp(url), after_bytes + 600 * dials)

    async with connected(state_dir) as steady:
        opened = await steady.call("workspace/open", methods.OpenParams(path=str(atrio.directory)))
        params = methods.SessionNewParams(workspace_id=opened.workspace.workspace_id)
        session_id = (await steady.call("session/new", params)).session.session_id
    run_id = f"r-{after_bytes}"
    state: SessionState | None = None
    async with connected(state_dir, dial=dial) as client:
        prompt = methods.PromptParams(session_id=session_id, prompt=(TextBlock(text="count"),), run_id=run_id)
        with client.session(session_id, watch=(run_id,)) as stream:
            await client.call("session/prompt", prompt)
            async for item in stream:
                if isinstance(item, Resync):
                    state = SessionState.from_snapshot(item.snapshot, item.position)
                elif isinstance(item, Event):
                    assert state is not None
                    apply_event(state, item)  # refuses a gap and a repeat
                    if isinstance(item, RunCompleted):
                        break
        of_session = methods.MessagesParams(session_id=session_id)
        while dials == 1:  # where the machine stood still the text came in few pieces: too short for the longest cut
            await client.call("session/messages", of_session)
        stored = await client.call("session/messages", of_session)
        runs = await client.call("run/list", methods.RunListParams(session_id=session_id))
    assert state is not None
    assert [message.parts for message in state.messages] == [message.parts for message in stored.messages]
    assert runs.runs[0].text == "tok " * 50
    assert len(runs.runs) == 1


async def test_a_workspace_is_read_across_reconnects_and_claimed_by_its_reader(atrio: Atrio, state_dir: Path) -> None:
    links: list[trio.abc.Stream] = []

    async def dial(url: str) -> trio.abc.Stream:
        links.append(await dial_tcp(url))
        return links[-1]

    async def cut(client: Client) -> None:
        back = trio.Event()
        client.on_connection = lambda there: back.set() if there else None
        await trio.aclose_forcefully(links[-1])
        await back.wait()

    made: list[str] = []
    async with connected(state_dir, dial=dial) as client:
        with client.workspace(str(atrio.directory)) as stream:
            first = await anext(stream)
            assert isinstance(first, Resync)
            assert stream.workspace is not None
            of_workspace = methods.WorkspaceParams(workspace_id=stream.workspace.workspace_id)
            state = WorkspaceState.from_snapshot(first.snapshot, first.position)
            for title in ("one", "two", "three"):
                await cut(client)
                params = methods.SessionNewParams(workspace_id=of_workspace.workspace_id, title=title)
                made.append((await client.call("session/new", params)).session.session_id)
                while len(state.sessions) < len(made):
                    item = await anext(stream)
                    assert isinstance(item, Event)
                    apply_workspace_event(state, item)  # refuses a gap and a repeat
            clients = (await client.call("client/list", of_workspace)).clients
            assert [each.client_id for each in clients] == [client.client_id]
        with suppress(WorkspaceNotFound):  # it was the last one: the workspace closes, or is closed
            assert (await client.call("workspace/get", of_workspace)).workspace.state == "closing"
    assert [session.title for session in state.sessions.values()] == ["one", "two", "three"]
    assert len(links) == 4


@pytest.mark.scenario("S15")
async def test_a_second_server_on_the_state_directory_names_the_first(atrio: Atrio, state_dir: Path) -> None:
    first = json.loads((state_dir / "server.json").read_text())
    done = await atrio("serve", "--port", "0")
    assert (done.code, done.out) == (6, "")
    assert "data_dir_locked" in done.err
    assert f"pid {first['pid']} at {first['http']}" in done.err


async def test_a_server_of_another_version_is_told(atrio: Atrio, state_dir: Path) -> None:
    record = (state_dir / "server.json").read_text()
    try:
        (state_dir / "server.json").write_text(re.sub(r'"version":"[^"]+"', '"version":"0.0.9"', record))
        done = await atrio("run", "hello")
    finally:
        (state_dir / "server.json").write_text(record)
    assert done.code == 0
    assert "is version 0.0.9 and this is" in done.err


async def test_what_is_named_on_the_command_line_needs_no_state_directory(atrio: Atrio, state_dir: Path) -> None:
    record = json.loads((state_dir / "server.json").read_text())
    token = (state_dir / "token").read_text().strip()
    (atrio.directory / "token").write_text(token)
    nowhere = atrio.directory / "nowhere"
    for url in (record["http"], record["ws"], record["http"].removeprefix("http://")):
        done = await atrio("run", "-q", "hi", "--server", url, "--token-file", "token", ATRIO_STATE_DIR=str(nowhere))
        assert done == Done(0, "you said: hi\n", "")
    done = await atrio("run", "-q", "hi", ATRIO_SERVER=record["http"], ATRIO_TOKEN=token, ATRIO_STATE_DIR=str(nowhere))
    assert done.code == 0
    assert not nowhere.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_ends_well_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    atrio = Atrio(tmp_path)
    async with atrio.started("serve", "--port", "0") as server:
        await server.read_out("\n")
        os.kill(server.process.pid, number)
        done = await server.end()
    assert done.code == 0
    assert len(done.out.splitlines()) == 1
    assert not (atrio.state_dir / "server.json").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "", "0x0", "[::]", "::ffff:0.0.0.0"])
async def test_an_address_that_others_can_reach_is_refused_in_every_spelling(tmp_path: Path, host: str) -> None:
    done = await Atrio(tmp_path)("serve", "--port", "0", "--host", host)
    assert (done.code, done.out) == (2, "")
    assert "--insecure-bind" in done.err and "bug" not in done.err


async def test_a_port_that_is_taken_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = await Atrio(tmp_path)("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.out) == (1, "")
    assert "choose another --port" in done.err and len(done.err.strip().splitlines()) == 1
