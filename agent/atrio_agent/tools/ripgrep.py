"""Searching file contents in a process of its own: ripgrep, or our own scan.

The one place where the reading tools start a process: no shell, an allow-list
for the environment, a process group of its own that is killed and waited for
whatever happens. What the process reports is read piece by piece and bounded.

It says *where* something is found, and that is all it is believed: it follows
other rules for links than we do, so whoever shows a line reads it again, from a
file that `confine` has opened.
"""

import base64
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec
import trio

__all__ = [
    "MAX_FILE_BYTES",
    "Found",
    "Line",
    "PatternRefused",
    "Search",
    "SearchFailed",
    "installed_ripgreps",
    "is_usable",
    "open_search",
    "ripgrep_command",
    "scan_command",
]

MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""Larger files are not searched."""

_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_MAX_COMPLAINT_BYTES: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_ENDING_S: Final = 2.0

# The rules are ours, whatever the user has configured: `.gitignore` of the tree and no other ignore file, hidden
# files shown. One thread, so that the order is that of names and the same ones are kept when there are too many.
_RULES: Final = (
    "--no-config",
    "--json",
    "--hidden",
    "--no-require-git",
    "--no-ignore-dot",
    "--no-ignore-exclude",
    "--no-ignore-global",
    "--no-ignore-parent",
    "--no-follow",
    "--no-messages",
    "--no-ignore-messages",
    "--no-mmap",
    "--crlf",
    "--encoding=none",
    "--sort=path",
    f"--max-filesize={MAX_FILE_BYTES}",
    "--glob=!.git",
)


class PatternRefused(Exception):
    """The pattern is none. The message is what the program said of it."""


class SearchFailed(Exception):
    """The process ended as it should not. What it had found until then was given."""


class Line(NamedTuple):
    """A line that fits: its number from 1, where it begins in the file, its bytes with the line end."""

    number: int
    offset_bytes: int
    raw: bytes


class Found(NamedTuple):
    """All lines of one file that fit. ``path`` is relative to the directory that was searched from."""

    path: str
    lines: list[Line]
    is_binary: bool


class _Data(msgspec.Struct):
    text: str = ""
    encoded: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        return self.text.encode() if self.encoded is None else base64.b64decode(self.encoded)


class _MatchData(msgspec.Struct):
    path: _Data
    lines: _Data
    line_number: int
    absolute_offset: int


class _EndData(msgspec.Struct):
    path: _Data
    binary_offset: int | None


class _Match(msgspec.Struct, tag="match"):
    data: _MatchData


class _End(msgspec.Struct, tag="end"):
    data: _EndData


class _Begin(msgspec.Struct, tag="begin"):
    pass


class _Context(msgspec.Struct, tag="context"):
    pass


class _Summary(msgspec.Struct, tag="summary"):
    pass


_messages: Final = msgspec.json.Decoder(_Match | _End | _Begin | _Context | _Summary)


def installed_ripgreps() -> tuple[Path, ...]:
    """The ripgreps of this machine, best first: the one installed with us, then those on ``PATH``.

    Relative directories on ``PATH`` are passed over: they could be the workspace's.
    """
    places = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), *os.get_exec_path()]
    programs = (Path(place, "rg") for place in places if Path(place).is_absolute())
    return tuple(dict.fromkeys(program for program in programs if os.access(program, os.X_OK)))


def ripgrep_command(
    program: Path,
    pattern: str,
    path: str,
    *,
    literal: bool,
    max_lines: int,
    ignore_file: str | None = None,
    leave_out: Sequence[str] = (),
    only_names: str | None = None,
) -> list[str]:
    """The arguments that let ripgrep search beneath ``path``.

    Args:
        program: The ripgrep.
        pattern: A regular expression, or the text itself.
        path: Where to search, relative to the directory that it is started in.
        literal: The pattern is the text itself.
        max_lines: Most lines of one file.
        ignore_file: A file with rules that count from the directory that it is started in.
        leave_out: Globs of what is not searched.
        only_names: A glob for the names of files, of the simple kind.
    """
    options = [f"--max-count={max_lines}", *(f"--glob=!{glob}" for glob in leave_out)]
    if literal:
        options.append("--fixed-strings")
    if ignore_file is not None:
        options.append(f"--ignore-file={ignore_file}")
    if only_names is not None:
        # A type, not a glob: a glob of ripgrep's takes precedence over ignore files.
        options += [f"--type-add=wanted:{only_names}", "--type=wanted"]
    return [str(program), *_RULES, *options, "--", pattern, f"./{path}"]


def scan_command(pattern: str, *, literal: bool, max_lines: int) -> list[str]:
    """The arguments that let our own scan search the files named on its standard input."""
    script = str(Path(__file__).with_name("scan.py"))
    how = "literal" if literal else "regex"
    interpreter = [sys.executable, "-I", "-S", "-X", "utf8", "-W", "ignore"]
    return [*interpreter, script, how, str(MAX_FILE_BYTES), str(max_lines), pattern]


async def is_usable(program: Path) -> bool:
    """Whether this is a ripgrep that knows all we ask of it."""
    try:
        async with open_search([str(program), *_RULES, "--", "x", os.devnull], cwd=Path("/")) as search:
            return await search.next_found() is None
    except (OSError, PatternRefused, SearchFailed):
        return False


class Search:
    """A search that runs. Made by `open_search`, not by hand."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False
        self._lines: list[Line] = []
        self.overlong = 0
        """Lines that fit and were too long to be taken."""

    async def next_found(self) -> Found | None:
        """The next file in which something was found; None at the end.

        Raises:
            PatternRefused: The pattern is none; nothing was searched.
            SearchFailed: The process ended as it should not.
        """
        while True:
            message = await self._next_message()
            if message is None:
                await self._check_end()
                return None
            if isinstance(message, _Match):
                data = message.data
                self._lines.append(Line(data.line_number, data.absolute_offset, data.lines.raw()))
            elif isinstance(message, _End):
                lines, self._lines = self._lines, []
                path = os.fsdecode(message.data.path.raw()).removeprefix("./")
                return Found(path, lines, message.data.binary_offset is not None)

    async def _next_message(self) -> _Match | _End | _Begin | _Context | _Summary | None:
        assert self._process.stdout is not None
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                if self._skipping:
                    self._skipping = False
                    continue
                try:
                    return _messages.decode(line)
                except msgspec.MsgspecError as exc:
                    raise SearchFailed("what it said could not be read") from exc
            if len(self._buffer) > _MAX_MESSAGE_BYTES:
                self._skipping = True
                self.overlong += 1
            if self._skipping:
                self._buffer.clear()
            self._searched = len(self._buffer)
            piece = await self._process.stdout.receive_some(_READ_BYTES)
            if not piece:
                return None
            self._buffer += piece

    async def _check_end(self) -> None:
        assert self._process.stderr is not None
        complaint = bytearray()
        while len(complaint) < _MAX_COMPLAINT_BYTES and (piece := await self._process.stderr.receive_some(_READ_BYTES)):
            complaint += piece
        code = await self._process.wait()
        said = complaint.decode(errors="replace").strip()
        # 2 without a word: some file could not be read, which is nobody's fault and was passed over.
        if code == 2 and said:
            raise PatternRefused(said)
        if code not in {0, 1, 2}:
            raise SearchFailed(f"exit status {code}")


@asynccontextmanager
async def open_search(command: Sequence[str], *, cwd: Path, names: IO[bytes] | None = None) -> AsyncGenerator[Search]:
    """Start a search; end its process and wait for that on the way out, however it is left.

    Args:
        command: Program and arguments.
        cwd: Where it is started.
        names: What it reads on standard input; nothing, if None.

    Raises:
        OSError: It could not be started. There is no process.
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL if names is None else names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Search(process)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(_ENDING_S, shield=True):
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.aclose()
            await process.stderr.aclose()
            await process.wait()
