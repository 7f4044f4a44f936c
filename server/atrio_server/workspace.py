"""One open workspace: who claims it, what it holds, and how it ends.

A workspace lives in a task of its own. Its outer level is the store and the
streams, its inner one the coordinator with every session and run. It ends when
nobody needs it any more or the server closes, always in the same order: refuse,
cancel, wait, save, end the streams, close the store.

Requests only signal: `claim`, `hold` and the like are synchronous, and whether
the workspace is still needed is decided by its own task.
"""

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import structlog
import trio

from atrio_agent.briefing import Briefer
from atrio_agent.coordinator import Coordinator, open_coordinator
from atrio_agent.gates import Gates
from atrio_agent.lifetime import Deadlines
from atrio_agent.mcp.servers import Mcp, open_mcp
from atrio_agent.measures import UNMEASURED, Measures
from atrio_agent.models.choose import Models
from atrio_agent.store.base import Store, StoreFailed
from atrio_agent.streams import Rings, Stream
from atrio_agent.trouble import Severity, Trouble
from atrio_protocol.events import WorkspaceClosingEvent
from atrio_protocol.things import McpState
from atrio_protocol.things import Workspace as WorkspaceView
from atrio_server.calls import Caller, Key
from atrio_server.outfit import Outfit
from atrio_server.presence import Presence

__all__ = ["HOLD_S", "Means", "Workspace"]

HOLD_S: Final = 30.0
"""Seconds that an open over HTTP, or a method that names something inside, keeps a workspace open."""

OWN_DIRECTORY: Final = ".atrio"
"""Where a workspace keeps Atrio's configuration, out of the reach of tools."""

NOT_STORED: Final = "What is said here cannot be stored"
STORED_AGAIN: Final = "What is said here is stored again"
KEPT: Final = "Until it works again it is kept in memory, and lost if the server ends; new prompts are refused."

