"""A process that uses a store until it is killed; run by tests, as ``python store_victim.py DIRECTORY WHAT``.

``write``: accepts runs, streams text and tool calls, completes some, and prints
each run's id after its acceptance was acknowledged. ``recover``: opens the store
and kills itself in the middle of the recovery.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

import atrio_agent.store.sqlite
from atrio_agent.store.base import PutRun, Store
from atrio_agent.store.index import DATABASE_NAME, open_run_index
from atrio_agent.store.recovery import repair
from atrio_agent.store.sqlite import open_sqlite_store
from atrio_protocol.ids import workspace_id_for
from store_samples import accept, append, complete, finish, put, put_session, tool_call

WORKSPACE_ID = workspace_id_for("victim")
TIME = "2026-11-20T10:00:00.000Z"


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def produce(store: Store, session_id: str) -> None:
    await store.write_soon(put_session(session_id)).wait()
    order = 0
    for accept_seq in range(1, 1_000_000):
        run_id = f"{session_id}-r{accept_seq}"
        op = accept(run_id, session_id, accept_seq, client_made=accept_seq % 2 == 0)
        await store.write_soon(op).wait()
        say(run_id)
        begun = msgspec.structs.replace(op.run, state="running", started_at=TIME)
        mine: dict[str, Any] = {"session_id": session_id, "run_id": run_id}
        user, answer = f"{run_id}-user", f"{run_id}-answer"
        store.write_later(PutRun(run=begun))
        store.write_later(put(user, "question", role="user", order=order + 1, final=True, **mine))
        parts = (tool_call(f"{run_id}-t"),)
        store.write_later(put(answer, "", *parts, order=order + 2, **mine))
        order += 2
        for _ in range(20):
            store.write_later(append(answer, "0123456789", session_id=session_id))
            await trio.lowlevel.checkpoint()
        if accept_seq % 3 == 0:
            whole = put(answer, "0123456789" * 20, order=order, finish=finish(), final=True, **mine)
            await store.write_soon(whole, complete(run_id, session_id, accept_seq)).wait()


async def write(directory: Path) -> None:
    async with (
        open_run_index(directory / "index.db") as index,
        open_sqlite_store(directory / DATABASE_NAME, index=index, workspace_id=WORKSPACE_ID) as store,
        trio.open_nursery() as nursery,
    ):
        for number in range(8):
            nursery.start_soon(produce, store, f"s{number}")


async def recover(directory: Path) -> None:
    repaired = 0

    def repair_and_die(*args: Any, **kwargs: Any) -> Any:
        nonlocal repaired
        repaired += 1
        if repaired == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return repair(*args, **kwargs)

    atrio_agent.store.sqlite.repair = repair_and_die
    async with (
        open_run_index(directory / "index.db") as index,
        open_sqlite_store(directory / DATABASE_NAME, index=index, workspace_id=WORKSPACE_ID),
    ):
        say("not killed")


if __name__ == "__main__":
    trio.run({"write": write, "recover": recover}[sys.argv[2]], Path(sys.argv[1]))
