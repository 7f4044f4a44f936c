"""``python -m atrio_server`` is ``atrio``.

Commands start a server this way, so that it is the same Python and the same
installation as their own. Nothing else is decided here.
"""

import sys

from atrio_server.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
