"""A missing model is one error line, with the command that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models import metadata
from pipeline.models.metadata import read_header
from pipeline.runtime.errors import UserError


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("models/default", "make repro trains it, and dvc pull fetches it if a DVC remote has it"),
        ("models/default/vae.safetensors", "make repro trains it, and dvc pull fetches it if a DVC remote has it"),
        ("recipes/models/no_kl", "make recipe NAME=no_kl trains it"),
        ("mine", "expected a model's folder, as models/default, or its weights"),
    ],
)
def test_the_error_for_a_missing_model_names_the_command_that_makes_it(
    model: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in (Path(model), tmp_path / model):
        with pytest.raises(UserError) as error:
            read_header(name)
        assert str(error.value) == f"{name}: missing; {how}"


def test_outside_the_repository_the_error_says_where_the_model_is_or_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    for folder in (repository / "models/default", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.setattr(metadata, "ROOT", repository)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match=rf"^models/default: missing; in {repository}, make repro trains it"):
        read_header(Path("models/default"))
    (repository / "models/default/vae.safetensors").touch()
    with pytest.raises(UserError, match=rf"^models/default: missing; it is in {repository}, which is not the current folder$"):
        read_header(Path("models/default"))
