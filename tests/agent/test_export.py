"""What the Markdown of a session makes of texts that look like Markdown themselves."""

from atrio_agent.export import export_markdown
from atrio_protocol.parts import ToolCallPart
from atrio_protocol.things import Message, Session, Usage

AT = "2026-01-01T00:00:00.000Z"


def exported(content: str) -> str:
    session = Session(
        session_id="s",
        workspace_id="w",
        title="t",
        state="idle",
        queued=0,
        viewers=0,
        message_count=1,
        usage=Usage(),
        rev=1,
        created_at=AT,
        updated_at=AT,
    )
    call = ToolCallPart(
        tool_call_id="c", name="write", title="w", kind="edit", input={"content": content}, status="completed"
    )
    message = Message(
        message_id="m", session_id="s", order=1, role="assistant", parts=(call,), created_at=AT, updated_at=AT
    )
    return export_markdown(session, [message])


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert '\n```json\n{"content":"a`b"}\n```\n' in exported("a`b")
    assert '\n`````json\n{"content":"a````b```"}\n`````\n' in exported("a````b```")


def test_a_text_of_nothing_but_backticks_is_written_out_at_once() -> None:
    # Trying one length after the other would take hours.
    assert len(exported("`" * 2_000_000)) > 6_000_000
