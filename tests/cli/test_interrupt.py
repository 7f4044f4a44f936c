"""Ctrl-C strikes a command where it waits, and never what works for it beside."""

import subprocess
import sys

PROGRAM = """
import os, signal, trio
from atrio_server.cli.on_trio import run_on_trio

async def beside():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        print("went on")
        await trio.sleep_forever()
    except KeyboardInterrupt:
        print("was struck")

async def command():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside)
        try:
            await trio.sleep_forever()
        except KeyboardInterrupt:
            print("the command was struck")
            nursery.cancel_scope.cancel()

run_on_trio(command)
"""


def test_ctrl_c_strikes_the_command_and_not_what_happens_to_run() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\nthe command was struck\n", "")
