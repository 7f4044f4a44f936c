"""What the mock of OpenAI's API answers at `/v1/responses`; importing this teaches it.

The behaviours have the names that they have for chat completions, with ``gpt-5-``
before them, because only models that reason are asked here. The model
``gpt-5-elsewhere`` is not known here and is at `/v1/chat/completions`.
"""

from typing import Any

import msgspec

from providers.openai_mock import Answer, behaviour, sse

__all__ = ["PATH"]

PATH = "/v1/responses"


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + sse(msgspec.json.encode({"type": kind} | fields))


_CREATED = _event("response.created", response={"id": "r", "status": "in_progress"})


def _item(index: int, item: dict[str, Any], *deltas: bytes, **at_first: Any) -> bytes:
    added = _event("response.output_item.added", output_index=index, item=item | at_first)
    return added + b"".join(deltas) + _event("response.output_item.done", output_index=index, item=item)


def _message(index: int, *pieces: str) -> bytes:
    deltas = [_event("response.output_text.delta", output_index=index, delta=piece) for piece in pieces]
    content = [{"type": "output_text", "text": "".join(pieces), "annotations": []}]
    return _item(index, {"type": "message", "id": "m", "role": "assistant", "content": content}, *deltas)


def _reasoning(index: int, *pieces: str, encrypted: str | None = "secret") -> bytes:
    deltas: list[bytes] = []
    for number, piece in enumerate(pieces):
        deltas += [
            _event("response.reasoning_summary_part.added", output_index=index, summary_index=number),
            _event("response.reasoning_summary_text.delta", output_index=index, summary_index=number, delta=piece),
        ]
    summary = [{"type": "summary_text", "text": piece} for piece in pieces]
    return _item(index, {"type": "reasoning", "id": "rs", "summary": summary, "encrypted_content": encrypted}, *deltas)


def _arguments(index: int, piece: str) -> bytes:
    return _event("response.function_call_arguments.delta", output_index=index, delta=piece)


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": arguments}


def _completed(output: int = 3) -> bytes:
    details = {"cached_tokens": 4, "cache_write_tokens": 1}
    usage = {"input_tokens": 7, "input_tokens_details": details, "output_tokens": output, "total_tokens": 10}
    return _event("response.completed", response={"id": "r", "status": "completed", "usage": usage})


# What goes well.


@behaviour("echo", PATH)
async def _echo(answer: Answer) -> None:
    content = next(item["content"] for item in reversed(answer.body["input"]) if item.get("role") == "user")
    await answer.say(_CREATED, _message(0, *content[-1].get("text", "").splitlines(keepends=True)), _completed())


@behaviour("gpt-5-elsewhere", PATH)
async def _elsewhere(answer: Answer) -> None:
    await answer.error(404, "Invalid URL (POST /v1/responses)")


@behaviour("gpt-5-nobody", PATH)
async def _nobody(answer: Answer) -> None:
    await answer.error(404, "no such model", code="model_not_found")


@behaviour("gpt-5-unverified", PATH)
async def _unverified(answer: Answer) -> None:
    """Gives no summaries of what it reasons."""
    if "summary" in answer.body.get("reasoning", {}):
        await answer.error(400, "verify your organization", param="reasoning.summary")
    else:
        await answer.say(_CREATED, _message(0, "fine"), _completed())


@behaviour("gpt-5-tools", PATH)
async def _tools(answer: Answer) -> None:
    """Reasons, and calls two tools whose pieces alternate, and one without input; with results it answers."""
    if any(item.get("type") == "function_call_output" for item in answer.body["input"]):
        await answer.say(_CREATED, _reasoning(0, "so", encrypted="more"), _message(1, "42"), _completed())
        return
    first, second = _call("call_a", "read", '{"path":"a.py"}'), _call("call_b", "ls", '{"depth":2}')
    await answer.say(
        _CREATED,
        _reasoning(0, "let me", "see"),
        _message(1, "looking"),
        _event("response.output_item.added", output_index=2, item=first | {"arguments": ""}),
        _event("response.output_item.added", output_index=3, item=second | {"arguments": ""}),
        _arguments(2, '{"pa'),
        _arguments(3, '{"depth":'),
        _arguments(2, 'th":"a.py"}'),
        _arguments(3, "2}"),
        _event("response.output_item.done", output_index=2, item=first),
        _event("response.output_item.done", output_index=3, item=second),
        _item(4, _call("call_c", "todos", "")),
        _completed(),
    )


