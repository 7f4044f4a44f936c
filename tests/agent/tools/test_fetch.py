"""`fetch`: which addresses it refuses, when, and what it makes of an answer.

The server is a real one on loopback, which answers with bytes that a test
prepared; only there is loopback let in, by the tool's own switch.
"""

import gzip
import socket
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given as examples
from hypothesis import strategies as st

from atrio_agent.ask import Ask
from atrio_agent.tools import fetch as fetch_module
from atrio_agent.tools.addresses import is_odd_number, is_public
from atrio_agent.tools.base import Place, ToolFailed, ToolOutcome
from atrio_agent.tools.fetch import Fetch
from atrio_agent.tools.markup import readable
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock

LIMIT_S = 60

REFUSED = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "192.88.99.1", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "ff0e::1", "2002:7f00:1::", "2002:808:808::", "2001:0:7f00:1::", "2001:db8::1", "100::1",
    "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "no address", "",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
REFUSED_URLS = [
    "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
    "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0x7f.1/",
    "http://017700000001/", "http://0/", "http://127.0.0.1./", "http://10.0.0.1:8080/", "http://169.254.169.254/latest",
    "http://[fd00:ec2::254]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://0.0.0.0/",
    "http://127.0.0.1:80@127.0.0.1/", "http://user:pw@example.org/", "https://1.2.3.4.5/", "http://010.0.0.1/",
    "file:///etc/passwd", "ftp://example.org/", "gopher://example.org/", "data:text/plain,x", "javascript:1",
    "http://", "http:///x", "//example.org/", "example.org", "http://[::1", "http://exa mple.org:99999/", "x" * 20,
]  # fmt: skip


