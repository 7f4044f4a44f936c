"""The commands of one workspace that run, and the tool `jobs` to look after them.

Every command runs in a task of the workspace, whoever called for it, so that it
can go on when its time in the foreground is over. `Jobs` ends with the
workspace and ends them all; nothing else does: not the end of a run, not that of
another workspace. A run that is cancelled ends the command it waits for.

What a command is allowed to do is not decided here. Ids count up and are never
used twice while the workspace is open.
"""

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import structlog
import trio

from atrio_agent.lifetime import CLOSE_S
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.capture import Capture
from atrio_agent.tools.leftovers import owned
from atrio_agent.tools.orphans import become_reaper
from atrio_agent.tools.output import MAX_TITLE_CHARS, shown
from atrio_agent.tools.process import Directory, Ended, run_command
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Job", "Jobs", "JobsInput", "JobsTool", "open_jobs"]

_MAX_RUNNING: Final = 32
"""Commands of one workspace that run at a time."""

_MAX_KEPT: Final = 50
"""Jobs that have ended and can still be asked for."""

_THREADS: Final = 8
_SLACK_S: Final = 0.1
"""What a waiter waits longer than the end may take, so that it sees the end itself."""

_CLEAR_S: Final = 1.0

Why = Literal["killed", "time limit", "workspace"]

log = structlog.get_logger("atrio.jobs")