log = structlog.get_logger("atrio.workspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every workspace of the server works with."""

    open_outfit: Callable[[Path], AbstractAsyncContextManager[Outfit]]
    """Opens what the workspace in a directory works with, by its configuration; closed with the workspace."""
    gates: Gates
    rings: Rings
    detach_grace_s: float
    keep_alive: Literal["runs", "clients"]
    record_requests: bool
    life: str = ""
    """Whose the processes are that workspaces start, for the next server to find should this one be killed."""
    briefer: Callable[[], Briefer] = Briefer
    """Makes what says to a workspace's models where they are."""
    measures: Measures = UNMEASURED
    """Told what is done in the workspaces, for figures."""


class Workspace:
    """A workspace that is opening, open or closing. `Workspaces` runs `serve`, once."""

    def __init__(self, means: Means, *, workspace_id: str, path: Path) -> None:
        self._means = means
        self.workspace_id = workspace_id
        self.path = path
        self.created_at = ""
        self.output_dir = path / OWN_DIRECTORY / "output"
        """For what commands say that is too long to be shown; where it is kept decides where that is."""
        self.state: Literal["opening", "open", "closing", "closed"] = "opening"
        self.stream = Stream(means.rings)
        self.presence = Presence(
            grace_s=means.detach_grace_s, publish=self.stream.publish, on_view=self._viewers_changed
        )
        self.ready = trio.Event()
        """Set when it is open, or could not be opened (then ``failed`` says why)."""
        self.closed = trio.Event()
        self.failed: Exception | None = None
        self._coordinator: Coordinator | None = None
        self._mcp: Mcp | None = None
        self._outfit: Outfit | None = None
        self._store: Store | None = None
        self._held_until = math.inf  # while it opens
        self._born_held = True
        self._on_loss: dict[str, Callable[[], None]] = {}
        """What a claiming connection calls when it is gone, by its id."""
        self._kept: Trouble | None = None
        self._closing_for: tuple[str, Deadlines] | None = None
        self._changed = trio.Event()

    @property
    def coordinator(self) -> Coordinator:
        """The sessions. Only once it is open."""
        if self._coordinator is None:
            raise RuntimeError("the workspace is not open")
        return self._coordinator

    @property
    def models(self) -> Models:
        """The models that its sessions can have. Only once it is open."""
        if self._outfit is None:
            raise RuntimeError("the workspace is not open")
        return self._outfit.models

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with its configuration or its disk: sentences for people."""
        kept = () if self._kept is None else (f"{self._kept.title}: {self._kept.detail}",)
        return (*kept, *(() if self._outfit is None else self._outfit.problems))

    @property
    def store(self) -> Store:
        """Where it is kept; readable until the workspace is closed."""
        if self._store is None:
            raise RuntimeError("the workspace is not open")
        return self._store

    def view(self) -> WorkspaceView:
        """The workspace as it is on the wire."""
        return WorkspaceView(
            workspace_id=self.workspace_id,
            path=str(self.path),
            state="open" if self.state == "open" else "closing",
            created_at=self.created_at,
            clients=len(self.presence),
        )

    def mcp_states(self) -> tuple[McpState, ...]:
        """How its MCP servers are."""
        return () if self._mcp is None else self._mcp.states()

    # Who needs it.

    def claim(self, caller: Caller) -> None:
        """Claim it for a connection, until it closes its claim or is lost for longer than the grace."""
        author = caller.author
        if author is None or not caller.is_socket:
            return
        if self._born_held:
            self._born_held, self._held_until = False, -math.inf
        if not self.presence.claims(caller.connection_id, author.client_id):
            lost = self._on_loss[caller.connection_id] = partial(self._lost, caller.connection_id, author.client_id)
            caller.on_close.append(lost)
        self.presence.claim(caller.connection_id, author)
        self._wake()

    def claimed_by(self, caller: Caller) -> bool:
        """Whether this connection has a live claim."""
        return caller.author is not None and self.presence.claims(caller.connection_id, caller.author.client_id)

    def note_attachment(self, caller: Caller, key: Key) -> None:
        """Remember what a claiming connection is attached to here."""
        if caller.author is not None and self.claimed_by(caller):
            self.presence.note_attachment(caller.connection_id, caller.author.client_id, key)

    def close_claim(self, caller: Caller) -> tuple[Key, ...]:
        """End this connection's claim, or the hold of HTTP; returns what it was attached to here."""
        keys: tuple[Key, ...] = ()
        if caller.author is not None and caller.is_socket:
            keys = self.presence.close(caller.connection_id, caller.author.client_id, at=trio.current_time())
            lost = self._on_loss.pop(caller.connection_id, None)
            if lost is not None:
                caller.on_close.remove(lost)
        elif not caller.is_socket:
            self._held_until, self._born_held = -math.inf, False
        if not self._needed():
            # In this very step, so that whoever was answered finds it closing.
            self.close_soon("unused", Deadlines.for_one_workspace())
        self._wake()
        return keys

    def hold(self, *, for_a_claim: bool = False) -> None:
        """Keep it open for the next `HOLD_S` seconds. ``for_a_claim``: the first claim ends the hold."""
        if for_a_claim and not self._born_held and self._held_until > trio.current_time():
            return
        self._held_until, self._born_held = trio.current_time() + HOLD_S, for_a_claim
        self._wake()

    def close_soon(self, reason: str, deadlines: Deadlines) -> None:
        """Close it whoever needs it. Does not wait; safe to call twice."""
        if self._closing_for is None:
            self._closing_for = reason, deadlines
            self._refuse()
        self._wake()

    def _refuse(self) -> None:
        if self.state != "closed":
            self.state = "closing"
        if self._coordinator is not None:
            self._coordinator.closing = True

    # Its life.

    async def serve(self, open_store: Callable[["Workspace"], AbstractAsyncContextManager[Store]]) -> None:
        """Open, serve until nobody needs it, and close. Returns when everything of it is gone.

        A failure at opening is left in ``failed``; a later one ends its streams
        like a closing, and the next opening recovers. A cancellation from
        outside must not tear the runs out of their order: it becomes a closing.
        """
        try:
            async with trio.open_nursery() as watch:
                watch.start_soon(self._close_when_cancelled)
                with trio.CancelScope(shield=True):  # bounded by the deadlines of the closing
                    await self._serve(open_store)
                watch.cancel_scope.cancel()
        finally:
            self._end()
            self.ready.set()
            self.closed.set()

    async def _close_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.close_soon("server_closing", Deadlines.for_shutdown())

    async def _serve(self, open_store: Callable[["Workspace"], AbstractAsyncContextManager[Store]]) -> None:
        try:
            async with open_store(self) as store:
                self._store = store
                try:
                    await self._serve_sessions(store)
                finally:
                    self._end()  # also where it failed
        except Exception as exc:
            if self.ready.is_set():
                log.exception("workspace failed", workspace=self.workspace_id)
            else:
                log.warning("workspace not opened", workspace=self.workspace_id, reason=str(exc))
                self.failed = exc

    async def _serve_sessions(self, store: Store) -> None:
        async with self._means.open_outfit(self.path) as outfit:
            self._outfit = outfit
            for problem in outfit.problems:
                log.warning("configuration", workspace=self.workspace_id, problem=problem)
            async with open_mcp(
                outfit.mcp_servers,
                root=self.path,
                notify=self._notify,
                secrets=outfit.secrets,
                life=self._means.life,
            ) as self._mcp:
                await self._serve_with(store, outfit, self._mcp)

    async def _serve_with(self, store: Store, outfit: Outfit, mcp: Mcp) -> None:
        async with open_coordinator(
            workspace_id=self.workspace_id,
            root=self.path,
            store=store,
            stream=self.stream,
            rings=self._means.rings,
            models=outfit.models,
            make_tools=lambda jobs: outfit.make_tools(jobs).with_more(mcp.tools),
            child_tools=outfit.child_tools,
            output_dir=self.output_dir,
            closed=outfit.closed,
            rules=outfit.rules,
            briefer=self._means.briefer(),
            gates=self._means.gates,
            on_activity=self._wake,
            viewers=self.presence.viewers,
            troubles=self._troubles,
            record_requests=self._means.record_requests,
            life=self._means.life,
            measures=self._means.measures,
        ) as coordinator:
            self._coordinator = coordinator
            if self._closing_for is None:
                self.state = "open"
            # Whoever asked for it may be gone by now, and must not keep it for ever.
            self._held_until = trio.current_time() + HOLD_S
            self.ready.set()
            reason, deadlines = await self._until_not_needed()
            self._refuse()
            log.info("workspace closing", workspace=self.workspace_id, reason=reason)
            self.stream.publish(WorkspaceClosingEvent(reason=reason))
            mcp.close(by=deadlines.processes_at)
            await coordinator.quiesce(deadlines)
            store.set_close_deadline(deadlines.saves_at)
            self._end()

    def note_kept(self, why: StoreFailed | None) -> None:
        """Tell whoever watches that what is said is only in memory, or (None) that all of it is stored after all."""
        if why is not None:
            self._kept = Trouble("error", NOT_STORED, f"{why} {KEPT}")
            self._notify(*self._kept)
        else:
            self._kept = None
            self._notify("info", STORED_AGAIN, "What was said meanwhile is stored, and nothing is missing.")

    def _notify(self, severity: Severity, title: str, detail: str) -> None:
        if self._coordinator is not None:
            self._coordinator.notify(severity, title, detail)

    def _troubles(self) -> tuple[Trouble, ...]:
        """What is wrong with the workspace at the moment."""
        problems = () if self._outfit is None else self._outfit.problems
        ours = Trouble("warning", "Something is wrong with the configuration", "\n".join(problems))
        theirs = () if self._mcp is None else self._mcp.troubles()
        kept = () if self._kept is None else (self._kept,)
        return (*kept, ours, *theirs) if problems else (*kept, *theirs)

    def _end(self) -> None:
        """End the streams. Who comes from now on, while the store still closes, waits for a fresh workspace."""
        self.state = "closed"
        if self._coordinator is not None:
            self._coordinator.end_streams("workspace_closed")
        self.stream.close("closed")

    async def _until_not_needed(self) -> tuple[str, Deadlines]:
        """Wait until the workspace is to close; returns why and until when each step may take."""
        while True:
            if self._closing_for is not None:
                return self._closing_for
            self.presence.expire(at=trio.current_time())
            if not self._needed():
                return "unused", Deadlines.for_one_workspace()
            with trio.move_on_at(min(self.presence.next_loss_at(), self._next_hold_end())):
                await self._changed.wait()

    def _needed(self) -> bool:
        """Whether somebody claims or holds it, or a run keeps it."""
        if len(self.presence) or self._held_until > trio.current_time():
            return True
        runs = self._coordinator.open_run_count() if self._coordinator is not None else 0
        return self._means.keep_alive == "runs" and runs > 0

    def _next_hold_end(self) -> float:
        return self._held_until if self._held_until > trio.current_time() else math.inf

    def _lost(self, connection_id: str, client_id: str) -> None:
        self._on_loss.pop(connection_id, None)
        self.presence.lose(connection_id, client_id, at=trio.current_time())
        self._wake()

    def _viewers_changed(self, session_id: str) -> None:
        session = self._coordinator.loaded(session_id) if self._coordinator else None
        if session is not None:
            session.profile.refresh()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
