"""What readers see: all of it, in the same order, from wherever they begin."""

import contextlib
import json
from collections import Counter
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed

from atrio_agent import streams
from atrio_protocol.content import TextBlock
from atrio_protocol.events import Event, WorkspaceClosingEvent, decode_event
from atrio_protocol.merge import Encoded, encode_event
from atrio_protocol.methods import Attached, OpenResult, Position, SessionSnapshot, WorkspaceSnapshot
from atrio_protocol.reducer import SessionState, WorkspaceState, apply_event, apply_workspace_event
from atrio_protocol.things import Message
from wire.client import Wire, connect
from wire.conftest import Harness
from wire.steps import GATED, PLAIN, new_session, rows

WORK = {
    "match": "^work",
    "responses": [
        [
            {"think": "hm "},
            {"say": "one ", "times": 5},
            {"tool": "ls", "input": {}},
            {"tool": "grep", "input": {"pattern": "x"}},
        ],
        [{"say": "two ", "times": 5}],
    ],
}
FLOOD = {"match": "^flood", "responses": [[{"say": "tok ", "times": 6000}, {"gate": "more"}, {"say": "end"}]]}


def numbered(wire: Wire, session: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "epoch"} for event in wire.events[session]]


@pytest.mark.scenario("M1")
async def test_two_clients_see_every_event_in_the_same_order(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WORK)) as running, bench.open(running) as (ann, workspace):
        async with connect(running.ws, running.token) as bob:
            session = await new_session(ann, workspace)
            await bob.attach(session)
            await bob.prompt(session, "work", runId="one")
            for wire in (ann, bob):
                await wire.completed(session, "one")
                await wire.until(
                    lambda wire=wire: wire.of_type(session, "session.updated")[-1]["session"]["state"] == "idle"
                )
            seen = [covered(wire, session) for wire in (ann, bob)]
            assert seen[0] == seen[1]
            texts = ["".join(e["text"] for e in wire.of_type(session, "message.delta")) for wire in (ann, bob)]
            assert texts[0] == texts[1]
            plain = [[e for e in numbered(wire, session) if e["type"] != "message.delta"] for wire in (ann, bob)]
            assert plain[0] == plain[1]


def covered(wire: Wire, session: str) -> list[tuple[str, int]]:
    """Every number that was seen, with its type; merged events count for all they stand for."""
    return [
        (event["type"], number)
        for event in wire.events[session]
        for number in range(event.get("firstSeq", event["seq"]), event["seq"] + 1)
    ]


@pytest.mark.scenario("M3")
async def test_a_reader_cut_at_every_frame_and_resumed_misses_nothing(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WORK)) as running, bench.open(running) as (whole, workspace):
        session = await new_session(whole, workspace)
        start = whole.place(session)
        await whole.prompt(session, "work", runId="one")
        await whole.completed(session, "one")
        await whole.until(lambda: whole.of_type(session, "session.updated")[-1]["session"]["state"] == "idle")
        last = whole.place(session)["seq"]
        place, seen = start, list[dict[str, Any]]()
        while place["seq"] < last:
            async with connect(running.ws, running.token) as cut:
                attached = await cut.attach(session, after=place)
                assert attached["stream"]["recovered"] and attached["stream"]["seq"] == place["seq"]
                assert attached["stream"]["head"] == last
                first = (await cut.until(lambda cut=cut: cut.events[session]))[0]
                assert first.get("firstSeq", first["seq"]) == place["seq"] + 1
                seen.append(first)
                place = {"epoch": place["epoch"], "seq": first["seq"]}
        assert [
            number for event in seen for number in range(event.get("firstSeq", event["seq"]), event["seq"] + 1)
        ] == list(range(start["seq"] + 1, last + 1))
        text = "".join(event["text"] for event in seen if event["type"] == "message.delta")
        assert text == "".join(event["text"] for event in whole.of_type(session, "message.delta"))


@pytest.mark.scenario("M4")
async def test_attaching_in_the_middle_of_deltas_gives_the_same_final_text(bench: Harness) -> None:
    # It does not end before all have attached, however long that takes: who comes later is not told of the end.
    slow = {"responses": [[{"say": "tok ", "times": 300, "delayMs": 1}, {"gate": "end"}]]}
    async with bench.serve(model=bench.script(slow)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "go", runId="one")
        results: list[str] = []

        async def attach_now(attached: trio.Event) -> None:
            async with connect(running.ws, running.token) as late:
                state, _ = state_of(await late.attach(session))
                attached.set()
                await late.completed(session, "one")
                for event in numbered(late, session):
                    apply_event(state, decode_event(json.dumps(event).encode()))
                results.append(text_of(state.messages[-1]))

        async with trio.open_nursery() as nursery:
            for seen in range(20, 300, 40):
                await wire.until(lambda seen=seen: len(covered(wire, session)) > seen)
                nursery.start_soon(attach_now, attached := trio.Event())
                await attached.wait()
            await wire.call("test/gates", wait="end")
            await wire.call("test/release", gate="end")
        assert results == ["tok " * 300] * 7


