"""Both stores answer every question in the same way, whatever was written before.

Hypothesis makes up the calls; the memory store, which is written without SQL,
says what is right. Reopening is one of the calls, so recovery is compared too.
"""

import hashlib
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from atrio_agent.store.base import (
    AcceptRun,
    AppendText,
    CompleteRun,
    DeleteSessions,
    DropGrant,
    ForkSession,
    Op,
    PutFileVersion,
    PutGrant,
    PutMessage,
    PutRun,
    PutSession,
    PutTodos,
    Store,
    StoreFailed,
)
from atrio_agent.store.index import open_run_index
from atrio_agent.store.memory_disk import MemoryDisk
from atrio_agent.store.writer import coalesced
from atrio_protocol.content import ImageBlock, TextBlock
from atrio_protocol.ids import workspace_id_for, workspace_id_of
from atrio_protocol.parts import Part, ReasoningPart
from atrio_protocol.struct import UNSET, UnsetType
from atrio_protocol.things import Message, Run, Todo
from store_rig import MemoryState, SqliteState, State
from store_samples import MAX_BYTES, finish, grant, message, run, session_row, tool_call, tool_result

SESSIONS = ["s1", "s2", "s3"]
RUNS = ["r1", "r2", "r3", "r4"]
GRANTS = ["g1", "g2", "g3"]
CONTENTS = [b"", b"one\n", b"\xff\0" * 50]
MESSAGES = ["m1", "m2", "m3", "m4", "m5", "m6"]
TIMES = [f"2026-11-20T10:00:00.00{n}Z" for n in range(3)]
WORDS = ["plain", "Straße", "naïve", "store.py", "数据库", "AND", 'quo"te', "x", "\x00", "\n"]

texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
session_ids = st.sampled_from(SESSIONS)
times = st.sampled_from(TIMES)
contents = st.none() | st.sampled_from(CONTENTS)
reasons = st.sampled_from(["end_turn", "tool_use", "cancelled", "error"])
statuses = st.sampled_from(["pending", "in_progress", "completed", "failed", "cancelled"])


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | strategy


