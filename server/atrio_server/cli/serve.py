"""`atrio serve`: from flags to settings to a server.

Flags are taken as text and read by `atrio_server.config`, the same way as their
variables, and beside them the user's file. What a flag means is decided there, whether the server can run so is
decided by `atrio_server.service`; nothing is decided here.
"""

import gc
import os
from typing import Annotated

from cyclopts import Parameter

from atrio_server.cli import USUAL_THRESHOLD
from atrio_server.cli.options import StateDirOption

__all__ = ["serve"]


def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[str | None, Parameter(help="Port to listen on; 0 picks a free one. [default: 4317]")] = None,
    state_dir: StateDirOption = None,
    model: Annotated[str | None, Parameter(help="Model for sessions that name none.")] = None,
    allow_path: Annotated[
        tuple[str, ...], Parameter(help="Only directories below these may be opened. Repeatable.")
    ] = (),
    allow_host: Annotated[tuple[str, ...], Parameter(help="Further host name to answer to. Repeatable.")] = (),
    allow_origin: Annotated[tuple[str, ...], Parameter(help="Further origin of web pages. Repeatable.")] = (),
    tls_cert: Annotated[str | None, Parameter(help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[str | None, Parameter(help="Its key (PEM).")] = None,
    insecure_bind: Annotated[bool, Parameter(help="Listen beyond this machine without TLS.")] = False,
    connections_per_address: Annotated[
        str | None, Parameter(help="Most connections from one address. [default: 1024, and no limit for this machine]")
    ] = None,
    keep_alive: Annotated[
        str | None, Parameter(help="What keeps a workspace open: its runs or only its clients. [default: runs]")
    ] = None,
    detach_grace: Annotated[
        str | None, Parameter(help="Seconds a workspace waits for its last client. [default: 10]")
    ] = None,
    permissions: Annotated[
        str | None, Parameter(help="ask, allow or deny what needs permission. [default: ask]")
    ] = None,
    permission_timeout: Annotated[
        str | None, Parameter(help="Seconds that a question waits. [default: no end]")
    ] = None,
    exit_idle: Annotated[
        str | None, Parameter(help="End after so many seconds without connection and run. [default: never]")
    ] = None,
    log_format: Annotated[str | None, Parameter(help="text or json. [default: text]")] = None,
    test_hooks: Annotated[bool, Parameter(help="Offer the test/* methods.")] = False,
) -> int:
    """Run a server until it is told to stop (SIGTERM, Ctrl-C).

    When it is ready it prints one line of JSON with its addresses. Logs go to stderr.
    """
    from atrio_server.config.user import server_config

    config = server_config(
        {
            "host": host,
            "port": port,
            "state_dir": state_dir,
            "model": model,
            "allow_paths": allow_path,
            "allow_hosts": allow_host,
            "allow_origins": allow_origin,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "insecure_bind": insecure_bind,
            "connections_per_address": connections_per_address,
            "keep_alive": keep_alive,
            "detach_grace_s": detach_grace,
            "permissions": permissions,
            "permission_timeout_s": permission_timeout,
            "exit_idle_s": exit_idle,
            "log_format": log_format,
            "test_hooks": test_hooks,
        },
        os.environ,
    )
    from atrio_server.service import run_server

    gc.set_threshold(*USUAL_THRESHOLD)
    try:
        return run_server(config)
    except Exception as exc:
        # Told here: no other command has a store, and none needs to import it to say what went wrong.
        from atrio_agent.store.base import StoreFailed
        from atrio_server.cli.failure import Exit, Failure, innermost

        if isinstance(inner := innermost(exc), StoreFailed):
            raise Failure(Exit.OTHER, str(inner)) from exc
        raise
