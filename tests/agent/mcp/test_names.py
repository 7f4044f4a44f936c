"""Names of MCP tools, and servers that cannot be."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_agent.mcp.server import McpServer, tool_name

names = st.from_regex(r"[a-zA-Z0-9_-]{1,32}", fullmatch=True)


def test_a_plain_name_is_kept() -> None:
    assert tool_name("docs", "search", ["docs"]) == "mcp_docs_search"


@given(names, st.text(min_size=1, max_size=200), st.lists(names, max_size=3))
def test_every_name_is_one_that_providers_allow(server: str, tool: str, others: list[str]) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool_name(server, tool, [server, *others]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b.c"), ("a", "b_c")),
        (("a", "b.c"), ("a", "b c")),
        (("a", "b_c"), ("a_b", "c")),
        (("a", "x" * 100), ("a", "x" * 101)),
        (("a", "b__c"), ("a_b", "_c")),
    ],
)
def test_two_tools_never_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    servers = sorted({one[0], other[0]})
    assert tool_name(*one, servers) != tool_name(*other, servers)


@pytest.mark.parametrize(
    "parts",
    [
        {"name": "a b", "command": "x"},
        {"name": "", "command": "x"},
        {"name": "a"},
        {"name": "a", "command": "x", "url": "http://x/"},
        {"name": "a", "url": "ftp://x/"},
        {"name": "a", "url": "http:///x"},
        {"name": "a", "command": "x", "call_s": 0},
    ],
)
def test_what_makes_no_server_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="MCP server"):
        McpServer(**parts)
