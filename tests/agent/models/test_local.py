"""Model servers on this machine: who is found, who is asked, and how long that takes."""

import pytest
import trio
from trio.testing import MockClock

from atrio_agent.models.local import LocalServers
from atrio_protocol.errors import ModelNotFound
from providers.list_mock import open_list_server

MOST_S = 60
OLLAMA = b'{"models": [{"name": "llama4:latest", "model": "llama4:latest"}, {"name": "nomic-embed-text:latest"}]}'
OTHER = b'{"object": "list", "data": [{"id": "qwen", "object": "model", "max_model_len": 32768}, {"id": "bge-embed"}]}'


pytestmark = pytest.mark.usefixtures("search_s")


async def found_at(environ: dict[str, str], *ports: int) -> list[tuple[str, int | None]]:
    """What is found with these servers besides Ollama."""
    servers = LocalServers(environ, others=tuple((f"server {port}", port) for port in ports))
    with trio.fail_after(MOST_S):
        await servers.search()
    return [(model.model_id, model.context_size) for model in servers.found()]


NO_OLLAMA = {"OLLAMA_HOST": "127.0.0.1:9"}


async def test_models_of_all_servers_are_found_ollama_first_and_those_that_only_embed_are_not() -> None:
    async with open_list_server(OLLAMA) as ollama, open_list_server(OTHER) as other:
        found = await found_at({"OLLAMA_HOST": f"http://localhost:{ollama}/"}, other)

    assert found == [("ollama/llama4:latest", None), ("local/qwen", 32_768)]


async def test_whether_a_model_takes_images_is_what_the_server_says_and_else_what_its_name_tells() -> None:
    listed = (
        b'{"models": [{"name": "a", "capabilities": ["completion", "vision"]}, {"name": "c"}, {"name": "llava:7b"},'
        b' {"name": "b", "details": {"families": ["llama", "clip"]}}, {"name": "llava", "capabilities": ["tools"]}]}'
    )
    async with open_list_server(listed) as ollama:
        servers = LocalServers({"OLLAMA_HOST": f"127.0.0.1:{ollama}"}, others=())
        await servers.search()

    takes = {model.name: servers.model("ollama", model.name).takes_images for model in servers.found()}
    assert takes == {"a": True, "b": True, "llava": False, "llava:7b": True, "c": False}
    assert servers.model("ollama", "gemma3").takes_images


async def test_a_name_that_two_servers_have_is_listed_once_and_asked_at_the_first() -> None:
    async with open_list_server(OTHER) as one, open_list_server(OTHER) as two:
        servers = LocalServers(NO_OLLAMA, others=(("first", one), ("second", two)))
        await servers.search()

    assert [model.where for model in servers.found()] == [f"first on 127.0.0.1:{one}"]
    assert servers.model("local", "qwen").context_size == 32_768


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b"<html>", None),
        (b"[]", None),
        (b'{"data": 7}', None),
        (b"{}", b"HTTP/1.1 404 Not Found"),
        (OTHER, b"no HTTP at all"),
        (OTHER, b"HTTP/1.1 200 OK\r\nContent-Length: many"),
        (b"x" * 2_000_000, None),
        (b"\xff", None),
        (b"[" * 500_000, None),
        (b'{"data": [{"id": "%b"}]}' % (b"x" * 1_000), None),
        (OTHER, b"HTTP/1.1 200 OK\r\nContent-Length: -1"),
        (OTHER, b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000),
        (OTHER, b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/"),
    ],
)
async def test_a_port_where_somebody_else_answers_has_no_models(body: bytes, head: bytes | None) -> None:
    async with open_list_server(body, head=head, says_length=False) as port:
        assert await found_at(NO_OLLAMA, port) == []


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with open_list_server(OTHER, says_length=False) as port:
        assert await found_at(NO_OLLAMA, port) == [("local/qwen", 32_768)]


async def test_a_server_that_does_not_answer_is_given_up_and_the_others_are_found(
    search_s: float, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    async with open_list_server(OTHER, lets_wait=True) as slow, open_list_server(OTHER) as quick:
        servers = LocalServers(NO_OLLAMA, others=(("slow", slow), ("quick", quick)))
        with trio.fail_after(MOST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(servers.search)
                while not servers.found():
                    await trio.lowlevel.checkpoint()
                assert nursery.child_tasks  # the other one is waited for
                mock_clock.jump(search_s)

    assert [model.where for model in servers.found()] == [f"quick on 127.0.0.1:{quick}"]


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("", "127.0.0.1:11434"),
        ("0.0.0.0", "127.0.0.1:11434"),
        ("0.0.0.0:8000", "127.0.0.1:8000"),
        (":8000", "127.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000"),
        ("gpu.example", "gpu.example:11434"),
        ("http://gpu.example", "gpu.example:80"),
        ("https://gpu.example/", "gpu.example:443"),
        ("host:port", "127.0.0.1:11434"),
    ],
)
async def test_the_address_of_ollama_is_read_as_ollama_reads_it(host: str, server: str) -> None:
    assert LocalServers({"OLLAMA_HOST": host}).ollama_server == server


@pytest.mark.parametrize("host", ["192.0.2.1:11434", "gpu.example", "http://10.0.0.1", "https://127.0.0.1:11434"])
async def test_nobody_but_this_machine_is_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def refuse(asked_host: str, port: int) -> trio.SocketStream:
        asked.append(f"{asked_host}:{port}")
        raise OSError

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    assert await found_at({"OLLAMA_HOST": host}, 1234) == []
    assert asked == ["127.0.0.1:1234"]


async def test_ollama_may_be_asked_for_a_model_that_was_not_found_and_no_other_server() -> None:
    servers = LocalServers({})

    assert servers.model("ollama", "llama4").model_id == "ollama/llama4"
    with pytest.raises(ModelNotFound, match="OPENAI_BASE_URL"):
        servers.model("local", "qwen")
