"""Prepared data, and the results of an uninterrupted run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import prepare, train
from tests.pipeline.conftest import set_params
from tests.pipeline.resume.runs import EPOCHS, Files, results


@pytest.fixture(scope="session")
def template(fresh_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    """A folder with prepared data, and the results of an uninterrupted run; both are made once."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(fresh_workspace, folder, dirs_exist_ok=True)
    set_params(folder / "params.yaml", {"train.epochs": EPOCHS, "train.batch_size": 64})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main()
        patch.chdir(shutil.copytree(folder, tmp_path_factory.mktemp("uninterrupted"), dirs_exist_ok=True))
        train.main()
        return folder, results()


@pytest.fixture
def prepared(template: tuple[Path, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def uninterrupted(template: tuple[Path, Files], prepared: Path) -> Files:
    assert len(template[1]) == 8
    return template[1]
