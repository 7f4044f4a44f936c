"""Model servers on this machine: Ollama, LM Studio, llama.cpp, vLLM.

They are looked for where they listen unless told otherwise, once, within
300 ms and all at the same time. Only loopback addresses are ever asked, with
one GET each that tells them nothing. Ollama's address may be set
(``OLLAMA_HOST``): where that is another machine it is used for models that are
named, and not looked at.

All of them speak OpenAI's API, so that a model here is an `OpenAIModel`.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import trio

from atrio_agent.models.base import Model
from atrio_agent.models.catalog import takes_images_by_name
from atrio_agent.models.connection import Address
from atrio_agent.models.openai import OpenAIConnection, OpenAIModel
from atrio_protocol.errors import ModelNotFound

__all__ = ["SEARCH_S", "LocalModel", "LocalServers"]

SEARCH_S: Final = 0.3
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_MAX_MODELS: Final = 200
"""Of one server, so that a list stays one."""
_MAX_NAME_CHARS: Final = 200
_SEEING: Final = {"vision", "multimodal"}
_OLLAMA_PORT: Final = 11434
_OTHERS: Final = (("LM Studio", 1234), ("llama.cpp", 8080), ("vLLM", 8000))
"""Who usually has the port. Whoever it is, its list of models is what counts."""


class LocalModel(NamedTuple):
    """A model that was found. ``where`` is for people."""

    provider: str
    name: str
    where: str
    context_size: int | None
    takes_images: bool

    @property
    def model_id(self) -> str:
        """Such as ``ollama/llama4``."""
        return f"{self.provider}/{self.name}"


class _Server:
    def __init__(self, provider: str, title: str, origin: str, path: str) -> None:
        self.provider = provider
        self.connection = OpenAIConnection(Address(f"{origin}/v1"))
        self.where = f"{title} on {self.connection.server}"
        self.models: tuple[LocalModel, ...] = ()
        self._origin = urlsplit(origin)
        self._path = path

    async def look(self) -> None:
        """Ask for the list of models; there is none if anything is not as it should be."""
        host, port = self._origin.hostname, self._origin.port
        if self._origin.scheme != "http" or host is None or port is None or not _is_loopback(host):
            return
        try:
            # "localhost" would be looked up, in a thread.
            stream = await trio.open_tcp_stream("127.0.0.1" if host == "localhost" else host, port)
            async with stream:
                body = await _get(stream, self._origin.netloc, self._path)
            listed = msgspec.json.decode(body)
        except (OSError, trio.BrokenResourceError, ValueError, RecursionError):
            return
        self.models = tuple(self._read(listed))

    def _read(self, listed: Any) -> list[LocalModel]:
        try:
            found = msgspec.convert(listed, _Listed)
        except msgspec.ValidationError:
            return []
        entries = [*(found.models or ()), *(found.data or ())] if self.provider == "local" else found.models or ()
        known: dict[str, LocalModel] = {}
        for entry in entries:
            name = entry.id or entry.name
            if name and len(name) <= _MAX_NAME_CHARS and name.isprintable() and "embed" not in name.lower():
                size = entry.max_model_len if (entry.max_model_len or 0) > 0 else None
                known.setdefault(name, LocalModel(self.provider, name, self.where, size, entry.takes_images(name)))
        return list(known.values())[:_MAX_MODELS]


class _Details(msgspec.Struct):
    families: list[str] | None = None


class _Entry(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    max_model_len: int | None = None
    capabilities: list[str] | None = None
    details: _Details | None = None

    def takes_images(self, name: str) -> bool:
        """Whether the server says so: as a capability, or by an encoder of images in the file; else by the name."""
        families = (self.details and self.details.families) or ()
        if self.capabilities:
            return bool(_SEEING & {*self.capabilities})
        return "clip" in families or "mllama" in families or takes_images_by_name(name)


class _Listed(msgspec.Struct):
    """The answer of any of them: Ollama has ``models``, the others ``data``."""

    models: list[_Entry] | None = None
    data: list[_Entry] | None = None


class LocalServers:
    """The servers and what was found there. Whoever makes it closes it."""

    def __init__(self, environ: Mapping[str, str], *, others: tuple[tuple[str, int], ...] = _OTHERS) -> None:
        self._ollama = _Server("ollama", "Ollama", _ollama_origin(environ.get("OLLAMA_HOST", "")), "/api/tags")
        self._servers = (
            self._ollama,
            *(_Server("local", title, f"http://127.0.0.1:{port}", "/v1/models") for title, port in others),
        )

    @property
    def ollama_server(self) -> str:
        """Where Ollama is, as host and port."""
        return self._ollama.connection.server

    async def search(self) -> None:
        """Look for all of them. Takes at most 300 ms and never fails."""
        with trio.move_on_after(SEARCH_S):
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    nursery.start_soon(server.look)

    def found(self) -> tuple[LocalModel, ...]:
        """All models that were found, in the order of choice, each name once."""
        models = [model for server in self._servers for model in server.models]
        return tuple({model.model_id: model for model in reversed(models)}.values())[::-1]

    def model(self, provider: str, name: str) -> Model:
        """A model by its name: of Ollama any, of the others those that were found.

        Raises:
            ModelNotFound: No server here has it.
        """
        for server in self._servers:
            for model in server.models:
                if (model.provider, model.name) == (provider, name):
                    return OpenAIModel(
                        name,
                        server.connection,
                        context_size=model.context_size,
                        provider=provider,
                        takes_images=model.takes_images,
                    )
        if provider == "ollama":
            return OpenAIModel(name, self._ollama.connection, provider=provider)
        ports = ", ".join(str(port) for _, port in _OTHERS)
        raise ModelNotFound(
            f"No server on this machine had a model {name!r} when Atrio started (looked for on the ports {ports};"
            " for any other address set OPENAI_BASE_URL and name openai/NAME)."
        )

    async def warm(self, provider: str, name: str) -> None:
        """Load what asking this model needs."""
        for server in self._servers:
            if any((model.provider, model.name) == (provider, name) for model in server.models):
                await server.connection.client()
                return

    async def aclose(self) -> None:
        """Close the connections, all at once."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.connection.aclose)


