"""How many tokens something is, when nobody counted.

A token is taken for four bytes of UTF-8, which is close for English and code
and a third low for Chinese or Japanese. An image counts as a fixed number,
whatever its size. This decides nothing but what usage shows as `estimated` and
when a context is called nearly full; a provider's own count always wins.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from atrio_agent.models.base import AssistantTurn, ModelRequest, ToolResults, Turn, UserTurn
from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceLink, TextBlock
from atrio_protocol.struct import given

__all__ = ["estimate_request", "estimate_text", "estimate_turns"]

_BYTES_PER_TOKEN: Final = 4
_IMAGE_TOKENS: Final = 1_000
_TURN_TOKENS: Final = 4
"""What the marks round a message take."""


def estimate_text(text: str) -> int:
    """Tokens of a text; at least one unless it is empty."""
    return -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)


def estimate_request(request: ModelRequest) -> int:
    """Tokens of everything that a request sends."""
    tools = sum(len(msgspec.json.encode(tool)) // _BYTES_PER_TOKEN for tool in request.tools)
    return estimate_text(request.system) + tools + estimate_turns(request.turns)


def estimate_turns(turns: Iterable[Turn]) -> int:
    """Tokens of these turns."""
    return sum(map(_turn, turns))


def _turn(turn: Turn) -> int:
    match turn:
        case UserTurn():
            inside = _blocks(turn.content)
        case AssistantTurn():
            calls = sum(len(msgspec.json.encode(call)) // _BYTES_PER_TOKEN for call in turn.calls)
            inside = estimate_text(turn.text) + calls
        case ToolResults():
            inside = sum(_blocks(result.content) + _TURN_TOKENS for result in turn.results)
    return inside + _TURN_TOKENS


def _blocks(blocks: tuple[ContentBlock, ...]) -> int:
    return sum(map(_block, blocks))


def _block(block: ContentBlock) -> int:
    match block:
        case TextBlock():
            return estimate_text(block.text)
        case ImageBlock():
            return _IMAGE_TOKENS
        case ResourceBlock(resource=resource):
            return estimate_text(resource.uri) + estimate_text(given(resource.text, ""))
        case ResourceLink():
            return estimate_text(block.uri) + estimate_text(block.name)
