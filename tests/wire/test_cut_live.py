"""A reader whose socket is cut behind every single frame, while the run goes on, and who resumes each time."""

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from wire.in_memory import open_in_memory

Json = dict[str, Any]

WHOLE, CUT = "3f2b8c1e-6a57-4b0e-9d53-000000000001", "3f2b8c1e-6a57-4b0e-9d53-000000000002"
LIMIT_S = 1e6
SCRIPT = {
    "name": "test",
    "turns": [
        {
            "responses": [
                [
                    {"think": "hm ", "times": 20, "delayMs": 40},
                    {"say": "one ", "times": 60, "delayMs": 40},
                    {"tool": "ls", "input": {}},
                    {"tool": "nothing", "rawInput": "{broken"},
                ],
                [{"say": "two ", "times": 60, "delayMs": 7}],
            ]
        }
    ],
}


def numbers(events: list[Json]) -> list[int]:
    """Every number that these events stand for."""
    return [number for event in events for number in range(event.get("firstSeq", event["seq"]), event["seq"] + 1)]


def told(events: list[Json]) -> tuple[list[Json], dict[tuple[str, int], str]]:
    """What they tell, however their deltas were merged."""
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        if event["type"] == "message.delta":
            place = event["messageId"], event["part"]
            assert event["offset"] == len(texts.get(place, ""))
            texts[place] = texts.get(place, "") + event["text"]
    return [event for event in events if event["type"] != "message.delta"], texts


@pytest.mark.scenario("M3")
async def test_a_reader_cut_behind_every_frame_of_a_run_that_goes_on_misses_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_in_memory(tmp_path, SCRIPT) as server:
            whole = await server.connect(WHOLE)
            made = await whole.call("session/new", workspaceId=server.workspace_id)
            session: str = made["session"]["sessionId"]
            stream = (await whole.call("session/attach", sessionId=session))["stream"]
            place = {"epoch": stream["epoch"], "seq": stream["seq"]}
            await whole.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "go"}])

            seen: list[Json] = []
            cuts = live = 0
            while not seen or seen[-1]["type"] != "run.completed":
                reader = await server.connect(CUT)
                attached = (await reader.call("session/attach", sessionId=session, after=place))["stream"]
                assert attached["recovered"] and attached["seq"] == place["seq"]
                live += attached["head"] == place["seq"]
                await reader.until(lambda reader=reader: reader.events_frames(session))
                reader.close()
                frame = reader.events_frames(session)[0][1]
                upto = next((n for n, event in enumerate(frame) if event["type"] == "run.completed"), len(frame))
                seen += frame[: upto + 1]
                place = {"epoch": place["epoch"], "seq": seen[-1]["seq"]}
                cuts += 1

            # Its own copy may come a step later.
            await whole.until(lambda: any(event["type"] == "run.completed" for event in whole.events(session)))
            last = next(event for event in whole.events(session) if event["type"] == "run.completed")["seq"]
            everything = [event for event in whole.events(session) if event["seq"] <= last]
            assert numbers(seen) == list(range(stream["seq"] + 1, last + 1))
            assert told(seen) == told(everything)
            assert cuts > 50 and live > 10  # in the middle of it, and many times
