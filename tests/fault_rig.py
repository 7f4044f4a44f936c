"""What surrounds a server, to be taken from it and given back: room on its disk, files that it may open.

Limits are set on the running process from outside, so that the product has no
hook for it. Nothing here starts or ends a server.
"""

import resource
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILE_LIMITED", "Disk", "LimitedDisk", "SmallDisk", "limit", "small_disk"]

FILE_LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
runpy.run_module("atrio_server", run_name="__main__", alter_sys=True)
"""
"""A program (``python -c``) that is a server from whose beginning no file may grow."""


@contextmanager
def limit(pid: int, what: int, value: int) -> Generator[Callable[[], None]]:
    """Limit a running process until the end of the block, or until what this gives is called."""
    soft, hard = resource.prlimit(pid, what)

    def lift() -> None:
        resource.prlimit(pid, what, (soft, hard))

    resource.prlimit(pid, what, (value, hard))
    try:
        yield lift
    finally:
        with suppress(ProcessLookupError):
            lift()


class Disk(NamedTuple):
    """A place for a state directory. ``fill`` makes it full for a process, ``free`` makes room again."""

    path: Path
    fill: Callable[[int], None]
    free: Callable[[int], None]


def LimitedDisk(path: Path) -> Disk:  # noqa: N802  reads as what it gives
    """A disk that is full because no file may be longer than a kilobyte."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path.mkdir()
    return Disk(
        path,
        fill=lambda pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, hard)) and None,
        free=lambda pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard)) and None,
    )


def SmallDisk(path: Path) -> Disk:  # noqa: N802  as above
    """A file system of its own, in ``path``, that a file fills up."""
    ballast = path / "ballast"

    def fill(_pid: int) -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65_536))
            except OSError:
                pass

    return Disk(path, fill=fill, free=lambda _pid: ballast.unlink())


@contextmanager
def small_disk(path: Path, *, size_mib: int = 16) -> Generator[Disk | None]:
    """Mount a small file system; gives None where we may not."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "atrio-test", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        done = None
    if done is None or done.returncode:
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
