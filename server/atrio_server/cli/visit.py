"""How `atrio attach` goes: connect, find or begin the session, read what is typed, leave.

On a terminal a line is edited at the bottom while everything else scrolls above
it; otherwise each line of standard input is a prompt. Signals mean the same in
both: Ctrl-C cancels what runs, and a second one in a row leaves.
"""

import codecs
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import Final

import trio

from atrio_protocol.errors import WireError
from atrio_protocol.methods import SessionNewParams, SessionParams
from atrio_server.cli.connect import find_session, newest_session, open_connection, open_workspace, real_directory
from atrio_server.cli.failure import Exit
from atrio_server.cli.options import Target
from atrio_server.cli.talk import Talk
from atrio_server.cli.terminal.keys import Keyboard, open_keyboard, read_input
from atrio_server.cli.terminal.paper import Paper, is_interactive, open_paper
from atrio_server.client import Client, ClientError
from atrio_server.client.nursery import open_plain_nursery

__all__ = ["Visit", "visit"]

TERMINATED: Final = 128 + signal.SIGTERM
LEAVE_S: Final = 2.0
"""How long leaving may take to remove a session that nobody has used."""
LONGEST_LINE: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What `atrio attach` was asked to do. ``session`` is None for a new one."""

    session: str | None
    directory: str | None
    history: int


async def visit(order: Visit, target: Target) -> int:
    """Do it, and return the exit code."""
    with ExitStack() as stack:
        on_screen = is_interactive()
        paper = stack.enter_context(open_paper(screen=on_screen))
        keyboard = stack.enter_context(open_keyboard(pastes=True)) if on_screen else None
        async with open_connection(target) as client:
            session_id, made = await _find(client, order)
            talk = Talk(client, session_id, paper, history=order.history, directory=real_directory(order.directory))
            try:
                return await _Guest(talk, paper, keyboard).stay(fresh=made)
            finally:
                if made and not talk.was_used:
                    with trio.move_on_after(LEAVE_S, shield=True), suppress(WireError, ClientError):
                        await client.call("session/delete", SessionParams(session_id=session_id))


async def _find(client: Client, order: Visit) -> tuple[str, bool]:
    """The session's id, and whether it was made for this."""
    if order.session not in (None, "last"):
        return await find_session(client, str(order.session), order.directory), False
    if order.session == "last" and (newest := await newest_session(client, order.directory)):
        return newest, False
    opened = await open_workspace(client, order.directory)
    made = await client.call("session/new", SessionNewParams(workspace_id=opened.workspace.workspace_id))
    return made.session.session_id, True


class _Guest:
    """Somebody who is here for a while."""

    def __init__(self, talk: Talk, paper: Paper, keyboard: Keyboard | None) -> None:
        self._talk = talk
        self._paper = paper
        self._keyboard = keyboard
        self._code: int = Exit.OK
        self._scope = trio.CancelScope()
        self._warned = False
        """Ctrl-C was just pressed; another one leaves."""
        if keyboard is not None:
            from atrio_server.cli.terminal.editor import Editor

            self._editor = Editor()
            talk.on_change = self._draw

    async def stay(self, *, fresh: bool) -> int:
        """Until one leaves, the input ends, or the session is removed."""
        send, receive = trio.open_memory_channel[str](1_000)
        with self._scope:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._heed_signals, nursery)
                await self._talk.greet(fresh=fresh, is_terminal=self._keyboard is not None)
                nursery.start_soon(self._follow)
                await self._talk.attached.wait()
                nursery.start_soon(self._carry_out, receive)
                self._draw()
                async with send:
                    await (self._type(send) if self._keyboard is not None else self._read_lines(send))
        if self._talk.is_running and self._code == Exit.OK:
            self._paper.say(f"what runs goes on; `atrio attach {self._talk.session_id}` comes back to it")
        if self._talk.was_forbidden and self._keyboard is None and self._code == Exit.OK:
            return Exit.DENIED
        return self._code

    async def _follow(self) -> None:
        await self._talk.follow()
        self._scope.cancel()  # the session is no more

    async def _carry_out(self, lines: trio.MemoryReceiveChannel[str]) -> None:
        async for line in lines:
            if not await self._talk.take_line(line):
                self._scope.cancel()
        # The input has ended: what it asked for is waited for.
        await self._talk.wait_own_ended()
        self._scope.cancel()

    async def _type(self, lines: trio.MemorySendChannel[str]) -> None:
        from atrio_server.cli.terminal.editor import Left

        assert self._keyboard is not None
        while typed := await self._keyboard.read():
            self._warned = False
            for done in self._editor.feed(typed):
                if isinstance(done, Left):
                    self._scope.cancel()
                    return
                if done.text.strip():
                    await lines.send(done.text)
            if self._editor.wants_redraw:
                self._editor.wants_redraw = False
                self._paper.redraw()
            self._draw()
        self._scope.cancel()  # the terminal is gone

    async def _read_lines(self, lines: trio.MemorySendChannel[str]) -> None:
        async with aclosing(_stdin_lines()) as read:
            async for line in read:
                if line.strip():
                    await lines.send(line)

    def _draw(self) -> None:
        if self._keyboard is None:
            return
        rows, (at, column) = self._editor.rows(self._paper.columns)
        above = self._talk.bottom_rows()
        self._paper.prompt([*above, *rows], (at + len(above), column))

    async def _heed_signals(self, nursery: trio.Nursery) -> None:
        heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT, signal.SIGWINCH)
        with trio.open_signal_receiver(*heeded) as signals:
            async for number in signals:
                match number:
                    case signal.SIGCONT | signal.SIGWINCH:
                        if number == signal.SIGCONT and self._keyboard is not None:
                            self._keyboard.resume()
                        self._draw()
                        self._paper.redraw()
                    case signal.SIGINT if not self._warned and (self._keyboard is not None or self._talk.is_running):
                        self._interrupt(nursery)
                    case _:
                        self._code = Exit.INTERRUPTED if number == signal.SIGINT else TERMINATED
                        self._scope.cancel()

    def _interrupt(self, nursery: trio.Nursery) -> None:
        """Ctrl-C: drop what is typed, else cancel what runs, else say how to leave."""
        if self._keyboard is not None and self._editor.text:
            self._editor.clear()
            self._draw()
            return
        self._warned = True
        if self._talk.is_running:
            self._paper.say("cancelling; Ctrl-C again leaves")
            nursery.start_soon(self._talk.cancel, "mine")
        else:
            self._paper.say("nothing runs; Ctrl-C again, Ctrl-D or /quit leaves")


async def _stdin_lines() -> AsyncGenerator[str]:
    """The lines of standard input, as they come."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while text := await read_input(sys.stdin.fileno(), decoder):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line[:LONGEST_LINE]
    if rest:
        yield rest[:LONGEST_LINE]
