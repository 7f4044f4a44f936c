"""MCP servers of a workspace: called, given up, lost, back, and gone with their workspace."""

import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.mcp.server import McpServer
from atrio_agent.tools.base import Place, ToolFailed
from atrio_protocol.content import ImageBlock, ResourceBlock, ResourceLink, TextBlock
from command_rig import exists
from mcp_rig import naughty, noted, servers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The workspace's directory."""
    root = tmp_path.resolve() / "work"
    root.mkdir()
    return root


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a server ended is known however long it takes to be gone once its output is closed."""
    monkeypatch.setattr("atrio_agent.mcp.process._SETTLE_S", 30.0)


async def test_tools_of_a_server_are_offered_and_called_in_the_workspace(root: Path) -> None:
    async with servers(root, naughty(name="docs")) as rig:
        await rig.state("ready")
        assert rig.tools.names[:2] == ("mcp_docs_echo", "mcp_docs_die")
        spec = rig.tools.specs[0]
        assert (spec.description, spec.schema["required"]) == ("Does echo.", ["text"])
        assert await rig.said("mcp_docs_echo", text="hello") == f"hello from {root}"
        (state,) = rig.mcp.states()
        assert (state.name, state.transport, state.tools) == ("docs", "stdio", 12)
        assert rig.notices == []


async def test_a_call_asks_and_shows_its_input(root: Path) -> None:
    async with servers(root, naughty(name="docs")) as rig:
        await rig.state("ready")
        place = Place(root=root, session_id="s", run_id="r", tool_call_id="t")
        tool = rig.tools.get("mcp_docs_echo")
        ask = await tool.ask(rig.tools.validate("mcp_docs_echo", {"text": "ä"}), place)
        assert ask is not None
        assert (ask.action, ask.where, json.loads(ask.detail or "")) == ("mcp", "docs", {"text": "ä"})
        assert rig.tools.title("mcp_docs_echo", {"text": "x"}) == "echo (docs)"
        with pytest.raises(ToolFailed, match="permission"):
            await rig.run("mcp_docs_echo", permitted=False, text="x")
        with pytest.raises(ToolFailed, match="it needs text"):
            await rig.run("mcp_docs_echo")


async def test_opening_waits_for_no_server_and_a_slow_one_is_a_notice(root: Path) -> None:
    async with servers(root, naughty("silent", start_s=0.2), naughty(name="good"), waits_s=()) as rig:
        assert [state.state for state in rig.mcp.states()] == ["starting", "starting"]
        await rig.state("failed", "ready")
        assert await rig.said("mcp_good_echo", text="x")
        ((severity, title, detail),) = rig.notices
        assert (severity, title) == ("error", "The MCP server n has failed")
        assert detail == "it was not ready within 0.2 s"


async def test_a_server_that_is_not_there_is_not_tried_again(root: Path) -> None:
    async with servers(root, McpServer(name="none", command="/no/such/program")) as rig:
        await rig.state("failed")
        assert [notice[0] for notice in rig.notices] == ["error"]
        assert "No such file" in rig.notices[0][2]


async def test_one_that_dies_at_its_start_is_tried_as_often_as_told_and_its_words_are_kept(root: Path) -> None:
    async with servers(root, naughty("dies-at-start"), waits_s=(0.0, 0.0)) as rig:
        await rig.state("failed")
        assert [notice[0] for notice in rig.notices] == ["warning", "error"]
        assert rig.mcp.states()[0].detail == ("it ended with exit status 4\nIt said: cannot find my configuration")


async def test_a_call_that_is_not_answered_is_given_up_and_the_server_is_told(
    root: Path, tmp_path: Path, mock_clock: MockClock
) -> None:
    log = tmp_path / "log"
    mock_clock.rate = 1

    async def call() -> None:
        with pytest.raises(ToolFailed, match=r"did not answer within 20 s"):
            await rig.run("mcp_n_hang")

    async with servers(root, naughty(log=log, call_s=20)) as rig:
        await rig.state("ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await noted(log, "hanging")
            mock_clock.jump(20)
        await noted(log, "cancelled")
        assert await rig.said("mcp_n_echo", text="still here")


async def test_cancelling_a_call_tells_the_server_and_waits_for_nothing(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with servers(root, naughty(log=log)) as rig:
        await rig.state("ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: rig.run("mcp_n_hang"))
            await noted(log, "hanging")
            nursery.cancel_scope.cancel()
        await noted(log, "cancelled")
        assert await rig.said("mcp_n_echo", text="still here")


async def test_the_state_of_one_tells_no_secret_of_others(root: Path) -> None:
    env = {"SECRET_KEY": "short"}  # too short to be looked for
    known = ("exit status",)
    async with servers(root, naughty("dies-at-start", env=env), waits_s=(), secrets=known) as rig:
        await rig.state("failed")
        (state,) = rig.mcp.states()
        assert str(state.detail).startswith("it ended with [redacted] 4")
        assert rig.notices[0][2] == state.detail


async def test_one_that_dies_during_a_call_is_started_again_and_tells_no_secret(root: Path) -> None:
    async with servers(root, naughty(env={"SECRET_KEY": "s3cr3t-of-ours"})) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed, match="was lost during the call"):
            await rig.run("mcp_n_die")
        await rig.until(lambda: any(severity == "info" for severity, *_ in rig.notices))
        assert [severity for severity, *_ in rig.notices] == ["warning", "info"]
        assert rig.notices[0][2] == "it ended with exit status 7\nIt said: my last words, [redacted]"
        assert await rig.said("mcp_n_echo", text="again")


async def test_tools_of_a_lost_server_stay_and_say_so_until_it_has_failed(root: Path) -> None:
    async with servers(root, naughty(), waits_s=(3600.0,)) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed):
            await rig.run("mcp_n_die")
        await rig.state("starting")
        with pytest.raises(ToolFailed, match="being started again"):
            await rig.run("mcp_n_echo", text="x")


async def test_what_failed_for_good_has_no_tools(root: Path) -> None:
    async with servers(root, naughty(), waits_s=()) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed):
            await rig.run("mcp_n_die")
        await rig.state("failed")
        assert rig.tools.names == ()


async def test_lines_that_are_no_messages_are_passed_over(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        assert await rig.said("mcp_n_garbage") == "after the garbage"
        assert rig.notices == []


async def test_an_answer_of_50_MiB_is_an_error_of_its_call_and_of_nothing_else(root: Path) -> None:  # noqa: N802  a unit
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed, match="too large or malformed"):
            await rig.run("mcp_n_huge")
        assert await rig.said("mcp_n_echo", text="still here")
        assert rig.notices == []


async def test_wrong_and_refused_answers_are_sentences_for_the_model(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed, match="does not follow the protocol"):
            await rig.run("mcp_n_wrong")
        with pytest.raises(ToolFailed, match="The server refused: not like this"):
            await rig.run("mcp_n_refuse")


async def test_many_blocks_are_cut_before_anybody_looks_at_each(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        said = await rig.said("mcp_n_many")
        assert said.count("x\n") == 512
        assert said.endswith("[… 19,488 blocks left out …]")


async def test_every_kind_of_content_is_passed_on_or_named(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        outcome = await rig.run("mcp_n_shapes")
        text, image, resource, link = outcome.content
        assert outcome.is_error and outcome.truncated
        assert isinstance(text, TextBlock) and len(text.text) <= 30_000
        assert text.text.endswith(
            "[An image (image/png, 9 bytes) that cannot be passed on.]\n"
            '[A sound (audio/wav, 3 bytes) that cannot be passed on.]\n{"found":3}'
        )
        assert isinstance(image, ImageBlock) and image.mime_type == "image/png"
        assert isinstance(resource, ResourceBlock) and resource.resource.text == "inside"
        assert isinstance(link, ResourceLink) and (link.uri, link.name) == ("file:///b.txt", "b")


async def test_a_server_may_ask_for_the_directory_and_for_nothing_else(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        heard = json.loads(await rig.said("mcp_n_ask"))
        assert heard["r1"]["roots"][0]["uri"] == root.as_uri()
        assert heard["s1"] == "refused"


async def test_tools_that_come_later_are_offered_when_the_server_says_so(root: Path) -> None:
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        tools = rig.tools
        before = tools.specs
        await rig.run("mcp_n_more")
        await rig.until(lambda: "mcp_n_another" in tools.names)
        assert await rig.said("mcp_n_another") == "another was called"
        assert len(tools.specs) == len(before) + 1


async def test_a_list_of_tools_in_pages_is_read_to_its_end(root: Path) -> None:
    async with servers(root, naughty("pages")) as rig:
        await rig.state("ready")
        assert len(rig.tools.names) == 12


async def test_one_that_comes_back_is_called_again(root: Path, tmp_path: Path) -> None:
    async with servers(root, naughty("once", str(tmp_path / "flag"))) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed, match="was lost during the call"):
            await rig.run("mcp_n_echo", text="x")
        await rig.until(lambda: len(rig.notices) == 2)
        assert await rig.said("mcp_n_echo", text="x")


async def test_what_a_server_started_ends_with_its_workspace_whatever_it_ignores(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with servers(root, naughty("stubborn", log=log)) as rig:
        await rig.state("ready")
        pids = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("pid ")]
        assert len(pids) == 2 and all(map(exists, pids))
        rig.mcp.close(by=trio.current_time() + 5)
    assert not any(map(exists, pids))
    assert rig.mcp.states()[0].state == "stopped"
    assert rig.notices == []


async def test_closing_while_a_server_starts_ends_it(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with servers(root, naughty("silent", log=log)):
        lines = await noted(log, "pid ")
    assert not exists(int(lines[0].split()[1]))


async def test_a_call_that_runs_when_the_workspace_closes_ends(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    failures: list[str] = []

    async def call() -> None:
        try:
            await rig.run("mcp_n_hang")
        except ToolFailed as exc:
            failures.append(str(exc))

    async with servers(root, naughty(log=log)) as rig, trio.open_nursery() as nursery:
        await rig.state("ready")
        nursery.start_soon(call)
        await noted(log, "hanging")
        rig.mcp.close()
    assert len(failures) == 1


async def test_a_server_that_is_turned_off_is_shown_and_not_started(root: Path) -> None:
    async with servers(root, naughty(enabled=False)) as rig:
        assert [state.state for state in rig.mcp.states()] == ["disabled"]
        assert rig.tools.names == ()


async def test_a_server_gets_nothing_of_our_environment_that_is_not_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the server itself")
    async with servers(root, naughty()) as rig:
        await rig.state("ready")
        with pytest.raises(ToolFailed):
            await rig.run("mcp_n_die")
        await rig.until(lambda: bool(rig.notices))
        assert rig.notices[0][2].endswith("my last words, no key")


async def test_two_servers_of_one_name_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="same name"):
        async with servers(root, naughty(), naughty()):
            pass
