"""What is built from this checkout: one wheel, three packages, one command, everything that lies beside the code."""

import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from atrio_protocol.version import VERSION

ROOT = Path(__file__).parent.parent
PACKAGES = {"atrio_protocol": "protocol", "atrio_agent": "agent", "atrio_server": "server"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))))


def test_the_version_has_one_source(wheel: Path) -> None:
    assert wheel.name == f"atrio-{VERSION}-py3-none-any.whl"


def test_the_wheel_holds_three_packages_and_nothing_beside_them(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {*PACKAGES, f"atrio-{VERSION}.dist-info"}


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT / folder))
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert sources - set(archive.namelist()) == set()


def test_the_wheel_installs_one_command(wheel: Path) -> None:
    entries = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        entries.read_string(archive.read(f"atrio-{VERSION}.dist-info/entry_points.txt").decode())
    assert dict(entries["console_scripts"]) == {"atrio": "atrio_server.cli:main"}
