"""HTML as a text or as Markdown, as far as a model needs it.

Written on the standard library's parser: the small libraries for this either
bring a parser of their own or a licence that ours does not go with, and nothing
here has to be exact. Scripts, styles and other things that are not text are left
out. It never fails for what a page holds, and stops where enough is there.

It blocks for as long as the page is long: call it in a worker thread.
"""

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

__all__ = ["readable"]

_PIECE_CHARS: Final = 32 * 1024
_MAX_UNREAD_CHARS: Final = 64 * 1024
"""A tag that has not ended by then is none; the parser would look for its end again and again."""

_MAX_DEPTH: Final = 20
_MAX_URL_CHARS: Final = 2_000


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_LEFT_OUT: Final = _words("script style template svg math iframe object canvas noscript head select video audio")
_VOID: Final = _words("area base br col embed hr img input link meta source track wbr")
_BLOCKS: Final = _words(
    "address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5"
    " h6 header hr li main nav ol p pre section summary table tbody tfoot thead title tr ul"
)
_TIGHT: Final = _words("li tr dt dd tbody thead tfoot")
_MARKS: Final = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "del": "~~", "s": "~~"}
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}


def readable(
    html: str, *, base: str, markdown: bool, max_chars: int, check: Callable[[], object] = lambda: None
) -> str:
    """The text of a page.

    Args:
        html: The page.
        base: Its address, for links that are relative to it.
        markdown: Keep headings, lists, links and emphasis as Markdown.
        max_chars: Where to stop, roughly.
        check: Called now and then; what it raises ends the work.
    """
    reader = _Reader(base=base, markdown=markdown)
    for start in range(0, len(html), _PIECE_CHARS):
        check()
        reader.feed(html[start : start + _PIECE_CHARS])
        if reader.written_chars > max_chars or reader.is_stuck:
            break
    else:
        reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self, *, base: str, markdown: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._base = base
        self._markdown = markdown
        self.written_chars = 0
        self._out: list[str] = []
        self._breaks = 0
        self._space = False
        self._left_out: list[str] = []
        self._pre = 0
        self._quotes = 0
        self._lists: list[int | None] = []
        self._link: tuple[int, str] | None = None
        self._cells = 0

    @property
    def is_stuck(self) -> bool:
        return len(self.rawdata) > _MAX_UNREAD_CHARS and self.cdata_elem is None

    def text(self) -> str:
        self._end_link()
        return "".join(self._out).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and self._left_out == ["head"]:
            self._left_out.clear()
            self._block(2)
            self._mark("# ")
            return
        if tag in _LEFT_OUT or self._left_out:
            if tag == "body":
                self._left_out.clear()
            elif tag not in _VOID:
                if len(self._left_out) < _MAX_DEPTH:
                    self._left_out.append(tag)
                return
            else:
                return
        self._open(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if self._left_out:
            if tag in self._left_out:
                while self._left_out.pop() != tag:
                    pass
            return
        if tag == "title":
            self._block(2)
            self._left_out.append("head")
        elif tag == "a":
            self._end_link()
        elif tag in _MARKS:
            self._mark(_MARKS[tag], closing=True)
        elif tag == "pre" and self._pre:
            self._pre -= 1
            if self._markdown:
                self._write_line("```")
        elif tag in {"ul", "ol"} and self._lists:
            self._lists.pop()
        elif tag == "blockquote" and self._quotes:
            self._quotes -= 1
        if tag in _BLOCKS:
            self._block(1 if tag in _TIGHT or (tag in {"ul", "ol"} and self._lists) else 2)

    def handle_data(self, data: str) -> None:
        if self._left_out or not data:
            return
        if self._pre:
            for index, line in enumerate(data.split("\n")):
                if index:
                    self._breaks += 1
                if line:
                    self._write(line)
            return
        words = data.split()
        self._space = self._space or data[0].isspace()
        if words:
            self._write(" ".join(words))
            self._space = data[-1].isspace()

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in _BLOCKS:
            self._block(1 if tag in _TIGHT or (tag in {"ul", "ol"} and self._lists) else 2)
        if tag == "br":
            self._breaks = max(self._breaks, 1)
        elif tag == "hr":
            self._mark("---")
            self._block(2)
        elif tag in _HEADINGS:
            self._mark(_HEADINGS[tag])
        elif tag in _MARKS:
            self._mark(_MARKS[tag])
        elif tag == "a":
            self._end_link()
            self._link = (len(self._out), attributes.get("href") or "")
        elif tag == "img" and (alt := (attributes.get("alt") or "").strip()):
            self._write(f"[image: {alt}]")
        elif tag == "pre":
            if self._markdown:
                self._write_line("```")
            self._pre += 1
        elif tag == "blockquote":
            self._quotes = min(self._quotes + 1, _MAX_DEPTH)
        else:
            self._open_row(tag)

    def _open_row(self, tag: str) -> None:
        """What lists and tables are made of."""
        if tag in {"ul", "ol"}:
            if len(self._lists) < _MAX_DEPTH:
                self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "tr":
            self._cells = 0
        elif tag in {"td", "th"}:
            if self._cells:
                self._space = False
                self._write(" | ")
            self._cells += 1

    def _item(self) -> None:
        number = self._lists[-1] if self._lists else None
        if number is not None:
            number += 1
            self._lists[-1] = number
        indent = "  " * max(0, len(self._lists) - 1)
        self._write(indent + ("- " if number is None else f"{number}. "))
        self._space = False

    def _end_link(self) -> None:
        if self._link is None:
            return
        (start, href), self._link = self._link, None
        if not self._markdown or not href or href.startswith(("#", "javascript:", "data:")):
            return
        said = "".join(self._out[start:])
        text = " ".join(said.split())
        if text:
            before = said[: len(said) - len(said.lstrip())]
            try:
                url = urljoin(self._base, href.strip())[:_MAX_URL_CHARS]
            except ValueError:
                return
            self._out[start:] = [f"{before}[{text}]({url})"]

    def _block(self, breaks: int) -> None:
        self._breaks = max(self._breaks, breaks)
        self._space = False

    def _mark(self, mark: str, *, closing: bool = False) -> None:
        """Marks are Markdown's; a text goes without."""
        if not self._markdown or self._pre:
            return
        if closing:
            self._out.append(mark)
        else:
            self._write(mark)
            self._space = False

    def _write_line(self, line: str) -> None:
        self._breaks = max(self._breaks, 1)
        self._write(line)
        self._breaks = 1

    def _write(self, text: str) -> None:
        if self._breaks and self._out:
            self._out.append("\n" * self._breaks + "> " * self._quotes)
        elif self._space and self._out:
            self._out.append(" ")
        elif not self._out:
            self._out.append("> " * self._quotes)
        self._breaks, self._space = 0, False
        self._out.append(text)
        self.written_chars += len(text)