def _ollama_origin(text: str) -> str:
    """The address in ``OLLAMA_HOST``, read as Ollama reads it."""
    text = text.strip().rstrip("/")
    scheme, given, rest = text.rpartition("://")
    if not given:
        scheme, rest = "http", text
    default_port = _OLLAMA_PORT if not given else 443 if scheme == "https" else 80
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    except ValueError:
        return f"http://127.0.0.1:{_OLLAMA_PORT}"
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - where a server listens; a client asks loopback
        host = "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _get(stream: trio.SocketStream, netloc: str, path: str) -> bytes:
    """The body of a GET, by HTTP/1.0, in which it is neither chunked nor compressed.

    Raises:
        ValueError: It is no such answer, or too large.
        OSError: Nobody answers.
    """
    head = f"GET {path} HTTP/1.0\r\nHost: {netloc}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode())
    data = bytearray()
    length: int | None = None
    while True:
        if length is None and (end := data.find(b"\r\n\r\n")) >= 0:
            length = _length(bytes(data[:end]), end + 4)
        if length is not None and len(data) >= length:
            break
        block = await stream.receive_some()
        if not block:
            break
        data += block
        if len(data) > _MAX_ANSWER_BYTES:
            raise ValueError("too large")
    return bytes(data[data.index(b"\r\n\r\n") + 4 :])


def _length(head: bytes, body_at: int) -> int:
    """Where the answer ends, in bytes from its beginning."""
    status, *lines = head.split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise ValueError("no list")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
            if length < 0:
                raise ValueError("no length")
            return body_at + length
    return _MAX_ANSWER_BYTES
