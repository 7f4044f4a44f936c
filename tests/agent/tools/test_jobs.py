"""Jobs: started, listed, heard and ended; and that they end with their workspace and with nothing else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.jobs import Job, Jobs, JobsTool, open_jobs
from atrio_agent.tools.process import child_environment
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock
from command_rig import STUBBORN, Heard, exists, marked, mine, opener, unmarked

LIMIT_S = 60
WAITING = "echo pid $$; while :; do sleep 0.05; done"


@asynccontextmanager
async def workspace(folder: Path) -> AsyncGenerator[Jobs]:
    """One workspace's jobs, in a limited time."""
    with trio.fail_after(LIMIT_S):
        async with open_jobs(folder) as jobs:
            yield jobs


def start(jobs: Jobs, root: Path, command: str, *, run_id: str = "jobs-run", **more: Any) -> Job:
    more.setdefault("in_background", True)
    return jobs.start(command, directory=opener(root), environment=child_environment(run_id), **more)


async def ask(jobs: Jobs, root: Path, **raw: Any) -> tuple[str, ToolOutcome]:
    tool = JobsTool(jobs)
    place = Place(root=root, session_id="s", run_id="r", tool_call_id="t")
    given: Any = Tools([tool]).validate("jobs", raw)
    assert await tool.ask(given, place) is None
    outcome = await tool.run(given, place)
    (block,) = outcome.content
    assert isinstance(block, TextBlock)
    return block.text, outcome


async def heard_from(jobs: Jobs, root: Path, job: Job, word: str) -> str:
    """What a job has said, once that word is in it."""
    said = ""
    while word not in said:
        said += (await ask(jobs, root, action="output", jobId=job.job_id))[0]
        await trio.lowlevel.checkpoint()
    return said


async def test_a_job_tells_what_it_has_said_since_the_last_look(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        job = start(jobs, root, "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exit 3")
        await heard_from(jobs, root, job, "one")
        assert (await ask(jobs, root, action="output", jobId="job-1"))[0].startswith(
            "[No new output.]\n[job-1: running"
        )
        (root / "go").touch()
        await job.wait()
        said, outcome = await ask(jobs, root, action="output", jobId="job-1")
        assert said == "two\n[job-1: ended with exit status 3]"
        assert outcome.exit_code == 3


async def test_jobs_are_listed_with_how_they_are(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        assert (await ask(jobs, root, action="list"))[0] == "No background jobs."
        await start(jobs, root, "true").wait()
        start(jobs, root, WAITING)
        start(jobs, root, WAITING, in_background=False)
        lines = (await ask(jobs, root, action="list"))[0].splitlines()
        assert lines[0] == "job-1\tended with exit status 0\ttrue"
        assert lines[1].startswith("job-2\trunning for ") and lines[1].endswith(f"\t{WAITING}")
        assert len(lines) == 2


async def test_a_job_that_is_killed_is_gone_with_all_it_started(root: Path, tmp_path: Path) -> None:
    heard = Heard()
    async with workspace(tmp_path / "long") as jobs:
        job = start(jobs, root, STUBBORN, run_id=mine("killed-1"), live=heard, in_background=False)
        pids = await heard.pids(4)
        job.in_background = True
        said, _ = await ask(jobs, root, action="kill", jobId=job.job_id)
        assert said.endswith("[job-1: ended on request]")
        assert not job.is_running
        assert [pid for pid in pids if exists(pid)] == []
        assert marked(mine("killed-1")) == []


async def test_jobs_die_with_their_workspace_and_with_no_other(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "one") as one:
        ours = start(one, root, WAITING, run_id=mine("ours-1"))
        await heard_from(one, root, ours, "pid")
        async with workspace(tmp_path / "two") as two:
            await heard_from(two, root, start(two, root, STUBBORN, run_id=mine("theirs-1")), "pid")
        assert marked(mine("theirs-1")) == []
        assert ours.is_running
        assert marked(mine("ours-1"))
    assert marked(mine("ours-1")) == []
    assert ours.state == "ended with the workspace"


async def test_a_workspace_that_is_cancelled_ends_its_jobs_too(root: Path, tmp_path: Path) -> None:
    with trio.CancelScope() as server:
        async with workspace(tmp_path / "long") as jobs:
            await heard_from(jobs, root, start(jobs, root, STUBBORN, run_id=mine("server-1")), "pid")
            server.cancel()
            await trio.sleep_forever()
    assert server.cancelled_caught
    assert marked(mine("server-1")) == []


async def test_closing_keeps_to_the_deadline_it_is_given(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        job = start(jobs, root, STUBBORN, run_id=mine("closed-1"))
        await heard_from(jobs, root, job, "pid")
        jobs.close(by=trio.current_time() + 2)
        await job.wait()
        await unmarked(mine("closed-1"))
        with pytest.raises(ToolFailed, match="closing"):
            start(jobs, root, "true")


async def test_a_job_ends_at_its_time_limit(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        job = start(jobs, root, WAITING, run_id=mine("limit-1"), limit_s=0.2)
        await job.wait()
        assert job.state == "ended at its time limit"
        assert marked(mine("limit-1")) == []


async def test_a_job_that_cannot_be_started_says_why(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        job = jobs.start(
            "true", directory=opener(root / "gone"), environment=child_environment("r"), in_background=True
        )
        await job.wait()
        assert job.state == "not started: No such file or directory"


async def test_an_unknown_job_is_refused_with_those_that_there_are(root: Path, tmp_path: Path) -> None:
    async with workspace(tmp_path / "long") as jobs:
        await start(jobs, root, "true").wait()
        await start(jobs, root, "true", in_background=False).wait()
        for job_id in ("job-2", "job-9"):
            with pytest.raises(ToolFailed, match=rf"no job '{job_id}'\. There are: job-1\."):
                await ask(jobs, root, action="output", jobId=job_id)
        with pytest.raises(ToolFailed, match="'jobId' is needed"):
            await ask(jobs, root, action="kill")


async def test_not_all_can_run_at_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrio_agent.tools.jobs._MAX_RUNNING", 2)
    async with workspace(tmp_path / "long") as jobs:
        first = start(jobs, root, "true")
        start(jobs, root, WAITING)
        with pytest.raises(ToolFailed, match="2 commands run"):
            start(jobs, root, "true")
        await first.wait()
        await start(jobs, root, "true").wait()


async def test_old_jobs_and_the_files_of_long_outputs_do_not_pile_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_agent.tools.jobs._MAX_KEPT", 2)
    monkeypatch.setattr("atrio_agent.tools.jobs._CLEAR_S", LIMIT_S)  # however long the disk takes
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "job-7.txt").write_text("of a server that was killed")
    async with workspace(folder) as jobs:
        await start(jobs, root, "true").wait()
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o700
        for _ in range(3):
            await start(jobs, root, "seq 1 20000").wait()
        await start(jobs, root, "true").wait()
        assert [job.job_id for job in jobs.listed()][-2:] == ["job-4", "job-5"]
        assert "job-1" not in {job.job_id for job in jobs.listed()}
    assert list(folder.iterdir()) == []
