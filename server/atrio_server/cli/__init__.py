"""The command line. Each command imports what it needs when it is called, so that all of them start at once."""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. ``argv`` is without the program's name; None is the real one."""
    from atrio_server.cli.app import run_command

    return run_command(argv)
