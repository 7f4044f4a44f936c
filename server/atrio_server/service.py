"""The process: what is opened in which order, and how it all ends.

Nesting is ownership. The state directory's lock is outermost and goes last;
inside it the index, the models and the workspaces; innermost the door, so that
all state outlives the web server. A signal does not cancel the tree: it begins
one procedure (`Running.shut_down`) that refuses, cancels, waits, saves, drains
the sockets, and only then lets go of each level. All of it has absolute
deadlines that count from the signal, whatever clients do.
"""

import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from atrio_agent.gates import Gates
from atrio_agent.lifetime import Deadlines
from atrio_agent.models.choose import Models, open_models
from atrio_agent.store.index import SqliteRunIndex
from atrio_agent.streams import Rings
from atrio_agent.tools.leftovers import end_leftovers, new_life
from atrio_protocol.limits import MAX_CONNECTIONS
from atrio_server.auth import Access, Identity, host_literal
from atrio_server.calls import Caller
from atrio_server.config import Settings
from atrio_server.config.user import ServerConfig
from atrio_server.dispatch import Dispatcher
from atrio_server.door import DoorLimits, PeerAddress, serve_door
from atrio_server.figures import Figures
from atrio_server.hiding import hide_process
from atrio_server.identity import Keyring
from atrio_server.known_secrets import KnownSecrets
from atrio_server.listen import Listening, TlsFiles, allow_open_files, open_listeners
from atrio_server.logs import LogSink, configure_logs
from atrio_server.metrics import Metrics
from atrio_server.outfit import OutfitMaker, keys_in
from atrio_server.server import Server
from atrio_server.socket import serve_connection
from atrio_server.statedir import StateDirUnusable, open_state_dir
from atrio_server.stores import OPENERS, open_index, open_store
from atrio_server.token import TOKEN_FILE, load_or_make_token
from atrio_server.token_watch import POLICY, Guests, TokenWatch
from atrio_server.turnstile import Turnstile
from atrio_server.web import TokenEnded, make_app
from atrio_server.web_socket import BoundedWebSocket
from atrio_server.workspace import Means
from atrio_server.workspaces import Workspaces

__all__ = ["Running", "open_service", "run_server"]


OTHER_FILES: Final = 512
"""Open files beside the clients' connections: databases, providers, what tools read."""

GOING_AWAY: Final = 1001

log = structlog.get_logger("atrio.service")


class Running:
    """A server that is up. Made by `open_service`."""

    def __init__(self, server: Server, door: trio.CancelScope, *, http: str, token: str, token_file: Path) -> None:
        self.server = server
        self.http = http
        self.ws = http.replace("http", "ws", 1) + "/v1/ws"
        self.token = token
        self.token_file = token_file
        self.ending = False
        self._door = door

    async def shut_down(self, deadlines: Deadlines) -> None:
        """Refuse, cancel, wait, save, drain the sockets, close the door: each step up to its deadline."""
        server = self.server
        server.closing = self.ending = True
        try:
            server.workspaces.close(deadlines)
            with trio.CancelScope(deadline=deadlines.saves_at) as saving:
                await server.workspaces.closed()
            if saving.cancelled_caught:
                log.error("workspaces given up at shutdown")
            # More than once: who connects meanwhile is told as well, and not just cut off.
            while server.connections and trio.current_time() < deadlines.sockets_at:
                async with trio.open_nursery() as draining:
                    for connection in list(server.connections.values()):
                        draining.start_soon(connection.drain_and_close, GOING_AWAY, deadlines.sockets_at)
        finally:
            self._door.cancel()


class _Web:
    """What the web application asks of the server."""

    def __init__(self, server: Server, dispatcher: Dispatcher, guests: Guests) -> None:
        self._server = server
        self._dispatcher = dispatcher
        self._metrics = Metrics(server)
        self._guests = guests

    @property
    def closing(self) -> bool:
        return self._server.closing

    async def rpc(self, body: bytes, identity: Identity, client_id: str | None) -> bytes | None:
        caller = Caller(
            connection_id=f"http-{secrets.token_hex(4)}", scopes=identity.scopes, is_socket=False, identity=identity
        )
        server = self._server
        server.http_requests += 1
        try:
            with self._guests.request(identity):
                return await self._dispatcher.rpc(body, caller, client_id)
        finally:
            server.http_requests -= 1
            server.http_until = trio.current_time()
        raise TokenEnded

    async def metrics(self) -> tuple[bytes, str]:
        return await self._metrics.show()