def text_of(message: Message) -> str:
    """The text of a message's text parts."""
    return "".join(part.text for part in message.parts if isinstance(part, TextBlock))


def position_of(attached: dict[str, Any]) -> Position:
    return Position(epoch=attached["stream"]["epoch"], seq=attached["stream"]["seq"])


@pytest.mark.scenario("M5")
async def test_a_place_that_cannot_be_resumed_gives_a_snapshot_and_never_a_partial_replay(bench: Harness) -> None:
    async with bench.serve(model=bench.script(FLOOD, PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        start = wire.place(session)
        await wire.prompt(session, "flood", runId="one")
        await wire.call("test/gates", wait="more")
        head = (await wire.attach(session))["stream"]
        for after in (
            start,  # older than the ring holds
            {"epoch": "other", "seq": head["seq"]},  # before a restart
            {"epoch": head["epoch"], "seq": head["seq"] + 1_000_000},  # in the future
        ):
            async with connect(running.ws, running.token) as late:
                attached = await late.attach(session, after=after)
                assert not attached["stream"]["recovered"]
                assert attached["snapshot"]["messages"][-1]["parts"][0]["text"] == "tok " * 6000
                await late.call("ping")
                assert all(event["seq"] > attached["stream"]["seq"] for event in late.events[session])
        assert (await wire.refused("session/attach", sessionId=session, after={"epoch": "x", "seq": -1})).kind == (
            "invalid_params"
        )
        await wire.call("test/release", gate="more")
        assert (await wire.completed(session, "one"))["text"] == "tok " * 6000 + "end"


@pytest.mark.scenario("M5")
async def test_a_place_from_before_a_restart_gives_a_snapshot_of_all_that_was_said(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.completed(session, (await wire.prompt(session, "before"))["run"]["runId"])
        place, said = wire.place(session), await rows(wire, session)
    async with bench.serve(model=bench.script(PLAIN)) as running, connect(running.ws, running.token) as late:
        attached = await late.attach(session, after=place)
        assert not attached["stream"]["recovered"] and attached["stream"]["epoch"] != place["epoch"]
        assert attached["snapshot"]["messages"] == said
        await late.completed(session, (await late.prompt(session, "after"))["run"]["runId"])
        assert late.events[session][0]["seq"] == attached["stream"]["seq"] + 1


@pytest.mark.scenario("M8")
async def test_a_client_sees_no_delta_of_a_session_it_is_not_attached_to(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WORK)) as running, bench.open(running) as (wire, workspace):
        mine = await new_session(wire, workspace)
        foreign = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
        await wire.prompt(foreign, "work", runId="theirs")
        await wire.prompt(mine, "work", runId="mine")
        await wire.completed(mine, "mine")
        await wire.call("run/wait", runId="theirs")
        await wire.call("ping")
        assert foreign not in wire.events
        assert {event["type"] for event in wire.events[workspace]} <= {
            "session.created",
            "session.updated",
            "run.accepted",
            "run.completed",
            "client.joined",
        }
        await wire.call("session/detach", sessionId=mine)
        before = len(wire.events[mine])
        await wire.prompt(mine, "work", runId="unseen")
        await wire.call("run/wait", runId="unseen")
        await wire.call("ping")
        assert len(wire.events[mine]) == before


@pytest.mark.scenario("M10")
async def test_a_thousand_readers_cost_one_encode_an_event(bench: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = 1000
    encoded: Counter[str] = Counter()

    def encode_and_count(event: Event, seq: int, at: str) -> Encoded:
        encoded[type(event).__name__] += 1
        return encode_event(event, seq, at)

    monkeypatch.setattr(streams, "encode_event", encode_and_count)
    async with bench.serve(model=bench.script(WORK), limit_s=150) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        loaded = running.server.workspaces.get(workspace).coordinator.loaded(session)
        assert loaded is not None
        stream = loaded.stream
        seen: list[str] = []
        attached = trio.Event()
        count = 0

        async def read() -> None:
            nonlocal count
            async with connect(running.ws, running.token) as reader:
                await reader.attach(session)
                count += 1
                if count == readers:
                    attached.set()
                await reader.completed(session, "one")
                seen.append(digest_of(reader, session))

        async with trio.open_nursery() as nursery:
            for number in range(readers):
                nursery.start_soon(read)
                if number % 50 == 49:
                    await wire.call("ping")
            await attached.wait()
            number, shared = stream.seq, running.server.workspaces.get(workspace).stream
            encoded.clear()
            told = shared.seq
            await wire.prompt(session, "work", runId="one")
            await wire.completed(session, "one")
        # No more is encoded than is published, in the session and in its workspace.
        assert encoded.total() == stream.seq - number + shared.seq - told
        assert encoded["MessageDelta"] == len([kind for kind, _ in covered(wire, session) if kind == "message.delta"])
        assert len(seen) == readers and len(set(seen)) == 1


def digest_of(wire: Wire, session: str) -> str:
    """All that a reader was told up to the end of the run, however its deltas were merged."""
    events = numbered(wire, session)
    last = next(n for n, event in enumerate(events) if event["type"] == "run.completed")
    texts: dict[tuple[str, int], str] = {}
    for event in events[:last]:
        if event["type"] == "message.delta":
            place = event["messageId"], event["part"]
            texts[place] = texts.get(place, "") + event["text"]
    plain = [event for event in events[: last + 1] if event["type"] != "message.delta"]
    return json.dumps([plain, sorted(texts.items())])


@pytest.mark.scenario("M12")
async def test_a_workspace_stream_that_lagged_is_healed_by_opening_again(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        async with connect(running.ws, running.token) as slow:
            await slow.call("workspace/open", path=str(bench.directory))
            stream = running.server.workspaces.get(workspace).stream
            # The reader's writer is not scheduled within one synchronous step, so the ring laps it.
            view = (await wire.call("session/new", workspaceId=workspace))["session"]
            for number in range(5000):
                stream.publish(WorkspaceClosingEvent(reason=f"padding {number}"))
            await slow.until(lambda: slow.detached)
            assert slow.detached == [{"workspaceId": workspace, "reason": "lagged"}]
            opened = await slow.call("workspace/open", path=str(bench.directory))
            assert not opened["stream"]["recovered"]
            assert [s["sessionId"] for s in opened["snapshot"]["sessions"]] == [view["sessionId"]]
            assert opened["workspace"]["clients"] == 2  # the claim stayed one
            made = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
            await slow.until(
                lambda: [e for e in slow.of_type(workspace, "session.created") if e["session"]["sessionId"] == made]
            )


@pytest.mark.scenario("M13")
async def test_a_reader_that_was_cut_renders_the_same_as_one_that_never_was(bench: Harness) -> None:
    async with bench.serve(model=bench.script(GATED, WORK, PLAIN), detach_grace_s=30.0) as running:
        async with bench.open(running) as (whole, workspace), connect(running.ws, running.token) as bob:
            session = (await whole.call("session/new", workspaceId=workspace))["session"]["sessionId"]
            first = await whole.attach(session)
            opened = await whole.call("workspace/open", path=str(bench.directory))
            state, place = state_of(first)
            listed = msgspec.convert(opened, OpenResult).snapshot
            assert isinstance(listed, WorkspaceSnapshot)
            space = WorkspaceState.from_snapshot(listed, position_of(opened))
            cut_state, _ = state_of(first)

            async def follow() -> None:
                """Read a few events at a time, and hang up in between."""
                nonlocal place
                while not any(
                    run.run_id == "last" and run.state == "completed" for run in cut_state.runs.values()
                ) and ("last" not in ended):
                    async with connect(running.ws, running.token) as reader:
                        attached = await reader.attach(session, after=place)
                        assert attached["stream"]["recovered"]
                        with trio.move_on_after(0.5):
                            await reader.until(lambda reader=reader: len(reader.frames) > 3)
                        for event in [e for events in reader.events.values() for e in events]:
                            decoded = decode_event(json.dumps(without_epoch(event)).encode())
                            apply_event(cut_state, decoded)
                            place = {"epoch": event["epoch"], "seq": event["seq"]}
                            if event["type"] == "run.completed":
                                ended.append(event["run"]["runId"])

            ended: list[str] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await bob.call("workspace/open", path=str(bench.directory), view=session)
                await bob.prompt(session, "gated", runId="gated")
                await bob.prompt(session, "queued", runId="queued")
                await whole.call("test/gates", wait="go")
                await whole.call("session/cancel", sessionId=session, runId="queued")
                await whole.call("test/release", gate="go")
                await bob.prompt(session, "work", runId="work")
                await bob.prompt(session, "bye", runId="last")
                await whole.completed(session, "last")
            await bob.call("session/view", workspaceId=workspace, sessionId=None)
            # The second time: the first was when bob came, with something to look at.
            await whole.until(
                lambda: [e for e in whole.of_type(workspace, "client.viewing") if "sessionId" not in e["client"]]
            )
            for event in numbered(whole, session):
                if event["seq"] > state.seq:
                    apply_event(state, decode_event(json.dumps(event).encode()))
            for event in [without_epoch(e) for e in whole.events[workspace]]:
                if event["seq"] > space.seq:
                    apply_workspace_event(space, decode_event(json.dumps(event).encode()))
            assert cut_state.messages == tuple(
                message for message in state.messages if message.order <= cut_state.messages[-1].order
            )
            assert [run.run_id for run in state.queue] == [run.run_id for run in cut_state.queue] == []
            listed = (await whole.call("client/list", workspaceId=workspace))["clients"]
            assert {c.client_id: c.session_id for c in space.clients.values()} == {
                c["clientId"]: c.get("sessionId", msgspec.UNSET) for c in listed
            }
            page = await rows(whole, session)
            rendered = [json.loads(msgspec.json.encode(message)) for message in state.messages]
            assert [undated(message) for message in rendered] == [undated(message) for message in page]


def undated(message: dict[str, Any]) -> dict[str, Any]:
    """Without the time of its last change, which a change of a part does not repeat."""
    return {key: value for key, value in message.items() if key != "updatedAt"}


def without_epoch(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "epoch"}


def state_of(attached: dict[str, Any]) -> tuple[SessionState, dict[str, Any]]:
    snapshot = msgspec.convert(attached, Attached).snapshot
    assert isinstance(snapshot, SessionSnapshot)
    place = {"epoch": attached["stream"]["epoch"], "seq": attached["stream"]["seq"]}
    return SessionState.from_snapshot(snapshot, position_of(attached)), place


@pytest.mark.scenario("D2")
async def test_a_list_taken_while_it_streams_has_the_newest_delta(bench: Harness) -> None:
    half = {"responses": [[{"say": "tok ", "times": 50}, {"gate": "go"}]]}
    async with bench.serve(model=bench.script(half)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        await wire.prompt(session, "go", runId="one")
        await wire.call("test/gates", wait="go")
        messages = await rows(wire, session)
        assert messages[-1]["parts"] == [{"type": "text", "text": "tok " * 50}]
        whole = (await wire.call("message/get", messageId=messages[-1]["messageId"]))["message"]
        assert whole == messages[-1]


@pytest.mark.scenario("M9")
async def test_presence_is_told_with_identity(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running, name="ann") as (ann, workspace):
        session = await new_session(ann, workspace)
        async with connect(running.ws, running.token, name="bob") as bob:
            assert (await bob.refused("session/view", workspaceId=workspace, sessionId=session)).kind == "not_attached"
            await bob.call("workspace/open", path=str(bench.directory))
            joined = (await ann.event(workspace, "client.joined"))["client"]
            assert (joined["clientId"], joined["name"]) == (bob.client_id, "bob")
            await bob.call("session/view", workspaceId=workspace, sessionId=session)
            viewing = (await ann.event(workspace, "client.viewing"))["client"]
            assert viewing["sessionId"] == session
            assert (await ann.call("session/get", sessionId=session))["session"]["viewers"] == 1
            await bob.call("workspace/close", workspaceId=workspace)
            left = (await ann.event(workspace, "client.left"))["client"]
            assert left["clientId"] == bob.client_id
            await ann.until(lambda: ann.of_type(session, "session.updated")[-1]["session"]["viewers"] == 0)


async def test_a_prompt_can_be_sent_right_behind_its_attachment(bench: Harness) -> None:
    """Everything a client establishes may be sent at once; each request waits for what it needs."""
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
        async with connect(running.ws, running.token, initialize=False) as late:
            hello = {"protocolVersion": 1, "clientInfo": {"name": "late", "version": "0"}}
            requests = [
                await late.send("initialize", **hello),
                await late.send("workspace/open", path=str(bench.directory)),
                await late.send("session/attach", sessionId=session),
                await late.send("session/prompt", **wire.prompt_params(session, "hi", runId="hi")),
                await late.send("session/view", workspaceId=workspace, sessionId=session),
            ]
            for request in requests:
                await late.reply(request)
            assert (await late.completed(session, "hi"))["text"] == "hi"


async def test_attaching_again_replaces_the_attachment(bench: Harness) -> None:
    async with bench.serve(model=bench.script(WORK)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        place = wire.place(session)
        await wire.prompt(session, "work", runId="one")
        for _ in range(5):
            await wire.attach(session, after=place)  # the harness asserts that the numbers join
        await wire.completed(session, "one")
        with contextlib.suppress(ConnectionClosed):
            await wire.call("session/detach", sessionId=session)


async def test_a_prompt_of_the_largest_size_detaches_no_reader_that_keeps_up(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        session = await new_session(wire, workspace)
        text = "z" * (1024 * 1024)
        await wire.prompt(session, text, runId="big")
        assert (await wire.completed(session, "big"))["text"] == text
        assert [event["seq"] for event in wire.events[session]] == list(range(1, len(wire.events[session]) + 1))
