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

from atrio_server.cli import main
from atrio_server.loop_watch import LoopWatch

__all__ = ["NoteHolds"]

LONG_S = 0.03


class NoteHolds:
    """Takes the place of the watch's two hooks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began_s = 0.0

    def install(self) -> None:
        """From now on every watch notes its rounds."""
        after, before = LoopWatch.after_io_wait, LoopWatch.before_io_wait

        def after_io_wait(watch: LoopWatch, timeout: float) -> None:
            after(watch, timeout)
            self._began_s = time.thread_time()

        def before_io_wait(watch: LoopWatch, timeout: float) -> None:
            held_s = time.thread_time() - self._began_s
            if held_s > LONG_S and self._began_s:
                with self._path.open("a") as noted:
                    noted.write(f"{held_s:.4f} {watch._seen}\n")
            before(watch, timeout)

        LoopWatch.after_io_wait, LoopWatch.before_io_wait = after_io_wait, before_io_wait


if __name__ == "__main__":
    NoteHolds(Path(os.environ["HELD_LOOP_FILE"])).install()
    sys.exit(main())
