"""The JSON Schema of a configuration file, for editors. ``python -m atrio_server.config.schema`` prints it.

It is made from the table of settings and says no more than that. What it cannot
say, such as which keys of an MCP server go together, is checked when a file is
read.
"""

import json
import sys
from typing import Any, Final

from atrio_server.config.file import NAME_PATTERN
from atrio_server.config.table import ANY_NAME, KEYS, Branch, Setting

__all__ = ["config_schema", "schema_text"]

_PROJECT: Final = {
    "never": "Only in the user's own file.",
    "freely": "",
    "trusted": "In a project's file it needs trust.",
    "stricter": "In a project's file, to ask less needs trust.",
}


def config_schema() -> dict[str, Any]:
    """The schema as JSON is in Python."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Atrio",
        **_table(KEYS),
    }


def schema_text() -> str:
    """The schema as it is printed and kept."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


def _table(branch: Branch) -> dict[str, Any]:
    below = branch.get(ANY_NAME)
    if isinstance(below, dict):
        names = {"propertyNames": {"pattern": f"^{NAME_PATTERN}$"}}
        return {"type": "object", **names, "additionalProperties": _table(below)}
    properties = {key: _value(entry) if isinstance(entry, Setting) else _table(entry) for key, entry in branch.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(setting: Setting) -> dict[str, Any]:
    schema = {**setting.kind.schema, "description": f"{setting.about} {_PROJECT[setting.project]}".strip()}
    if setting.default is not None:
        schema["default"] = json.loads(json.dumps(setting.default))  # a tuple is a list there
    return schema


if __name__ == "__main__":
    sys.stdout.write(schema_text())
