"""Scripts and the model that plays them. All time here is virtual."""

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_agent.gates import Gates
from atrio_agent.models.base import Finish, ModelEvent, ReasoningDelta, TextDelta, UsageReport
from atrio_agent.models.script import (
    CallTool,
    Fail,
    Failure,
    Say,
    Script,
    ScriptInvalid,
    ScriptTurn,
    Step,
    Think,
    parse_script,
)
from atrio_agent.models.scripted import ScriptedModel, load_script
from atrio_protocol.errors import ERRORS, ProviderError, ProviderUnreachable, RunError
from model_calls import ask, calls_of, request, text_of


def playing(*steps: dict[str, Any], gates: Gates | None = None) -> ScriptedModel:
    """A model that answers every request with these steps."""
    script = parse_script({"turns": [{"responses": [list(steps)]}]})
    return ScriptedModel(script, model_id="script:test", gates=gates or Gates())


def with_turns(*turns: dict[str, Any]) -> ScriptedModel:
    return ScriptedModel(parse_script({"turns": list(turns)}), model_id="script:test", gates=Gates())


async def test_a_text_is_said_as_often_as_asked_with_the_delay_between(autojump_clock: MockClock) -> None:
    events = await ask(playing({"say": "tok ", "times": 200, "delayMs": 20}))

    assert events == [*[TextDelta("tok ")] * 200, Finish("end_turn")]
    assert autojump_clock.current_time() == pytest.approx(199 * 0.02)


async def test_a_text_is_cut_into_chunks_of_characters() -> None:
    events = await ask(playing({"say": "añb漢", "chunk": 3, "times": 2}, {"think": "hm", "chunk": 1}))

    pieces = [event.text for event in events if isinstance(event, TextDelta | ReasoningDelta)]
    assert pieces == ["añb", "漢", "añb", "漢", "h", "m"]


async def test_the_prompt_is_filled_in_wherever_it_is_named() -> None:
    model = playing({"think": "{{prompt}}?"}, {"say": "{{prompt}} and {{prompt}}"})

    assert await ask(model, request("x")) == [ReasoningDelta("x?"), TextDelta("x and x"), Finish("end_turn")]


async def test_a_tool_step_is_a_call_and_makes_the_response_end_with_tool_use() -> None:
    events = await ask(
        playing({"tool": "read", "input": {"path": "a.py"}}, {"tool": "ls"}, {"tool": "grep", "rawInput": '{"patt'})
    )

    assert calls_of(events) == [("read", '{"path":"a.py"}'), ("ls", "{}"), ("grep", '{"patt')]
    assert events[-1] == Finish("tool_use")


async def test_usage_and_the_reason_for_the_end_are_as_the_script_says() -> None:
    events = await ask(playing({"usage": {"input": 5, "output": 2}}, {"finish": "max_tokens"}, {"say": "never"}))

    assert events == [UsageReport(5, 2), Finish("max_tokens")]


async def test_the_first_turn_that_fits_the_first_request_serves_the_whole_run() -> None:
    model = with_turns(
        {"match": "^slow", "responses": [[{"say": "one"}], [{"say": "two {{prompt}}"}]]},
        {"responses": [[{"say": "other"}]]},
    )

    assert text_of(await ask(model, request("slow please"))) == "one"
    assert text_of(await ask(model, request("quick now", step=1))) == "two quick now"
    assert text_of(await ask(model, request("quick now", step=2))) == "two quick now"
    assert text_of(await ask(model, request("quick now", run_id="r2"))) == "other"
    assert text_of(await ask(model, request("slow", run_id="r3"))) == "one"


async def test_a_request_that_is_sent_again_takes_the_next_response() -> None:
    failing = [{"say": "half"}, {"fail": {"kind": "provider_unreachable", "message": "cut"}, "retryable": True}]
    model = with_turns({"responses": [failing, [{"say": "whole"}]]})

    events: list[ModelEvent] = []
    with pytest.raises(ProviderUnreachable) as caught:
        await ask(model, into=events)
    assert caught.value.retryable
    assert text_of(events) == "half"
    assert text_of(await ask(model)) == "whole"


