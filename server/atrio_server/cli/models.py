"""`atrio models`: what there is to choose from.

The server knows: its keys and its choice count, not those of the command's own
environment. A directory's configuration may choose otherwise, which ``--dir``
shows. Sizes are in tokens, prices for a million of them.
"""

from typing import TYPE_CHECKING

from atrio_server.cli.options import OWN_SERVER, Dir, JsonLines, Target

if TYPE_CHECKING:
    from atrio_protocol.methods import ModelInfo, ModelPrice
    from atrio_protocol.struct import UnsetType

__all__ = ["models"]


def models(
    *,
    directory: Dir = None,
    json: JsonLines = False,
    target: Target = OWN_SERVER,
) -> int:
    """List the models of the server, or with --dir those of a directory. The one in use without -m is marked."""
    from atrio_protocol.methods import ModelListParams
    from atrio_protocol.struct import UNSET
    from atrio_server.cli.connect import open_workspace
    from atrio_server.cli.output import print_list
    from atrio_server.client import Client

    async def show(client: Client) -> int:
        workspace_id = UNSET
        if directory is not None:
            workspace_id = (await open_workspace(client, directory)).workspace.workspace_id
        listed = await client.call("model/list", ModelListParams(workspace_id=workspace_id))
        print_list(listed.models, ("MODEL", "", "CONTEXT", "PRICE", "WHY"), _row, as_json=json)
        return 0

    return target.with_client(show)


def _row(model: "ModelInfo") -> tuple[str, str, str, str, str]:
    from atrio_protocol.struct import given

    return (
        model.model_id,
        "default" if model.default else "",
        _tokens(given(model.context_size, 0)),
        _price(model.price),
        given(model.reason, "") if model.default else "",
    )


def _tokens(count: int) -> str:
    """Such as ``200k``; empty where it is not known."""
    if count >= 1_000_000:
        return f"{count / 1_000_000:.3g}M"
    return f"{count // 1_000}k" if count >= 1_000 else str(count or "")


def _price(price: "ModelPrice | UnsetType") -> str:
    """What a million tokens cost, in and out; empty where it is not known."""
    if not price:
        return ""
    sign = "$" if price.currency == "USD" else f"{price.currency} "
    return f"{sign}{price.input:g} in, {sign}{price.output:g} out"
