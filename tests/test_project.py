"""The rules of the house that no linter knows: length, names, words, imports.

Each test reads the sources as text or as a syntax tree; none of them runs what
it reads. The rules and their reasons are in CONTRIBUTING.md.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol/atrio_protocol", "agent/atrio_agent", "server/atrio_server")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = MODULES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "scripts").rglob("*.py"))
LONGEST_MODULE = 600
BANNED_WORDS = re.compile(r"manager|helper|utils?(?![a-z])", re.IGNORECASE)

# A part in data, so that no host's name stands here either.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("deb", "debian", "org"),
    )
]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


def imports_of(path: Path) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}:{node.lineno}: imports are absolute"
            yield node.module or ""


def outside(path: Path, allowed: set[str]) -> list[str]:
    """What a file imports that is neither one of ``allowed`` nor below one."""
    return [
        name for name in imports_of(path) if not any(name == root or name.startswith(f"{root}.") for root in allowed)
    ]


def test_no_module_is_longer_than_can_be_read() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_module_opens_by_saying_what_it_is_for(path: Path) -> None:
    said = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    assert len(said) >= (1 if path.name == "__init__.py" else 3)


@pytest.mark.parametrize("path", [path for path in MODULES if not path.name.startswith("__")], ids=shown)
def test_a_module_lists_what_it_offers(path: Path) -> None:
    assigned = [
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in assigned


def test_names_say_what_a_thing_is() -> None:
    named = {shown(path): [path.stem] for path in SOURCES}
    for path in SOURCES:
        tree = ast.walk(ast.parse(path.read_text()))
        named[shown(path)] += [node.name for node in tree if isinstance(node, ast.ClassDef)]
    assert {path: bad for path, names in named.items() if (bad := [n for n in names if BANNED_WORDS.search(n)])} == {}


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_worker_thread_always_comes_from_a_limiter(path: Path) -> None:
    naked = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("to_thread.run_sync")
        and "limiter" not in {keyword.arg for keyword in node.keywords}
    ]
    assert naked == []


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_whoever_silences_the_type_checker_says_why(path: Path) -> None:
    silent = re.compile(r"#\s*(type:\s*ignore|pyright:\s*ignore)(\[[\w, -]*\])?\s*$")
    assert [number for number, line in enumerate(path.read_text().splitlines(), 1) if silent.search(line)] == []


@pytest.mark.parametrize("path", sorted((ROOT / PACKAGES[0]).rglob("*.py")), ids=shown)
def test_the_protocol_imports_data_modules_only(path: Path) -> None:
    data = {"atrio_protocol", "msgspec", "base64", "collections", "dataclasses", "datetime", "enum", "functools"}
    data |= {"hashlib", "itertools", "json", "math", "re", "secrets", "string", "types", "typing", "uuid"}
    assert outside(path, data) == []


def test_the_client_can_be_used_without_the_server() -> None:
    package = ROOT / "server/atrio_server/client"
    files = [package.with_suffix(".py")] if package.with_suffix(".py").exists() else sorted(package.rglob("*.py"))
    assert files
    allowed = {"atrio_protocol", "atrio_server.client", "msgspec", "trio", "trio_websocket"} | sys.stdlib_module_names
    assert {shown(path): bad for path in files if (bad := outside(path, allowed))} == {}


def test_no_file_names_the_host_of_a_registry() -> None:
    found = [
        (shown(path), host)
        for path in tracked_files()
        if path.is_file()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_change_log_knows_this_version() -> None:
    version = re.search(r'^VERSION: Final = "(.+)"', (ROOT / PACKAGES[0] / "version.py").read_text(), re.MULTILINE)
    assert version
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()