async def test_a_prompt_that_no_turn_fits_is_an_error_and_takes_nothing() -> None:
    model = with_turns({"match": "^only$", "responses": [[{"say": "hi"}]]})

    with pytest.raises(ProviderError):
        await ask(model, request("else"))
    assert text_of(await ask(model, request("only"))) == "hi"


@pytest.mark.parametrize("kind", sorted(kind for kind, error in ERRORS.items() if issubclass(error, RunError)))
@pytest.mark.parametrize(("step", "retryable"), [({}, False), ({"retryable": True}, True)])
async def test_a_failure_has_the_kind_and_message_of_the_script(
    kind: str, step: dict[str, Any], retryable: bool
) -> None:
    with pytest.raises(RunError) as caught:
        await ask(playing({"fail": {"kind": kind, "message": "because", "retryAfterMs": 9}} | step))

    assert (caught.value.kind, caught.value.message) == (kind, "because")
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_ms == 9


@pytest.mark.parametrize(("after", "said"), [(0, ""), (3, "aaa"), (6, "aaaabb"), (7, "aaaabb"), (None, "aaaabb")])
async def test_a_failure_after_so_many_pieces_comes_wherever_its_step_stands(after: int | None, said: str) -> None:
    failure = {"kind": "provider_error", "message": "m"} | ({} if after is None else {"after": after})
    events: list[ModelEvent] = []
    with pytest.raises(ProviderError):
        await ask(playing({"say": "a", "times": 4}, {"say": "b", "times": 2}, {"fail": failure}), into=events)

    assert text_of(events) == said


async def test_a_gate_is_passed_when_it_is_released_and_a_stall_never(autojump_clock: MockClock) -> None:
    gates = Gates()
    model = playing({"say": "a"}, {"gate": "g"}, {"say": "b"}, {"stall": True}, gates=gates)
    events: list[ModelEvent] = []

    async with trio.open_nursery() as nursery:

        async def play() -> None:
            with trio.move_on_after(100):
                await ask(model, into=events)

        nursery.start_soon(play)
        await gates.wait_for("g", 1)
        await wait_all_tasks_blocked()
        assert text_of(events) == "a"
        assert gates.waiters() == [("g", "s", "r")]
        assert gates.release("g") == 1

    assert text_of(events) == "ab"
    assert autojump_clock.current_time() == 100


@pytest.mark.parametrize(
    ("purpose", "answer"), [("title", "please fix the parser and then tell me"), ("summary", None)]
)
async def test_a_title_and_a_summary_take_no_response_and_no_gate(purpose: str, answer: str | None) -> None:
    model = with_turns({"responses": [[{"gate": "g"}], [{"say": "second"}]]})
    prompt = "\n  please fix the parser and then tell me how it went\nthanks"

    text = text_of(await ask(model, request(prompt, purpose=purpose)))

    assert text == answer if answer else "please fix the parser" in text


async def test_a_fast_text_lets_others_run() -> None:
    steps = 0
    model = playing({"say": "x", "times": 1_600})

    async with trio.open_nursery() as nursery:

        async def count() -> None:
            nonlocal steps
            while True:
                steps += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        await ask(model)
        nursery.cancel_scope.cancel()

    assert steps >= 50


async def test_what_is_remembered_of_runs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrio_agent.models.scripted._MAX_RUNS", 2)
    model = with_turns({"responses": [[{"say": "1"}], [{"say": "2"}]]})

    said = [text_of(await ask(model, request(run_id=run_id))) for run_id in ("a", "b", "a", "c", "a", "b")]

    assert said == ["1", "1", "2", "1", "2", "1"]


