"""An MCP server as it is configured, and what its tools are called here.

A server is either a command, which we start and talk to through its standard
input and output, or a URL. Names of tools depend on the configuration alone,
never on which server answered first: what was granted to a name stays true.

Nothing here starts or asks anything.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

__all__ = ["CALL_S", "MAX_NAME_CHARS", "START_S", "McpServer", "tool_name"]

START_S: Final = 30.0
"""Seconds that a server may take until its tools are known, unless configured."""

CALL_S: Final = 60.0
"""Seconds that a call may take, unless configured."""

MAX_NAME_CHARS: Final = 64
"""What providers allow for the name of a tool."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,32}")
_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_-]")
_DIGEST_CHARS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """One server. Either ``command`` or ``url`` is given.

    ``env`` is added to the few variables that a server gets of our environment.
    ``cwd`` is taken from the workspace's directory, and is that when it is left
    out. ``start_s`` and ``call_s`` limit how long its start and one call may take.

    Raises:
        ValueError: The parts do not make a server. The message says why.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None
    url: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    enabled: bool = True
    start_s: float = START_S
    call_s: float = CALL_S

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' is no name for an MCP server: 1 to 32 letters, digits, _ and - are.")
        if bool(self.command) == bool(self.url):
            raise ValueError(f"The MCP server {self.name} needs either a command or a URL.")
        if self.url and (urlsplit(self.url).scheme not in {"http", "https"} or not urlsplit(self.url).hostname):
            raise ValueError(f"The URL of the MCP server {self.name} has to begin with http:// or https://.")
        if self.start_s <= 0 or self.call_s <= 0:
            raise ValueError(f"The time limits of the MCP server {self.name} have to be above zero.")

    @property
    def transport(self) -> Literal["stdio", "http"]:
        """How it is talked to."""
        return "stdio" if self.command else "http"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What is configured and may be secret: nothing of it belongs into a notice."""
        words = [word for value in self.headers.values() for word in (value, *value.split())]
        urls = [self.url, urlsplit(self.url).query, urlsplit(self.url).password or ""] if self.url else []
        return (*self.env.values(), *self.args, *words, *urls)


def tool_name(server: str, tool: str, servers: Iterable[str]) -> str:
    """What a tool of a server is called here: ``mcp_<server>_<tool>``, as providers allow it.

    A name that had to be changed, or that a tool of another server could have as
    well, ends in a digest of both names instead.

    Args:
        server: The server's name.
        tool: What the server calls it.
        servers: The names of all servers that are configured.
    """
    plain = f"mcp_{server}_{tool}"
    fit = _UNFIT.sub("_", plain)
    # `a` with `b_c` and `a_b` with `c`: the one with the shorter server name gives way.
    is_anothers = any(len(other) > len(server) and plain.startswith(f"mcp_{other}_") for other in servers)
    if fit == plain and len(fit) <= MAX_NAME_CHARS and not is_anothers:
        return fit
    digest = hashlib.sha256(f"{server}\0{tool}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return f"{fit[: MAX_NAME_CHARS - _DIGEST_CHARS - 1]}_{digest}"
