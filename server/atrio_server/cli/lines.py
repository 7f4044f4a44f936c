"""`--json`: the events of a session as the socket brings them, one object a line.

Each line is the event as the server wrote it, with ``sessionId`` and ``epoch``
after its own members. Where the server could not go on from the last event, a
line of type ``resync`` holds the snapshot; the next event follows its ``seq``.
"""

import msgspec

from atrio_protocol.events import Event
from atrio_protocol.methods import SessionSnapshot
from atrio_protocol.things import Run
from atrio_server.cli.output import print_json
from atrio_server.client import Detached, Resync, SessionStream

__all__ = ["JsonLines"]


class JsonLines:
    """Prints a session's stream as JSON lines.

    Args:
        begun: The reader has events already, so that a snapshot is news to it. The
            one that a stream begins with is none.
    """

    def __init__(self, *, begun: bool = False) -> None:
        self._begun = begun

    def take(self, item: Event | Resync[SessionSnapshot] | Detached, stream: SessionStream) -> None:
        """Print one item."""
        begun, self._begun = self._begun, True
        match item:
            case Event() if stream.position is not None:
                print_json(msgspec.Raw(stream.raw), sessionId=stream.session_id, epoch=stream.position.epoch)
            case Resync(snapshot=snapshot, position=position) if begun:
                line = {"type": "resync", "seq": position.seq, "snapshot": snapshot}
                print_json(line, sessionId=stream.session_id, epoch=position.epoch)
            case _:
                pass

    def show_end(self, run: Run) -> None:
        """The end of a run is an event of its own."""

    def end_line(self) -> None:
        """Every line is whole."""

    @staticmethod
    def show_run(run: Run) -> None:
        """Print a run that is no event."""
        print_json(run)
