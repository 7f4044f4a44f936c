"""`atrio token`: the secrets that open the server of a state directory.

A token is printed to stdout and nowhere else. The files are the truth: a server
that runs looks at them by itself, within a second, and none need run.
"""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from atrio_server.cli.options import JsonLines, StateDirOption, Target

if TYPE_CHECKING:
    from pathlib import Path

    from atrio_server.token_store import TokenRecord

__all__ = ["app"]

app = App(name="token", help="Show, replace, make, list and revoke the tokens that open the server.")


@app.command
def show(*, state_dir: StateDirOption = None) -> int:
    """Print the token of the state directory, which may do everything; it is made if there is none yet."""
    from atrio_server.token import load_or_make_token

    sys.stdout.write(load_or_make_token(_made(state_dir)) + "\n")
    return 0


@app.command
def rotate(*, state_dir: StateDirOption = None) -> int:
    """Replace the token of the state directory by a fresh one and print it. Created tokens stay as they are."""
    from atrio_server.cli.output import say
    from atrio_server.statedir import running_server
    from atrio_server.token import rotate_token

    path = _made(state_dir)
    sys.stdout.write(rotate_token(path) + "\n")
    if server := running_server(path):
        _have_them_looked_at(path)
        say(f"the running server (pid {server.pid}) takes it now, and closes connections with the old one")
    return 0


@app.command(usage="Usage: atrio token create --scope SCOPE[,SCOPE...] [OPTIONS]")
def create(
    *,
    scope: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=False,
            help="What it is for: observe (look), prompt (give work and cancel it), approve (answer what tools ask), "
            "admin (delete, stop the server). Several with commas, or again. Each comes with observe, and no other.",
        ),
    ] = (),
    name: Annotated[str | None, Parameter(help="What it is called in lists and logs.")] = None,
    workspace: Annotated[
        str | None, Parameter(help="The one directory that it is for; without it, all that the server may open.")
    ] = None,
    expires: Annotated[
        str | None, Parameter(help="When it ends: in 12h, 30d (m, h, d, w), or on a date such as 2027-01-31 (UTC).")
    ] = None,
    json: JsonLines = False,
    state_dir: StateDirOption = None,
) -> int:
    """Make a token that may do less than the one of the state directory. It is printed this once."""
    from datetime import UTC

    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.output import print_json, say
    from atrio_server.cli.token_words import end_from, scopes_from
    from atrio_server.token_store import NAME, TokenRefused, create_token

    scopes = scopes_from(scope)
    if name is not None and not NAME.fullmatch(name):
        sentence = f"a token cannot be named {name!r}: up to 64 letters, digits and any of . _ @ + - make a name"
        raise Failure(Exit.USAGE, sentence)
    bound_to = None if workspace is None else _directory(workspace)
    expires_at = None if expires is None else end_from(expires, datetime.now(UTC))
    try:
        token, record = create_token(
            _made(state_dir), scopes=scopes, name=name, workspace=bound_to, expires_at=expires_at
        )
    except TokenRefused as exc:
        raise Failure(Exit.USAGE, str(exc)) from None
    if json:
        print_json({"token": token, **_listed(record)})
    else:
        sys.stdout.write(token + "\n")
    say(f"{_described(record)}; it is shown this once. Give it in ATRIO_TOKEN or with --token-file")
    if bound_to is not None and "approve" in record.scopes:
        say("its workspace bounds what it sees of Atrio, and not what a command can do that it approves")
    return 0


@app.command(name="list")
def list_(*, json: JsonLines = False, state_dir: StateDirOption = None) -> int:
    """List the tokens that were made with `create`, the oldest first. What they are is known to their holders alone."""
    from atrio_server.cli.output import moment, print_list, say
    from atrio_server.token_store import list_tokens

    path = Target(state_dir=state_dir).resolved_state_dir()
    records = list_tokens(path) if path.is_dir() else ()
    if not records and not json:
        say("there is none besides that of the state directory (`atrio token show`); `atrio token create` makes one")
        return 0

    def row(token: "dict[str, str | list[str]]") -> list[str]:
        cells = [token.get(key, "") for key in ("tokenId", "name", "state")]
        times = [token.get(key, "") for key in ("createdAt", "expiresAt")]
        return [
            *map(str, cells),
            ",".join(token["scopes"]),
            *(moment(str(time)) if time else "never" for time in times),
            str(token.get("workspace", "any")),
        ]

    heads = ("TOKEN", "NAME", "STATE", "SCOPES", "CREATED", "EXPIRES", "WORKSPACE")
    print_list([_listed(record) for record in records], heads, row, as_json=json)
    return 0


