"""Methods of the contract that servers of this version do not have yet.

Their shapes are fixed, so a client may be written against them now; a server
that lacks one answers `method_not_found` and does not announce its capability.
A method moves to `atrio_protocol.methods` with the part that serves it.
"""

from atrio_protocol.methods import Method, RunResult, SessionParams
from atrio_protocol.struct import UNSET, UnsetType

__all__ = [
    "LATER_METHODS",
    "ShellParams",
]


class ShellParams(SessionParams, kw_only=True):
    command: str
    run_id: str | None | UnsetType = UNSET


LATER_METHODS: dict[str, Method] = {
    method.name: method for method in (Method("session/shell", ShellParams, RunResult, "prompt"),)
}
"""Every method that the contract has and this version lacks, by name."""
