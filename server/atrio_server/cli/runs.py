"""`atrio runs`, `atrio wait` and `atrio cancel`: prompts that were accepted, and what became of them.

None of these sends a prompt, so all of them may be repeated at will. What has
ended stays ended: a wait for it answers at once, and a cancel names nothing.
"""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, Limit, SessionArgument, Target

if TYPE_CHECKING:
    from atrio_server.client import Client

__all__ = ["cancel", "runs", "wait"]


def runs(
    session: SessionArgument = "last",
    *,
    limit: Limit = 50,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """List the runs of a session, newest first."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import RunListParams
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import moment, print_list

        session_id = await find_session(client, session, directory)
        listed = await client.call("run/list", RunListParams(session_id=session_id, limit=limit))
        print_list(
            listed.runs,
            ("RUN", "ACCEPTED", "STATE", "PROMPT"),
            lambda run: (run.run_id, moment(run.accepted_at), run.stop_reason or run.state, run.prompt_text),
            as_json=json,
        )
        return 0

    return target.with_client(work)


def wait(
    run: Annotated[str, Parameter(help='A run\'s id, or "last": the newest of the newest session of the directory.')],
    *,
    timeout: Annotated[float | None, Parameter(help="Seconds to wait; then exit 3.", validator=Number(gte=0))] = None,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Wait for a run to end and print its final text. The exit code says how it ended, as for `atrio run`."""

    async def work(client: "Client") -> int:
        import math

        import trio

        from atrio_protocol.methods import RunWaitParams
        from atrio_server.cli.connect import find_run
        from atrio_server.cli.failure import Exit, Failure, exit_of_run
        from atrio_server.cli.output import print_json, print_result, say

        run_id = await find_run(client, run, directory)
        with trio.move_on_after(math.inf if timeout is None else timeout):
            ended = (await client.call("run/wait", RunWaitParams(run_id=run_id))).run
            if json:
                print_json(ended)
            elif ended.text:
                print_result(ended.text)
            code, sentence = exit_of_run(ended)
            if sentence:
                say(f"atrio: {sentence}")
            return code
        raise Failure(Exit.TIMEOUT, f"the run has not ended after {timeout:g} s; it goes on")

    return target.with_client(work)


def cancel(
    session: SessionArgument,
    *,
    run: Annotated[str | None, Parameter(help="Only this run.")] = None,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Cancel all that was accepted in a session up to now, or one run, and print what it was."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import CancelParams
        from atrio_protocol.struct import UNSET
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import print_json, print_result, say

        session_id = await find_session(client, session, directory)
        params = CancelParams(session_id=session_id, run_id=run or UNSET, wait=True)
        done = await client.call("session/cancel", params)
        if json:
            print_json(done)
        else:
            for run_id in done.cancelled:
                print_result(run_id)
            if not done.cancelled:
                say("nothing was running or waiting")
        return 0

    return target.with_client(work)
