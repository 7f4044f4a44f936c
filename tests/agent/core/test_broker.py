"""What the broker of permissions keeps, where no server is needed to see it."""

import weakref

import trio

from atrio_agent.ask import Ask
from atrio_agent.permissions import Broker, PermissionRules, Question
from atrio_protocol.events import PermissionRequested, PermissionResolved
from atrio_protocol.parts import Diff
from atrio_protocol.things import Grant
from atrio_protocol.who import Author


class Text(str):
    """A text whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_a_grant_that_is_taken_back_while_its_session_is_read_does_not_come_back() -> None:
    grant = Grant(
        grant_id="g",
        session_id="s",
        name="write",
        action="write",
        path="/w",
        by=Author(client_id="c", name="A"),
        at="2026-01-01T00:00:00.000Z",
    )
    broker = Broker(
        workspace_id="w", rules=PermissionRules(), publish=lambda _question, _event: None, keep=lambda _grant: None
    )
    broker.load_grants([grant])
    assert broker.revoke("g") == grant
    broker.load_grants([grant])  # read before it was taken back
    assert broker.grants("s") == () and not broker.knows_grant("g")


async def test_the_winner_of_a_question_is_remembered_and_the_change_that_it_was_about_is_not() -> None:
    asked: list[str] = []

    def publish(_question: Question, event: PermissionRequested | PermissionResolved) -> None:
        if isinstance(event, PermissionResolved):
            asked.append(event.permission_id)

    broker = Broker(workspace_id="w", rules=PermissionRules(policy="deny"), publish=publish, keep=lambda _grant: None)

    async def ask() -> weakref.ref[Text]:
        text = Text("a large file")
        ask = Ask(
            action="write",
            title="Write a",
            where="/w",
            diffs=(Diff(path="/w/a", old_text=None, new_text=text, unified=""),),
        )
        question = Question(
            session_id="s", root_session_id=None, run_id="r", tool_call_id="t", tool="write", input={}, ask=ask
        )
        with trio.fail_after(30):
            await broker.decide(question)
        return weakref.ref(text)

    change = await ask()
    assert change() is None
    late = broker.respond(asked[0], "allow_once", Author(client_id="c", name="A"))
    assert (late.resolved, late.outcome.kind, late.by) == (False, "policy", None)
