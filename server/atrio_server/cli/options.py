"""Options that several commands have.

One name, one meaning and one explanation for all of them. Nothing is read here;
an option that has a variable beside it is joined with it where it is used.
"""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

__all__ = ["Dir", "JsonLines", "Limit", "ServerUrl", "SessionArgument", "StateDirOption", "TokenFile"]

ServerUrl = Annotated[
    str | None, Parameter("--server", help="Talk to this server (ATRIO_SERVER) instead of the state directory's.")
]
TokenFile = Annotated[str | None, Parameter("--token-file", help="File with the token for --server, else ATRIO_TOKEN.")]
StateDirOption = Annotated[str | None, Parameter("--state-dir", help="State directory (ATRIO_STATE_DIR).")]
Dir = Annotated[str | None, Parameter("--dir", help="The directory it is about, instead of the present one.")]
JsonLines = Annotated[bool, Parameter("--json", help="One JSON object a line.")]
Limit = Annotated[int, Parameter("--limit", help="How many at most, up to 1000.", validator=Number(gte=1, lte=1000))]
SessionArgument = Annotated[str, Parameter(help='A session\'s id, or "last": the newest of the directory.')]
