"""`atrio models`: what there is to choose from.

The server knows: its keys and its choice count, not those of the command's own
environment. Sizes are in tokens, prices for a million of them.
"""

from typing import TYPE_CHECKING

from atrio_server.cli.options import JsonLines, ServerUrl, StateDirOption, TokenFile

if TYPE_CHECKING:
    from atrio_protocol.methods import ModelPrice
    from atrio_protocol.struct import UnsetType

__all__ = ["models"]


def models(
    *,
    json: JsonLines = False,
    server: ServerUrl = None,
    token_file: TokenFile = None,
    state_dir: StateDirOption = None,
) -> int:
    """List the models of the server. The one in use without -m is marked, with the reason."""
    import msgspec

    from atrio_protocol.methods import ModelListParams
    from atrio_protocol.struct import given
    from atrio_server.cli.connect import Target, run_with_client
    from atrio_server.cli.output import print_json, print_rows
    from atrio_server.client import Client

    async def show(client: Client) -> int:
        listed = await client.call("model/list", ModelListParams())
        if json:
            for model in listed.models:
                print_json(msgspec.json.encode(model))
        else:
            rows = [
                (
                    model.model_id,
                    "default" if model.default else "",
                    _tokens(given(model.context_size, 0)),
                    _price(model.price),
                    given(model.reason, "") if model.default else "",
                )
                for model in listed.models
            ]
            print_rows(("MODEL", "", "CONTEXT", "PRICE", "WHY"), rows)
        return 0

    return run_with_client(Target(server=server, token_file=token_file, state_dir=state_dir), show)


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
