"""The search of `grep` where there is no ripgrep. Run as a program, never imported by the server.

Python's `re` can take for ever on one line, and nothing else in its process
runs meanwhile: so it gets a process of its own, which can be ended. It speaks
the part of ripgrep's JSON lines that `ripgrep` reads, and needs nothing but the
standard library. What it reports is confirmed by its reader, so it may open
what it is told to.

Arguments: ``regex`` or ``literal``, most bytes of a file, most lines of a file,
the pattern. Standard input: paths, each ended by a NUL. Exit status 2: the
pattern is none, and standard error says why; 3: a bug or no memory.
"""

import base64
import io
import json
import os
import re
import resource
import stat
import sys

__all__ = ["main", "search"]

_CPU_S = 60  # should nobody be left to end us


def search(path: bytes, pattern: "re.Pattern[str]", max_bytes: int, max_lines: int) -> None:
    """Write what is found in one file. A file that cannot be read, or is no text, has nothing."""
    try:
        # Non-blocking and without links: a pipe or a link that took a file's place is not searched.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                return
            data = file.read(max_bytes)
    except OSError:
        return
    if b"\0" in data:
        return
    name = _as_data(path)
    offset = found = 0
    for number, line in enumerate(io.BytesIO(data), start=1):
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")
        if pattern.search(text):
            _write("match", path=name, lines=_as_data(line), line_number=number, absolute_offset=offset)
            found += 1
            if found == max_lines:
                break
        offset += len(line)
    if found:
        _write("end", path=name, binary_offset=None)
        sys.stdout.flush()


def main() -> int:
    """Search every file named on standard input, in that order."""
    how, max_bytes, max_lines, given = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    try:
        pattern = re.compile(re.escape(given) if how == "literal" else given)
    except (re.error, OverflowError, RecursionError) as exc:
        sys.stderr.write(f"not a regular expression: {exc}")
        return 2
    for path in sys.stdin.buffer.read().split(b"\0"):
        if path:
            search(path, pattern, int(max_bytes), int(max_lines))
    return 0


def _write(kind: str, **data: object) -> None:
    sys.stdout.write(json.dumps({"type": kind, "data": data}) + "\n")


def _as_data(raw: bytes) -> dict[str, str]:
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"bytes": base64.b64encode(raw).decode()}


if __name__ == "__main__":
    try:
        status = main()
    except Exception as exc:  # noqa: BLE001  # not Python's own status 1, which means that nothing was found
        sys.stderr.write(repr(exc))
        status = 3
    sys.exit(status)