async def test_a_script_may_be_made_of_python_objects() -> None:
    steps: tuple[Step, ...] = (Think("hm"), Say("a", times=2), CallTool("read", {"path": "x"}))
    failing: tuple[Step, ...] = (Fail(Failure("provider_error", "m")),)
    script = Script(context_size=9_000, turns=(ScriptTurn(responses=(steps, failing)),))
    model = ScriptedModel(script, model_id="script:inline", gates=Gates())

    events = await ask(model)

    assert text_of(events) == "aa"
    assert calls_of(events) == [("read", '{"path":"x"}')]
    assert model.context_size == 9_000
    with pytest.raises(ProviderError):
        await ask(model)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([{"sya": "x"}], '/turns/0/responses/0/0: no step is named here (did you mean "say"?)'),
        (
            [{"say": "x"}, {"say": "x", "tymes": 2}],
            '/turns/0/responses/0/1/tymes: unknown name (did you mean "times"?)',
        ),
        ([{"say": "x", "times": "2"}], "/turns/0/responses/0/0/times: expected `int`, got `str`"),
        ([{"say": "x", "times": -1}], "/turns/0/responses/0/0/times: expected `int` >= 0"),
        ([{"say": "x", "gate": "g"}], "/turns/0/responses/0/0: say and gate are two steps"),
        ([{"tool": "ls", "input": [1]}], "/turns/0/responses/0/0/input: expected `object`, got `array`"),
        (
            [{"tool": "ls", "input": {}, "rawInput": ""}],
            "/turns/0/responses/0/0: input and rawInput exclude each other",
        ),
        ([{"fail": {"kind": "provider_eror"}}], '/fail/kind: not known (did you mean "provider_error"?)'),
        ([{"fail": {"kind": "provider_error", "mesage": "m"}}], '/fail/mesage: unknown name (did you mean "message"?)'),
        ([{"usage": {"input": 1, "outputs": 1}}], "/turns/0/responses/0/0/usage"),
        ([{"finish": "endturn"}], '/turns/0/responses/0/0/finish: not known (did you mean "end_turn"?)'),
        (["say"], "/turns/0/responses/0/0: an object is expected here"),
        ({"say": "x"}, "/turns/0/responses/0: a response is a list of steps"),
    ],
)
def test_a_mistake_in_a_step_is_told_with_its_place(steps: object, sentence: str) -> None:
    with pytest.raises(ScriptInvalid) as caught:
        parse_script({"turns": [{"responses": [steps]}]})

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "top level: an object is expected here"),
        ({}, "/turns: a list with at least one entry"),
        ({"turns": []}, "/turns: a list with at least one entry"),
        ({"turns": [{"responses": []}]}, "/turns/0/responses: a list with at least one entry"),
        ({"turns": [{"match": "(", "responses": [[]]}]}, "/turns/0/match: not a regular expression"),
        ({"turns": [{"match": 1, "responses": [[]]}]}, "/turns/0/match: expected `str | null`, got `int`"),
        ({"turns": [{"matches": "", "responses": [[]]}]}, '/turns/0/matches: unknown name (did you mean "match"?)'),
        ({"contextsize": 1, "turns": [{"responses": [[]]}]}, '(did you mean "contextSize"?)'),
        ({"contextSize": 0, "turns": [{"responses": [[]]}]}, "/contextSize: expected `int` >= 1"),
    ],
)
def test_a_mistake_in_the_frame_is_told_with_its_place(value: object, sentence: str) -> None:
    with pytest.raises(ScriptInvalid) as caught:
        parse_script(value)

    assert sentence in str(caught.value)


def test_python_objects_are_checked_by_the_same_rules() -> None:
    wrong: Any = 3
    with pytest.raises(ScriptInvalid, match="/turns/0/responses/0/0/say: expected `str`, got `int`"):
        ScriptedModel(Script(turns=(ScriptTurn(responses=((Say(wrong),),)),)), model_id="script:x", gates=Gates())


@pytest.mark.parametrize(("content", "sentence"), [(b"{", "not JSON"), (b"{}", "/turns"), (None, "No such file")])
def test_a_script_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ScriptInvalid) as caught:
        load_script(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_the_example_of_the_documentation_is_a_script() -> None:
    script = parse_script(
        {
            "name": "demo",
            "contextSize": 200_000,
            "turns": [
                {"match": "^slow", "responses": [[{"say": "tok ", "times": 200, "delayMs": 20}]]},
                {
                    "match": "fix",
                    "responses": [
                        [{"think": "let me look"}, {"tool": "read", "input": {"path": "a.py"}}],
                        [{"say": "done: {{prompt}}"}],
                    ],
                },
                {"responses": [[{"say": "{{prompt}}"}]]},
            ],
        }
    )

    assert (script.name, script.context_size, len(script.turns)) == ("demo", 200_000, 3)
