"""The base of every type on the wire.

Frozen, keyword-only, camelCase outside and snake_case inside. A field that is
`UNSET` is absent from the JSON; ``None`` is written as ``null``. Unknown
properties are ignored when decoding, as the contract asks.
"""

from typing import Annotated, TypeVar, dataclass_transform

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["UNSET", "Positive", "UnsetType", "Whole", "WireStruct", "given"]

T = TypeVar("T")

# 2**53 - 1: the largest whole number that every JSON reader holds exactly.
Whole = Annotated[int, msgspec.Meta(ge=0, le=9_007_199_254_740_991)]
"""A number in `params`, zero or more."""

Positive = Annotated[int, msgspec.Meta(ge=1, le=9_007_199_254_740_991)]
"""A number in `params`, one or more."""


# msgspec hands `frozen` down to subclasses; type checkers have to be told.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class WireStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that crosses the wire."""


def given(value: T | UnsetType | None, default: T) -> T:
    """Return ``value``, or ``default`` where it is absent or null."""
    return default if value is UNSET or value is None else value
