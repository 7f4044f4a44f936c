"""Lists of sessions: their order, their pages, and what a search finds."""

import pytest

from atrio_agent.store.base import DeleteSessions, Store
from atrio_protocol.parts import ReasoningPart
from store_samples import put, put_session, tool_call, tool_result

EARLY = "2026-11-20T10:00:00.000Z"
LATE = "2026-11-20T11:00:00.000Z"


async def listed(store: Store, query: str | None = None, *, limit: int = 50, children: bool = False) -> list[str]:
    page = await store.sessions(query=query, limit=limit, cursor=None, children=children)
    return [row.session_id for row in page.sessions]


async def test_sessions_come_newest_updated_first(store: Store) -> None:
    await store.write_soon(put_session("s1", updated_at=EARLY)).wait()
    await store.write_soon(put_session("s2", updated_at=LATE)).wait()
    await store.write_soon(put_session("s3", updated_at=EARLY)).wait()

    assert await listed(store) == ["s2", "s3", "s1"]


async def test_sessions_updated_in_one_millisecond_keep_their_order(store: Store) -> None:
    ids = [f"s{number}" for number in range(20)]
    for session_id in ids:
        store.write_later(put_session(session_id))
    await store.write_soon(put_session("s0", rev=2, updated_at=EARLY)).wait()

    first = await listed(store)
    await store.write_soon(*(put_session(session_id, rev=3) for session_id in ids)).wait()

    assert first == list(reversed(ids))
    assert await listed(store) == first


async def test_an_update_within_the_same_millisecond_as_another_comes_first(store: Store) -> None:
    await store.write_soon(put_session("s1", updated_at=EARLY), put_session("s2", updated_at=LATE)).wait()
    await store.write_soon(put_session("s1", updated_at=LATE)).wait()

    assert await listed(store) == ["s1", "s2"]


async def test_children_are_listed_when_asked_for(store: Store) -> None:
    await store.write_soon(put_session("s1"), put_session("s2", parent_session_id="s1", root_session_id="s1")).wait()

    assert await listed(store) == ["s1"]
    assert await listed(store, children=True) == ["s2", "s1"]


async def test_pages_neither_repeat_nor_skip_what_does_not_move(store: Store) -> None:
    await store.write_soon(*(put_session(f"s{number:02}", updated_at=EARLY) for number in range(10))).wait()
    seen: list[str] = []
    cursor: str | None = None
    for moving in ("s09", "s00", "s04"):
        page = await store.sessions(query=None, limit=3, cursor=cursor, children=False)
        seen += [row.session_id for row in page.sessions]
        await store.write_soon(put_session(moving, updated_at=LATE)).wait()
        cursor = page.next_cursor or None

    assert cursor is None
    assert len(seen) == len(set(seen))
    assert set(seen) >= {f"s{number:02}" for number in range(10)} - {"s00"}


async def test_the_last_page_has_no_cursor(store: Store) -> None:
    await store.write_soon(*(put_session(f"s{number}") for number in range(4))).wait()

    first = await store.sessions(query=None, limit=2, cursor=None, children=False)
    assert isinstance(first.next_cursor, str)
    second = await store.sessions(query=None, limit=2, cursor=first.next_cursor, children=False)

    assert [row.session_id for row in (*first.sessions, *second.sessions)] == ["s3", "s2", "s1", "s0"]
    assert not second.next_cursor


@pytest.mark.parametrize(
    "cursor", ["", "x", "%%%", "e30", "W10", "\N{SNOWMAN}", "WyJhIiwtMV0", "WyJhIiw5OTk5OTk5OTk5OTk5OTk5OTk5OTk5XQ"]
)
async def test_a_cursor_that_is_not_ours_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await store.sessions(query=None, limit=2, cursor=cursor, children=False)


async def test_a_search_finds_titles_and_what_was_said(store: Store) -> None:
    await store.write_soon(
        put_session("s1", title="Fix the parser"),
        put_session("s2", title="Something else"),
        put_session("s3", title="A third"),
        put("m2", "Why does the PARSER fail?", session_id="s2", role="user", final=True),
        put("m3", "not final: parser", session_id="s3"),
    ).wait()

    assert await listed(store, "parser") == ["s2", "s1"]
    assert await listed(store, "fix parser") == ["s1"]
    assert await listed(store, "pars") == ["s2", "s1"]
    assert await listed(store, "arser") == []


async def test_a_search_does_not_find_reasoning_or_tools(store: Store) -> None:
    await store.write_soon(
        put_session("s1"),
        put("m1", "fine", ReasoningPart(text="secretly"), tool_call("t1", input={"a": "secretly"}), final=True),
        put("m2", None, tool_result("t1", "secretly"), role="tool", order=2, final=True),
    ).wait()

    assert await listed(store, "secretly") == []
    assert await listed(store, "fine") == ["s1"]


async def test_a_search_finds_what_is_there_now(store: Store) -> None:
    await store.write_soon(put_session("s1", title="before"), put("m1", "apples", final=True)).wait()
    await store.write_soon(put_session("s1", title="after"), put("m1", "pears", final=True)).wait()
    await store.write_soon(put("m1", "pears", tool_call("t1"))).wait()

    assert await listed(store, "before") == []
    assert await listed(store, "after") == ["s1"]
    assert await listed(store, "apples") == []
    assert await listed(store, "pears") == ["s1"]


async def test_a_search_finds_nothing_of_what_was_deleted(store: Store) -> None:
    await store.write_soon(put_session("s1", title="alpha"), put("m1", "beta", final=True)).wait()
    await store.write_soon(DeleteSessions(session_ids=("s1",))).wait()

    assert await listed(store, "alpha") == []
    assert await listed(store, "beta") == []


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("naïve café", "NAIVE cafe"),
        ("naive cafe", "naïve"),
        ("Привет мир", "привет"),
        ("数据库 设计", "数据"),
        ("see atrio_agent/store.py", "store.py"),
        ("see atrio_agent/store.py", "atrio_agent"),
        ("it's 3.14159", "3.14"),
        ("C++ and C#", "c++"),
        ("a AND b", "AND"),
        ('he said "hello"', '"hello'),
        ("near enough", "NEAR(enough)"),
        ("col:umn", "col:umn"),
        ("x*y", "x*"),
    ],
)
async def test_a_search_reads_a_query_as_words(store: Store, text: str, query: str) -> None:
    await store.write_soon(put_session("s1"), put("m1", text, final=True)).wait()

    assert await listed(store, query) == ["s1"]


@pytest.mark.parametrize("query", ["", "   ", None])
async def test_a_search_for_nothing_lists_everything(store: Store, query: str | None) -> None:
    await store.write_soon(put_session("s1")).wait()

    assert await listed(store, query) == ["s1"]


@pytest.mark.parametrize(
    "query",
    [
        '"',
        '""',
        "'",
        "*",
        "^",
        "-",
        "(",
        ")",
        "NOT",
        "OR OR",
        "AND",
        "NEAR(",
        "a NEAR/3 b",
        "text:",
        "{a b} : c",
        "\\",
        "%_",
        "\x00",
        "a\x00b",
        "\ud800",
        "\u0301",
        "😀",
        "'; DROP TABLE sessions; --",
        "x" * 100_000,
        "y " * 2_000,
    ],
)
async def test_no_query_is_too_odd(store: Store, query: str) -> None:
    await store.write_soon(put_session("s1", title="plain"), put("m1", "plain", final=True)).wait()

    assert await listed(store, query) == []
