"""MCP servers by HTTP: called, refusing, forgetting, gone."""

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.mcp.server import CALL_S, McpServer
from atrio_agent.tools.base import ToolFailed
from mcp_rig import LIMIT_S, servers

SCRIPT = str(Path(__file__).parents[2] / "mcp_web_server.py")
KEY = {"Authorization": "Bearer let-me-in"}


@asynccontextmanager
async def web_server(*words: str) -> AsyncGenerator[tuple[str, trio.Process]]:
    """A server of `mcp_web_server`: its URL and its process."""
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process([sys.executable, SCRIPT, *words], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
            yield f"http://127.0.0.1:{int(said)}/mcp", process
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()


def web(url: str, *, headers: dict[str, str] = KEY, call_s: float = CALL_S) -> McpServer:
    return McpServer(name="web", url=url, headers=headers, call_s=call_s)


# The SDK and its HTTP client leave the generators of an answer half-way, closed by nobody but the collector,
# whenever it comes round.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object")


async def test_a_server_of_the_sdk_is_called_by_http(tmp_path: Path) -> None:
    async with web_server("sdk") as (url, _), servers(tmp_path, web(url, headers={})) as rig:
        await rig.state("ready")
        assert await rig.said("mcp_web_add", a=2, b=3) == '5\n{"result":5}'
        assert (rig.mcp.states()[0].transport, rig.notices) == ("http", [])


async def test_headers_are_sent_and_streamed_answers_are_read(tmp_path: Path) -> None:
    async with web_server() as (url, _), servers(tmp_path, web(url)) as rig:
        await rig.state("ready")
        assert await rig.said("mcp_web_where") == "called where"
        assert await rig.said("mcp_web_stream") == "called stream"


async def test_a_server_that_refuses_us_has_failed_and_no_secret_is_told(tmp_path: Path) -> None:
    wrong = {"Authorization": "Bearer not-this-one"}
    async with web_server() as (url, _), servers(tmp_path, web(url, headers=wrong), waits_s=()) as rig:
        await rig.state("failed")
        assert [notice[0] for notice in rig.notices] == ["error"]
        assert "not-this-one" not in repr(rig.notices) + repr(rig.mcp.states())


async def test_a_server_that_nobody_runs_has_failed(tmp_path: Path) -> None:
    with socket.socket() as unused:  # nobody else can have its port either
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"
        async with servers(tmp_path, web(url), waits_s=(0.0,)) as rig:
            await rig.state("failed")
            assert [notice[0] for notice in rig.notices] == ["warning", "error"]


async def test_an_answer_that_is_too_large_or_broken_ends_its_call_only(tmp_path: Path) -> None:
    async with web_server() as (url, _), servers(tmp_path, web(url)) as rig:
        await rig.state("ready")
        for name in ("mcp_web_huge", "mcp_web_broken"):
            with pytest.raises(ToolFailed, match="The server refused"):
                await rig.run(name)
        assert await rig.said("mcp_web_where") == "called where"
        assert rig.notices == []


async def test_a_call_that_hangs_is_given_up(tmp_path: Path, mock_clock: MockClock) -> None:
    mock_clock.rate = 1

    async def call() -> None:
        with pytest.raises(ToolFailed, match="did not answer"):
            await rig.run("mcp_web_hang")

    async with web_server() as (url, process), servers(tmp_path, web(url, call_s=20)) as rig:
        await rig.state("ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            assert process.stdout is not None
            assert (await process.stdout.receive_some()).startswith(b"hanging")
            mock_clock.jump(20)
        assert await rig.said("mcp_web_where") == "called where"


async def test_a_server_that_has_forgotten_us_is_greeted_again(tmp_path: Path) -> None:
    async with web_server() as (url, _), servers(tmp_path, web(url)) as rig:
        await rig.state("ready")
        assert await rig.said("mcp_web_forget") == "called forget"
        with pytest.raises(ToolFailed, match="was lost"):
            await rig.run("mcp_web_where")
        await rig.until(lambda: len(rig.notices) == 2)
        assert await rig.said("mcp_web_where") == "called where"


async def test_a_server_that_goes_away_is_noticed_by_the_next_call(tmp_path: Path) -> None:
    async with web_server() as (url, process), servers(tmp_path, web(url), waits_s=()) as rig:
        await rig.state("ready")
        process.kill()
        await process.wait()
        with pytest.raises(ToolFailed, match="was lost"):
            await rig.run("mcp_web_where")
        await rig.state("failed")
        assert rig.tools.names == ()