class Job:
    """One command. Made by `Jobs.start`, not by hand.

    ``in_background``: nobody waits for it (any more, if it ``was_waited_for``); it
    is listed, and passes on no live output. ``pid`` is the shell's, once it runs.
    """

    def __init__(
        self,
        job_id: str,
        command: str,
        *,
        file: Path,
        live: Callable[[str], None],
        threads: trio.CapacityLimiter,
        in_background: bool,
        limit_s: float,
    ) -> None:
        self.job_id = job_id
        self.command = command
        self.output = Capture(file, lambda text: None if self.in_background else live(text), threads)
        self.in_background = in_background
        self.was_waited_for = not in_background
        self.pid: int | None = None
        self.result: Ended | None = None
        self.failure: str | None = None
        self._began_at = trio.current_time()
        self._ended_why: Why | None = None
        self._by: float | None = None
        self._scope = trio.CancelScope(deadline=self._began_at + limit_s)
        self._started = trio.Event()
        self._ended = trio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it or anything that it started is not known to have ended."""
        return not self._ended.is_set()

    @property
    def state(self) -> str:
        """For the model, such as ``running for 12 s`` or ``ended with exit status 1``."""
        if self.is_running:
            return f"running for {trio.current_time() - self._began_at:.0f} s"
        if self.result is not None:
            return f"ended with exit status {self.result.exit_code}"
        if self.failure is not None:
            return f"not started: {self.failure}"
        return {
            "killed": "ended on request",
            "time limit": "ended at its time limit",
            "workspace": "ended with the workspace",
        }[self._ended_why or "workspace"]

    def to_background(self) -> None:
        """Nobody waits for it any more, and it goes on."""
        self.in_background = True

    async def wait_started(self) -> None:
        """Wait until it runs, or it is known that it never will."""
        await self._started.wait()

    async def wait(self) -> None:
        """Wait until it and everything it started has ended. Cancelling the waiter does not end it."""
        await self._ended.wait()

    def close(self, why: Why, *, by: float | None = None) -> None:
        """Begin to end it. Does not wait; safe to call again.

        Args:
            why: For whoever asks later. The first one counts.
            by: Until when ending it may take, in Trio's time; five seconds from now, if None.
        """
        if self.is_running:
            self._ended_why = self._ended_why or why
            self._by = by if self._by is None else self._by if by is None else min(by, self._by)
            self._scope.cancel()

    async def aclose(self, why: Why, *, by: float | None = None) -> None:
        """End it and wait for that, whatever cancels the caller; not much longer than ending it may take."""
        self.close(why, by=by)
        deadline = (trio.current_time() + CLOSE_S if self._by is None else self._by) + _SLACK_S
        with trio.CancelScope(deadline=deadline, shield=True):
            await self._ended.wait()

    async def run(
        self,
        directory: Callable[[], Directory],
        environment: Mapping[str, str],
        *,
        threads: trio.CapacityLimiter,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """Run it to its end; called once, by the task that is its own. Raises nothing but a cancellation."""
        try:
            with self._scope:
                await prepare()
                self.result = await run_command(
                    self.command,
                    directory=directory,
                    environment=environment,
                    sink=self.output,
                    threads=threads,
                    ends_by=lambda: self._by,
                    started=self._has_started,
                )
            if self._scope.cancelled_caught:
                self._ended_why = self._ended_why or "time limit"
        except (OSError, ToolFailed) as exc:
            self.failure = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        except Exception:
            log.exception("a command's task failed", job=self.job_id)
            self.failure = "an error in Atrio"
        finally:
            self._started.set()
            self._ended.set()

    def _has_started(self, pid: int) -> None:
        self.pid = pid
        self._started.set()


class Jobs:
    """The commands of one workspace. Made by `open_jobs`, not by hand."""

    def __init__(self, nursery: trio.Nursery, folder: Path, threads: trio.CapacityLimiter, life: str) -> None:
        self._nursery = nursery
        self._folder = folder
        self._owned = owned(life)
        self._threads = threads
        self._jobs: dict[str, Job] = {}
        self._count = 0
        self._closed = False
        self._preparing = trio.Lock()
        self.prepared = False
        """Whether the folder was made, for the first command."""

    @property
    def folder(self) -> Path:
        """Where long outputs lie: `read` must be allowed to look there."""
        return self._folder

    def start(
        self,
        command: str,
        *,
        directory: Callable[[], Directory],
        environment: Mapping[str, str],
        live: Callable[[str], None] = lambda _text: None,
        in_background: bool = False,
        limit_s: float = float("inf"),
    ) -> Job:
        """Start a command. Does not wait; if it cannot be started, its `Job.failure` will say why.

        Args:
            command: What the shell reads.
            directory: Opens the directory to run in; called in a thread, right before the start.
            environment: The command's environment, but for whose it is.
            live: Takes output while somebody waits for it, and never blocks.
            in_background: Nobody waits for it.
            limit_s: When it is ended, in seconds from now.

        Raises:
            ToolFailed: Too many run, or the workspace is closing. It was not started.
        """
        if self._closed:
            raise ToolFailed("The workspace is closing; nothing is started any more.")
        if sum(job.is_running for job in self._jobs.values()) >= _MAX_RUNNING:
            raise ToolFailed(f"{_MAX_RUNNING} commands run in this workspace already. Wait for some or end them first.")
        self._count += 1
        job_id = f"job-{self._count}"
        job = Job(
            job_id,
            command,
            file=self._folder / f"{job_id}.txt",
            live=live,
            threads=self._threads,
            in_background=in_background,
            limit_s=limit_s,
        )
        self._jobs[job_id] = job
        # In a fresh context: that of the call must not live on in a job.
        contextvars.Context().run(
            lambda: self._nursery.start_soon(
                self._run, job, directory, {**environment, **self._owned}, name=f"command {job_id}"
            )
        )
        return job

    def listed(self) -> tuple[Job, ...]:
        """The background jobs, the oldest first."""
        return tuple(job for job in self._jobs.values() if job.in_background)

    def get(self, job_id: str) -> Job:
        """The background job of that id.

        Raises:
            ToolFailed: There is none. The message lists those that there are.
        """
        job = self._jobs.get(job_id)
        if job is None or not job.in_background:
            known = ", ".join(job.job_id for job in self.listed()) or "none"
            raise ToolFailed(f"There is no job '{shown(job_id, max_chars=80)}'. There are: {known}.")
        return job

    def close(self, *, by: float | None = None) -> None:
        """Take no more commands and begin to end all. Does not wait; safe to call again.

        Args:
            by: Until when that may take, in Trio's time; five seconds from now, if None.
        """
        self._closed = True
        for job in self._jobs.values():
            job.close("workspace", by=by)

    async def _run(self, job: Job, directory: Callable[[], Directory], environment: Mapping[str, str]) -> None:
        await job.run(directory, environment, threads=self._threads, prepare=self._prepare)
        ended = [kept for kept in self._jobs.values() if not kept.is_running]
        for old in ended[:-_MAX_KEPT]:
            del self._jobs[old.job_id]
            await trio.to_thread.run_sync(old.output.remove_file, limiter=self._threads, abandon_on_cancel=True)

    async def _prepare(self) -> None:
        async with self._preparing:
            if not self.prepared:
                await trio.to_thread.run_sync(_prepare, self._folder, limiter=self._threads)
                self.prepared = True


@asynccontextmanager
async def open_jobs(folder: Path, *, life: str = "") -> AsyncGenerator[Jobs]:
    """Open the owner of a workspace's commands, and end them all on the way out.

    With the first command this process becomes the reaper of orphans. An exception
    of the body arrives as an `ExceptionGroup`: open it in the workspace's own task.

    Args:
        folder: For the outputs that are too long to be shown; made and emptied for
            the first command, emptied at the end. It belongs to this workspace
            alone, and only its owner may read it.
        life: Whose the commands are, for `leftovers` to find; "" for nobody's.
    """
    threads = trio.CapacityLimiter(_THREADS)
    jobs: Jobs | None = None
    try:
        async with trio.open_nursery() as nursery:
            jobs = Jobs(nursery, folder, threads, life)
            try:
                yield jobs
            finally:
                jobs.close()
    finally:
        if jobs is not None and jobs.prepared:
            with trio.move_on_after(_CLEAR_S, shield=True):
                await trio.to_thread.run_sync(_clear, folder, limiter=threads, abandon_on_cancel=True)


class JobsInput(ToolInput):
    action: Annotated[Literal["list", "output", "kill"], msgspec.Meta(description="What to do.")]
    job_id: Annotated[str, msgspec.Meta(description="Which job; for output and kill.")] | None = None


class JobsTool:
    """List background jobs, see what they said, end them."""

    name: str = "jobs"
    kind: ToolKind = "execute"
    description: str = description_of("jobs")
    input_type: type[ToolInput] = JobsInput

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def title(self, given: JobsInput) -> str:
        """Such as ``Output of job-3``."""
        job = shown(given.job_id or "?", max_chars=MAX_TITLE_CHARS)
        return {"list": "List background jobs", "output": f"Output of {job}", "kill": f"End {job}"}[given.action]

    def locations(self, given: JobsInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        """None."""
        return ()

    async def ask(self, given: JobsInput, place: Place) -> None:
        """Nothing: what may run was asked when it was started."""

    async def run(self, given: JobsInput, place: Place) -> ToolOutcome:  # noqa: ARG002  a tool's signature
        """Do it.

        Raises:
            ToolFailed: There is no such job.
        """
        if given.action == "list":
            lines = [f"{job.job_id}\t{job.state}\t{shown(job.command, max_chars=200)}" for job in self._jobs.listed()]
            return text_outcome("\n".join(lines) or "No background jobs.")
        if given.job_id is None:
            raise ToolFailed(f"'jobId' is needed for {given.action}.")
        job = self._jobs.get(given.job_id)
        if given.action == "kill":
            await job.aclose("killed")
        said = job.output.unseen()
        facts = f"[{job.job_id}: {job.state}]"
        text = f"{said.rstrip()}\n{facts}" if said else f"[No new output.]\n{facts}"
        exit_code = None if job.result is None else job.result.exit_code
        return ToolOutcome(content=text_outcome(text).content, exit_code=exit_code)


def _prepare(folder: Path) -> None:
    become_reaper()
    if folder.is_symlink():
        folder.unlink()  # not of our making, and where it leads nothing is ours to clear
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    _clear(folder)


def _clear(folder: Path) -> None:
    for file in folder.glob("job-*.txt"):
        file.unlink(missing_ok=True)
