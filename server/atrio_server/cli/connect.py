"""From a command's options to a connected client.

Either a server is named (``--server``, ``ATRIO_SERVER``), or it is the one of the
state directory, started if need be. The state directory's token is given to
nobody but that directory's server and servers on this machine.
"""

import os
import pwd
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from atrio_protocol.methods import OpenParams, OpenResult, RunListParams, SessionListParams
from atrio_protocol.version import VERSION
from atrio_server.cli.failure import Exit, Failure
from atrio_server.cli.options import Target
from atrio_server.cli.output import say
from atrio_server.cli.stop import stop_command
from atrio_server.client import Address, Client, ServerGone, open_client
from atrio_server.discover import Found, find_or_start, find_server
from atrio_server.statedir import StateDirUnsafe
from atrio_server.token import TokenFileUnsafe, load_or_make_token

__all__ = [
    "find_run",
    "find_session",
    "newest_session",
    "open_connection",
    "open_workspace",
    "real_directory",
    "socket_url",
]

LEAVING_S: Final = 12.0
"""How long a server may take to end, with a margin."""


@asynccontextmanager
async def open_connection(target: Target, *, found: Found | None = None) -> AsyncGenerator[Client]:
    """Find the server (or take ``found``), connect, and tell people when the connection is lost and back."""
    url = target.server or os.environ.get("ATRIO_SERVER")
    async with AsyncExitStack() as stack:
        if found is not None:
            # A server that was started for this command alone knows no token but its own.
            named = None if found.started else _named_token(target)
            client = await stack.enter_async_context(_open(Address(found.ws, named or found.token)))
        elif url:
            client = await stack.enter_async_context(_open(Address(socket_url(url), _token(target, url))))
        else:
            client = await _connect_to_own(stack, target.resolved_state_dir(), _named_token(target))
        client.on_connection = lambda there: say(
            "connected again" if there else "the connection is lost; looking for the server"
        )
        yield client


async def _connect_to_own(stack: AsyncExitStack, state_dir: Path, named: str | None) -> Client:
    """Connect to the state directory's server, started if need be; with the token that was named, if one was."""
    try_until = trio.current_time() + LEAVING_S
    while True:
        found = await find_or_start(state_dir)
        first = Address(found.ws, named or found.token)
        try:
            client = await stack.enter_async_context(_open(first, _locator(first, state_dir, named)))
        except ServerGone:
            # One that is about to end is still found, and lets nobody in.
            if found.started or trio.current_time() > try_until:
                raise
            await trio.sleep(0.1)
            continue
        if found.version != VERSION:
            say(
                f"the running server (pid {found.pid}) is version {found.version} and this is {VERSION}; "
                f"to change it, stop it ({stop_command(state_dir)}) and the next command starts a new one"
            )
        return client


def _open(first: Address, locate: Callable[[], Address] | None = None) -> AbstractAsyncContextManager[Client]:
    user_name = _user_name(os.environ)
    return open_client(first.url, first.token, client_name="atrio", user_name=user_name, locate=locate)


async def open_workspace(client: Client, directory: str | None) -> OpenResult:
    """Open the workspace of a directory of this machine, by default the present one."""
    return await client.call("workspace/open", OpenParams(path=_absolute(directory or ".")))


async def newest_session(client: Client, directory: str | None) -> str | None:
    """The id of the session of a directory that changed last."""
    opened = await open_workspace(client, directory)
    listed = await client.call("session/list", SessionListParams(workspace_id=opened.workspace.workspace_id, limit=1))
    return listed.sessions[0].session_id if listed.sessions else None


async def find_session(client: Client, name: str, directory: str | None) -> str:
    """The id of a session that is named by its id or as ``last``.

    Raises:
        Failure: There is none yet.
    """
    if name != "last":
        return name
    newest = await newest_session(client, directory)
    if newest is None:
        raise Failure(Exit.NOT_FOUND, "there is no session in this directory yet; `atrio run` begins one")
    return newest


async def find_run(client: Client, name: str, directory: str | None) -> str:
    """The id of a run that is named by its id or as ``last``: the newest run of the newest session.

    Raises:
        Failure: There is none yet.
    """
    if name != "last":
        return name
    session_id = await find_session(client, "last", directory)
    listed = await client.call("run/list", RunListParams(session_id=session_id, limit=1))
    if not listed.runs:
        raise Failure(Exit.NOT_FOUND, "there is no run in the newest session of this directory yet")
    return listed.runs[0].run_id


def real_directory(directory: str | None) -> str:
    """What paths are shown relative to; empty where it cannot be told."""
    try:
        return str(Path(directory or ".").expanduser().resolve())
    except (OSError, RuntimeError):
        return ""


def _absolute(directory: str) -> str:
    # Not resolved: links are the server's affair.
    try:
        return str(Path(directory).expanduser().absolute())
    except FileNotFoundError:
        raise Failure(Exit.USAGE, "the present directory is gone; go to another, or name one with --dir") from None
    except RuntimeError as exc:  # a home that cannot be found out
        raise Failure(Exit.USAGE, f"cannot tell what {directory} is: {exc}") from None


def _locator(first: Address, state_dir: Path, named: str | None) -> Callable[[], Address]:
    """A server that restarts may have another port, and its directory's token may be another one."""

    def locate() -> Address:
        try:
            found = find_server(state_dir)
        except (OSError, StateDirUnsafe, TokenFileUnsafe):
            found = None
        return Address(found.ws, named or found.token) if found else first

    return locate


def socket_url(url: str) -> str:
    """``ws://HOST:PORT/v1/ws`` from what people type."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "ws", url
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        good = scheme in {"ws", "wss"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or brackets that do not match
        parts = urlsplit("")
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise Failure(Exit.USAGE, f"--server takes a URL such as ws://127.0.0.1:4317, not {url!r}")
    path = parts.path if parts.path not in {"", "/"} else "/v1/ws"
    return f"{scheme}://{parts.netloc}{path}"


def _named_token(target: Target) -> str | None:
    """The token that the options or the environment name."""
    if target.token_file is not None:
        try:
            return Path(target.token_file).read_text(encoding="ascii", errors="replace").strip()
        except OSError as exc:
            sentence = f"cannot read the token from {target.token_file}: {exc.strerror}; give --token-file another file"
            raise Failure(Exit.USAGE, sentence) from None
    return os.environ.get("ATRIO_TOKEN") or None


def _token(target: Target, url: str) -> str:
    if token := _named_token(target):
        return token
    host = urlsplit(socket_url(url)).hostname or ""
    state_dir = target.resolved_state_dir()
    if not (host in {"localhost", "::1"} or host.startswith("127.")) or not state_dir.is_dir():
        raise Failure(Exit.UNREACHABLE, f"no token for {url}; give --token-file or set ATRIO_TOKEN")
    return load_or_make_token(state_dir)


def _user_name(environ: Mapping[str, str]) -> str | None:
    name = environ.get("USER") or environ.get("LOGNAME") or ""
    if not name:
        with suppress(KeyError):  # a user that the system has no name for
            name = pwd.getpwuid(os.getuid()).pw_name
    return name[:64] if name.isprintable() and name.strip() else None
