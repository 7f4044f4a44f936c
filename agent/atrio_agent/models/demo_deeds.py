"""What the demo model does for `write` and `run`: the tools that change things, so that their questions can be seen.

As with looks, each deed is a function of the rounds of results so far. It takes
the words as they stand: there is nothing here that could misunderstand them. Who
is asked before anything happens is not decided here.
"""

import re
from typing import Final

from atrio_agent.models.demo_looks import Look
from atrio_agent.models.demo_results import Round

__all__ = ["run_deed", "write_deed"]

_WRITE: Final = re.compile(
    r"(?:(?:an? |the )?(?:new )?file )?(?:named |called )?(?P<path>\S+)"
    r"(?:\s+(?:with |saying |containing )?(?P<text>.*))?"
)
_STATUS: Final = re.compile(r"\[(?:[^\[\]]* )?Exit status (\d+)[^\[\]]*\]\s*\Z")


def write_deed(rounds: tuple[Round, ...], rest: str) -> Look:
    """Make a file of one line, or give one that is there this line as its new content."""
    asked = _WRITE.fullmatch(rest)
    if asked is None:
        return Look("Say it as in: write hello.txt hello\n")
    path, line = asked["path"].strip("\"'`"), (asked["text"] or "hello").strip().strip("\"'`")
    write = ("write", {"path": path, "content": f"{line}\n"})
    if not rounds:
        return Look(f"Writing {path}.\n", (write,))
    result = rounds[-1][0]
    if result.name == "read":
        return Look("", (write,))
    if not result.is_error:
        return Look(f"{path} is written.\n")
    if len(rounds) == 1 and "read" in result.text.lower():  # one that is there must have been read
        return Look("", (("read", {"path": path}),))
    return Look(f"It was not written. {result.text}\n")


def run_deed(rounds: tuple[Round, ...], command: str) -> Look:
    """Run a command as it stands."""
    if not rounds:
        return Look("", (("shell", {"command": command}),))
    result = rounds[0][0]
    if result.is_error:
        return Look(f"It was not run. {result.text}\n")
    status = _STATUS.search(result.text)
    return Look(f"The command ended with status {status[1]}.\n" if status else "The command has run.\n")
