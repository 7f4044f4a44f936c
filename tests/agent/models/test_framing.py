"""Chunked coding and server-sent events, cut at any place."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.models.chunked import ChunksMalformed, Dechunker
from atrio_agent.models.sse import LineTooLong, SseReader

contents = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
cuts = st.lists(st.integers(0, 400), max_size=12)


def cut_up(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    ends = sorted({place for place in at if 0 < place < len(data)})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(contents, cuts, st.binary(max_size=20))
def test_a_chunked_body_is_unpacked_wherever_it_is_cut(content: list[bytes], at: list[int], after: bytes) -> None:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.next_event()
    peer.next_event()
    peer.send(h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")]))
    body = b"".join(peer.send(h11.Data(data=piece)) or b"" for piece in content)
    last = (peer.send(h11.EndOfMessage()) or b"") + after

    dechunker = Dechunker()
    rest = b""
    got: list[bytes] = []
    for piece in cut_up(body + last, at):
        if dechunker.ended:
            rest += piece
        else:
            got.append(dechunker.feed(piece))

    assert b"".join(got) == b"".join(content)
    assert dechunker.ended
    assert dechunker.rest + rest == last


def test_a_chunk_may_have_an_extension() -> None:
    assert Dechunker().feed(b"3;name=value\r\nabc\r\n") == b"abc"


@pytest.mark.parametrize("data", [b"x\r\nabc\r\n", b"+3\r\nabc\r\n", b"\r\n", b"3\r\nabcdef\r\n", b"3" * 5_000])
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(ChunksMalformed):
        Dechunker().feed(data)


payloads = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20).map(str.strip), max_size=8
)


@given(payloads, cuts, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"data: ", b"data:"]))
def test_payloads_are_found_wherever_the_stream_is_cut(
    expected: list[str], at: list[int], line_end: bytes, prefix: bytes
) -> None:
    events = [b": keep-alive" + line_end, b"event: chunk" + line_end]
    events += [prefix + payload.encode() + line_end * 2 for payload in expected]
    reader = SseReader()
    got = [payload for piece in cut_up(b"".join(events), at) for payload in reader.feed(piece)]

    assert [payload.decode().strip() for payload in got] == [payload.strip() for payload in expected]
    assert reader.end() == []


def test_a_last_line_without_an_end_counts() -> None:
    reader = SseReader()

    assert reader.feed(b"data: [DO") == []
    assert reader.feed(b"NE]") == []
    assert reader.end() == [b"[DONE]"]


@pytest.mark.parametrize("block_bytes", [1, 7, 1_000])
def test_a_line_that_will_not_end_is_refused_at_the_limit(block_bytes: int) -> None:
    reader = SseReader(max_line_bytes=100)
    for _ in range(100 // block_bytes):
        assert reader.feed(b"x" * block_bytes) == []

    with pytest.raises(LineTooLong):
        reader.feed(b"x" * block_bytes)


def test_a_line_of_exactly_the_limit_is_taken() -> None:
    reader = SseReader(max_line_bytes=100)

    assert reader.feed(b"data: " + b"x" * 94 + b"\n") == [b"x" * 94]
    with pytest.raises(LineTooLong):
        reader.feed(b"data: " + b"x" * 95 + b"\n")