parts: st.SearchStrategy[Part] = st.one_of(
    texts.map(lambda text: TextBlock(text=text)),
    texts.map(lambda text: ReasoningPart(text=text)),
    st.builds(
        lambda name, status, given: tool_call(name, status=status, input=given),
        st.sampled_from(["t1", "t2", "t3"]),
        statuses,
        st.none() | st.just({"path": "a"}),
    ),
    st.builds(tool_result, st.sampled_from(["t1", "t2", "t3"]), texts, is_error=st.booleans()),
    st.just(ImageBlock(mime_type="image/png", data="AAAA")),
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    number = draw(st.integers(0, len(MESSAGES) - 1))
    # A message stays in its session and in its place, as they do.
    return msgspec.structs.replace(
        message(MESSAGES[number], None, *draw(st.lists(parts, max_size=3)), order=number + 1),
        session_id=SESSIONS[number % 2],
        role=draw(st.sampled_from(["user", "assistant", "tool"])),
        run_id=draw(maybe(st.sampled_from(RUNS))),
        summary=draw(st.booleans()),
        finish=draw(maybe(reasons.map(finish))),
        updated_at=draw(times),
    )


@st.composite
def runs(draw: st.DrawFn, *, state: str = "queued") -> Run:
    # The last one is only ever accepted, in several sessions; the others stay in theirs.
    number = draw(st.integers(0, len(RUNS) - 1 if state == "queued" else len(RUNS) - 2))
    made = run(
        RUNS[number],
        SESSIONS[number % 2] if number < len(RUNS) - 1 else draw(session_ids),
        10 * number,
        state=state,
        kind=draw(st.sampled_from(["prompt", "prompt", "shell"])),
        started_at=draw(maybe(times)),
        folded_into=draw(maybe(st.sampled_from(RUNS))),
    )
    match state:
        case "queued":
            return made
        case "running":
            return msgspec.structs.replace(made, prompt=draw(st.sampled_from([UNSET, made.prompt])))
        case _:
            reason = draw(st.sampled_from(["end_turn", "cancelled", "error"]))
            return msgspec.structs.replace(made, stop_reason=reason, text=draw(texts), prompt=UNSET)


operations: st.SearchStrategy[Op] = st.one_of(
    st.builds(
        lambda session_id, title, rev, parent, updated_at: PutSession(
            row=session_row(
                session_id,
                title=title,
                rev=rev,
                parent_session_id=parent if parent != session_id else None,
                updated_at=updated_at,
            )
        ),
        session_ids,
        texts,
        st.integers(0, 5),
        st.none() | session_ids,
        times,
    ),
    st.builds(PutMessage, message=messages(), final=st.booleans()),
    st.builds(
        lambda number, part, field, text: AppendText(
            message_id=MESSAGES[number], session_id=SESSIONS[number % 2], part=part, field=field, text=text
        ),
        st.integers(0, len(MESSAGES) - 1),
        st.integers(0, 2),
        st.sampled_from(["text", "text", "inputText", "output"]),
        texts | st.just("\ud800"),
    ),
    st.builds(AcceptRun, run=runs(), digest=texts, client_made=st.booleans()),
    st.builds(PutRun, run=runs(state="running")),
    st.builds(CompleteRun, run=runs(state="completed")),
    st.builds(
        PutFileVersion,
        session_id=session_ids,
        run_id=st.just("r1"),
        tool_call_id=st.just("t1"),
        path=texts | st.just("\ud800"),
        before=contents,
        after=contents,
        at=times,
    ),
    st.builds(
        PutTodos,
        session_id=session_ids,
        todos=st.lists(st.builds(Todo, content=texts, status=st.just("pending")), max_size=2).map(tuple),
    ),
    st.builds(lambda *given: PutGrant(grant=grant(*given)), st.sampled_from(GRANTS), session_ids, times),
    st.builds(DropGrant, grant_id=st.sampled_from(GRANTS)),
    st.builds(
        lambda numbers, below, through, updated_at: ForkSession(
            row=session_row(SESSIONS[numbers[0]], title="fork", updated_at=updated_at),
            source_id=SESSIONS[numbers[1]],
            below=below,
            through=through,
            workspace_id=workspace_id_for("one"),
        ),
        st.permutations(range(len(SESSIONS))),
        st.integers(1, 8),
        st.none() | st.integers(0, 7),
        times,
    ),
    st.builds(DeleteSessions, session_ids=st.lists(session_ids, max_size=2).map(tuple)),
)
calls = st.lists(operations, min_size=1, max_size=3).map(tuple)
steps = st.one_of(
    st.tuples(st.just("soon"), calls),
    st.tuples(st.just("soon"), calls),
    st.tuples(st.just("later"), calls),
    st.tuples(st.just("reopen"), st.just(())),
)

everything: list[Op] = [PutSession(row=session_row(session_id)) for session_id in SESSIONS]


class _Told:
    """What a store says, with the ids that it makes up replaced by their order of appearance."""

    def __init__(self) -> None:
        self.made_up: dict[str, str] = {}

    def plain(self, value: Any) -> Any:
        return self._replaced(msgspec.to_builtins(value))

    def _replaced(self, value: Any) -> Any:
        match value:
            case dict():
                return {key: self._replaced(inner) for key, inner in value.items()}
            case list() | tuple():
                return [self._replaced(inner) for inner in value]
            case str() if workspace_id_of(value):
                return self.made_up.setdefault(value, f"made up {len(self.made_up)}")
            case _:
                return value


async def answers(store: Store) -> Any:
    """Everything that can be asked, in one value."""
    told = _Told()
    found: list[Any] = []
    for session_id in SESSIONS:
        found += [
            await store.load(session_id),
            await store.messages(session_id, before=None, limit=3, max_bytes=MAX_BYTES),
            await store.messages(session_id, before=4, limit=100, max_bytes=300),
            await store.messages(session_id, before=None, limit=1_000, max_bytes=2**40),
            await store.history(session_id),
            await store.runs(session_id, before=None, limit=2),
            await store.runs(session_id, before=25, limit=100),
            sorted(await store.descendants(session_id)),
            await store.file_versions(session_id),
            await store.todos(session_id),
            await store.grants(session_id),
        ]
    found += [await store.message(message_id) for message_id in MESSAGES]
    found += [await store.run(run_id) for run_id in RUNS]
    found += [await store.file_content(hashlib.sha256(content).hexdigest()) for content in CONTENTS]
    for query in [None, *WORDS, "str", "pla naï", "naive"]:
        cursor: str | UnsetType | None = None
        while cursor is not UNSET:
            page = await store.sessions(query=query, limit=2, cursor=cursor, children=query != "x")
            found.append([query, page.sessions])
            cursor = page.next_cursor
    return [told.plain(each) for each in found]


async def play(state: State, script: list[tuple[str, tuple[Op, ...]]]) -> Any:
    """Do these steps; returns how each call ended and what is there then."""
    outcome: list[Any] = []
    openings = 0

    def clock() -> str:
        return f"2026-11-20T11:00:{openings:02}.000Z"

    async with AsyncExitStack() as stack:
        for module in ("memory", "sqlite"):
            stack.enter_context(patch(f"atrio_agent.store.{module}.now", clock))
        opened = await stack.enter_async_context(AsyncExitStack())
        store = await opened.enter_async_context(await state.open())
        await store.write_soon(*everything).wait()
        for step, ops in script:
            match step:
                case "soon":
                    commit = store.write_soon(*ops)
                    try:
                        await commit.wait()
                    except StoreFailed as error:
                        outcome.append(type(error).__name__)
                    else:
                        outcome.append("stored")
                case "later":
                    store.write_later(*ops)
                case _:
                    await opened.aclose()
                    openings += 1
                    store = await opened.enter_async_context(await state.open())
        await store.write_soon(PutSession(row=session_row("s9"))).wait()
        outcome.append(await answers(store))
        for run_id in RUNS:
            claimed = await state.index.find_run(run_id)
            is_there = await store.run(run_id) is not None  # without that a claim is void
            outcome.append(claimed[1] if claimed and is_there else None)
    return outcome


@settings(max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(script=st.lists(steps, max_size=12))
async def test_both_stores_answer_alike(script: list[tuple[str, tuple[Op, ...]]]) -> None:
    with trio.fail_after(30), tempfile.TemporaryDirectory() as directory:
        async with open_run_index(Path(directory) / "index.db") as index:
            sqlite = await play(SqliteState(Path(directory), index), script)
        assert sqlite == await play(MemoryState(), script)


@given(script=st.lists(calls, max_size=12))
def test_what_is_made_smaller_while_it_waits_says_the_same(script: list[tuple[Op, ...]]) -> None:
    # Refused calls are let out: what follows a refusal in the same call would be stored with another one.
    whole, small = MemoryDisk(), MemoryDisk()
    for disk in (whole, small):
        disk.repair(everything)
    # A fork makes ids at random, so two of the same are never alike.
    wanted = [call for call in script if not any(isinstance(op, AcceptRun | CompleteRun | ForkSession) for op in call)]
    wanted = [call for call in wanted if not any(isinstance(op, AppendText) and "\ud800" in op.text for op in call)]
    wanted = [call for call in wanted if not any(isinstance(op, PutFileVersion) and "\ud800" in op.path for op in call)]

    for disk, given_calls in ((whole, wanted), (small, coalesced(wanted))):
        disk.commit(given_calls, claim=lambda wanted, *, private: {}, free=lambda _: None)

    assert {key: whole.message(key) for key in MESSAGES} == {key: small.message(key) for key in MESSAGES}
    assert {key: kept.row for key, kept in whole.sessions.items()} == {
        key: kept.row for key, kept in small.sessions.items()
    }
    # A message's text does not change once it is final, so here, where it does, only what is searched is compared.
    assert whole.texts.keys() == small.texts.keys()
    assert whole.deleted == small.deleted
