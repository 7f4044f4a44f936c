"""`shell`: what it asks, what the model reads, and what becomes of a command whose time is over."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.jobs import Jobs, JobsTool, open_jobs
from atrio_agent.tools.programs import AllowList
from atrio_agent.tools.registry import Tools
from atrio_agent.tools.shell import Shell
from atrio_protocol.content import TextBlock
from atrio_protocol.parts import Location
from command_rig import STUBBORN, Heard, exists, marked, mine

LIMIT_S = 60


class Rig:
    """A shell in a workspace where everything is permitted unless it says otherwise."""

    def __init__(self, jobs: Jobs, place: Place) -> None:
        self.jobs = jobs
        self.heard = Heard()
        self.place = replace(place, permitted=True, output=self.heard)
        self.shell = Shell(jobs)

    def given(self, **raw: Any) -> Any:
        return Tools([self.shell]).validate("shell", raw)

    async def ask(self, **raw: Any) -> Ask | None:
        return await self.shell.ask(self.given(**raw), replace(self.place, permitted=False))

    async def __call__(self, *, place: Place | None = None, **raw: Any) -> tuple[str, ToolOutcome]:
        outcome = await self.shell.run(self.given(**raw), place or self.place)
        return said(outcome), outcome


def said(outcome: ToolOutcome) -> str:
    (block,) = outcome.content
    assert isinstance(block, TextBlock)
    return block.text


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


@pytest.fixture
async def rig(place: Place, tmp_path: Path, whole_output: None) -> AsyncGenerator[Rig]:
    with trio.fail_after(LIMIT_S):
        async with open_jobs(tmp_path / "long") as jobs:
            yield Rig(jobs, place)


async def test_a_command_gives_its_output_and_its_exit_status(rig: Rig) -> None:
    text, outcome = await rig(command="echo out; echo err >&2; exit 3")
    assert text == "out\nerr\n[Exit status 3.]"
    assert (outcome.exit_code, outcome.is_error, outcome.truncated) == (3, False, False)
    text, outcome = await rig(command="true")
    assert (text, outcome.exit_code) == ("[No output.]", 0)
    assert (await rig(command="kill -9 $$"))[0] == "[Exit status 137, SIGKILL.]"


async def test_long_output_names_the_file_that_has_all_of_it(rig: Rig) -> None:
    text, outcome = await rig(command="seq 1 20000")
    assert outcome.truncated
    assert len(text) <= 30_000
    file = Path(text.partition("all is in ")[2].partition(" …]")[0])
    assert file.parent == rig.jobs.folder
    assert lines_of(file)[-2:] == ["19999", "20000"]


async def test_a_command_runs_in_the_directory_it_names(rig: Rig) -> None:
    (rig.place.root / "sub").mkdir()
    assert (await rig(command="pwd -P", cwd="sub"))[0] == str(rig.place.root / "sub")
    assert rig.shell.locations(rig.given(command="ls", cwd="sub"), rig.place) == (
        Location(path=str(rig.place.root / "sub")),
    )


@pytest.mark.parametrize("cwd", ["..", "/", "link", "sub/../..", "/proc/self", "closed"])
async def test_a_directory_outside_is_refused_whoever_allows_it(rig: Rig, outside: Path, cwd: str) -> None:
    (rig.place.root / "link").symlink_to(outside)
    (rig.place.root / "closed").mkdir()
    place = replace(rig.place, closed=(rig.place.root / "closed",))
    with pytest.raises(ToolFailed):
        await rig.shell.ask(rig.given(command="ls", cwd=cwd), place)
    with pytest.raises(ToolFailed):
        await rig(command="touch made", cwd=cwd, place=place)
    assert not (outside / "made").exists()


async def test_a_file_is_no_directory_to_run_in(rig: Rig) -> None:
    (rig.place.root / "a").write_text("")
    with pytest.raises(ToolFailed, match="not a directory"):
        await rig(command="ls", cwd="a")


async def test_a_plain_reading_command_asks_nothing_and_any_other_says_what_it_is(rig: Rig) -> None:
    assert await rig.ask(command="ls -la") is None
    assert await rig.ask(command="rm -rf build\nls") == Ask(
        action="execute", title="Run rm -rf build\\nls", where=str(rig.place.root), detail="rm -rf build\nls"
    )


async def test_what_nobody_permitted_is_not_run(rig: Rig) -> None:
    with pytest.raises(ToolFailed, match="permission"):
        await rig(command="touch made", place=replace(rig.place, permitted=False))
    assert not (rig.place.root / "made").exists()


async def test_what_stopped_being_harmless_after_the_question_is_not_run(rig: Rig, outside: Path) -> None:
    file = rig.place.root / "a"
    file.write_text("fine")
    assert await rig.ask(command="cat a") is None
    file.unlink()
    file.symlink_to(outside / "secret.txt")
    with pytest.raises(ToolFailed, match="permission"):
        await rig(command="cat a", place=replace(rig.place, permitted=False))


async def test_a_command_on_the_list_runs_unasked_and_git_is_kept_from_writing(rig: Rig) -> None:
    rig.shell = Shell(rig.jobs, AllowList(["printenv GIT_OPTIONAL_LOCKS"]))
    unasked = replace(rig.place, permitted=False)
    assert (await rig(command="printenv GIT_OPTIONAL_LOCKS", place=unasked))[0] == "0"
    assert (await rig(command="printenv GIT_OPTIONAL_LOCKS"))[1].exit_code == 1


async def test_output_is_live_while_the_command_runs(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig(command="echo ready; while [ ! -e go ]; do sleep 0.01; done; echo done"))
        await rig.heard.until(lambda text: text == "ready\n")
        (rig.place.root / "go").touch()
    assert rig.heard.text == "ready\ndone\n"


async def test_a_command_whose_time_is_over_goes_on_as_a_job_that_the_model_is_told_about(
    rig: Rig, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    outcomes: list[tuple[str, ToolOutcome]] = []

    async def call() -> None:
        command = "echo early; while [ ! -e go ]; do sleep 0.01; done; echo late"
        outcomes.append(await rig(command=command, timeoutS=30))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await rig.heard.until(lambda text: text == "early\n")
        mock_clock.jump(30)
    ((text, outcome),) = outcomes
    assert text == (
        "early\n[job-1 is still running after 30 s; it goes on in the background. See its output or end it with jobs.]"
    )
    assert outcome.exit_code is None
    (rig.place.root / "go").touch()
    job = rig.jobs.get("job-1")
    await job.wait()
    tool = JobsTool(rig.jobs)
    given: Any = Tools([tool]).validate("jobs", {"action": "output", "jobId": "job-1"})
    assert said(await tool.run(given, rig.place)) == "late\n[job-1: ended with exit status 0]"
    assert rig.heard.text == "early\n"  # nobody waits for it any more


async def test_a_background_command_is_not_waited_for(rig: Rig) -> None:
    text, outcome = await rig(command="while :; do sleep 0.05; done", background=True)
    assert text == "[job-1 is running in the background. See its output or end it with jobs.]"
    assert outcome.exit_code is None
    assert rig.jobs.get("job-1").is_running


async def test_a_background_command_is_ended_at_the_time_it_was_given(rig: Rig) -> None:
    await rig(command="while :; do sleep 0.05; done", background=True, timeoutS=1)
    job = rig.jobs.get("job-1")
    await job.wait()
    assert job.state == "ended at its time limit"


async def test_what_a_command_leaves_running_is_ended_and_that_is_said(rig: Rig) -> None:
    text, _ = await rig(command="sleep 1000 & echo started")
    assert text == ("started\n[What it left running (1 process) was ended. Use background for what is to go on.]")


async def test_a_cancelled_call_is_over_when_everything_it_started_is_gone(rig: Rig) -> None:
    place = replace(rig.place, run_id=mine("cancelled-1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig(command=STUBBORN, place=place))
        pids = await rig.heard.pids(4)
        nursery.cancel_scope.cancel()
    assert marked(mine("cancelled-1")) == []
    assert [pid for pid in pids if exists(pid)] == []
    assert rig.jobs.listed() == ()


async def test_a_cancelled_call_leaves_the_jobs_of_its_run_alone(rig: Rig) -> None:
    await rig(command="while :; do sleep 0.05; done", background=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig(command="echo ready; sleep 1000"))
        await rig.heard.until(lambda text: "ready" in text)
        nursery.cancel_scope.cancel()
    assert rig.jobs.get("job-1").is_running


async def test_calls_at_the_same_time_do_not_disturb_each_other(rig: Rig) -> None:
    outcomes: dict[int, str] = {}

    async def one(number: int) -> None:
        outcomes[number] = (await rig(command=f"echo {number}; exit {number}"))[0]

    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(one, number)
    assert outcomes == {number: f"{number}\n[Exit status {number}.]" for number in range(1, 9)}
