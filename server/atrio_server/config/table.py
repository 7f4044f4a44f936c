"""Every setting there is, declared once.

Flags, variables, files, their errors, the JSON Schema and `atrio config show`
are all made from `SETTINGS`, and the documentation is held against it: a
setting that is not here does not exist anywhere.

``NAME`` in a key stands for whatever the user calls the thing. What a project's
file may do is part of the declaration, and by default it is nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from atrio_protocol.limits import MAX_CONNECTIONS
from atrio_server.config import kinds
from atrio_server.config.kinds import Kind

__all__ = ["ANY_NAME", "KEYS", "SETTINGS", "Branch", "Found", "Place", "Setting", "setting_of"]

ANY_NAME: Final = "NAME"
"""Stands in a key for a name that the user gives."""

Place = Literal["user", "project"]
"""Whose file it is."""

Branch = dict[str, "Branch | Setting"]
"""The keys of one table of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    ``key`` is its place in a file, dotted, and the name of its field in
    `Settings` if it has one there. ``in_file``: whether a file may set it at all.
    ``project`` says whether a project's file may: never, freely, once it is
    trusted, or freely in one direction (``stricter``). ``secret``: it is never
    shown. ``for_models``: the models read its variable, so that a file's value is
    put there.
    """

    key: str
    about: str
    kind: Kind
    default: Any = None
    flag: str | None = None
    variable: str | None = None
    in_file: bool = True
    project: Literal["never", "freely", "trusted", "stricter"] = "never"
    secret: bool = False
    for_models: bool = False


class Found(NamedTuple):
    """A value and where it comes from. ``origin`` is a flag, a variable, a file or empty."""

    value: Any
    place: Literal["flag", "variable", "project", "user", "default"]
    origin: str = ""
    line: int | None = None

    @property
    def where(self) -> str:
        """The origin for people, with the line."""
        return f"{self.origin}:{self.line}" if self.line else self.origin or self.place

    @property
    def spot(self) -> str:
        """The same as the beginning of a sentence."""
        return f"{self.origin} line {self.line}" if self.line else self.origin


def _flagged(key: str, flag: str, kind: Kind, about: str, **more: Any) -> Setting:
    """A setting with a flag, whose variable is called like the flag."""
    variable = "ATRIO_" + flag.removeprefix("--").replace("-", "_").upper()
    return Setting(key=key, flag=flag, variable=variable, kind=kind, about=about, **more)


def _provider(key: str, variable: str, kind: Kind, about: str) -> Setting:
    return Setting(
        key=f"providers.{key}",
        variable=variable,
        kind=kind,
        about=about,
        project="trusted",
        secret=kind is kinds.KEY,
        for_models=True,
    )


def _mcp(key: str, kind: Kind, about: str, **more: Any) -> Setting:
    return Setting(key=f"mcp.servers.{ANY_NAME}.{key}", kind=kind, about=about, project="trusted", **more)


SETTINGS: Final = (
    _flagged(
        "state_dir", "--state-dir", kinds.DIRECTORY, "The directory with all that outlives the server.", in_file=False
    ),
    _flagged("host", "--host", kinds.HOST, "The name or address to listen on.", default="127.0.0.1"),
    _flagged("port", "--port", kinds.PORT, "The port to listen on; 0 picks a free one.", default=4317),
    _flagged("model", "--model", kinds.MODEL, "The model of sessions and prompts that name none.", project="freely"),
    Setting(
        key="small_model",
        variable="ATRIO_SMALL_MODEL",
        kind=kinds.MODEL,
        about="The model for titles and other small work.",
        project="freely",
    ),
    _flagged(
        "allow_paths",
        "--allow-path",
        kinds.DIRECTORIES,
        "Only what is below may be a workspace; empty: anything.",
        default=(),
    ),
    _flagged("allow_hosts", "--allow-host", kinds.HOSTS, "Further host names to answer to.", default=()),
    _flagged(
        "allow_origins", "--allow-origin", kinds.ORIGINS, "Further origins of web pages that may connect.", default=()
    ),
    _flagged("tls_cert", "--tls-cert", kinds.FILE, "The certificate chain (PEM)."),
    _flagged("tls_key", "--tls-key", kinds.FILE, "The certificate's key (PEM)."),
    _flagged(
        "insecure_bind",
        "--insecure-bind",
        kinds.SWITCH,
        "Listen beyond this machine without TLS.",
        default=False,
        in_file=False,
    ),
    _flagged(
        "connections_per_address",
        "--connections-per-address",
        kinds.count(most=MAX_CONNECTIONS),
        "How many connections one address may have; unset: 1024, and any number from this machine.",
    ),
    _flagged(
        "keep_alive", "--keep-alive", kinds.one_of("runs", "clients"), "What keeps a workspace open.", default="runs"
    ),
    _flagged(
        "detach_grace_s",
        "--detach-grace",
        kinds.seconds(least=0, expected="seconds, 0 or more"),
        "How long a workspace waits for its last client to come back.",
        default=10.0,
    ),
    _flagged(
        "permissions",
        "--permissions",
        kinds.one_of("ask", "allow", "deny"),
        "What happens when a tool needs permission.",
        default="ask",
        project="stricter",
    ),
    _flagged(
        "permission_timeout_s",
        "--permission-timeout",
        kinds.seconds(least=0.001, expected="seconds, more than 0"),
        "How long a question waits for an answer; unset: as long as it takes.",
    ),
    _flagged(
        "exit_idle_s",
        "--exit-idle",
        kinds.seconds(least=0, expected="seconds, 0 or more"),
        "The server ends after so long without a connection and a run; unset: never.",
    ),
    _flagged("log_format", "--log-format", kinds.one_of("text", "json"), "How logs are written.", default="text"),
    _flagged("test_hooks", "--test-hooks", kinds.SWITCH, "Offer the test/* methods.", default=False, in_file=False),
    Setting(
        key="local_models",
        variable="ATRIO_LOCAL_MODELS",
        kind=kinds.LOOK_AROUND,
        about="Look for model servers on this machine.",
        default=True,
        for_models=True,
    ),
    _provider("openai.base_url", "OPENAI_BASE_URL", kinds.PROVIDER_URL, "Where OpenAI's API is spoken."),
    _provider("openai.api_key", "OPENAI_API_KEY", kinds.KEY, "The key for it."),
    _provider("anthropic.base_url", "ANTHROPIC_BASE_URL", kinds.PROVIDER_URL, "Where Anthropic's API is spoken."),
    _provider("anthropic.api_key", "ANTHROPIC_API_KEY", kinds.KEY, "The key for it."),
    _provider("openrouter.api_key", "OPENROUTER_API_KEY", kinds.KEY, "The key for OpenRouter."),
    _provider("ollama.base_url", "OLLAMA_HOST", kinds.SERVER_ADDRESS, "Where Ollama is."),
    Setting(
        key="shell.allow",
        kind=kinds.COMMANDS,
        about="Commands that run without a question; a last word * stands for any further words but options.",
        default=(),
        project="trusted",
    ),
    _mcp("command", kinds.PROGRAM, "The program to start; it speaks MCP over standard input and output."),
    _mcp("args", kinds.TEXTS, "Its arguments.", default=()),
    _mcp("env", kinds.VARIABLES, "Variables that it gets besides the usual few.", secret=True),
    _mcp("cwd", kinds.BELOW, "The directory that it starts in; relative to the workspace, which is the default."),
    _mcp("url", kinds.URL, "Where to reach a server over streamable HTTP, instead of starting one."),
    _mcp("headers", kinds.HEADERS, "Headers of every request to it.", secret=True),
    _mcp(
        "timeout_s",
        kinds.seconds(least=0.001, expected="seconds, more than 0"),
        "How long one call may take.",
        default=60.0,
    ),
    _mcp("enabled", kinds.SWITCH, "Whether it is used.", default=True),
)

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


def setting_of(key: str) -> Setting:
    """The setting of a key that is known to be one, with whatever name the user gave."""
    if key.startswith("mcp.servers."):
        key = f"mcp.servers.{ANY_NAME}.{key.rpartition('.')[2]}"
    return _BY_KEY[key]


def _tree(settings: Iterable[Setting]) -> Branch:
    root: Branch = {}
    for setting in settings:
        *way, last = setting.key.split(".")
        branch = root
        for name in way:
            below = branch.setdefault(name, {})
            assert isinstance(below, dict)
            branch = below
        branch[last] = setting
    return root


KEYS: Final = _tree(setting for setting in SETTINGS if setting.in_file)
"""What a file may hold, table by table."""
