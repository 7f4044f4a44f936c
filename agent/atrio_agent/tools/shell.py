"""The tool `shell`: a command, its output and how it ended.

It says what must be asked and what the model gets to read. Whether a command
may run unasked is decided in `programs`, processes live in `process`, and jobs
own them. What was not permitted and is not on the list is never started, also
when somebody calls `run` without asking first.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import trio

from atrio_agent.ask import Ask
from atrio_agent.lifetime import CLOSE_S
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.confine import Inside, LinkMet, apparent_path, classify, open_exactly
from atrio_agent.tools.jobs import Job, Jobs
from atrio_agent.tools.output import MAX_TITLE_CHARS, counted, shown
from atrio_agent.tools.process import Directory, child_environment, child_path
from atrio_agent.tools.programs import CAREFUL_GIT, AllowList
from atrio_agent.tools.threads import in_files_thread
from atrio_protocol.limits import MAX_COMMAND_CHARS
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Shell", "ShellInput"]

_DEFAULT_S: Final = 120
_LONGEST_S: Final = 3_600
_TRIES: Final = 10


class ShellInput(ToolInput):
    command: Annotated[
        str, msgspec.Meta(description="What the shell reads.", min_length=1, max_length=MAX_COMMAND_CHARS)
    ]
    cwd: Annotated[str, msgspec.Meta(description="The directory to run in. Default: the workspace.")] | None = None
    timeout_s: (
        Annotated[
            int,
            msgspec.Meta(
                description="Seconds to wait for it. Default 120; in the background: when it is ended, default never.",
                ge=1,
                le=_LONGEST_S,
            ),
        ]
        | None
    ) = None
    background: Annotated[bool, msgspec.Meta(description="Do not wait for it.")] | None = None


class Shell:
    """Run a command.

    Args:
        jobs: The workspace's; what is started here lives there.
        allowed: What needs no question.
    """

    name: str = "shell"
    kind: ToolKind = "execute"
    description: str = description_of("shell")
    input_type: type[ToolInput] = ShellInput

    def __init__(self, jobs: Jobs, allowed: AllowList | None = None) -> None:
        self._jobs = jobs
        self._allowed = allowed or AllowList()

    def title(self, given: ShellInput) -> str:
        """The command, in one line."""
        return shown(given.command, max_chars=MAX_TITLE_CHARS)

    def locations(self, given: ShellInput, place: Place) -> tuple[Location, ...]:
        """The directory it runs in."""
        return (Location(path=apparent_path(given.cwd or ".", place.root)),)

    async def ask(self, given: ShellInput, place: Place) -> Ask | None:
        """Nothing for a command on the list; else the command itself.

        Raises:
            ToolFailed: ``cwd`` is no directory of the workspace.
        """
        directory, is_allowed = await in_files_thread(self._judge, given, place)
        if is_allowed:
            return None
        return Ask(
            action="execute",
            title=f"Run {shown(given.command, max_chars=MAX_TITLE_CHARS)}",
            where=str(directory),
            detail=given.command,
        )

    async def run(self, given: ShellInput, place: Place) -> ToolOutcome:
        """Run it until it has ended or its time is over.

        Cancelled, everything that it started has ended before this returns.

        Raises:
            ToolFailed: It was not permitted, or could not be started. Nothing ran.
        """
        _, is_allowed = await in_files_thread(self._judge, given, place)
        if not is_allowed and not place.permitted:
            raise ToolFailed("This command needs a permission that nobody has given. It was not run.")
        environment = child_environment(place.run_id)
        if not place.permitted:
            environment |= CAREFUL_GIT | {"GIT_CEILING_DIRECTORIES": str(place.root.parent)}
        in_background = bool(given.background)
        limit_s = given.timeout_s or _DEFAULT_S
        job = self._jobs.start(
            given.command,
            directory=_opener(given, place),
            environment=environment,
            live=place.output,
            in_background=in_background,
            limit_s=given.timeout_s or float("inf") if in_background else float("inf"),
        )
        if in_background:
            await job.wait_started()
            return _outcome(job, limit_s)
        try:
            with trio.move_on_after(limit_s):
                await job.wait()
            if job.is_running:
                job.to_background()
        finally:
            if not job.in_background:
                with trio.move_on_after(2 * CLOSE_S, shield=True):  # it keeps to its own, shorter limit
                    await job.aclose("killed")
        return _outcome(job, limit_s)

    def _judge(self, given: ShellInput, place: Place) -> tuple[Path, bool]:
        if "\0" in given.command:
            raise ToolFailed("A command cannot hold a NUL character.")
        at = _inside(given, place)
        return at.resolved, self._allowed.allows(given.command, at.resolved, place, child_path())


def _inside(given: ShellInput, place: Place) -> Inside:
    cwd = given.cwd or "."
    at = classify(cwd, place.root, place.allowed, place.closed)
    if not isinstance(at, Inside):
        raise ToolFailed(f"'{shown(cwd)}' is outside the workspace. Commands run in directories of the workspace only.")
    if not at.resolved.is_dir():
        raise ToolFailed(f"'{shown(cwd)}' is not a directory.")
    return at


def _opener(given: ShellInput, place: Place) -> Callable[[], Directory]:
    """Opens the directory anew, following no link that was not looked at."""

    def open_directory() -> Directory:
        for _ in range(_TRIES):
            at = _inside(given, place)
            try:
                return Directory(open_exactly(at.base, at.parts), at.resolved)
            except LinkMet:
                continue
            except OSError as exc:
                raise ToolFailed(f"'{shown(given.cwd or '.')}' cannot be entered: {exc.strerror}.") from exc
        raise ToolFailed(f"'{shown(given.cwd or '.')}' is being replaced all the time. Try again.")

    return open_directory


def _outcome(job: Job, limit_s: int) -> ToolOutcome:
    if job.failure is not None:
        raise ToolFailed(f"The command could not be started: {job.failure}")
    facts: list[str] = []
    said = job.output.text()
    job.output.unseen()  # what is said here is no news for jobs
    result = job.result
    if job.in_background and job.is_running:
        waited = f"still running after {limit_s} s; it goes on" if job.was_waited_for else "running"
        facts.append(f"{job.job_id} is {waited} in the background. See its output or end it with jobs.")
    elif result is None:
        facts.append(f"The command was {job.state}.")
    else:
        facts += _facts(result.exit_code)
        if result.left_running:
            facts.append(
                f"What it left running ({counted(result.left_running, 'process', 'processes')}) was ended."
                " Use background for what is to go on."
            )
        if not said and not facts:
            facts.append("No output.")
    text = "\n".join([*([said.rstrip("\n")] if said else []), *(f"[{fact}]" for fact in facts)])
    return ToolOutcome(
        content=text_outcome(text).content,
        exit_code=None if result is None else result.exit_code,
        truncated=job.output.is_cut,
    )


def _facts(exit_code: int) -> list[str]:
    if exit_code == 0:
        return []
    try:
        name = f", {signal.Signals(exit_code - 128).name}" if exit_code > 128 else ""
    except ValueError:
        name = ""
    return [f"Exit status {exit_code}{name}."]
