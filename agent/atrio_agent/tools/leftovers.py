"""What an earlier process of ours, killed before it could clean up, has left running.

Everything that a workspace starts bears in its environment whose it is: the
state directory, and one life of the server that holds it. Whoever holds the
directory next, alone, ends what bears the directory's name: nobody is left to
wait for it. A life that ends by itself leaves nothing to find.

What wiped its environment, left its session and lost its parent cannot be told
from a stranger, and is not touched. Without ``/proc`` (not Linux, or not mounted) nothing is found.
"""

import secrets
from typing import Final

import structlog
import trio

from atrio_agent.tools.orphans import Kin

__all__ = ["END_S", "OWNER", "end_leftovers", "new_life", "owned"]

OWNER: Final = "ATRIO_OWNER"
"""The variable that says whose a process is."""

END_S: Final = 3.0
"""How long ending them may take: TERM, a second, KILL, and their way out."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.processes")


def new_life(directory: str) -> str:
    """The name of one life of whoever holds a directory, itself named by ``directory``."""
    return f"{directory}.{secrets.token_hex(8)}"


def owned(life: str) -> dict[str, str]:
    """What a process of this life has in its environment; nothing where there is none to name."""
    return {OWNER: life} if life else {}


async def end_leftovers(directory: str) -> int:
    """End what earlier lives have left: TERM, a second, KILL.

    Whoever calls holds the directory, and has started nothing yet.

    Returns:
        How many processes there were.
    """
    count = 0
    kin = Kin(None, f"{OWNER}={directory}.", trio.CapacityLimiter(1))
    with trio.CancelScope(shield=True):  # bounded by itself
        count = await kin.end(trio.current_time() + END_S)
    if count:
        log.warning("ended what commands of an earlier server had left running", processes=count)
    return count
