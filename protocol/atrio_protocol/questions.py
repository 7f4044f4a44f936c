"""Questions as lists and snapshots show them: all of them, and yet no frame that a client could not take.

A question may show a whole file, before and after, and any number may wait at
once. What is left out where there is no room for it is in the event that asked
and in the call's part of its message.

Invariant: no question is left out, and no id, title or option of one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import msgspec

from atrio_protocol.limits import PERMISSIONS_BYTES
from atrio_protocol.struct import UNSET
from atrio_protocol.things import Permission

__all__ = ["lean_permissions"]

_TEXT_CHARS: Final = 1_000
"""What is left of a text of the input that there is no room for."""


def lean_permissions(permissions: Sequence[Permission]) -> tuple[Permission, ...]:
    """The questions in their order; the newest are whole, as long as there is room.

    The others go without the texts of their diffs, or without diffs and with
    the beginnings of what is long in their input.
    """
    lean: list[Permission] = []
    room_bytes = PERMISSIONS_BYTES
    for permission in reversed(permissions):
        shown = _fitting(permission, room_bytes)
        room_bytes -= _size_bytes(shown)
        lean.append(shown)
    return tuple(reversed(lean))


def _fitting(permission: Permission, room_bytes: int) -> Permission:
    for shown in (permission, _without_texts(permission)):
        # Counted before it is written out: writing out all that may wait would hold up the event loop.
        if sum(_lengths(msgspec.structs.asdict(shown))) <= room_bytes and _size_bytes(shown) <= room_bytes:
            return shown
    return msgspec.structs.replace(permission, diffs=UNSET, input=_shortened(permission.input))


def _without_texts(permission: Permission) -> Permission:
    if permission.diffs is UNSET:
        return permission
    diffs = tuple(msgspec.structs.replace(diff, old_text=UNSET, new_text=UNSET) for diff in permission.diffs)
    return msgspec.structs.replace(permission, diffs=diffs)


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _TEXT_CHARS else f"{value[:_TEXT_CHARS]}…"
    if isinstance(value, list):
        return [_shortened(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _shortened(each) for key, each in cast("dict[str, Any]", value).items()}
    return value


def _lengths(value: Any) -> Iterable[int]:
    """How long each text in it is."""
    if isinstance(value, str):
        yield len(value)
    elif isinstance(value, dict):
        for each in cast("dict[str, Any]", value).values():
            yield from _lengths(each)
    elif isinstance(value, list | tuple):
        for each in cast("Sequence[Any]", value):
            yield from _lengths(each)
    elif isinstance(value, msgspec.Struct):
        yield from _lengths(msgspec.structs.asdict(value))


def _size_bytes(permission: Permission) -> int:
    return len(msgspec.json.encode(permission))
