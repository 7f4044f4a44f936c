"""What the broker of permissions keeps, where no server is needed to see it."""

from atrio_agent.permissions import Broker, PermissionRules
from atrio_protocol.things import Grant
from atrio_protocol.who import Author


def test_a_grant_that_is_taken_back_while_its_session_is_read_does_not_come_back() -> None:
    grant = Grant(
        grant_id="g",
        session_id="s",
        name="write",
        action="write",
        path="/w",
        by=Author(client_id="c", name="A"),
        at="2026-01-01T00:00:00.000Z",
    )
    broker = Broker(
        workspace_id="w", rules=PermissionRules(), publish=lambda _question, _event: None, keep=lambda _grant: None
    )
    broker.load_grants([grant])
    assert broker.revoke("g") == grant
    broker.load_grants([grant])  # read before it was taken back
    assert broker.grants("s") == () and not broker.knows_grant("g")
