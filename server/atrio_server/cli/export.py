"""`atrio export`: a whole session as one document.

The server writes it; here it is only put where it was asked for.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, SessionArgument, Target

if TYPE_CHECKING:
    from atrio_server.client import Client

__all__ = ["export"]


def export(
    session: SessionArgument = "last",
    *,
    format_: Annotated[
        Literal["json", "markdown"], Parameter("--format", help="markdown, for people; json, with all there is.")
    ] = "markdown",
    output: Annotated[
        str | None, Parameter(("--output", "-o"), help="Write it to this file, whole or not at all.")
    ] = None,
    directory: Dir = None,
    target: Target = OWN_SERVER,
) -> int:
    """Print all that was said and done in a session."""
    if output is not None:
        from atrio_server.cli.whole_file import check_writable

        check_writable(output)

    async def work(client: "Client") -> int:
        from atrio_protocol.methods import SessionExportParams
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import print_result

        session_id = await find_session(client, session, directory)
        params = SessionExportParams(session_id=session_id, format=format_)
        content = (await client.call("session/export", params)).content
        if output is None:
            print_result(content)
        else:
            from atrio_server.cli.whole_file import write_whole

            write_whole(output, content)
        return 0

    return target.with_client(work)
