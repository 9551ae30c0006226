"""The worked examples of docs/house/: their patches apply, and what they add trains, is evaluated and is drawn."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import recipes
from pipeline.config.paths import run_paths
from pipeline.config.validation import load_params
from tests.pipeline.conftest import ROOT, set_params

STAGES = "from pipeline import prepare, train, evaluate, plot\nfor stage in (prepare, train, evaluate, plot): stage.main()"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs/house" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_a_likelihood_an_optimizer_and_a_figure_are_added_as_shown(workspace: Path) -> None:
    shutil.copytree(ROOT / "pipeline", workspace / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for page in ("add-a-likelihood.md", "add-an-optimizer.md", "add-a-figure.md"):
        (patch,) = blocks(page, "diff")
        apply = ["git", "apply", "--unidiff-zero", "-"]
        done = subprocess.run(apply, cwd=workspace, input=patch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {done.stderr}"
    changes = {"model.likelihood": "laplace", "train.optimizer": "lion", "train.learning_rate": 0.0001}
    set_params(workspace / "params.yaml", {**changes, "data.path": "data/raw/small", "train.epochs": 2})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # of vae_ext; pipeline/ of the working folder is before it
    run = [sys.executable, "-c", STAGES]
    done = subprocess.run(run, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace / "results/plot/errors.png").is_file()
    curve = (workspace / "results/train/plots/metrics/train/elbo.tsv").read_text(encoding="utf-8").split()[-3::2]
    assert float(curve[1]) > float(curve[0])
    metrics = json.loads((workspace / "results/evaluate/metrics.json").read_text(encoding="utf-8"))
    assert metrics["elbo"] > float(curve[0])


def test_a_recipe_is_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (recipe,) = blocks("add-a-recipe.md", "yaml")
    (tmp_path / "recipes/mine.yaml").write_text(recipe, encoding="utf-8")
    recipes.main(run_paths("mine"))
    params = load_params(run_paths("mine").params)
    assert (params.beta, params.model.hidden, params.train.epochs) == (4.0, [256], 10)