@behaviour("gpt-5-forgetful", PATH)
async def _forgetful(answer: Answer) -> None:
    """Reasons like the one before, and refuses what it reasoned."""
    if any(item.get("type") == "reasoning" for item in answer.body["input"]):
        await answer.error(400, "The encrypted content could not be verified", code="invalid_encrypted_content")
    else:
        await _tools(answer)


@behaviour("gpt-5-odd", PATH)
async def _odd(answer: Answer) -> None:
    """What an answer may hold beside what is known: ``shape`` says what."""
    call = _call("a", "read", '{"path":"x"}')
    pieces = {
        "kinds": (_item(0, {"type": "new_kind"}), _event("response.new.delta", delta={"x": 1}), _message(1, "hi")),
        "input-at-once": (_item(0, call),),
        "same-id": (_item(0, call), _item(1, call | {"name": "ls"})),
        "no-end": (_event("response.output_item.added", output_index=0, item=call), _arguments(0, "{}")),
        "no-start": (_event("response.output_item.done", output_index=0, item=call),),
        "no-name": (_item(0, call | {"name": ""}),),
        "stray-input": (_arguments(5, "{}"),),
    }[answer.options["shape"]]
    await answer.say(_CREATED, *pieces, _completed())


@behaviour("gpt-5-incomplete", PATH)
async def _incomplete(answer: Answer) -> None:
    """One word, and not the rest, because of ``reason``; no usage."""
    response = {"status": "incomplete", "incomplete_details": {"reason": answer.options["reason"]}}
    await answer.say(_CREATED, _message(0, "word"), _event("response.incomplete", response=response))


@behaviour("gpt-5-no-usage", PATH)
async def _no_usage(answer: Answer) -> None:
    await answer.say(_CREATED, _message(0, "word"), _event("response.completed", response={"status": "completed"}))


@behaviour("gpt-5-refusal", PATH)
async def _refusal(answer: Answer) -> None:
    deltas = [_event("response.refusal.delta", output_index=0, delta=piece) for piece in ("I will ", "not.")]
    await answer.say(_CREATED, *deltas, _completed())


# What goes wrong.


@behaviour("gpt-5-mute", PATH)
async def _mute(answer: Answer) -> None:
    """Not even a head."""
    await answer.until_client_leaves()


@behaviour("gpt-5-status", PATH)
async def _status(answer: Answer) -> None:
    """As the behaviour ``status``."""
    status, message, headers = answer.failing()
    await answer.error(status, message, *headers, code=answer.options.get("code"))


@behaviour("gpt-5-hang", PATH)
async def _hang(answer: Answer) -> None:
    await answer.begin(_CREATED, _event("response.output_text.delta", output_index=0, delta="first"))
    await answer.until_client_leaves()


@behaviour("gpt-5-cut", PATH)
async def _cut(answer: Answer) -> None:
    await answer.begin(_CREATED, _event("response.output_text.delta", output_index=0, delta="half"))
    if answer.options["how"] == "end":
        await answer.end()
    elif answer.options["how"] == "reset":
        answer.reset()


@behaviour("gpt-5-raw", PATH)
async def _raw(answer: Answer) -> None:
    """A word, then an event that is none: ``what`` says which."""
    code = answer.options.get("code", "server_error")
    bad = {
        "malformed": sse(b'{"type": "response.output_text.delta", "delta": "te'),
        "long": sse(b'"' + b"x" * (10 * 1024 * 1024)),
        "failed": _event("response.failed", response={"error": {"code": code, "message": "mock broke"}}),
        "error": _event("error", code=code, message="mock broke"),
    }[answer.options["what"]]
    await answer.say(_CREATED, _message(0, "word"), bad)
