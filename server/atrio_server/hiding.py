"""Hides the server's memory and environment from other processes of the same user.

A process may read ``/proc/PID/environ`` and the memory of all others of its user,
and so may any command that somebody permitted: the providers' keys stand there.
On Linux the server therefore says that it must not be dumped, as agents for keys
do. It costs core files and debuggers that attach without being root.

It is no wall against root, and hides no file. Children that start another program are
as they ever were: nothing of this is inherited.
"""

import ctypes
import sys
from typing import Final

__all__ = ["hide_process"]

_PR_SET_DUMPABLE: Final = 4


def hide_process() -> bool:
    """Hide this process, for as long as it lives. Blocks shortly.

    Returns:
        Whether the system can do it.
    """
    if sys.platform != "linux":
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
