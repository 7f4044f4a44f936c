"""An Atrio server that notes how much processor time the long rounds of its event loop use.

A program, with the arguments of `atrio`. Its own watch takes real time, which
on a busy machine says more about the machine; this says what we have done
ourselves. Each long round is a line of the file that ``HELD_LOOP_FILE`` names:
seconds, and the place if that was seen.
"""

import os
import sys
import time
from pathlib import Path

from atrio_server import loop_watch

__all__ = ["NotingWatch"]

LONG_S = 0.03


class NotingWatch(loop_watch.LoopWatch):
    """A watch that writes down what it sees."""

    began_s = 0.0

    def after_io_wait(self, timeout: float) -> None:
        super().after_io_wait(timeout)
        self.began_s = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        held_s = time.thread_time() - self.began_s
        if held_s > LONG_S and self.began_s:
            with Path(os.environ["HELD_LOOP_FILE"]).open("a") as noted:
                noted.write(f"{held_s:.4f} {self._seen}\n")
        super().before_io_wait(timeout)


if __name__ == "__main__":
    loop_watch.LoopWatch = NotingWatch  # before whoever takes it from there is loaded
    from atrio_server.cli import main

    sys.exit(main())
