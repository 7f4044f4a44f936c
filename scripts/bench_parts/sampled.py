"""Run Atrio under a sampling profiler: ``python sampled.py REPORT atrio-arguments…``.

A timer of processor time interrupts the process, up to a thousand times a second
as the system allows, and the stack is noted. What the process was waiting for
does not show; where its time went does. The report is written at the end.
"""

import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

__all__: list[str] = []

_INTERVAL_S = 0.001
_LINES = 25


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno} {code.co_qualname}"


def main(report: str) -> None:
    """Run `atrio` with the rest of the arguments and write the report when it ends."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()

    def note(_signal: int, frame: FrameType | None) -> None:
        names: list[str] = []
        while frame is not None:
            names.append(_name(frame))
            frame = frame.f_back
        own.update(names[:1])
        within.update(set(names))

    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL_S, _INTERVAL_S)
    from atrio_server.cli import main as atrio  # noqa: PLC0415  # its import is part of the profile

    try:
        atrio()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = sum(own.values()) or 1
        with Path(report).open("w") as file:
            for title, counts in (("in the function itself", own), ("in it and below it", within)):
                print(f"{title}, of {total} samples:", file=file)
                for name, count in counts.most_common(_LINES):
                    print(f"  {count / total:6.1%}  {name}", file=file)


if __name__ == "__main__":
    where = sys.argv.pop(1)
    main(where)
