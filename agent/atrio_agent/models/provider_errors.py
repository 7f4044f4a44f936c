"""What a provider says went wrong, as an error of the contract.

From the HTTP status, the error object and its headers alone; no SDK is needed.
The status and the error's code decide. One thing is known by its sentence only,
because compatible servers give it no code: a request that is too long.

No sentence that leaves here holds a key: what the provider said is searched for
it, since some repeat it.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from atrio_protocol.errors import (
    ContextOverflow,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    RunError,
)

__all__ = ["reported_error", "retry_after_ms", "spoken"]

_SENTENCE_CHARS: Final = 500
_PART_CHARS: Final = 8
"""A shorter word of a key would be found everywhere."""
_MAX_RETRY_AFTER_MS: Final = 24 * 3600 * 1000

_OVERFLOW_CODES: Final = {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
_OVERFLOW_WORDS: Final = re.compile(r"context (length|size|window)|maximum context|prompt is too long", re.IGNORECASE)
_QUOTA_CODES: Final = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"}
_AUTH_CODES: Final = {"invalid_api_key", "authentication_error", "permission_denied", "permission_error"}
_OUR_FAULT: Final = {"invalid_request_error", "invalid_prompt"}
_RATE_CODES: Final = {"rate_limit_exceeded", "rate_limit_error", "too_many_requests"}


def spoken(text: str, *, secret: str = "") -> str:
    """A provider's words on one line of bearable length, without the key."""
    # By its words too: a key with a line end in it, which is refused, is shown with that spelled out.
    for part in sorted({secret, *secret.split()}, key=len, reverse=True):
        if part == secret != "" or len(part) >= _PART_CHARS:
            text = text.replace(part, "[redacted]")
    text = " ".join(text.split())
    return text if len(text) <= _SENTENCE_CHARS else text[: _SENTENCE_CHARS - 1] + "…"


def reported_error(
    error: Any,
    *,
    server: str,
    status: int | None = None,
    retry_after_ms: int | None = None,
    secret: str = "",
    key_name: str = "",
) -> RunError:
    """The error that a provider reports.

    Args:
        error: The error object as the provider sent it, or any other body.
        server: Its host, for the sentence.
        status: The HTTP status; none for an error inside a stream.
        retry_after_ms: What the provider asked to wait, in milliseconds.
        secret: The key, which must not be repeated.
        key_name: The variable that holds the key, where there is one.
    """
    fields = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {"message": error}
    codes = {str(fields.get("code")), str(fields.get("type"))}
    if status is None:
        status = _status_in(fields.get("code"))
    said = spoken(str(fields.get("message") or "no reason given"), secret=secret)
    what = f"{server} said: {said}" if status is None else f"{server} answered {status}: {said}"
    if codes & _QUOTA_CODES:
        return ProviderRateLimited(f"{what} (the account's quota is used up)", retryable=False)
    if codes & _OVERFLOW_CODES or (status in {400, 413, None} and _OVERFLOW_WORDS.search(said)):
        return ContextOverflow(what)
    if status in {401, 403} or codes & _AUTH_CODES:
        return ProviderAuth(f"{what} (is {key_name or 'the key'} right, and meant for this server?)")
    if status == 429 or codes & _RATE_CODES:
        return ProviderRateLimited(what, retry_after_ms=retry_after_ms)
    if status is None:
        # In the middle of an answer it is the server's fault, unless it says that it is ours.
        return ProviderError(what, retryable=not codes & _OUR_FAULT)
    passing = status >= 500 or status in {408, 409}
    return ProviderError(what, retryable=passing, retry_after_ms=retry_after_ms if passing else None)


def _status_in(code: Any) -> int | None:
    # Gateways put the status of the provider behind them into the code.
    return code if isinstance(code, int) and 400 <= code <= 599 else None


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """How long the provider asks to wait, from its headers; None if it does not say or says nonsense."""
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return _clamped(exact)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _clamped(seconds * 1000)
    try:
        at = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return _clamped((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds() * 1000)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _clamped(milliseconds: float) -> int:
    return int(min(max(milliseconds, 0), _MAX_RETRY_AFTER_MS))
