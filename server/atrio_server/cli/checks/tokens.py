"""The tokens that were made: whether the file of them can be believed, and which have had their time.

Nothing is told of a token but its name.
"""

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

from atrio_server.cli.checks.finding import Finding, ok, problem, warning
from atrio_server.token_files import TokenFileUnsafe
from atrio_server.token_store import TOKENS_FILE, list_tokens

__all__ = ["check_tokens"]


def check_tokens(state_dir: Path) -> Finding:
    """Whether the tokens that were made work."""
    name, path = "tokens", state_dir / TOKENS_FILE
    if not os.path.lexists(path):
        return ok(name, "none but the one above")
    try:
        records = list_tokens(state_dir)
    except TokenFileUnsafe as exc:
        quoted = shlex.quote(str(path))
        fix = f"rm {quoted}, and make them anew"
        if "chmod 600" in str(exc):
            fix = f"chmod 600 {quoted}; if others may have written it, {fix}"
        return problem(name, f"none of them opens anything: {exc}", fix)
    now = datetime.now(UTC)
    expired = sum(record.expires_at is not None and record.expires_at <= now for record in records)
    gone = [record.called for record in records if record.workspace is not None and not Path(record.workspace).is_dir()]
    detail = f"{len(records)} in {path}"
    if gone:
        fix = f"put it back, or atrio token revoke {shlex.quote(gone[0])}"
        return warning(name, f"{detail}; the directory that {', '.join(gone)} is for is gone", fix)
    return ok(name, f"{detail}, {expired} of them expired" if expired else detail)
