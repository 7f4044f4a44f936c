"""A server that is broken on purpose: ``python mutant_server.py NAME serve …`` is ``atrio serve …`` with one mutation.

It exists for the tests of the checker alone. The server knows nothing of it and
has no hook for it: what a mutation changes it patches from here, before the
command line begins.
"""

import sys
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    # In place of this directory, whose modules are not meant to be found by their bare names.
    sys.path[0] = str(Path(__file__).parents[1])

    from atrio_server.cli import main
    from torture.mutants import MUTANTS

    MUTANTS[sys.argv[1]].apply()
    sys.exit(main(sys.argv[2:]))
