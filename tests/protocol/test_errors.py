"""The error kinds, against a table that was copied from the contract by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrio_protocol.errors import (
    ERRORS,
    ErrorObject,
    Exhausted,
    InvalidParams,
    NotFound,
    ProviderError,
    QueueFull,
    RunError,
    StateConflict,
    WireError,
    error_from_object,
)
from protocol_values import texts

CODES = {
    -32700: ["parse_error"],
    -32600: ["invalid_request", "not_initialized", "already_initialized"],
    -32601: ["method_not_found"],
    -32602: [
        "invalid_params",
        "empty_prompt",
        "session_missing",
        "path_required",
        "path_not_found",
        "path_not_allowed",
        "invalid_client_id",
        "invalid_option",
        "prompt_too_large",
    ],
    -32603: ["internal"],
    -32000: ["auth_required"],
    -32003: ["forbidden"],
    -32002: [
        "workspace_not_found",
        "session_not_found",
        "run_not_found",
        "permission_not_found",
        "message_not_found",
        "model_not_found",
    ],
    -32010: [
        "workspace_closing",
        "server_closing",
        "agent_not_initialized",
        "session_busy",
        "idempotency_conflict",
        "not_attached",
        "server_not_idle",
    ],
    -32020: ["queue_full", "too_many_connections", "overloaded", "storage_unavailable"],
    -32022: ["unsupported_protocol"],
    -32800: ["request_cancelled"],
    -32030: [
        "provider_error",
        "provider_auth",
        "provider_rate_limited",
        "provider_unreachable",
        "context_overflow",
        "loop_detected",
        "agent_failed",
    ],
}


def test_every_kind_of_the_contract_is_there_with_its_code_and_no_other() -> None:
    assert {kind: cls.code for kind, cls in ERRORS.items()} == {
        kind: code for code, kinds in CODES.items() for kind in kinds
    }


def test_a_kind_belongs_to_the_group_that_its_code_says() -> None:
    groups = {-32602: InvalidParams, -32002: NotFound, -32010: StateConflict, -32020: Exhausted, -32030: RunError}
    for kind, cls in ERRORS.items():
        assert [group for group in groups.values() if issubclass(cls, group)] == (
            [groups[cls.code]] if cls.code in groups else []
        ), kind


def test_what_is_full_or_away_is_worth_trying_again() -> None:
    assert all(ERRORS[kind].retryable for kind in CODES[-32020])
    assert not any(ERRORS[kind].retryable for kind in CODES[-32602] + CODES[-32002])


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_arrives_as_what_it_was_sent_as(kind: str) -> None:
    sent = ERRORS[kind]("Something happened.", retry_after_ms=250, path="/a", extra=[1])
    arrived = error_from_object(sent.to_object())
    assert type(arrived) is ERRORS[kind]
    assert str(arrived) == arrived.message == "Something happened."
    assert (arrived.retry_after_ms, arrived.retryable) == (250, ERRORS[kind].retryable)
    assert arrived.data == {"path": "/a", "extra": [1]}
    assert arrived.to_object() == sent.to_object()


def test_one_failure_may_be_retryable_where_its_kind_is_not() -> None:
    error = ProviderError("The provider closed the connection.", retryable=True)
    assert error.to_object().data == {"kind": "provider_error", "retryable": True}
    assert not ProviderError.retryable


def test_an_error_without_a_time_to_wait_names_none() -> None:
    assert QueueFull("The queue is full.").to_object().data == {"kind": "queue_full", "retryable": True}


def test_an_unknown_kind_keeps_what_was_sent() -> None:
    sent = ErrorObject(code=-32099, message="m", data={"kind": "from_the_future", "retryable": True, "x": 1})
    arrived = error_from_object(sent)
    assert type(arrived) not in ERRORS.values()
    assert (arrived.kind, arrived.code, arrived.retryable, arrived.data) == ("from_the_future", -32099, True, {"x": 1})


@given(
    st.dictionaries(
        texts | st.sampled_from(["kind", "message", "retryable", "retry_after_ms", "retryAfterMs", "self"]),
        st.none() | st.integers() | st.booleans() | texts | st.lists(texts),
    )
)
def test_whatever_the_data_of_an_error_holds_it_becomes_an_error(data: dict[str, Any]) -> None:
    arrived = error_from_object(ErrorObject(code=-32603, message="m", data=data))
    assert isinstance(arrived, WireError)
    arrived.to_object()
