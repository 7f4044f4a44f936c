"""Who is in a workspace: claims of connections, and the clients behind them.

A client is one process over all its reconnects; it is present while one of its
connections claims the workspace, and for a grace after the last of them was
lost. Coming back within the grace takes the lost claim over: nobody is told
that it was away. An explicit close ends a claim at once, and that claim alone:
what another connection of the client lost still has its grace.

Synchronous, with time handed in. What presence means for the workspace's life
is decided in `workspace`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from atrio_agent.clock import now
from atrio_protocol.events import ClientJoined, ClientLeft, ClientViewing, Event
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Client
from atrio_protocol.who import Author
from atrio_server.calls import Key

__all__ = ["Presence"]


@dataclass(slots=True)
class _Present:
    """One client: its live claims, and until when one that was lost and not taken over still counts."""

    author: Author
    since: str
    view: str | None = None
    connections: dict[str, set[Key]] = field(default_factory=dict[str, "set[Key]"])
    lost_until: float = -math.inf

    def client(self) -> Client:
        return Client(
            client_id=self.author.client_id,
            name=self.author.name,
            session_id=self.view or UNSET,
            since=self.since,
        )


class Presence:
    """The clients of one workspace.

    ``publish`` tells the workspace's stream; ``on_view`` is called with the ids
    of the sessions whose number of viewers may have changed.
    """

    def __init__(self, *, grace_s: float, publish: Callable[[Event], object], on_view: Callable[[str], None]) -> None:
        self._grace_s = grace_s
        self._publish = publish
        self._on_view = on_view
        self._present: dict[str, _Present] = {}

    def __len__(self) -> int:
        return len(self._present)

    def connection_count(self) -> int:
        """How many connections claim the workspace."""
        return sum(len(present.connections) for present in self._present.values())

    def clients(self) -> tuple[Client, ...]:
        """Everybody who is here, the longest first."""
        return tuple(present.client() for present in self._present.values())

    def viewers(self, session_id: str) -> int:
        """How many clients look at a session."""
        return sum(present.view == session_id for present in self._present.values())

    def next_loss_at(self) -> float:
        """When the next grace is over; infinite if none runs."""
        return min((p.lost_until for p in self._present.values() if not p.connections), default=math.inf)

    def claims(self, connection_id: str, client_id: str) -> bool:
        """Whether this connection claims the workspace."""
        present = self._present.get(client_id)
        return present is not None and connection_id in present.connections

    def claim(self, connection_id: str, author: Author) -> None:
        """Claim for a connection. Claiming twice is claiming once; a lost claim of the client is taken over."""
        present = self._present.get(author.client_id)
        if present is None:
            present = self._present[author.client_id] = _Present(author, now())
            self._publish(ClientJoined(client=present.client()))
        if connection_id not in present.connections:
            present.connections[connection_id] = set()
            present.lost_until = -math.inf

    def view(self, client_id: str, session_id: str | None) -> None:
        """Say what a client that is here looks at."""
        present = self._present[client_id]
        before, present.view = present.view, session_id
        if before == session_id:
            return
        self._publish(ClientViewing(client=present.client()))
        for changed in (before, session_id):
            if changed is not None:
                self._on_view(changed)

    def note_attachment(self, connection_id: str, client_id: str, key: Key) -> None:
        """Remember what a claiming connection is attached to, for its explicit close."""
        self._present[client_id].connections[connection_id].add(key)

    def close(self, connection_id: str, client_id: str, *, at: float) -> tuple[Key, ...]:
        """End a connection's claim at once; returns what it was attached to here."""
        present = self._present.get(client_id)
        if present is None or connection_id not in present.connections:
            return ()
        keys = present.connections.pop(connection_id)
        if not present.connections and present.lost_until <= at:
            self._leave(present)
        return tuple(keys)

    def lose(self, connection_id: str, client_id: str, *, at: float) -> None:
        """A claiming connection was lost: its client has the grace to come back."""
        present = self._present.get(client_id)
        if present is None or present.connections.pop(connection_id, None) is None:
            return
        present.lost_until = at + self._grace_s

    def expire(self, *, at: float) -> None:
        """Let go of the clients whose grace is over."""
        for present in list(self._present.values()):
            if not present.connections and present.lost_until <= at:
                self._leave(present)

    def _leave(self, present: _Present) -> None:
        del self._present[present.author.client_id]
        self._publish(ClientLeft(client=present.client()))
        if present.view is not None:
            self._on_view(present.view)
