"""`atrio sessions`: the conversations of a directory.

Each command is one or two calls and a way to print the answer. A session is
looked up by its id wherever it is; ``last`` and lists are of one directory.
"""

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, Limit, SessionArgument, Target

if TYPE_CHECKING:
    from atrio_protocol.things import Session
    from atrio_server.client import Client

__all__ = ["app"]

app = App(name="sessions", help="List, show, rename, fork, remove and search sessions. Without a word, list them.")


@app.default
@app.command(name="list")
def list_(
    *,
    limit: Limit = 50,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """List the sessions of a directory, newest first."""
    return target.with_client(lambda client: _show_list(client, directory, None, limit, as_json=json))


@app.command(usage="Usage: atrio sessions search [OPTIONS] WORDS...")
def search(
    *query: Annotated[str, Parameter(help="Words to look for.")],
    limit: Limit = 50,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Find sessions by what was said in them, and by their titles."""
    from atrio_server.cli.failure import Exit, Failure

    words = " ".join(query)
    if not words.strip():
        raise Failure(Exit.USAGE, "there is nothing to search for; give some words")
    return target.with_client(lambda client: _show_list(client, directory, words, limit, as_json=json))


@app.command
def show(
    session: SessionArgument,
    *,
    limit: Limit = 100,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Print what was said in a session, the newest messages if there are more than --limit."""

    async def work(client: "Client") -> int:
        from atrio_protocol.content import TextBlock
        from atrio_protocol.methods import MessagesParams, SessionParams
        from atrio_protocol.parts import ToolCallPart
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import print_json, print_result

        session_id = await find_session(client, session, directory)
        found = (await client.call("session/get", SessionParams(session_id=session_id))).session
        page = await client.call("session/messages", MessagesParams(session_id=session_id, limit=limit))
        if json:
            print_json(found)
            for message in page.messages:
                print_json(message)
            return 0
        print_result(f"# {found.title or found.session_id}\n")
        if page.more:
            print_result("(older messages are left out; --limit shows more)\n")
        for message in page.messages:
            if message.role == "tool":
                continue
            who = message.author.name if message.author else message.role
            print_result(f"## {who}\n")
            for part in message.parts:
                if isinstance(part, TextBlock) and part.text:
                    print_result(part.text + "\n")
                elif isinstance(part, ToolCallPart):
                    print_result(f"[{part.title}: {part.status}]\n")
        return 0

    return target.with_client(work)


@app.command(usage="Usage: atrio sessions rename [OPTIONS] SESSION TITLE...")
def rename(
    session: SessionArgument,
    *title: Annotated[str, Parameter(help="The new title.")],
    directory: Dir = None,
    target: Target = OWN_SERVER,
) -> int:
    """Give a session another title."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import RenameParams
        from atrio_server.cli.connect import find_session

        session_id = await find_session(client, session, directory)
        await client.call("session/rename", RenameParams(session_id=session_id, title=" ".join(title)))
        return 0

    return target.with_client(work)


@app.command
def fork(
    session: SessionArgument,
    *,
    message: Annotated[str | None, Parameter(help="The id of the last message to take along, instead of all.")] = None,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Begin a session with what another has said, and print its id."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import ForkParams
        from atrio_protocol.struct import UNSET
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import print_json, print_result

        session_id = await find_session(client, session, directory)
        params = ForkParams(session_id=session_id, message_id=message or UNSET)
        forked = (await client.call("session/fork", params)).session
        if json:
            print_json(forked)
        else:
            print_result(forked.session_id)
        return 0

    return target.with_client(work)


@app.command(usage="Usage: atrio sessions rm [OPTIONS] SESSION...")
def rm(
    *session: SessionArgument,
    directory: Dir = None,
    target: Target = OWN_SERVER,
) -> int:
    """Remove sessions with all that was said in them. What still runs there is cancelled."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import SessionParams
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.failure import Exit, Failure

        if not session:
            raise Failure(Exit.USAGE, "name the sessions to remove; `atrio sessions list` shows them")
        for name in session:
            session_id = await find_session(client, name, directory)
            await client.call("session/delete", SessionParams(session_id=session_id))
        return 0

    return target.with_client(work)


async def _show_list(client: "Client", directory: str | None, query: str | None, limit: int, *, as_json: bool) -> int:
    from atrio_protocol.methods import SessionListParams
    from atrio_protocol.struct import UNSET
    from atrio_server.cli.connect import open_workspace
    from atrio_server.cli.output import print_list

    opened = await open_workspace(client, directory)
    params = SessionListParams(workspace_id=opened.workspace.workspace_id, query=query or UNSET, limit=limit)
    listed = await client.call("session/list", params)
    print_list(listed.sessions, ("SESSION", "UPDATED", "STATE", "TITLE"), _row, as_json=as_json)
    return 0


def _row(session: "Session") -> tuple[str, str, str, str]:
    from atrio_server.cli.output import moment

    queued = f" +{session.queued}" if session.queued else ""
    return session.session_id, moment(session.updated_at), session.state + queued, session.title
