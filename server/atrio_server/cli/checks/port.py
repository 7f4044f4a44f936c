"""Whether a server could listen where it would by default, and if not, who does.

The address is bound for an instant and never listened on. Who has it is read
from ``/proc``, and unknown where there is none or the process is another user's.
"""

import errno
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from atrio_server.cli.checks.finding import Finding, ok, warning

__all__ = ["check_port"]

_LISTENS: Final = "0A"


def check_port(host: str, port: int) -> Finding:
    """Whether the port of `atrio serve` is free."""
    if port == 0:
        return ok("port", "any that is free")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, _, _, address in found:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            fix = "give `atrio serve` another --host or --port"
            return warning("port", f"cannot listen on {host}:{port}: {exc.strerror or exc}", fix)
        owner = _owner(port)
        fix = "stop that program, or give `atrio serve` another --port; commands start their server on a free one"
        return warning("port", f"{port} is taken by {owner or 'another program'}", fix)
    return ok("port", f"{port} is free")


def _owner(port: int) -> str:
    """Name and pid of who listens on a port; empty if that cannot be found out."""
    sockets: set[str] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{words[9]}]")
    if not sockets:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(file.readlink()) in sockets for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(errors='replace').strip()} (pid {process.name})"
    return ""
