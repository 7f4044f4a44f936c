"""Presence: who is told to be here, and until when, whatever their connections do.

The model of the stateful test is as plain as can be: it keeps each connection's
claim by itself and derives from them who is here.
"""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atrio_protocol.events import ClientJoined, ClientLeft, ClientViewing, Event
from atrio_protocol.struct import UNSET
from atrio_protocol.who import Author
from atrio_server.calls import Key
from atrio_server.presence import Presence

GRACE_S = 10.0

ANN = Author(client_id="ann", name="Ann")
BOB = Author(client_id="bob", name="Bob")


class Told:
    """A presence, what it published, and which sessions' viewers it called changed."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.viewed: list[str] = []
        self.presence = Presence(grace_s=GRACE_S, publish=self.events.append, on_view=self.viewed.append)

    def kinds(self) -> list[tuple[str, str]]:
        """Each event as its type and client."""
        kinds: list[tuple[str, str]] = []
        for event in self.events:
            assert isinstance(event, ClientJoined | ClientLeft | ClientViewing)
            kinds.append((type(event).__name__, event.client.client_id))
        return kinds


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_client_joins_with_its_first_claim_and_leaves_with_its_last(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    presence.claim("c1", ANN)
    presence.claim("c2", ANN)
    presence.close("c1", "ann", at=0)
    assert told.kinds() == [("ClientJoined", "ann")]
    presence.close("c2", "ann", at=0)
    presence.close("c2", "ann", at=0)
    assert told.kinds() == [("ClientJoined", "ann"), ("ClientLeft", "ann")]


def test_a_lost_client_is_here_until_its_grace_is_over(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    presence.lose("c1", "ann", at=5)
    assert presence.next_loss_at() == 15
    presence.expire(at=14.9)
    assert [client.client_id for client in presence.clients()] == ["ann"]
    presence.expire(at=15)
    assert told.kinds()[-1] == ("ClientLeft", "ann")
    assert len(presence) == 0 and presence.next_loss_at() == math.inf


def test_who_comes_back_within_the_grace_was_never_away_and_still_looks_where_it_did(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    presence.view("ann", "s1")
    presence.lose("c1", "ann", at=0)
    presence.claim("c2", ANN)
    presence.expire(at=100)
    assert told.kinds() == [("ClientJoined", "ann"), ("ClientViewing", "ann")]
    assert presence.viewers("s1") == 1
    assert presence.clients()[0].session_id == "s1"


def test_a_claim_taken_over_ends_with_the_close_of_the_one_that_took_it(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    presence.lose("c1", "ann", at=0)
    presence.claim("c2", ANN)
    presence.close("c2", "ann", at=1)
    assert told.kinds()[-1] == ("ClientLeft", "ann")


def test_a_close_leaves_the_grace_to_what_another_connection_of_the_client_lost(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    presence.claim("c2", ANN)
    presence.lose("c1", "ann", at=0)
    presence.close("c2", "ann", at=1)
    assert len(presence) == 1 and presence.next_loss_at() == GRACE_S
    presence.expire(at=GRACE_S)
    assert told.kinds() == [("ClientJoined", "ann"), ("ClientLeft", "ann")]


def test_a_close_gives_back_what_its_own_connection_is_attached_to(told: Told) -> None:
    presence = told.presence
    one, two = Key("session", "s1"), Key("session", "s2")
    presence.claim("c1", ANN)
    presence.claim("c2", ANN)
    presence.note_attachment("c1", "ann", one)
    presence.note_attachment("c1", "ann", one)
    presence.note_attachment("c2", "ann", two)
    assert presence.close("c1", "ann", at=0) == (one,)
    assert presence.close("c1", "ann", at=0) == ()
    assert presence.close("c3", "ann", at=0) == ()
    assert presence.close("c1", "nobody", at=0) == ()


def test_a_view_is_told_once_and_both_sessions_count_their_viewers_anew(told: Told) -> None:
    presence = told.presence
    presence.claim("c1", ANN)
    for session in ("s1", "s1", "s2", None, None):
        presence.view("ann", session)
    viewing = [event.client.session_id for event in told.events if isinstance(event, ClientViewing)]
    assert viewing == ["s1", "s2", UNSET]
    assert told.viewed == ["s1", "s1", "s2", "s2"]


def test_who_leaves_looks_at_nothing_any_more(told: Told) -> None:
    presence = told.presence
    for connection, who in (("c1", ANN), ("c2", BOB)):
        presence.claim(connection, who)
        presence.view(who.client_id, "s1")
    assert presence.viewers("s1") == 2
    told.viewed.clear()
    presence.close("c1", "ann", at=0)
    assert (presence.viewers("s1"), told.viewed) == (1, ["s1"])


CLIENTS = ("ann", "bob")
CONNECTIONS = ("c1", "c2", "c3")
SESSIONS = ("s1", "s2")

clients = st.sampled_from(CLIENTS)
connections = st.sampled_from(CONNECTIONS)


class PresenceAgainstModel(RuleBasedStateMachine):
    """Any order of claims, closes, losses, views and passing time."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.at = 0.0
        self.live: dict[str, set[str]] = {client: set() for client in CLIENTS}
        self.graces: dict[str, list[float]] = {client: [] for client in CLIENTS}
        self.views: dict[str, str] = {}
        self.here: set[str] = set()

    def _tidy(self) -> None:
        """Take out of the model whoever has neither a claim nor a grace."""
        for client in CLIENTS:
            if not self.live[client] and not any(at > self.at for at in self.graces[client]):
                self.here.discard(client)
                self.views.pop(client, None)

    @rule(connection=connections, client=clients)
    def claim(self, connection: str, client: str) -> None:
        self.told.presence.claim(f"{client}-{connection}", Author(client_id=client, name=client))
        if connection not in self.live[client]:
            self.graces[client].clear()
        self.live[client].add(connection)
        self.here.add(client)

    @rule(connection=connections, client=clients)
    def close(self, connection: str, client: str) -> None:
        self.told.presence.close(f"{client}-{connection}", client, at=self.at)
        self.live[client].discard(connection)
        self._tidy()

    @rule(connection=connections, client=clients)
    def lose(self, connection: str, client: str) -> None:
        self.told.presence.lose(f"{client}-{connection}", client, at=self.at)
        if connection in self.live[client]:
            self.live[client].discard(connection)
            self.graces[client].append(self.at + GRACE_S)

    @rule(client=clients, session=st.sampled_from(SESSIONS) | st.none())
    def look(self, client: str, session: str | None) -> None:
        if client not in self.here:
            return
        self.told.presence.view(client, session)
        self.views.pop(client, None)
        if session is not None:
            self.views[client] = session

    @rule(seconds=st.sampled_from([1.0, 4.0, 9.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.told.presence.expire(at=self.at)
        self._tidy()

    @precondition(lambda self: self.told.presence.next_loss_at() < math.inf)
    @rule()
    def wait_for_the_next_loss(self) -> None:
        before = len(self.told.presence)
        self.at = max(self.at, self.told.presence.next_loss_at())
        self.told.presence.expire(at=self.at)
        self._tidy()
        assert len(self.told.presence) < before

    @invariant()
    def the_same_clients_are_here_and_look_at_the_same(self) -> None:
        presence = self.told.presence
        shown = {client.client_id: client.session_id for client in presence.clients()}
        assert shown == {client: self.views.get(client, UNSET) for client in self.here}
        assert len(presence) == len(self.here)
        for session in SESSIONS:
            assert presence.viewers(session) == sum(view == session for view in self.views.values())
        for client in CLIENTS:
            for connection in CONNECTIONS:
                assert presence.claims(f"{client}-{connection}", client) == (connection in self.live[client])

    @invariant()
    def what_was_told_adds_up_to_who_is_here(self) -> None:
        here: dict[str, object] = {}
        for event in self.told.events:
            assert isinstance(event, ClientJoined | ClientLeft | ClientViewing)
            client = event.client
            assert (client.client_id in here) != isinstance(event, ClientJoined)
            if isinstance(event, ClientLeft):
                del here[client.client_id]
            else:
                assert here.get(client.client_id, UNSET) != client.session_id or isinstance(event, ClientJoined)
                here[client.client_id] = client.session_id
        assert here == {client.client_id: client.session_id for client in self.told.presence.clients()}


TestPresenceAgainstModel = PresenceAgainstModel.TestCase
