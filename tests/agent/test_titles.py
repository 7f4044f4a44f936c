"""Who is asked for a title, what is taken of the answer, and what counts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from trio.testing import MockClock

from atrio_agent.models.base import Finish, Model, ModelEvent, ModelRequest, TextDelta, UsageReport
from atrio_agent.titles import make_title
from atrio_protocol.content import ContentBlock, ImageBlock, TextBlock
from atrio_protocol.errors import ProviderError

PROMPT = (TextBlock(text="Why does the parser fail?"),)


class Namer:
    """A model that says one thing, fails, or never ends."""

    provider, context_size = "test", None
    takes_images = False

    def __init__(self, *said: str, fails: bool = False, hangs: bool = False) -> None:
        self.model_id = "namer"
        self.asked = 0
        self._said = said
        self._fails = fails
        self._hangs = hangs

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        self.asked += 1
        assert request.purpose == "title"
        yield self._events()

    async def _events(self) -> AsyncIterator[ModelEvent]:
        await trio.lowlevel.checkpoint()
        if self._hangs:
            await trio.sleep_forever()
        if self._fails:
            raise ProviderError("no")
        for text in self._said:
            yield TextDelta(text)
        yield UsageReport(7, 3)
        yield Finish("end_turn")


async def title_of(*models: Namer, prompt: tuple[ContentBlock, ...] = PROMPT) -> tuple[str | None, list[UsageReport]]:
    """The title, and what was counted."""
    counted: list[UsageReport] = []

    def used(_model: Model, report: UsageReport) -> None:
        counted.append(report)

    return await make_title(models, session_id="s", run_id="", prompt=prompt, used=used), counted


async def test_the_small_model_names_the_session_and_what_it_took_is_counted() -> None:
    other = Namer("Other")
    assert await title_of(Namer('\n"Parser ', 'failure"\nmore'), other) == ("Parser failure", [UsageReport(7, 3)])
    assert other.asked == 0


async def test_where_the_small_model_fails_the_sessions_own_is_asked() -> None:
    assert (await title_of(Namer(fails=True), Namer("Mine")))[0] == "Mine"
    assert (await title_of(Namer(fails=True), Namer(fails=True)))[0] is None


async def test_a_model_that_hangs_names_nothing_and_is_given_up(autojump_clock: MockClock) -> None:
    second = Namer("Mine")
    assert (await title_of(Namer(hangs=True), second))[0] is None
    assert second.asked == 0


async def test_a_long_answer_is_cut() -> None:
    title, _ = await title_of(Namer(*["word "] * 10_000))
    assert title is not None and len(title) <= 60


async def test_a_prompt_without_words_is_not_shown_to_a_model() -> None:
    model = Namer("An image")
    assert (await title_of(model, prompt=(ImageBlock(mime_type="image/png", data="aGk="),)))[0] is None
    assert model.asked == 0
