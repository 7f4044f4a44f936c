"""What a request is told when the store that it reads fails, or closes before it was read."""

import pytest

from atrio_agent.lifetime import OwnerEnded
from atrio_agent.store.base import StoreClosed, StoreFailed
from atrio_protocol.errors import StorageUnavailable, WireError, WorkspaceClosing
from atrio_server.handlers.finding import reading


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (StoreFailed("disk full"), StorageUnavailable),
        (StoreClosed("The store is closed."), WorkspaceClosing),
        (OwnerEnded(), WorkspaceClosing),
    ],
    ids=["failed", "closed", "ended"],
)
def test_a_request_that_comes_when_the_workspace_closes_is_told_that_and_not_of_a_disk(
    failure: Exception, told: type[WireError]
) -> None:
    with pytest.raises(told):
        with reading("session"):
            raise failure
