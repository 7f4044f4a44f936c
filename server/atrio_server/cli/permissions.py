"""`atrio permissions`: the questions that wait in a directory, and what was allowed for good.

For those who answer from another terminal than the one that is asked. An answer
counts if it is the first one; else it is told who was first.
"""

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, SessionArgument, Target

if TYPE_CHECKING:
    from atrio_protocol.things import PermissionKind
    from atrio_server.client import Client

__all__ = ["app"]

PermissionArgument = Annotated[str, Parameter(help="A permission's id, as `list` prints it.")]

app = App(
    name="permissions", help="List and answer what is asked; list and take back what was allowed. Without a word, list."
)


@app.default
@app.command(name="list")
def list_(
    *,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """List the questions that wait for an answer in a directory's sessions."""

    async def work(client: "Client") -> int:
        from atrio_server.cli.calls import pending
        from atrio_server.cli.connect import open_workspace
        from atrio_server.cli.output import moment, print_list

        workspace_id = (await open_workspace(client, directory)).workspace.workspace_id
        listed = await pending(client, workspace_id)
        print_list(
            listed,
            ("PERMISSION", "ASKED", "FOR"),
            lambda each: (each.permission_id, moment(each.requested_at), each.title),
            as_json=json,
        )
        return 0

    return target.with_client(work)


@app.command
def show(
    permission: PermissionArgument,
    *,
    directory: Dir = None,
    target: Target = OWN_SERVER,
) -> int:
    """Print all of what is asked: the command, the path, the change."""

    async def work(client: "Client") -> int:
        from atrio_server.cli.calls import pending
        from atrio_server.cli.connect import open_workspace
        from atrio_server.cli.failure import Exit, Failure
        from atrio_server.cli.output import print_result
        from atrio_server.cli.terminal.questions import question_rows
        from atrio_server.cli.terminal.rows import plain

        workspace = (await open_workspace(client, directory)).workspace
        listed = await pending(client, workspace.workspace_id)
        for each in listed:
            if each.permission_id == permission:
                rows = question_rows(each, directory=workspace.path, whole=True)
                print_result("\n".join(map(plain, rows)))
                return 0
        raise Failure(Exit.NOT_FOUND, "nothing of that id waits for an answer; `atrio permissions` shows what does")

    return target.with_client(work)


@app.command
def allow(
    permission: PermissionArgument,
    *,
    always: Annotated[bool, Parameter(help="From now on too: this tool and action, this place, this session.")] = False,
    target: Target = OWN_SERVER,
) -> int:
    """Allow what is asked."""
    return _answer(permission, "allow_always" if always else "allow_once", target)


@app.command
def reject(
    permission: PermissionArgument,
    *,
    target: Target = OWN_SERVER,
) -> int:
    """Reject what is asked."""
    return _answer(permission, "reject_once", target)


@app.command
def grants(
    session: SessionArgument = "last",
    *,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """List what was allowed for good in a session."""

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import SessionParams
        from atrio_protocol.struct import given
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import moment, print_list

        session_id = await find_session(client, session, directory)
        listed = (await client.call("permission/grants", SessionParams(session_id=session_id))).grants
        print_list(
            listed,
            ("GRANT", "SINCE", "BY", "TOOL", "ACTION", "WHERE"),
            lambda each: (each.grant_id, moment(each.at), each.by.name, each.name, each.action, given(each.path, "")),
            as_json=json,
        )
        return 0

    return target.with_client(work)


@app.command
def revoke(
    *grant: Annotated[str, Parameter(help="A grant's id, as `grants` prints it.")],
    target: Target = OWN_SERVER,
) -> int:
    """Take back what was allowed for good. What runs already goes on."""
    from atrio_server.cli.failure import Exit, Failure

    shows = "`atrio permissions grants` shows what was allowed"
    if not grant:
        raise Failure(Exit.USAGE, f"name what to take back; {shows}")

    async def work(client: "Client") -> int:
        from atrio_protocol.errors import PermissionNotFound
        from atrio_protocol.methods import PermissionRevokeParams

        for grant_id in grant:
            try:
                await client.call("permission/revoke", PermissionRevokeParams(grant_id=grant_id))
            except PermissionNotFound:
                raise Failure(Exit.NOT_FOUND, f"there is no grant {grant_id!r}; {shows}") from None
        return 0

    return target.with_client(work)


def _answer(permission_id: str, kind: "PermissionKind", target: Target) -> int:
    async def work(client: "Client") -> int:
        from atrio_server.cli.calls import respond
        from atrio_server.cli.failure import Exit
        from atrio_server.cli.output import say

        # The kinds are the ids of the server's own options.
        answer = await respond(client, permission_id, kind)
        if answer.resolved:
            return Exit.OK
        by = f" by {answer.by.name}" if answer.by else ""
        say(f"atrio: it was resolved{by} before: {answer.outcome.kind.replace('_', ' ')}")
        return Exit.OTHER

    return target.with_client(work)