@asynccontextmanager
async def open_service(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    origins: Mapping[str, str] | None = None,
    stop: trio.Event | None = None,
    known: KnownSecrets | None = None,
    lines_lost: Callable[[], Mapping[str, int]] = dict[str, int],
) -> AsyncGenerator[Running]:
    """Open a server; on the way out shut it down, unless that was done already.

    Args:
        settings: Everything that can be set.
        environ: Where the models find their keys.
        origins: Where a value of ``environ`` comes from if it is no variable of the process: for sentences.
        stop: Set when a client asked the server to stop.
        known: Learns every secret that the server and its workspaces get to know.
        lines_lost: Tells how many log lines were not written, by why.

    Raises:
        StateDirLocked: Another server has the state directory.
        ListenError: The address cannot be bound, or may not be.
    """
    stop = trio.Event() if stop is None else stop
    known = KnownSecrets() if known is None else known
    gates = Gates()
    async with (
        open_state_dir(settings.state_dir) as state,
        open_index(settings.state_dir) as index,
        open_models(
            environ,
            default=settings.model,
            gates=gates,
            allow_scripts=settings.test_hooks,
            small=settings.small_model,
            origins=origins,
        ) as models,
    ):
        # Before anything is started here, and before anybody can ask for it.
        await end_leftovers(state.identity)
        token = _token_of(settings.state_dir)
        known.add_own((token, *keys_in(environ)))
        listening = await _listen(settings)
        # The door's scope is round the door alone: whoever uses the server goes on when it has shut down.
        door = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            outfits = OutfitMaker(
                settings=settings,
                environ=environ,
                origins=origins or {},
                models=models,
                known=known,
            )
            server = _make_server(settings, nursery, index, outfits, gates, stop, new_life(state.identity))
            server.lines_lost = lines_lost
            guests = Guests(Keyring(token), server.connections)
            guests.keyring.on_presented = lambda presented: known.add_own((presented,))
            watch = TokenWatch(settings.state_dir, guests)
            watch.load()
            await nursery.start(server.loop.serve, name="loop watch")
            await nursery.start(_serve_within, door, watch.serve, _door_of(server, settings, listening, watch))
            running = Running(
                server,
                door,
                http=_url(listening),
                token=token,
                token_file=settings.state_dir / TOKEN_FILE,
            )
            state.publish_address(http=running.http, ws=running.ws)
            try:
                yield running
            finally:
                if not running.ending:
                    with trio.CancelScope(shield=True):  # bounded by its deadlines
                        await running.shut_down(Deadlines.for_shutdown())
                server.loop.close()


def _token_of(state_dir: Path) -> str:
    try:
        return load_or_make_token(state_dir)
    except OSError as exc:
        raise StateDirUnusable(state_dir, exc) from exc


def _make_server(
    settings: Settings,
    nursery: trio.Nursery,
    index: SqliteRunIndex,
    outfits: OutfitMaker,
    gates: Gates,
    stop: trio.Event,
    life: str,
) -> Server:
    figures, rings = Figures(), Rings()
    means = Means(
        open_outfit=outfits.open,
        gates=gates,
        rings=rings,
        detach_grace_s=settings.detach_grace_s,
        keep_alive=settings.keep_alive,
        record_requests=settings.test_hooks,
        life=life,
        measures=figures,
    )
    workspaces = Workspaces(
        means,
        nursery=nursery,
        index=index,
        allowed=tuple(path.resolve() for path in settings.allow_paths),
        open_store=partial(open_store, settings.state_dir, index, trio.CapacityLimiter(OPENERS), figures),
    )
    return Server(
        workspaces=workspaces,
        models=outfits.models,
        gates=gates,
        test_hooks=settings.test_hooks,
        stop_soon=stop.set,
        rings=rings,
        figures=figures,
    )


def _door_of(server: Server, settings: Settings, listening: Listening, watch: TokenWatch) -> partial[Awaitable[None]]:
    """The door of this server, ready to be started."""
    dispatcher, guests = Dispatcher(server), watch.guests
    parsing, turnstile = trio.CapacityLimiter(1), Turnstile()

    async def serve_socket(ws: BoundedWebSocket, identity: Identity, peer: PeerAddress) -> None:
        caller = Caller(
            connection_id=f"c-{secrets.token_hex(6)}", scopes=identity.scopes, is_socket=True, identity=identity
        )
        log.info("connected", connection=caller.connection_id, peer=str(peer), token=identity.token_name)
        if (reason := guests.keyring.why_not(identity)) is not None:  # since its handshake began
            await ws.aclose(POLICY, reason)
            return
        try:
            await serve_connection(
                ws,
                caller,
                dispatcher.begin,
                dispatcher.notify,
                connections=server.connections,
                parsing=parsing,
                turnstile=turnstile,
            )
        finally:
            client = caller.author.client_id if caller.author else None
            log.info("disconnected", connection=caller.connection_id, client=client)

    return partial(
        serve_door,
        listening.listeners,
        access=Access(
            keyring=guests.keyring,
            port=listening.port,
            bound=listening.addresses,
            secure=listening.secure,
            allow_hosts=settings.allow_hosts,
            allow_origins=settings.allow_origins,
        ),
        app=make_app(_Web(server, dispatcher, guests)),
        serve_socket=serve_socket,
        look_again=watch.look_again,
        limits=DoorLimits(per_address=settings.connections_per_address),
        figures=server.figures.door,
    )


