"""The Python client against a real server: its document's example as it stands there, and a server that moves."""

import inspect
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from atrio_protocol.content import TextBlock
from atrio_protocol.errors import AuthRequired, Forbidden
from atrio_protocol.events import Event, MessageDelta, RunCompleted
from atrio_protocol.methods import (
    NoParams,
    OpenParams,
    PromptParams,
    RunListParams,
    RunWaitParams,
    ServerShutdownParams,
    SessionNewParams,
    WorkspaceParams,
)
from atrio_protocol.struct import given
from atrio_protocol.things import Run
from atrio_server import client as client_package
from atrio_server.client import Address, Client, ReplyLost, Resync, SessionStream, WorkspaceStream, open_client
from atrio_server.client.link import dial_tcp
from atrio_server.statedir import make_state_dir
from atrio_server.token import rotate_token
from atrio_server.token_store import create_token, revoke_token
from client_rig import Brittle
from scale import Scale
from wire.conftest import Harness
from wire.process import Process, spawn

LIMIT_S = 90
DOCUMENT = Path(__file__).parents[2] / "docs/client.md"
HALF = {"match": "^half", "responses": [[{"say": "half of it"}, {"gate": "never"}]]}
PLAIN = {"responses": [[{"say": "{{prompt}}"}]]}


