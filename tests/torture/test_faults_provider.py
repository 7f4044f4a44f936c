"""A provider that hangs, is cut off or talks nonsense, through the whole server: one run has it, and nobody else."""

import pytest
import trio

from wire.conftest import Harness
from wire.steps import new_session, rows, terminals
from wire.test_provider_faults import failing, impatient

assert impatient

PROVIDERS = ["chat", "responses", "anthropic"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("behaviour", ["hang", "mute"])
async def test_a_provider_that_hangs_is_left_by_a_cancel_and_the_queue_goes_on(
    bench: Harness, provider: str, behaviour: str
) -> None:
    async with failing(bench, provider, behaviour) as (mock, wire, session):
        workspace = (await wire.call("session/get", sessionId=session))["session"]["workspaceId"]
        await wire.prompt(session, "one", runId="one")
        await wire.prompt(session, "two", runId="two", model="demo")
        if behaviour == "hang":
            await wire.event(session, "message.delta")
        else:
            while not mock.requests:  # noqa: ASYNC110  the mock does not tell
                await trio.sleep(0.01)
        # Another session of the same workspace does not wait for it.
        other = await new_session(wire, workspace, title="titled", model="demo")
        await wire.prompt(other, "hello", runId="other")
        assert (await wire.completed(other, "other"))["stopReason"] == "end_turn"
        assert terminals(wire, session) == []
        assert (await wire.call("session/cancel", sessionId=session, runId="one", wait=True))["cancelled"] == ["one"]
        await wire.completed(session, "two")
        assert terminals(wire, session) == [("one", "cancelled"), ("two", "end_turn")]
        answer = next(row for row in await rows(wire, session) if row["role"] == "assistant")
        said = "".join(part["text"] for part in answer["parts"] if part["type"] == "text")
        assert bool(said) == (behaviour == "hang") and answer["finish"]["reason"] == "cancelled"
        assert len(mock.requests) == 1


NONSENSE = [
    *((provider, f"cut,how={how}", "provider_unreachable") for provider in PROVIDERS for how in ("close", "end")),
    *((provider, f"raw,what={what}", "provider_error") for provider in PROVIDERS for what in ("long", "error")),
    ("chat", "html", "provider_error"),
    ("anthropic", "html", "provider_error"),
    ("chat", "big-error", "provider_error"),
]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("provider", "behaviour", "kind"), NONSENSE)
async def test_a_provider_that_is_cut_or_talks_nonsense_ends_its_run_and_the_queue_goes_on(
    bench: Harness, provider: str, behaviour: str, kind: str
) -> None:
    async with failing(bench, provider, behaviour) as (mock, wire, session):
        await wire.prompt(session, "one", runId="one")
        await wire.prompt(session, "two", runId="two", model="demo")
        run = await wire.completed(session, "one")
        await wire.completed(session, "two")
        assert terminals(wire, session) == [("one", "error"), ("two", "end_turn")]
        assert run["error"]["data"]["kind"] == kind
        assert len(run["error"]["message"]) < 1_000
        assert 1 <= len(mock.requests) <= 3
