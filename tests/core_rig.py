"""The core of a workspace without a server: sessions on a store in memory, with a scripted model.

For tests of what a connection cannot bring about: a store that fails at a
chosen commit, a bug in a piece of the agent, a deadline that passes.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from atrio_agent.briefing import Briefer, Briefing, rules
from atrio_agent.coordinator import Coordinator, open_coordinator
from atrio_agent.gates import Gates
from atrio_agent.models.base import Model, ModelEvent, ModelRequest
from atrio_agent.models.choose import Models
from atrio_agent.models.script import parse_script
from atrio_agent.models.scripted import ScriptedModel
from atrio_agent.permissions import PermissionRules
from atrio_agent.runs import LiveRun
from atrio_agent.session import Session
from atrio_agent.store.memory import MemoryDisk, MemoryStore, open_memory_store
from atrio_agent.streams import Ended, Rings, Stream
from atrio_agent.tools.base import Place
from atrio_agent.tools.registry import Tools, read_only_tools
from atrio_protocol.content import TextBlock
from atrio_protocol.ids import workspace_id_for
from atrio_protocol.methods import Position
from atrio_protocol.things import Delivery
from atrio_protocol.who import Author

__all__ = ["ALICE", "BOB", "Core", "PlayedModel", "RulesAlone", "events_of", "open_core", "terminals"]

Json = dict[str, Any]

ALICE = Author(client_id="a", name="Alice")
BOB = Author(client_id="b", name="Bob")
LIMIT_S = 100_000
"""Virtual seconds after which a test is given up."""


class PlayedModel(ABC):
    """A model that a test makes up: `_events` says what it answers to each request."""

    model_id = provider = "test"
    context_size: int | None = None
    takes_images = False

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        yield self._events(request)

    @abstractmethod
    def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]: ...


class OneModel:
    """The models of a workspace that has one."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def get(self, _model_id: str | None) -> Model:
        return self.model

    def small(self, model: Model) -> Model:
        return model


class RulesAlone(Briefer):
    """Looks at nothing: that takes threads, which look idle to a clock that jumps."""

    async def brief(self, place: Place, tools: Collection[str], before: Briefing | None) -> Briefing:
        await trio.lowlevel.checkpoint()
        return before or Briefing(f"{rules(tools)}\n\nWorkspace: {place.root}", None)


class Core:
    """A coordinator with one session, and everything that a test does to them. Made by `open_core`."""

    def __init__(self, coordinator: Coordinator, session: Session, disk: MemoryDisk, store: MemoryStore) -> None:
        self.coordinator = coordinator
        self.session = session
        self.disk = disk
        self.store = store
        self.gates = coordinator.ground.gates

    def prompt(
        self, text: str, *, delivery: Delivery = "queue", run_id: str | None = None, by: Author = ALICE
    ) -> LiveRun:
        """Accept a prompt; its commit is under way."""
        return self.session.accept(
            prompt=(TextBlock(text=text),), run_id=run_id, delivery=delivery, author=by, model_id=None, meta=None
        )

    @property
    def events(self) -> list[Json]:
        """Everything on the session's stream."""
        return events_of(self.session.stream)


def events_of(stream: Stream) -> list[Json]:
    """Everything on a stream, as it was published: nothing merged."""
    cursor = stream.cursor(Position(epoch=stream.epoch, seq=0))
    assert cursor.recovered
    found: list[Json] = []
    try:
        while (piece := stream.read(cursor, 1)) is not None:
            found += [json.loads(event) for event in piece.events]
    except Ended:
        pass
    return found


def terminals(events: list[Json]) -> list[tuple[str, str]]:
    """Each terminal as run id and stop reason."""
    return [(event["run"]["runId"], event["run"]["stopReason"]) for event in events if event["type"] == "run.completed"]


@asynccontextmanager
async def open_core(
    *turns: Json,
    disk: MemoryDisk | None = None,
    model: Model | None = None,
    tools: Tools | None = None,
    child_tools: Tools | None = None,
    rules: PermissionRules | None = None,
) -> AsyncGenerator[Core]:
    """Open a workspace's core with a new session; ``turns`` are those of the model's script."""
    disk = MemoryDisk() if disk is None else disk
    gates = Gates()
    rings = Rings()
    script = parse_script({"turns": list(turns) or [{"responses": [[{"say": "{{prompt}}"}]]}]})
    model = ScriptedModel(script, model_id="script", gates=gates) if model is None else model
    workspace_id = workspace_id_for("core")
    with trio.fail_after(LIMIT_S):
        async with (
            open_memory_store(disk=disk, workspace_id=workspace_id) as store,
            open_coordinator(
                workspace_id=workspace_id,
                root=Path("/nowhere"),
                store=store,
                stream=Stream(rings),
                rings=rings,
                models=cast("Models", OneModel(model)),
                make_tools=lambda _jobs: read_only_tools() if tools is None else tools,
                child_tools=read_only_tools() if child_tools is None else child_tools,
                output_dir=Path("/nowhere/output"),
                closed=(),
                rules=rules or PermissionRules(),
                briefer=RulesAlone(),
                gates=gates,
                on_activity=lambda: None,
                viewers=lambda _session_id: 0,
                record_requests=True,
            ) as coordinator,
        ):
            session = await coordinator.new_session(title="core", model=None)
            yield Core(coordinator, session, disk, store)