@app.command(usage="Usage: atrio token revoke [OPTIONS] TOKEN")
def revoke(
    token: Annotated[str, Parameter(help="Its id or its name, as in the list.")],
    *,
    state_dir: StateDirOption = None,
) -> int:
    """Take a token away. Connections with it are closed within a second; the runs that they began go on."""
    from difflib import get_close_matches

    from atrio_server.cli.failure import Exit, Failure
    from atrio_server.cli.output import say
    from atrio_server.token import TOKEN
    from atrio_server.token_store import NoSuchToken, list_tokens, revoke_token

    path = Target(state_dir=state_dir).resolved_state_dir()
    if TOKEN.fullmatch(token):
        # Neither repeated nor looked for: it should not have been written down here.
        raise Failure(Exit.USAGE, "name a token by its id or its name, as in `atrio token list`, not by itself")
    if token == "file":  # noqa: S105  what it is called
        raise Failure(Exit.USAGE, "the token of the state directory is replaced, by `atrio token rotate`")
    try:
        gone = revoke_token(path, token) if path.is_dir() else None
    except NoSuchToken:
        gone = None
    if gone is None:
        names = [record.called for record in list_tokens(path)] if path.is_dir() else []
        near = get_close_matches(token, names, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        raise Failure(Exit.NOT_FOUND, f"there is no token {token!r}{guess}; `atrio token list` shows what there is")
    _have_them_looked_at(path)
    say(f"revoked: {_described(gone)}")
    return 0


def _have_them_looked_at(path: "Path") -> None:
    """Let a running server notice at once what it would notice within a second: it looks before it refuses somebody."""
    from contextlib import suppress

    import trio

    from atrio_protocol.errors import WireError
    from atrio_server.cli.on_trio import run_on_trio
    from atrio_server.client import ClientError, open_client
    from atrio_server.statedir import running_server

    async def knock(url: str) -> None:
        with suppress(WireError, ClientError), trio.move_on_after(1):
            async with open_client(url, "nobody", client_name="atrio"):
                pass

    if server := running_server(path):
        run_on_trio(knock, server.ws)


def _made(state_dir: str | None) -> "Path":
    """The state directory, made if need be."""
    from atrio_server.statedir import make_state_dir

    path = Target(state_dir=state_dir).resolved_state_dir()
    make_state_dir(path)
    return path


def _directory(workspace: str) -> "Path":
    """The directory that a token is to be for, resolved."""
    from pathlib import Path

    from atrio_server.cli.failure import Exit, Failure

    try:
        path = Path(workspace).expanduser().resolve(strict=True)
        str(path).encode()  # what is no text can be told to nobody
    except (OSError, RuntimeError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise Failure(Exit.USAGE, f"--workspace {workspace}: {why}; name a directory that is there") from None
    if not path.is_dir():
        raise Failure(Exit.USAGE, f"--workspace {workspace} is not a directory; name one")
    return path


def _listed(record: "TokenRecord") -> "dict[str, str | list[str]]":
    """A token as it is listed: what it is for, and not what it is."""
    from datetime import UTC

    said: dict[str, str | list[str]] = {"tokenId": record.token_id}
    if record.name is not None:
        said["name"] = record.name
    said["scopes"] = list(record.scopes)
    if record.workspace is not None:
        said["workspace"] = record.workspace
    said["createdAt"] = _time(record.created_at)
    if record.expires_at is not None:
        said["expiresAt"] = _time(record.expires_at)
    ended = record.expires_at is not None and record.expires_at <= datetime.now(UTC)
    return {**said, "state": "expired" if ended else "active"}


def _described(record: "TokenRecord") -> str:
    """A token in a sentence."""
    called = f"{record.name} ({record.token_id})" if record.name else record.token_id
    where = "" if record.workspace is None else f" in {record.workspace}"
    until = "" if record.expires_at is None else f", until {record.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{called}: {', '.join(record.scopes)}{where}{until}"


def _time(moment: datetime) -> str:
    from datetime import UTC

    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
