"""What one may type that is no prompt: ``/queue``, ``/who`` and the like.

Each command is a row of `COMMANDS` and a function that does it. What a server
refuses is raised and told by whoever reads the line.
"""

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from atrio_protocol.ids import workspace_id_of
from atrio_protocol.methods import (
    ModelListParams,
    SessionParams,
    SetModelParams,
    WorkspaceParams,
)
from atrio_protocol.struct import given
from atrio_server.cli.calls import begin_shell, begin_summary
from atrio_server.cli.terminal.clean import flat
from atrio_server.cli.terminal.rows import Row, row, todo_rows

if TYPE_CHECKING:
    from atrio_server.cli.talk import Talk

__all__ = ["COMMANDS", "TalkCommand", "is_command", "new_run_id"]


class TalkCommand(NamedTuple):
    """``do`` gets what follows the name, and gives False to leave."""

    do: "Callable[[Talk, str], Awaitable[bool]]"
    usage: str
    summary: str


def is_command(line: str) -> bool:
    """Whether a line is one of the commands."""
    return line.startswith("/") and line[1:].partition(" ")[0] in COMMANDS


def new_run_id() -> str:
    """An id of our making, so that what is sent twice runs once."""
    return f"cli-{uuid.uuid4()}"


async def _help(talk: "Talk", _: str) -> bool:
    wide = max(len(command.usage) for command in COMMANDS.values())
    rows = [row("  ", (command.usage.ljust(wide), "strong"), f"  {command.summary}") for command in COMMANDS.values()]
    rows.append(row("  ", ("Alt-Enter, or \\ before Enter".ljust(wide), "strong"), "  a new line in the prompt"))
    rows.append(row("  ", ("Ctrl-C".ljust(wide), "strong"), "  cancel what runs; twice: leave"))
    talk.paper.aside(rows)
    return True


async def _queue(talk: "Talk", _: str) -> bool:
    runs = (await talk.client.call("session/queue", SessionParams(session_id=talk.session_id))).runs
    rows: list[Row] = []
    for run in runs:
        state = "runs" if run.state == "running" and not run.folded_into else "read" if run.folded_into else "waits"
        rows.append(row("  ", (state.ljust(6), "accent"), (f"{flat(run.author.name)}: ", "dim"), flat(run.prompt_text)))
    talk.paper.aside(rows or [row(("nothing runs or waits", "dim"))])
    return True


async def _who(talk: "Talk", _: str) -> bool:
    if talk.state is None:
        return True
    params = WorkspaceParams(workspace_id=talk.state.session.workspace_id)
    for client in (await talk.client.call("client/list", params)).clients:
        where = "here" if client.session_id == talk.session_id else "in this directory"
        me = " (you)" if client.client_id == talk.client.client_id else ""
        talk.paper.aside([row("  ", flat(client.name), (me, "dim"), (f"  {where}", "dim"))])
    return True


async def _cancel(talk: "Talk", rest: str) -> bool:
    cancelled = await talk.cancel("all" if rest == "all" else "mine")
    if not cancelled:
        talk.paper.say("nothing was running or waiting")
    return True


async def _clear(talk: "Talk", _: str) -> bool:
    done = await talk.client.call("session/clear_queue", SessionParams(session_id=talk.session_id))
    talk.paper.say(f"{len(done.cancelled)} taken out of the queue")
    return True


async def _model(talk: "Talk", name: str) -> bool:
    if name:
        from atrio_server.cli.running import absolute_model

        params = SetModelParams(session_id=talk.session_id, model_id=absolute_model(name))
        session = (await talk.client.call("session/set_model", params)).session
        talk.paper.say(f"model {given(session.model, name)} from the next prompt on")
        return True
    of_workspace = ModelListParams(workspace_id=workspace_id_of(talk.session_id))
    models = (await talk.client.call("model/list", of_workspace)).models
    own = given(talk.state.session.model, "") if talk.state is not None else ""
    for model in models:
        is_used = model.model_id == own or (model.default and not own)
        mark = ("* ", "accent") if is_used else ("  ", "")
        talk.paper.aside([row("  ", mark, model.model_id)])
    return True


async def _summarize(talk: "Talk", _: str) -> bool:
    talk.sent(await begin_summary(talk.client, talk.session_id, new_run_id()))
    return True


async def _shell(talk: "Talk", command: str) -> bool:
    if not command:
        talk.paper.say("say which command, as in: !git status")
        return True
    talk.sent(await begin_shell(talk.client, talk.session_id, command, new_run_id()))
    return True


async def _todos(talk: "Talk", _: str) -> bool:
    rows = todo_rows(talk.state.todos) if talk.state is not None else []
    talk.paper.aside(rows or [row(("there is no list of things to do", "dim"))])
    return True


async def _quit(_talk: "Talk", _: str) -> bool:
    return False


COMMANDS: Final[dict[str, TalkCommand]] = {
    "help": TalkCommand(_help, "/help", "this list"),
    "queue": TalkCommand(_queue, "/queue", "what runs, and what waits for its turn"),
    "who": TalkCommand(_who, "/who", "who else is here"),
    "cancel": TalkCommand(_cancel, "/cancel [all]", "cancel what runs and what you have waiting; all: others' too"),
    "clear": TalkCommand(_clear, "/clear", "take everything out of the queue that does not run yet"),
    "model": TalkCommand(_model, "/model [NAME]", "list the models, or use another one in this session"),
    "summarize": TalkCommand(_summarize, "/summarize", "put a summary in the place of what was said"),
    "shell": TalkCommand(_shell, "/shell COMMAND", "run a command here; !COMMAND does the same"),
    "todos": TalkCommand(_todos, "/todos", "what the agent has to do"),
    "quit": TalkCommand(_quit, "/quit", "leave; what runs goes on"),
}
"""Every command by its name."""