async def _serve_within(
    scope: trio.CancelScope,
    watch: Callable[[], Awaitable[None]],
    serve: Callable[..., Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, name="token watch")
            await nursery.start(serve)
            task_status.started()


def _url(listening: Listening) -> str:
    """Where a client on this machine finds the server."""
    address = ip_address(listening.addresses[0].partition("%")[0])
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"{'https' if listening.secure else 'http'}://{host_literal(str(address))}:{listening.port}"


async def _listen(settings: Settings) -> Listening:
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = TlsFiles(cert=settings.tls_cert, key=settings.tls_key)
    return await open_listeners(settings.host, settings.port, tls=tls, insecure=settings.insecure_bind)


def run_server(config: ServerConfig) -> int:
    """Run a server until it is told to stop; returns the exit code.

    Raises:
        StateDirLocked, ListenError: It did not start.
    """
    hide_process()
    # Ctrl-C before signals are heeded: it ends the start where that waits, not wherever some task happens to be.
    return trio.run(_run_server, config, restrict_keyboard_interrupt_to_checkpoints=True)


async def _run_server(config: ServerConfig) -> int:
    allow_open_files(MAX_CONNECTIONS + OTHER_FILES)
    sink = LogSink()
    known = KnownSecrets(keys_in(config.environ))
    sink.redact = known.text
    configure_logs(sink, config.settings.log_format)
    failed: Exception | None = None
    async with trio.open_nursery() as background:
        background.start_soon(sink.serve, name="log")
        try:
            await _serve_until_stopped(config, background, known, sink)
        except Exception as exc:  # noqa: BLE001  carried out of the nursery, which would wrap it in a group
            failed = exc
        background.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return 0


async def _serve_until_stopped(
    config: ServerConfig, background: trio.Nursery, known: KnownSecrets, sink: LogSink
) -> None:
    stop = trio.Event()
    await background.start(_stop_on_signal, stop)
    async with open_service(
        config.settings,
        environ=config.environ,
        origins=config.origins,
        stop=stop,
        known=known,
        lines_lost=lambda: sink.lost,
    ) as running:
        if config.settings.exit_idle_s is not None:
            background.start_soon(_stop_when_idle, running.server, config.settings.exit_idle_s, stop)
        sys.stdout.write(_ready_line(running) + "\n")
        sys.stdout.flush()
        log.info("ready", http=running.http, pid=os.getpid(), model=running.server.models.default_id)
        background.start_soon(_prepare_models, running.server.models, name="prepare models")
        await stop.wait()
        deadlines = Deadlines.for_shutdown()
        background.start_soon(_end_whatever_is_left, deadlines.end_at)
        log.info("shutting down")
        await running.shut_down(deadlines)
    log.info("stopped")


async def _prepare_models(models: Models) -> None:
    """Look for local models, then load what the default needs; nobody waits for either."""
    await models.search()
    await models.warm()


def _ready_line(running: Running) -> str:
    ready = {
        "event": "ready",
        "pid": os.getpid(),
        "http": running.http,
        "ws": running.ws,
        "tokenFile": str(running.token_file),
    }
    return msgspec.json.encode(ready).decode()


async def _stop_on_signal(stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Begin the shutdown on the first signal, unless a client has; end at once on the second."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        told = False
        async for number in signals:
            if told:
                os._exit(128 + number)
            told = True
            log.info("signal", number=int(number))
            stop.set()


async def _stop_when_idle(server: Server, idle_s: float, stop: trio.Event) -> None:
    """Stop a server that a command started, when nobody is connected and nothing runs for this long."""
    idle_since = trio.current_time()
    while True:
        await trio.sleep(min(1.0, idle_s / 4))
        idle_since = max(idle_since, server.http_until)
        if server.connections or server.http_requests or server.workspaces.open_run_count():
            idle_since = trio.current_time()
        elif trio.current_time() - idle_since >= idle_s:
            log.info("idle", seconds=idle_s)
            stop.set()
            return


async def _end_whatever_is_left(at: float) -> None:
    """The last resort of a shutdown: what has not ended by now, such as a thread on a dead disk, is left behind."""
    await trio.sleep_until(at)
    tasks = sorted({task.name for task in _tasks_below(trio.lowlevel.current_root_task())})
    sys.stderr.write(f"atrio: shutdown took too long; left behind: {', '.join(tasks)}\n")
    sys.stderr.flush()
    os._exit(1)


def _tasks_below(task: trio.lowlevel.Task | None) -> list[trio.lowlevel.Task]:
    if task is None:
        return []
    below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task] + [deeper for child in below for deeper in _tasks_below(child)]
