"""What people say of a token that they want: its scopes, and when it ends.

Only words are read here. Whatever cannot be meant is refused with a sentence
that says what can.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Final

from atrio_protocol.methods import SCOPES, Scope
from atrio_server.cli.failure import Exit, Failure

__all__ = ["end_from", "scopes_from"]

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SPAN: Final = re.compile(r"([0-9]{1,6})\s*([mhdw])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LAST_YEAR: Final = 9998
"""Later ones are out of some time zones."""


def scopes_from(words: Sequence[str]) -> tuple[Scope, ...]:
    """Scopes, each by itself or several with commas between them.

    Raises:
        Failure: There is none, or one is unknown.
    """
    named = [name for word in words for name in re.split(r"[\s,]+", word.strip().lower()) if name]
    known: dict[str, Scope] = {scope: scope for scope in SCOPES}
    for name in named:
        if name not in known:
            near = get_close_matches(name, SCOPES, n=1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            raise Failure(Exit.USAGE, f"there is no scope {name!r}{guess}; there are {', '.join(SCOPES)}")
    if not named:
        raise Failure(Exit.USAGE, f"say what the token is for: --scope with one or more of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in named)


def end_from(text: str, now: datetime) -> datetime:
    """When something ends: in some time (``12h``, ``30d``), at a time, or with the end of a day.

    Without a zone a time, and a day, is meant in UTC.

    Raises:
        Failure: It is none of these, or is over.
    """
    text = text.strip()
    span = _SPAN.fullmatch(text.lower())
    try:
        if span:
            end = now + int(span[1]) * _UNITS[span[2]]
        elif _DATE.fullmatch(text):
            end = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1)
        else:
            end = datetime.fromisoformat(text)
            end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
        too_late = end.year > _LAST_YEAR
    except OverflowError:
        too_late, end = True, now
    except ValueError:
        sentence = f"--expires takes a time from now, such as 12h or 30d, or a date, such as 2027-01-31, not {text!r}"
        raise Failure(Exit.USAGE, sentence) from None
    if too_late:
        raise Failure(Exit.USAGE, f"--expires {text} is too far away; without --expires a token works until revoked")
    if end <= now:
        raise Failure(Exit.USAGE, f"--expires {text} is in the past; such a token would never work")
    return end.replace(microsecond=0)
