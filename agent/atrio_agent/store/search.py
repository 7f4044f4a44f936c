"""What of a conversation can be searched, and how a query is read.

Searchable is what people and the model said, and titles: not reasoning, not
tool calls and not what tools returned. A query is a list of words that must all
occur in one message or title, each at least as the beginning of a word; nothing
in it is an operator. Case and accents do not count, nor does what is beyond its
first thousand characters.

Both stores use this module, so that both read a query in the same way. Nothing
here raises, whatever the query is.
"""

import unicodedata
from typing import Final

from atrio_protocol.content import TextBlock
from atrio_protocol.things import Message

__all__ = ["matches", "message_text", "query_words", "searchable_text", "words"]

LONGEST_QUERY: Final = 1_000
"""How many characters of a query are read."""


def message_text(message: Message) -> str:
    """What a message says: its text parts, one after the other."""
    return "".join(part.text for part in message.parts if isinstance(part, TextBlock))


def searchable_text(message: Message) -> str:
    """What of a message is put into the search index; empty if nothing is."""
    if message.role == "tool":
        return ""
    return "\n\n".join(part.text for part in message.parts if isinstance(part, TextBlock) and part.text)


def words(text: str) -> list[str]:
    """The words of a text as the index sees them: runs of letters and digits, small, without accents."""
    plain = "".join(char for char in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(char) != "Mn")
    return "".join(char if unicodedata.category(char)[0] in "LN" else " " for char in plain).split()


def query_words(query: str | None) -> list[str] | None:
    """The words to look for; None where a query asks for nothing. An empty list finds nothing."""
    return None if query is None or not query.strip() else words(query[:LONGEST_QUERY])


def matches(text: str, wanted: list[str]) -> bool:
    """Whether every wanted word begins some word of the text."""
    there = words(text)
    return bool(wanted) and all(any(word.startswith(want) for word in there) for want in wanted)
