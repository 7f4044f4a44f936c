"""Options that several commands have.

One name, one meaning and one explanation for all of them. Nothing is read here;
an option that has a variable beside it is joined with it where it is used. Every
command imports this, so it imports nothing that only some of them need.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

if TYPE_CHECKING:
    from pathlib import Path

    from atrio_server.client import Client

__all__ = ["OWN_SERVER", "Dir", "JsonLines", "Limit", "SessionArgument", "StateDirOption", "Target"]

StateDirOption = Annotated[str | None, Parameter("--state-dir", help="State directory (ATRIO_STATE_DIR).")]
Dir = Annotated[str | None, Parameter("--dir", help="The directory it is about, instead of the present one.")]
JsonLines = Annotated[bool, Parameter("--json", help="One JSON object a line.")]
Limit = Annotated[int, Parameter("--limit", help="How many at most, up to 1000.", validator=Number(gte=1, lte=1000))]
SessionArgument = Annotated[str, Parameter(help='A session\'s id, or "last": the newest of the directory.')]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server a command is for, as its options say."""

    server: Annotated[
        str | None, Parameter("--server", help="Talk to this server (ATRIO_SERVER) instead of the state directory's.")
    ] = None
    token_file: Annotated[
        str | None,
        Parameter("--token-file", help="File with a token, else ATRIO_TOKEN, else the state directory's."),
    ] = None
    state_dir: StateDirOption = None

    def resolved_state_dir(self) -> "Path":
        """The state directory, from the option, the environment or the platform."""
        import os

        from atrio_server.config import state_dir_setting

        return state_dir_setting(self.state_dir, os.environ)

    def with_client(self, work: "Callable[[Client], Awaitable[int]]") -> int:
        """Connect, do this, and return its exit code."""
        from atrio_server.cli.connect import open_connection
        from atrio_server.cli.on_trio import run_on_trio

        async def main() -> int:
            async with open_connection(self) as client:
                return await work(client)

        return run_on_trio(main)


OWN_SERVER: Final = Target()
"""No server is named: the state directory's."""
