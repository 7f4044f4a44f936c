"""Whether a provider answers, found out with one request that costs nothing.

It asks for the list of models, or for what else tells a good key from a bad one,
and looks at the status alone. No model is asked, nothing is tried again and no
redirect is followed: it would take the key elsewhere.

Importing this module imports httpx2, so only a thread does it
(`atrio_agent.models.connection`).
"""

from typing import Final

import httpx2
import msgspec

from atrio_agent.models.connection import Address
from atrio_agent.models.sdk import HEADERS, http_client, refused, unreachable
from atrio_protocol.errors import ProviderUnreachable

__all__ = ["Probe"]

_PATHS: Final = {"anthropic": "/v1/models?limit=1", "openrouter": "/key"}
"""Where a provider is asked; OpenRouter shows its models to everybody."""
_PATH: Final = "/models"
_NOT_THERE: Final = {404, 405, 501}
_ANTHROPIC_VERSION: Final = "2023-06-01"


class Probe:
    """Asks one address. Whoever makes it closes it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http = http_client()

    async def aclose(self) -> None:
        """Close the connection without waiting for the server."""
        await self._http.aclose()

    async def ask(self, provider: str) -> bool:
        """Ask once; returns whether there is something at the path that was asked for.

        Raises:
            RunError: The server cannot be reached, or refuses.
        """
        url = self._address.base_url.rstrip("/") + _PATHS.get(provider, _PATH)
        try:
            async with self._http.stream("GET", url, headers=self._headers(provider), follow_redirects=False) as answer:
                if answer.status_code in _NOT_THERE:
                    return False
                if answer.is_success:
                    return True
                await answer.aread()
        except httpx2.TransportError as exc:
            raise unreachable(exc, self._address) from None
        except (httpx2.InvalidURL, ValueError):
            raise ProviderUnreachable(f"{self._address.url_name or 'the address'} is no address") from None
        raise refused(answer, _decoded(answer.content), self._address)

    def _headers(self, provider: str) -> dict[str, str]:
        key = self._address.key
        if provider == "anthropic":
            return HEADERS | {"anthropic-version": _ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})
        return HEADERS | ({"Authorization": f"Bearer {key}"} if key else {})


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except ValueError:
        return body.decode(errors="replace")
