"""What a workspace works with: the project's choice of models, and a disk that does not answer."""

import threading
from pathlib import Path

import pytest
from trio.testing import MockClock

from atrio_agent.gates import Gates
from atrio_agent.models.choose import open_models
from atrio_protocol.errors import StorageUnavailable
from atrio_server import outfit
from atrio_server.config import Settings
from atrio_server.known_secrets import KnownSecrets
from atrio_server.outfit import OutfitMaker


def directories(tmp_path: Path, *, project: str = "") -> tuple[Path, Path]:
    """A state directory, and that of a project with this configuration."""
    state, root = tmp_path / "state", tmp_path / "project"
    for directory in (state, root / ".atrio"):
        directory.mkdir(parents=True, mode=0o700)
    (root / ".atrio/config.toml").write_text(project)
    return state, root.resolve()


async def test_a_directory_whose_configuration_cannot_be_read_in_time_is_not_opened(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, root = directories(tmp_path)
    disk_answers = threading.Event()
    # A thread that waits looks like idleness to the clock, so that the five seconds pass at once.
    monkeypatch.setattr(outfit, "_read", lambda *_: disk_answers.wait(30))
    async with open_models({}, default=None, gates=Gates(), allow_scripts=False) as models:
        maker = OutfitMaker(settings=Settings(state_dir=state), environ={}, models=models, known=KnownSecrets([]))
        with pytest.raises(StorageUnavailable, match="could not be read within 5 s"):
            async with maker.open(root):
                pass
        disk_answers.set()


async def test_a_projects_small_model_is_for_its_sessions_and_no_others(tmp_path: Path) -> None:
    state, root = directories(tmp_path, project="small_model = 'openai/tiny'\n")
    (other := tmp_path / "other").mkdir()
    environ = {"OPENAI_API_KEY": "sk-none-that-is-asked"}
    async with open_models(environ, default="openai/large", gates=Gates(), allow_scripts=False) as models:
        settings = Settings(state_dir=state, model="openai/large")
        maker = OutfitMaker(settings=settings, environ=environ, models=models, known=KnownSecrets([]))
        async with maker.open(root) as chosen, maker.open(other.resolve()) as usual:
            large = chosen.models.get("openai/large")
            assert chosen.models.small(large).model_id == "openai/tiny"
            assert usual.models is models
            assert usual.models.small(large).model_id != "openai/tiny"


async def test_a_small_model_that_cannot_be_used_keeps_no_workspace_closed(tmp_path: Path) -> None:
    state, root = directories(tmp_path, project="small_model = 'nobody/knows'\n")
    async with open_models({}, default="demo", gates=Gates(), allow_scripts=False) as models:
        maker = OutfitMaker(
            settings=Settings(state_dir=state, model="demo"), environ={}, models=models, known=KnownSecrets([])
        )
        async with maker.open(root) as chosen:
            assert chosen.models.get(None).model_id == "demo"
