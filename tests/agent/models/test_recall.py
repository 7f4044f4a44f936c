"""What is kept of answers: found again by the same request only, and bounded."""

from typing import Any

from atrio_agent.models.recall import Prefix, Recall

ANSWER: list[dict[str, Any]] = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
ONE, TWO = {"role": "user", "content": "one"}, {"role": "user", "content": "two"}


def test_a_place_has_the_same_key_however_it_is_reached() -> None:
    step_by_step = Prefix("model", "system")
    step_by_step.key([ONE])

    assert step_by_step.key([ONE, TWO]) == Prefix("model", "system").key([ONE, TWO])


def test_every_other_request_has_another_key() -> None:
    keys = [
        Prefix("model").key([ONE, TWO]),
        Prefix("model").key([TWO, ONE]),
        Prefix("model").key([ONE]),
        Prefix("other").key([ONE, TWO]),
        Prefix("model", "system").key([ONE, TWO]),
    ]

    assert len(set(keys)) == len(keys)


def test_an_answer_is_found_until_it_is_forgotten() -> None:
    recall = Recall()
    recall.keep(b"key", ANSWER)

    assert recall.find(b"key") == ANSWER
    assert recall.find(b"other") is None
    recall.clear()
    assert recall.find(b"key") is None


def test_a_later_answer_to_the_same_request_takes_the_place_of_the_first() -> None:
    recall = Recall()
    recall.keep(b"key", [])
    recall.keep(b"key", ANSWER)

    assert recall.find(b"key") == ANSWER


def test_where_there_is_no_room_the_one_that_was_not_needed_for_longest_goes() -> None:
    recall = Recall(max_bytes=150)
    for key in (b"1", b"2"):
        recall.keep(key, ANSWER)
    recall.find(b"1")
    recall.keep(b"3", ANSWER)

    assert [recall.find(key) is not None for key in (b"1", b"2", b"3")] == [True, False, True]


def test_an_answer_that_alone_is_too_large_is_not_kept() -> None:
    recall = Recall(max_bytes=10)
    recall.keep(b"key", ANSWER)

    assert recall.find(b"key") is None
