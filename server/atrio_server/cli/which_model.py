"""Which model a run uses, and why: a line for people, before the model has said anything.

The server chooses, and its environment counts, not ours. That surprises whoever
sets a key while a server runs, so where the two differ it is said how to get the
key to a server. Nothing here changes what is used.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from atrio_protocol.errors import WireError
from atrio_protocol.methods import ModelInfo, ModelListParams, SessionParams
from atrio_protocol.struct import UNSET, given
from atrio_server.cli.stop import stop_command
from atrio_server.client import Client, ClientError
from atrio_server.statedir import StateDirUnsafe, running_server

__all__ = ["KEYS", "default_model", "model_line", "unseen_key"]

KEYS: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY")
"""What a server chooses its model by, when it starts."""


async def default_model(client: Client, workspace_id: str | None = None) -> ModelInfo | None:
    """The model that the server, or a workspace of it, uses where none is named, or None if it does not tell."""
    try:
        listed = await client.call("model/list", ModelListParams(workspace_id=workspace_id or UNSET))
    except (WireError, ClientError):
        return None
    return next((model for model in listed.models if model.default), None)


async def model_line(client: Client, session_id: str, asked: str | None, *, by: str) -> str:
    """The model of the next run of a session and the reason for it; empty if the server does not tell.

    ``asked`` is the model that the prompt names, if it names one, and ``by`` what it was named with, such as ``-m``.
    """
    if asked is not None:
        return f"model {asked}: named by {by}"
    try:
        session = (await client.call("session/get", SessionParams(session_id=session_id))).session
    except (WireError, ClientError):
        return ""
    if own := given(session.model, ""):
        return f"model {own}: this session's own"
    default = await default_model(client, session.workspace_id)
    if default is None:
        return ""
    # `atrio models` has the reason in full.
    reason = re.sub(r" \([^)]*\)", "", given(default.reason, "")).partition(": ")[0].rstrip(".")
    if reason[1:2].islower():  # a name such as OPENAI_API_KEY stays as it is
        reason = reason[0].lower() + reason[1:]
    return f"model {default.model_id}" + (f": {reason}" if reason else "")


async def unseen_key(client: Client, state_dir: Path, environ: Mapping[str, str]) -> str:
    """What to say when we have a key and the running server of the state directory has none; else empty."""
    names = [name for name in KEYS if environ.get(name, "").strip()]
    default = await default_model(client) if names else None
    if default is None or default.provider != "demo":
        return ""
    try:
        server = running_server(state_dir)
    except (OSError, StateDirUnsafe):
        server = None
    if server is None:
        return ""
    return (
        f"the running server was not started with this {' and '.join(names)};"
        f" stop it ({stop_command(state_dir)}), and the next command starts one that is"
    )