async def test_the_example_of_the_document_runs_as_it_stands_there(bench: Harness) -> None:
    example = re.search(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert example is not None
    program = bench.root / "ask.py"
    program.write_text(example[1])
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--model", bench.script(PLAIN)) as server:
            done = await trio.run_process(
                [sys.executable, str(program), "what", "is", "here"],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                cwd=bench.directory,
                env={
                    "ATRIO_SERVER": server.ws,
                    "ATRIO_TOKEN": server.token,
                    "PYTHONPATH": ":".join(entry for entry in sys.path if entry),
                },
                check=False,
            )
    assert done.stdout == b"what is here\n(end_turn)\n"


def test_what_the_client_offers_is_described_and_in_the_document() -> None:
    document = DOCUMENT.read_text()
    for name in client_package.__all__:
        offered = getattr(client_package, name)
        if inspect.isclass(offered) or inspect.isfunction(offered):
            assert inspect.getdoc(offered), name
        if inspect.isclass(offered) and issubclass(offered, Exception):
            assert f"`{name}`" in document
    for name, member in inspect.getmembers(Client, inspect.isfunction):
        assert name.startswith("_") or inspect.getdoc(member), name
    arguments = set(inspect.signature(open_client).parameters)
    assert arguments == set(re.findall(r"`(\w+)`", document)) & arguments


async def test_a_server_that_was_killed_and_comes_back_on_another_port_is_found_and_says_what_became_of_the_run(
    bench: Harness,
) -> None:
    model = bench.script(HALF, PLAIN)
    at: list[Process] = []
    with trio.fail_after(LIMIT_S):
        async with spawn(bench.state_dir, "--test-hooks", "--model", model) as first:
            at.append(first)
            async with open_client(
                first.ws, first.token, client_name="test", locate=lambda: Address(at[-1].ws, at[-1].token)
            ) as client:
                opened = await client.call("workspace/open", OpenParams(path=str(bench.directory)))
                params = SessionNewParams(workspace_id=opened.workspace.workspace_id)
                session_id = (await client.call("session/new", params)).session.session_id
                with client.session(session_id, watch=("run-1",)) as events:
                    prompt = PromptParams(session_id=session_id, prompt=(TextBlock(text="half"),), run_id="run-1")
                    await client.call("session/prompt", prompt)
                    while not isinstance(await anext(events), MessageDelta):
                        pass
                    first.process.kill()
                    await first.ended()
                    async with spawn(bench.state_dir, "--test-hooks", "--model", model) as second:
                        assert second.ws != first.ws
                        at.append(second)
                        assert (await client.call("server/info", NoParams())).pid == second.pid
                        item = await anext(events)
                        while not isinstance(item, Resync):
                            item = await anext(events)
                        assert events.recovered is False
                        assert [run.stop_reason for run in item.snapshot.runs] == ["interrupted"]
                        # The same prompt again is the same run, killed server or not.
                        again = await client.call("session/prompt", prompt)
                        assert (again.duplicate, again.run.stop_reason) == (True, "interrupted")


async def read_on(events: WorkspaceStream) -> None:
    async for _ in events:
        pass


async def test_whoever_waits_with_a_revoked_token_is_told_and_one_that_was_replaced_is_looked_up_again(
    bench: Harness,
) -> None:
    with trio.fail_after(LIMIT_S):
        make_state_dir(bench.state_dir)
        guest = create_token(bench.state_dir, scopes=("prompt",), name="guest")
        async with spawn(bench.state_dir, "--model", "demo") as server:
            own = [server.token]
            async with (
                open_client(server.ws, guest.token, client_name="guest") as theirs,
                open_client(server.ws, own[0], client_name="own", locate=lambda: Address(server.ws, own[-1])) as ours,
            ):
                opened = await theirs.call("workspace/open", OpenParams(path=str(bench.directory)))
                with theirs.workspace(str(bench.directory)) as events:
                    assert isinstance(await anext(events), Resync)
                    with pytest.raises(Forbidden):
                        await theirs.call("server/shutdown", ServerShutdownParams(if_idle=False))
                    revoke_token(bench.state_dir, "guest")
                    with pytest.raises(AuthRequired):
                        await read_on(events)
                    with pytest.raises(AuthRequired):
                        await theirs.call("workspace/get", WorkspaceParams(workspace_id=opened.workspace.workspace_id))
                cut_off = trio.Event()
                ours.on_connection = lambda there: None if there else cut_off.set()
                own.append(rotate_token(bench.state_dir))
                await cut_off.wait()
                assert (await ours.call("server/info", NoParams())).pid == server.pid


async def test_over_connections_that_break_at_any_byte_each_prompt_runs_once_and_is_told_without_a_gap(
    bench: Harness, scale: Scale
) -> None:
    cuts = scale.count(8, 300)
    rng = scale.rng("the client and a real server")
    # The first connection has to come to stand, and now and then one has to carry a whole frame of what was missed.
    limits = [*(rng.randint(1, 40_000) for _ in range(cuts)), 9_000]
    answered: list[str] = []
    ended: list[str] = []

    async def dial(url: str) -> trio.abc.Stream:
        stream = await dial_tcp(url)
        return Brittle(stream, limits.pop()) if limits else stream

    async def read(events: SessionStream) -> None:
        position = events.position
        async for item in events:
            if isinstance(item, Event) and position is not None:
                assert given(item.first_seq, item.seq) == position.seq + 1
            position = events.position
            if isinstance(item, RunCompleted):
                ended.append(item.run.run_id)

    with scale.trying("the client and a real server over connections cut at random bytes", cuts):
        async with (
            bench.serve(model=bench.script(PLAIN), limit_s=90 + 20 * cuts) as server,
            open_client(server.ws, server.token, client_name="test", dial=dial) as client,
        ):
            opened = await client.call("workspace/open", OpenParams(path=str(bench.directory)))
            workspace_id = opened.workspace.workspace_id
            session_id = await new_session(client, workspace_id)
            with client.session(session_id) as events:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read, events)
                    while limits:
                        run_id = f"run-{len(answered)}"
                        prompt = PromptParams(
                            session_id=session_id, prompt=(TextBlock(text=run_id),), delivery="queue", run_id=run_id
                        )
                        with suppress(ReplyLost):  # several connections on end broke at once under it; it is sent again
                            answered.append((await client.call("session/prompt", prompt)).run.run_id)
                    for run_id in answered:
                        await client.call("run/wait", RunWaitParams(run_id=run_id))
                    nursery.cancel_scope.cancel()
            kept: list[Run] = []
            page = await client.call("run/list", RunListParams(session_id=session_id, limit=1_000))
            kept += page.runs
            while page.more:
                params = RunListParams(session_id=session_id, limit=1_000, before=kept[-1].accept_seq)
                page = await client.call("run/list", params)
                kept += page.runs
    assert [run.run_id for run in reversed(kept)] == answered
    assert {run.stop_reason for run in kept} == {"end_turn"}
    assert len(ended) == len(set(ended)), "an end was told twice"


async def new_session(client: Client, workspace_id: str) -> str:
    """Make a session; one whose answer is lost stays empty, and another is asked for."""
    while True:
        with suppress(ReplyLost):
            made = await client.call("session/new", SessionNewParams(workspace_id=workspace_id))
            return made.session.session_id
