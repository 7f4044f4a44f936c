"""What a reader makes of a snapshot and events: the same as what happened, however they came."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_protocol.content import TextBlock
from atrio_protocol.events import (
    ClientJoined,
    ClientLeft,
    ClientViewing,
    Event,
    MessageCreated,
    MessageDelta,
    MessagePart,
    MessageReset,
    Notice,
    PermissionResolved,
    RunAccepted,
    SessionCreated,
    SessionDeleted,
    SessionUpdated,
    ToolOutput,
    UnknownEvent,
    WorkspaceClosingEvent,
    decode_event,
)
from atrio_protocol.limits import TOOL_OUTPUT_CHARS
from atrio_protocol.merge import merge_all
from atrio_protocol.methods import Position, SessionSnapshot, WorkspaceSnapshot
from atrio_protocol.parts import ToolCallPart
from atrio_protocol.reducer import SessionState, StreamGap, WorkspaceState, apply_event, apply_workspace_event
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Client, PermissionOutcome
from protocol_story import Story, at, encoded, stories

START = Position(epoch="e", seq=0)
CALL = ToolCallPart(tool_call_id="t", name="shell", title="", kind="execute", input=None, status="pending")


def seen(state: SessionState) -> SessionSnapshot:
    """All that a client could show, as one value."""
    return SessionSnapshot(
        session=state.session,
        messages=state.messages,
        more=state.more,
        todos=state.todos,
        runs=state.queue,
        permissions=tuple(sorted(state.permissions.values(), key=lambda permission: permission.permission_id)),
    )


def meant(story: Story) -> SessionSnapshot:
    return seen(SessionState.from_snapshot(story.snapshot(), START))


def begin(*happenings: tuple[str, int, str]) -> tuple[Story, SessionState]:
    """A story so far, and a reader that has followed it."""
    story = Story()
    state = SessionState.from_snapshot(story.snapshot(), START)
    for happening in happenings:
        story.tell(*happening)
    for item in encoded(story.events):
        apply_event(state, decode_event(item.data))
    return story, state


def text_of(state: SessionState) -> str:
    part = state.messages[0].parts[0]
    assert isinstance(part, TextBlock)
    return part.text


@given(stories(), st.data())
def test_merged_or_not_and_cut_anywhere_what_is_shown_is_what_happened(
    told: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    story = Story()
    whole = SessionState.from_snapshot(story.snapshot(), START)
    for happening in told:
        story.tell(*happening)
    items = encoded(story.events)
    for item in items:
        apply_event(whole, decode_event(item.data))
    assert seen(whole) == meant(story)

    lagging = SessionState.from_snapshot(Story().snapshot(), START)
    while lagging.seq < len(items):
        head = data.draw(st.integers(lagging.seq + 1, len(items)))
        events, _ = merge_all(items[lagging.seq : head], data.draw(st.sampled_from([200, 2_000, 300_000])))
        for event in map(decode_event, events):
            apply_event(lagging, event)
    assert seen(lagging) == seen(whole)
    assert lagging.seq == whole.seq


@given(stories(), st.data())
def test_a_reader_that_comes_later_or_comes_back_with_a_snapshot_shows_the_same(
    told: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    story = Story()
    snapshots = [story.snapshot()]
    for happening in told:
        before = len(story.events)
        story.tell(*happening)
        snapshots += [story.snapshot()] * (len(story.events) - before)
    items = encoded(story.events)
    start = data.draw(st.integers(0, len(items)))
    late = SessionState.from_snapshot(
        msgspec.json.decode(msgspec.json.encode(snapshots[start]), type=SessionSnapshot),
        Position(epoch="e", seq=start),
    )
    for event in map(decode_event, merge_all(items[start:], 10_000_000)[0]):
        apply_event(late, event)
    assert seen(late) == meant(story)


@given(stories(), st.data())
def test_an_event_that_is_missing_repeated_or_misnumbered_is_noticed_and_changes_nothing(
    told: list[tuple[str, int, str]], data: st.DataObject
) -> None:
    story, state = begin(*told)
    before, seq = seen(state), state.seq
    wrong_first, wrong_last = data.draw(
        st.tuples(st.integers(0, seq + 5), st.integers(0, seq + 5)).filter(
            lambda numbers: numbers[0] != seq + 1 or numbers[1] < numbers[0]
        )
    )
    event = data.draw(st.sampled_from(story.events))
    with pytest.raises(StreamGap):
        apply_event(state, msgspec.structs.replace(event, first_seq=wrong_first, seq=wrong_last))
    assert (seen(state), state.seq) == (before, seq)


@pytest.mark.parametrize(
    "event",
    [
        MessageDelta(message_id="m1", part=0, offset=2, text="x"),
        MessageDelta(message_id="m1", part=0, offset=4, text="x"),
        MessageDelta(message_id="m1", part=3, offset=0, text="x"),
        ToolOutput(message_id="m1", part=0, offset=3, text="x"),
        ToolOutput(message_id="m1", part=2, offset=1, text="x"),
        MessagePart(message_id="m1", part=4, value=TextBlock(text="")),
    ],
)
def test_what_does_not_fit_the_text_that_is_here_is_noticed_and_changes_nothing(event: Event) -> None:
    _, state = begin(("message", 9, "abc"))
    before, seq = seen(state), state.seq
    with pytest.raises(StreamGap):
        apply_event(state, msgspec.structs.replace(event, seq=seq + 1))
    assert (seen(state), state.seq) == (before, seq)


def test_a_reset_empties_a_message_and_its_parts_count_from_0_again() -> None:
    _, state = begin(("message", 9, "abc"), ("delta", 0, "def"), ("reset", 0, ""))
    assert state.messages[0].parts == ()
    seq = state.seq
    apply_event(state, MessagePart(seq=seq + 1, message_id="m1", part=0, value=TextBlock(text="")))
    apply_event(state, MessageDelta(seq=seq + 2, message_id="m1", part=0, offset=0, text="again"))
    assert text_of(state) == "again"


def test_a_part_that_is_set_says_what_it_was_set_to_and_what_came_since() -> None:
    _, state = begin(("message", 9, "abc"), ("delta", 0, "def"))
    seq = state.seq
    apply_event(state, MessagePart(seq=seq + 1, message_id="m1", part=0, value=TextBlock(text="new ")))
    apply_event(state, MessageDelta(seq=seq + 2, message_id="m1", part=0, offset=4, text="text"))
    assert text_of(state) == "new text"


def test_deltas_to_a_tool_call_are_its_input_as_far_as_it_has_come() -> None:
    _, state = begin(("message", 11, ""))
    seq = state.seq
    apply_event(state, MessageDelta(seq=seq + 1, message_id="m1", part=0, offset=0, text='{"a'))
    apply_event(state, MessageDelta(seq=seq + 2, message_id="m1", part=0, offset=3, text='":1}'))
    apply_event(state, ToolOutput(seq=seq + 3, message_id="m1", part=0, offset=0, text="out"))
    assert state.messages[0].parts == (msgspec.structs.replace(CALL, input_text='{"a":1}', output="out"),)
    done = msgspec.structs.replace(CALL, input={"a": 1}, status="completed")
    apply_event(state, MessagePart(seq=seq + 4, message_id="m1", part=0, value=done))
    assert state.messages[0].parts == (done,)


def test_live_output_keeps_its_last_65536_code_points() -> None:
    _, state = begin(("message", 11, ""))
    total = 0
    while total < 3 * TOOL_OUTPUT_CHARS:
        text = f"{total:06}" + "😀" * 10_000
        state_seq = state.seq + 1
        apply_event(state, ToolOutput(seq=state_seq, message_id="m1", part=0, offset=total, text=text))
        total += len(text)
    part = state.messages[0].parts[0]
    assert isinstance(part, ToolCallPart)
    assert isinstance(part.output, str)
    assert (len(part.output), part.output_from) == (65_536, total - 65_536)


def test_live_output_goes_on_where_a_snapshot_has_dropped_some_of_it() -> None:
    story = Story()
    story.tell("message", 11, "")
    kept = msgspec.structs.replace(CALL, output="x" * TOOL_OUTPUT_CHARS, output_from=1_000)
    message = msgspec.structs.replace(story.messages[0], parts=(kept,))
    state = SessionState.from_snapshot(msgspec.structs.replace(story.snapshot(), messages=(message,)), START)
    apply_event(state, ToolOutput(seq=1, message_id="m1", part=0, offset=TOOL_OUTPUT_CHARS + 1_000, text="end"))
    part = state.messages[0].parts[0]
    assert part == msgspec.structs.replace(kept, output="x" * (TOOL_OUTPUT_CHARS - 3) + "end", output_from=1_003)


def test_looking_in_between_changes_nothing() -> None:
    pieces = ["a", "😀", 'q"', "\\", "z"]
    _, state = begin(("message", 9, ""))
    for index, piece in enumerate(pieces):
        offset = len("".join(pieces[:index]))
        apply_event(state, MessageDelta(seq=state.seq + 1, message_id="m1", part=0, offset=offset, text=piece))
        assert text_of(state) == "".join(pieces[: index + 1])


def test_what_is_told_of_a_message_that_is_not_shown_only_counts() -> None:
    _, state = begin()
    for event in (
        MessageDelta(message_id="old", part=0, offset=9, text="x"),
        ToolOutput(message_id="old", part=0, offset=9, text="x"),
        MessagePart(message_id="old", part=7, value=CALL),
        MessageReset(message_id="old"),
        Notice(severity="info", title="t"),
        UnknownEvent(name="weather.changed", body={}),
    ):
        apply_event(state, msgspec.structs.replace(event, seq=state.seq + 1))
    assert (state.seq, state.messages) == (6, ())


def test_an_older_session_does_not_replace_a_newer_one() -> None:
    _, state = begin(("title", 0, "one"), ("title", 0, "two"))
    older = msgspec.structs.replace(state.session, title="one", rev=1)
    apply_event(state, SessionUpdated(seq=3, session=older))
    assert (state.session.title, state.seq) == ("two", 3)


def test_a_deleted_session_says_so() -> None:
    _, state = begin()
    apply_event(state, SessionDeleted(seq=1))
    assert state.deleted


def test_the_queue_is_the_active_turn_then_the_others_in_the_order_of_their_turns() -> None:
    # Numbers divisible by 3 are interrupts; an odd number starts a run, 2 and 4 of what is left fold.
    story, state = begin(
        ("run", 1, ""), ("run", 1, ""), ("run", 2, ""), ("run", 4, ""), ("run", 3, ""), ("run", 2, ""), ("run", 0, "")
    )
    assert [run.run_id for run in state.queue] == ["r1", "r2", "r3", "r0", "r4"]
    assert seen(state) == meant(story)


def test_completed_runs_of_a_snapshot_are_not_in_the_queue() -> None:
    story = Story()
    story.tell("run", 1, "")
    accepted = story.events[0]
    assert isinstance(accepted, RunAccepted)
    ended = msgspec.structs.replace(accepted.run, run_id="r2", state="completed", stop_reason="cancelled")
    snapshot = msgspec.structs.replace(story.snapshot(), runs=(accepted.run, ended))
    state = SessionState.from_snapshot(snapshot, START)
    assert state.queue == (accepted.run,)
    assert list(state.runs) == ["r1"]


def test_what_was_folded_comes_after_its_turn_also_when_it_was_accepted_before() -> None:
    # A steer waits behind the queue's end, an interrupt gets the turn, and the steer folds into that.
    _, state = begin(("run", 2, ""), ("run", 1, ""), ("run", 1, ""), ("run", 2, ""))
    assert [(run.run_id, run.state) for run in state.queue] == [("r1", "running"), ("r2", "running")]


def client(client_id: str, session_id: str | None = None) -> Client:
    return Client(client_id=client_id, name=client_id, session_id=session_id or UNSET, since=at(0))


def workspace() -> WorkspaceState:
    snapshot = WorkspaceSnapshot(sessions=(Story().session,), clients=(client("a"),), permissions=(), next_cursor="c")
    return WorkspaceState.from_snapshot(snapshot, START)


def test_a_workspace_is_its_sessions_its_clients_and_its_questions() -> None:
    state = workspace()
    other = msgspec.structs.replace(Story().session, session_id="s2")
    story = Story()
    story.tell("permission", 0, "may I")
    asked = story.events[0]
    events: list[Event] = [
        SessionCreated(session=other),
        SessionUpdated(session=msgspec.structs.replace(other, title="new", rev=2)),
        SessionUpdated(session=msgspec.structs.replace(other, title="old", rev=1)),
        SessionDeleted(session_id="s"),
        ClientJoined(client=client("b")),
        ClientViewing(client=client("b", "s2")),
        ClientLeft(client=client("a")),
        asked,
        UnknownEvent(name="weather.changed", body={}),
        WorkspaceClosingEvent(reason="shutdown"),
    ]
    for item in encoded(events[:8]):
        apply_workspace_event(state, decode_event(item.data))
    assert [(session.session_id, session.title) for session in state.sessions.values()] == [("s2", "new")]
    assert state.clients == {"b": client("b", "s2")}
    assert list(state.permissions) == ["p0"]
    assert (state.closing, state.more) == (None, True)

    for seq, event in enumerate(events[8:], 9):
        apply_workspace_event(state, msgspec.structs.replace(event, seq=seq))
    resolved = PermissionResolved(
        seq=11,
        permission_id="p0",
        session_id="s",
        run_id="r",
        tool_call_id="t",
        outcome=PermissionOutcome(kind="cancelled"),
    )
    apply_workspace_event(state, resolved)
    assert (state.closing, state.permissions, state.seq) == ("shutdown", {}, 11)


def test_a_gap_in_a_workspace_is_noticed() -> None:
    state = workspace()
    with pytest.raises(StreamGap):
        apply_workspace_event(state, ClientLeft(seq=2, client=client("a")))
    assert list(state.clients) == ["a"]


def test_a_message_is_shown_in_its_order_whenever_it_was_announced() -> None:
    story, state = begin(("message", 4, ""), ("message", 4, ""))
    first = msgspec.structs.replace(story.messages[0], message_id="m0", order=0)
    apply_event(state, MessageCreated(seq=3, message=first))
    assert [message.message_id for message in state.messages] == ["m0", "m1", "m2"]
