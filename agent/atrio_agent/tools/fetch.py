"""The tool `fetch`: what the web has at an address, as text.

It decides what of an answer is text, in which characters, and how it is shown.
Which addresses may be asked at all is decided in `web`, after names are resolved
and again after each redirect. A permission is about one host, so the tool never
goes to another one by itself.
"""

import codecs
import re
import ssl
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import trio

from atrio_agent.ask import Ask
from atrio_agent.tools.base import Place, ToolFailed, ToolInput, ToolOutcome, description_of, text_outcome
from atrio_agent.tools.markup import readable
from atrio_agent.tools.output import MAX_TITLE_CHARS, shown
from atrio_agent.tools.threads import in_files_thread
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Fetch", "FetchInput"]

_MAX_URL_CHARS: Final = 4_096
_MAX_READ_BYTES: Final = 10 * 1024 * 1024
_MAX_HTML_CHARS: Final = 4 * 1024 * 1024
_MAX_RESULT_BYTES: Final = 100_000
_LIMIT_S: Final = 30.0
_SNIFFED_BYTES: Final = 8_192
_META_BYTES: Final = 2_048

_TEXTS: Final = re.compile(
    r"text/.*|application/(.+\+)?(json|xml)|.+\+(json|xml)|application/(x-)?(javascript|ecmascript|yaml|toml|sql|sh|ndjson)"
)
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# The names by which pages say how they are written; what Python knows besides is no way to write a page.
_CHARSETS: Final = ("utf", "iso", "latin", "windows", "cp", "ascii", "us-ascii", "koi8", "gb", "big5", "shift", "euc")


class FetchInput(ToolInput):
    url: Annotated[str, msgspec.Meta(description="The address.", min_length=1, max_length=_MAX_URL_CHARS)]
    format: (
        Annotated[Literal["text", "markdown", "html"], msgspec.Meta(description="How HTML comes. Default markdown.")]
        | None
    ) = None


class Fetch:
    """Get a page.

    Args:
        loopback: Let this machine itself be asked. For tests with a server of their own.
    """

    name: str = "fetch"
    kind: ToolKind = "fetch"
    description: str = description_of("fetch")
    input_type: type[ToolInput] = FetchInput

    def __init__(self, *, loopback: bool = False) -> None:
        self._loopback = loopback
        self._ready: tuple[Any, ssl.SSLContext] | None = None

    def title(self, given: FetchInput) -> str:
        """Such as ``Fetch https://example.org/``."""
        return f"Fetch {shown(given.url, max_chars=MAX_TITLE_CHARS)}"

    def locations(self, given: FetchInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        """None: it is not in the file system."""
        return ()

    async def ask(self, given: FetchInput, place: Place) -> Ask | None:  # noqa: ARG002  a tool's signature
        """The host.

        Raises:
            ToolFailed: The address is none, or is refused as it stands.
        """
        web, _ = await self._web()
        host = str(web.checked_url(given.url, loopback=self._loopback).host)
        return Ask(action="fetch", title=self.title(given), where=host, detail=given.url)

    async def run(self, given: FetchInput, place: Place) -> ToolOutcome:
        """Get it.

        Raises:
            ToolFailed: It was not permitted, is refused, cannot be reached in time, or is no text.
        """
        if not place.permitted:
            raise ToolFailed("To fetch needs a permission that nobody has given. Nothing was fetched.")
        web, ssl_context = await self._web()
        with trio.move_on_after(_LIMIT_S):
            page = await web.fetch_page(
                given.url, max_bytes=_MAX_READ_BYTES, loopback=self._loopback, ssl_context=ssl_context
            )
            return await in_files_thread(_shown_page, page, given.format or "markdown")
        raise ToolFailed(f"{urlsplit(given.url).hostname} did not answer completely within {_LIMIT_S:.0f} s.")

    async def _web(self) -> tuple[Any, ssl.SSLContext]:
        if self._ready is None:
            self._ready = await in_files_thread(_prepare)
        return self._ready


def _prepare() -> tuple[ModuleType, ssl.SSLContext]:
    web = import_module("atrio_agent.tools.web")
    return web, web.trusted()


def _shown_page(page: Any, form: str) -> ToolOutcome:
    kind, _, parameters = page.content_type.partition(";")
    kind = kind.strip().lower()
    if not _is_text(kind, page.body):
        name = shown(kind, max_chars=80) or "of a kind that is not named"
        raise ToolFailed(f"What is there is no text ({name}, {len(page.body):,} bytes). It is not shown.")
    text = _decoded(page.body, parameters, is_html="html" in kind)
    cut = page.is_cut
    is_html = "html" in kind or (not kind and text.lstrip()[:15].lower().startswith(("<!doctype html", "<html")))
    if is_html and form != "html":
        cut = cut or len(text) > _MAX_HTML_CHARS
        text = readable(
            text[:_MAX_HTML_CHARS],
            base=page.url,
            markdown=form == "markdown",
            max_chars=_MAX_RESULT_BYTES,
            check=trio.from_thread.check_cancelled,
        )
    data = text.encode("utf-8", "replace")
    if len(data) > _MAX_RESULT_BYTES or cut:
        text = data[:_MAX_RESULT_BYTES].decode("utf-8", "ignore")
        return text_outcome(
            f"{text}\n[There is more; the first {len(text.encode()):,} bytes are shown.]", truncated=True
        )
    return text_outcome(data.decode() or "[The answer is empty.]")


def _is_text(kind: str, body: bytes) -> bool:
    has_bom = body.startswith(tuple(bom for bom, _ in _BOMS))
    if b"\0" in body[:_SNIFFED_BYTES] and not has_bom:
        return False
    return not kind or _TEXTS.fullmatch(kind) is not None


def _decoded(body: bytes, parameters: str, *, is_html: bool) -> str:
    for bom, name in _BOMS:
        if body.startswith(bom):
            return body.decode(name, "replace").removeprefix("\ufeff")
    names = [_parameter(parameters.lower(), "charset=")]
    if is_html:
        names.append(_parameter(body[:_META_BYTES].decode("latin-1").lower(), "charset="))
    for name in names:
        if name.startswith(_CHARSETS) and name not in {"utf-7", "utf7"}:
            try:
                return body.decode(name, "replace")
            except (LookupError, UnicodeError):
                continue
    return body.decode("utf-8", "replace")


def _parameter(text: str, name: str) -> str:
    value = text.partition(name)[2].lstrip(" \"'")
    end = next((index for index, char in enumerate(value) if not (char.isalnum() or char in "-_.:")), len(value))
    return value[:end]
