"""`atrio tail`: watch a session, from here on or from where one was.

It only reads: watching changes nothing for anybody. It ends when the session is
removed or the reader stops it, never because a connection broke.
"""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, SessionArgument, Target

if TYPE_CHECKING:
    from atrio_protocol.methods import Position
    from atrio_server.client import Client

__all__ = ["tail"]


def tail(
    session: SessionArgument,
    *,
    after: Annotated[str | None, Parameter(help="EPOCH:SEQ of the last event one has; begin with the next.")] = None,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """Watch a session until Ctrl-C, or until it is removed. Begins with what is being said now."""
    from atrio_server.cli.lines import JsonLines as Lines
    from atrio_server.cli.transcript import Transcript

    position = None if after is None else _position(after)

    async def work(client: "Client") -> int:
        from atrio_server.cli.connect import find_session
        from atrio_server.cli.output import say
        from atrio_server.cli.terminal.paper import Paper
        from atrio_server.client import Detached

        sink = Lines(begun=position is not None) if json else Transcript(None, Paper())
        session_id = await find_session(client, session, directory)
        last = position
        while True:
            with client.session(session_id, after=last, history_limit=1) as stream:
                async for item in stream:
                    sink.take(item, stream)
                    if item == Detached("deleted"):
                        sink.end_line()
                        say("the session was removed")
                        return 0
                last = stream.position  # its workspace was closed, and opens afresh

    return target.with_client(work)


def _position(text: str) -> "Position":
    from atrio_protocol.methods import Position
    from atrio_server.cli.failure import Exit, Failure

    epoch, colon, seq = text.rpartition(":")
    if not colon or not epoch or not seq.isdecimal():
        raise Failure(Exit.USAGE, f"--after takes EPOCH:SEQ, such as abc:12, not {text!r}")
    return Position(epoch=epoch, seq=int(seq))
