"""A nursery from which a plain error comes out as itself.

Trio wraps whatever leaves a nursery into an ExceptionGroup. The nurseries of the
client are its own affair, so its callers must not meet one: their ``except
ValueError`` round an ``async with`` has to work. Background tasks of the client
raise nothing of their own, so there is always one error that matters.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import trio

__all__ = ["open_plain_nursery"]


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that raises one error plainly instead of in a group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error = _the_one_that_matters(group)
        # Not `from group`: the error would then be inside its own cause.
        raise error from error.__cause__


def _the_one_that_matters(group: BaseExceptionGroup[BaseException]) -> BaseException:
    leaves = _leaves(group)
    for error in leaves:
        if not isinstance(error, (Exception, trio.Cancelled)):
            return error  # KeyboardInterrupt and the like
    for error in leaves:
        if not isinstance(error, trio.Cancelled):
            return error
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    found: list[BaseException] = []
    for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        found += _leaves(inner)
    return found