class Site:
    """A server that gives prepared answers, one a connection, by path."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.port = listener.socket.getsockname()[1]
        self.answers: dict[str, bytes] = {}
        self.asked: list[bytes] = []
        self.endless = False

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, body: bytes | str, kind: str = "text/plain", path: str = "/", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(data)}\r\n\r\n"
        self.answers[path] = head.encode() + data

    def redirect(self, path: str, to: str) -> None:
        self.answers[path] = (
            f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n".encode()
        )

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    piece = await stream.receive_some()
                    if not piece:
                        return
                    head += piece
                self.asked.append(head)
                await stream.send_all(self.answers[head.split()[1].decode()])
                while self.endless:
                    await stream.send_all(b"x" * 65536)
            except trio.BrokenResourceError:
                pass


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            site = Site(listener)
            nursery.start_soon(trio.serve_listeners, site.serve, [listener])
            yield site
            nursery.cancel_scope.cancel()


@pytest.fixture
def permitted(place: Place) -> Place:
    return replace(place, permitted=True)


async def fetch(url: str, place: Place, *, loopback: bool = True, **more: Any) -> ToolOutcome:
    tool = Fetch(loopback=loopback)
    given: Any = Tools([tool]).validate("fetch", {"url": url, **more})
    with trio.fail_after(LIMIT_S):
        return await tool.run(given, place)


async def text_of(url: str, place: Place, **more: Any) -> str:
    (block,) = (await fetch(url, place, **more)).content
    assert isinstance(block, TextBlock)
    return block.text


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    assert is_public(address)


def test_the_switch_for_tests_lets_in_loopback_and_nothing_else() -> None:
    assert [is_public(address, loopback=True) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    assert not any(
        is_public(address, loopback=True) for address in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "fe80::1")
    )


@examples(st.ip_addresses(v=4))
def test_no_wrapping_makes_a_refused_address_public(address: Any) -> None:
    for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(wrapped) is is_public(str(address))


def test_unusual_spellings_of_numbers_are_known() -> None:
    odd = ["0177.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "1.2.3.4.5", "010.0.0.1", "0x", "a.0x1"]
    assert all(map(is_odd_number, odd))
    assert not any(map(is_odd_number, ["127.0.0.1", "8.8.8.8", "example.org", "1and1.com", "x1", "::1"]))


@pytest.mark.parametrize("url", REFUSED_URLS)
async def test_a_refused_address_is_neither_asked_about_nor_fetched(url: str, permitted: Place) -> None:
    tool = Fetch()
    given: Any = Tools([tool]).validate("fetch", {"url": url})
    if "localhost" not in url:  # a name is looked up only when it is fetched
        with pytest.raises(ToolFailed):
            await tool.ask(given, permitted)
    with pytest.raises(ToolFailed):
        await fetch(url, permitted, loopback=False)


async def test_it_asks_for_the_host(place: Place) -> None:
    tool = Fetch()
    given: Any = Tools([tool]).validate("fetch", {"url": "https://Example.org:444/a?b#c"})
    assert await tool.ask(given, place) == Ask(
        action="fetch",
        title="Fetch https://Example.org:444/a?b#c",
        where="example.org",
        detail="https://Example.org:444/a?b#c",
    )
    with pytest.raises(ToolFailed, match="permission"):
        await tool.run(given, place)


async def test_a_name_is_refused_for_any_address_that_it_stands_for(
    permitted: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def mixed(host: str, port: int, **_: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port)),
        ]

    monkeypatch.setattr("trio.socket.getaddrinfo", mixed)
    with pytest.raises(ToolFailed, match=r"'rebinding\.example\.org' is a private or local address"):
        await fetch("http://rebinding.example.org/", permitted, loopback=False)
    assert asked == ["rebinding.example.org"]


async def test_the_connection_goes_to_the_address_that_was_checked(
    site: Site, permitted: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answer("pinned")
    asked: list[str] = []
    real = trio.socket.getaddrinfo

    async def once(host: str | None, port: int, *rest: Any, **more: Any) -> Any:
        if host != "name.example.org":
            return await real(host, port, *rest, **more)  # a number, where the connection is made
        await trio.lowlevel.checkpoint()
        asked.append(host)
        where = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, port))]

    monkeypatch.setattr("trio.socket.getaddrinfo", once)
    assert await text_of(f"http://name.example.org:{site.port}/", permitted) == "pinned"
    assert asked == ["name.example.org"]
    assert f"Host: name.example.org:{site.port}".encode() in site.asked[0]


async def test_nothing_of_ours_is_sent(site: Site, permitted: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    site.redirect("/", "/next")
    site.answer("there", path="/next")
    assert await text_of(site.url(), permitted) == "there"
    for head in site.asked:
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
        assert names <= {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"}


async def test_redirects_on_the_host_are_followed_five_times(site: Site, permitted: Place) -> None:
    for number in range(6):
        site.redirect(f"/{number}", f"/{number + 1}")
    site.answer("the end", path="/6")
    assert await text_of(site.url("/1"), permitted) == "the end"
    with pytest.raises(ToolFailed, match="more than 5 times"):
        await fetch(site.url("/0"), permitted)


@pytest.mark.parametrize(
    "to",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "//192.168.0.1/",
        "http://[fe80::1]/",
        "http://2130706433/",
    ],
)
async def test_a_redirect_to_a_private_address_is_refused(site: Site, permitted: Place, to: str) -> None:
    site.redirect("/", to)
    with pytest.raises(ToolFailed, match="refused"):
        await fetch(site.url(), permitted)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "javascript:alert(1)", "http://user:pw@127.0.0.1/", "http://["])
async def test_a_redirect_to_what_is_no_address_is_refused(site: Site, permitted: Place, to: str) -> None:
    site.redirect("/", to)
    with pytest.raises(ToolFailed):
        await fetch(site.url(), permitted)


async def test_a_redirect_to_another_host_is_told_and_not_followed(site: Site, permitted: Place) -> None:
    site.redirect("/", f"http://localhost:{site.port}/x")
    with pytest.raises(ToolFailed, match=rf"fetch http://localhost:{site.port}/x"):
        await fetch(site.url(), permitted)
    assert len(site.asked) == 1


PAGE = """<!doctype html><html><head><title>A page</title><style>p {}</style><script>if (a < b) { x("</p>") }</script>
<meta charset="utf-8"></head><body><nav><ul><li><a href="/one">One</a></li><li>Two<ul><li>deep</li></ul></li></ul></nav>
<h2>Heading &amp; more</h2><p>Some <b>bold</b>, <em>slanted</em>   text<br>and a <a href="rel?x=1">link
to it</a>.</p><pre><code>def f():
    return 1 &lt; 2</code></pre><ol><li>first</li><li>second</li></ol>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table><img src=x alt="a cat"></body></html>"""


async def test_a_page_comes_as_markdown(site: Site, permitted: Place) -> None:
    site.answer(PAGE, "text/html; charset=utf-8")
    base = f"http://127.0.0.1:{site.port}"
    assert await text_of(site.url(), permitted) == (
        f"# A page\n\n- [One]({base}/one)\n- Two\n  - deep\n\n## Heading & more\n\n"
        f"Some **bold**, *slanted* text\nand a [link to it]({base}/rel?x=1).\n\n"
        "```\ndef f():\n    return 1 < 2\n```\n\n1. first\n2. second\n\na | b\n1 | 2\n\n[image: a cat]"
    )


async def test_a_page_comes_as_text_or_as_it_is(site: Site, permitted: Place) -> None:
    site.answer(PAGE, "text/html; charset=utf-8")
    said = await text_of(site.url(), permitted, format="text")
    assert said.startswith(
        "A page\n\n- One\n- Two\n  - deep\n\nHeading & more\n\nSome bold, slanted text\nand a link to it."
    )
    assert await text_of(site.url(), permitted, format="html") == PAGE


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("text/plain; charset=iso-8859-1", b"na\xefve", "naïve"),
        ('text/plain; charset="windows-1252"', b"\x80", "€"),
        ("text/plain", "naïve".encode(), "naïve"),
        ("text/plain", b"\xff\xfea\x00b\x00", "ab"),
        ("text/plain; charset=utf-8", b"\xef\xbb\xbfx", "x"),
        ("text/plain; charset=nonsense", b"x\xff", "x\ufffd"),
        ("text/plain; charset=rot13", b"abc", "abc"),
        ("text/plain; charset=unicode_escape", b"\\x41", "\\x41"),
        ("text/plain; charset=utf-7", b"+AEE-", "+AEE-"),
        ("text/html", b"<meta charset=iso-8859-1><p>na\xefve", "naïve"),
        ("application/json", b'{"a": 1}', '{"a": 1}'),
        ("application/ld+json", b"{}", "{}"),
        ("", b"plain", "plain"),
        ("", b"<!doctype html><p>x", "x"),
        ("text/plain", b"", "[The answer is empty.]"),
    ],
)
async def test_characters_are_read_as_they_were_written(
    site: Site, permitted: Place, kind: str, body: bytes, said: str
) -> None:
    site.answer(body, kind)
    assert await text_of(site.url(), permitted) == said


@pytest.mark.parametrize(
    ("kind", "body"),
    [("image/png", b"\x89PNG"), ("application/octet-stream", b"text"), ("text/plain", b"a\0b"), ("", b"a\0b")],
)
async def test_what_is_no_text_is_refused(site: Site, permitted: Place, kind: str, body: bytes) -> None:
    site.answer(body, kind)
    with pytest.raises(ToolFailed, match="no text"):
        await fetch(site.url(), permitted)


async def test_a_long_text_is_cut_between_characters_and_that_is_said(site: Site, permitted: Place) -> None:
    site.answer("€" * 40_000)
    outcome = await fetch(site.url(), permitted)
    said = await text_of(site.url(), permitted)
    assert outcome.truncated
    assert said == "€" * 33_333 + "\n[There is more; the first 99,999 bytes are shown.]"


async def test_an_endless_answer_is_read_no_further_than_it_may_be(site: Site, permitted: Place) -> None:
    site.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    site.endless = True
    assert (await text_of(site.url(), permitted)).endswith("[There is more; the first 100,000 bytes are shown.]")


async def test_a_packed_answer_is_unpacked_no_further_than_it_may_be(site: Site, permitted: Place) -> None:
    site.answer(gzip.compress(b"packed"), Content_Encoding="gzip")
    assert await text_of(site.url(), permitted) == "packed"
    site.answer(gzip.compress(b"x" * 50_000_000), Content_Encoding="gzip")
    assert (await fetch(site.url(), permitted)).truncated
    site.answer(b"not packed", Content_Encoding="gzip")
    with pytest.raises(ToolFailed, match="cannot be understood"):
        await fetch(site.url(), permitted)
    site.answer(b"?", Content_Encoding="br")
    with pytest.raises(ToolFailed, match="packed as 'br'"):
        await fetch(site.url(), permitted)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"nonsense\r\n\r\n", "cannot be understood"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "cannot be understood"),
        (b"", "cannot be understood"),
    ],
)
async def test_an_answer_that_is_none_says_why(site: Site, permitted: Place, answer: bytes, why: str) -> None:
    site.answers["/"] = answer
    with pytest.raises(ToolFailed, match=why):
        await fetch(site.url(), permitted)


async def test_a_server_that_is_not_there_or_never_ends_is_given_up(
    site: Site, permitted: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ToolFailed, match="cannot be reached"):
            await fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", permitted)
        unused.listen()
        monkeypatch.setattr(fetch_module, "_LIMIT_S", 0.3)
        with pytest.raises(ToolFailed, match="did not answer completely"):
            await fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", permitted)


@examples(st.text(alphabet="<>/=\"' abpreulitdqoh!-&;\n", max_size=300), st.booleans())
def test_no_page_breaks_the_conversion(html: str, markdown: bool) -> None:
    readable(html, base="http://x/", markdown=markdown, max_chars=1_000)


def test_a_page_of_open_tags_ends_in_time() -> None:
    for piece in ("<a ", "<", "<!--", "<![CDATA[", "<div><ul><blockquote>", "<script>", "&", "</"):
        readable(piece * 100_000, base="http://x/", markdown=True, max_chars=10_000)
