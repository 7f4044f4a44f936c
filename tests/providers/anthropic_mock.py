"""A small server that speaks Anthropic's HTTP API: `/v1/messages`, streamed.

Tests run it inside their own event loop (`open_anthropic_mock`). What a request
gets is chosen by its model name, ``BEHAVIOUR,key=value,…``, as in the mock of
OpenAI's API, whose server it uses; a name that begins with ``claude-`` is a
behaviour too where it is registered, and else answers with the newest text.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from providers.openai_mock import Answer, MockServer, behaviour, open_mock, sse

__all__ = ["MockAnthropic", "open_anthropic_mock"]

_PATH = "/v1/messages"


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + sse(msgspec.json.encode({"type": kind} | fields))


def _start(**usage: int) -> bytes:
    counts = {"input_tokens": 7, "output_tokens": 1} | usage
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "mock", "content": [], "usage": counts}
    return _event("message_start", message=message)


def _begin(index: int, kind: str, **fields: Any) -> bytes:
    return _event("content_block_start", index=index, content_block={"type": kind} | fields)


def _delta(index: int, kind: str, **fields: Any) -> bytes:
    return _event("content_block_delta", index=index, delta={"type": kind} | fields)


def _end(index: int) -> bytes:
    return _event("content_block_stop", index=index)


def _text(index: int, *pieces: str) -> bytes:
    deltas = b"".join(_delta(index, "text_delta", text=piece) for piece in pieces)
    return _begin(index, "text", text="") + deltas + _end(index)


def _thought(index: int, *pieces: str, signature: str = "signed") -> bytes:
    deltas = b"".join(_delta(index, "thinking_delta", thinking=piece) for piece in pieces)
    signed = _delta(index, "signature_delta", signature=signature)
    return _begin(index, "thinking", thinking="", signature="") + deltas + signed + _end(index)


def _call(index: int, call_id: str, name: str, *pieces: str) -> bytes:
    deltas = b"".join(_delta(index, "input_json_delta", partial_json=piece) for piece in pieces)
    return _begin(index, "tool_use", id=call_id, name=name, input={}) + deltas + _end(index)


def _stop(reason: str, tokens: int | None = 3, **fields: Any) -> bytes:
    usage = {} if tokens is None else {"usage": {"output_tokens": tokens}}
    delta = {"stop_reason": reason, "stop_sequence": None} | fields
    return _event("message_delta", delta=delta, **usage) + _event("message_stop")


_PING = _event("ping")


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


# What goes well.


@behaviour("echo", _PATH)
async def _echo(answer: Answer) -> None:
    content = next(message["content"] for message in reversed(answer.body["messages"]) if message["role"] == "user")
    text = next((block["text"] for block in reversed(content) if block["type"] == "text"), "")
    await answer.say(_start(), _PING, _text(0, *text.splitlines(keepends=True)), _stop("end_turn"))


@behaviour("cached", _PATH)
async def _cached(answer: Answer) -> None:
    counts = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    await answer.say(_start(**counts), _text(0, "hi"), _stop("end_turn", 4))


@behaviour("tools", _PATH)
async def _tools(answer: Answer) -> None:
    """Two calls at once, their pieces in turn; and one without input."""
    await answer.say(
        _start(),
        _text(0, "looking"),
        _begin(1, "tool_use", id="toolu_a", name="read", input={}),
        _begin(2, "tool_use", id="toolu_b", name="ls", input={}),
        _delta(1, "input_json_delta", partial_json=""),
        _delta(1, "input_json_delta", partial_json='{"pa'),
        _delta(2, "input_json_delta", partial_json='{"depth":'),
        _delta(1, "input_json_delta", partial_json='th":"a.py"}'),
        _delta(2, "input_json_delta", partial_json="2}"),
        _end(1),
        _end(2),
        _call(3, "toolu_c", "todos"),
        _stop("tool_use"),
    )


@behaviour("claude-sonnet-5-5", _PATH)
async def _thinker(answer: Answer) -> None:
    """Thinks, some of it hidden, and calls a tool; asked again with the result, thinks and answers."""
    results = [block for message in answer.body["messages"] for block in message["content"] if "tool_use_id" in block]
    if results:
        await answer.say(_start(), _thought(0, "so", signature="s2"), _text(1, "42"), _stop("end_turn"))
        return
    await answer.say(
        _start(),
        _thought(0, "let me ", "see"),
        _begin(1, "redacted_thinking", data="hidden"),
        _end(1),
        _text(2, "looking"),
        _call(3, "toolu_a", "read", '{"path":', '"a.py"}'),
        _stop("tool_use"),
    )


@behaviour("claude-forgetful-5", _PATH)
async def _forgetful(answer: Answer) -> None:
    """Thinks like the one before, and refuses what it thought."""
    if any(block["type"] == "thinking" for message in answer.body["messages"] for block in message["content"]):
        body = msgspec.json.encode(_error("invalid_request_error", "Invalid `signature` in `thinking` block."))
        await answer.whole(400, "application/json", body)
    else:
        await _thinker(answer)


@behaviour("odd", _PATH)
async def _odd(answer: Answer) -> None:
    """What an answer may hold beside what is known: ``shape`` says what."""
    pieces = {
        "kinds": (_begin(0, "new_kind", what=1), _delta(0, "new_delta", x=1), _end(0), _event("new"), _text(1, "hi")),
        "input-at-once": (_begin(0, "tool_use", id="a", name="read", input={"path": "x"}), _end(0)),
        "same-id": (_call(0, "a", "read", "{}"), _call(1, "a", "ls", "{}")),
        "no-end": (
            _begin(0, "tool_use", id="a", name="read", input={}),
            _delta(0, "input_json_delta", partial_json="{}"),
        ),
        "no-name": (_begin(0, "tool_use", id="a", name="", input={}),),
        "no-start": (_delta(4, "text_delta", text="hi"),),
        "text-at-once": (_begin(0, "text", text="hi"), _end(0)),
    }[answer.options["shape"]]
    await answer.say(_start(), *pieces, _stop("end_turn"))


@behaviour("finish", _PATH)
async def _finish(answer: Answer) -> None:
    """One word, then the stop reason ``reason``."""
    details = {"type": "refusal", "category": "cyber"} if "details" in answer.options else None
    await answer.say(_start(), _text(0, "word"), _stop(answer.options["reason"], stop_details=details))


@behaviour("refusal", _PATH)
async def _refusal(answer: Answer) -> None:
    """Refuses: after a text, or where ``at`` says: ``once``, or in the middle of a ``call``."""
    if answer.options.get("at") == "once":
        await answer.say(_start(), _stop("refusal"))
        return
    half_a_call = (
        _begin(1, "tool_use", id="a", name="read", input={}),
        _delta(1, "input_json_delta", partial_json="{"),
    )
    call = half_a_call if answer.options.get("at") == "call" else ()
    await answer.say(_start(), _text(0, "I will ", "not."), *call, _stop("refusal"))


@behaviour("no-usage", _PATH)
async def _no_usage(answer: Answer) -> None:
    await answer.say(_event("message_start", message={"role": "assistant"}), _text(0, "word"), _stop("end_turn", None))


@behaviour("lingering", _PATH)
async def _lingering(answer: Answer) -> None:
    """Says that it is done, and does not end."""
    await answer.begin(_start(), _text(0, "all said"), _stop("end_turn"))
    await answer.until_client_leaves()


# What goes wrong.


@behaviour("status", _PATH)
async def _status(answer: Answer) -> None:
    """The HTTP status ``status`` with the error type ``type``; the rest as in the mock of OpenAI."""
    status, message, headers = answer.failing()
    body = msgspec.json.encode(_error(answer.options.get("type", "mock_error"), message))
    await answer.whole(status, "application/json", body, *headers)


@behaviour("html", _PATH)
async def _html(answer: Answer) -> None:
    await answer.whole(200, "text/html", b"<html>Welcome</html>")


@behaviour("hang", _PATH)
async def _hang(answer: Answer) -> None:
    """A first word, then silence."""
    await answer.begin(_start(), _begin(0, "text", text=""), _delta(0, "text_delta", text="first"))
    await answer.until_client_leaves()


@behaviour("mute", _PATH)
async def _mute(answer: Answer) -> None:
    """Not even a head."""
    await answer.until_client_leaves()


@behaviour("cut", _PATH)
async def _cut(answer: Answer) -> None:
    """A word, then the end of the connection; ``how`` is ``close``, ``reset`` or ``end`` (a proper end of the body)."""
    await answer.begin(_start(), _begin(0, "text", text=""), _delta(0, "text_delta", text="half"))
    match answer.options["how"]:
        case "end":
            await answer.end()
        case "reset":
            answer.reset()
        case _:
            pass


@behaviour("raw", _PATH)
async def _raw(answer: Answer) -> None:
    """A word, then an event that is none: ``what`` says which."""
    bad = {
        "malformed": b'{"type": "content_block_delta", "delta": {"te',
        "wrong-type": b'{"type": "content_block_delta", "index": "one"}',
        "long": b'"' + b"x" * (10 * 1024 * 1024),
        "error": msgspec.json.encode(_error(answer.options.get("type", "api_error"), "mock broke")),
    }[answer.options["what"]]
    await answer.say(_start(), _text(0, "word"), sse(bad))


class MockAnthropic(MockServer):
    """The Anthropic mock. ``url`` is what goes into ``ANTHROPIC_BASE_URL``."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def open_anthropic_mock() -> AsyncGenerator[MockAnthropic]:
    """Run the server on a free loopback port until the context is left."""
    async with open_mock(MockAnthropic) as mock:
        yield mock
