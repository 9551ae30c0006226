"""The worked examples of docs/design/: their patches apply, and the additions train and are drawn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import recipes
from pipeline.config.paths import run_paths
from pipeline.config.validation import load_params
from tests.pipeline.conftest import ROOT, set_params

# The stages that the examples change: training and, of the figures, those of decoded images.
PROGRAM = """
from pathlib import Path
from pipeline import prepare, train
from pipeline.config.paths import DEFAULT
from pipeline.config.validation import load_params
from pipeline.figures.decodings import decoding_figures
from pipeline.models.codes import encode_test_set
from pipeline.report.page import CAPTIONS
from pipeline.runtime.device import choose_device

prepare.main()
train.main()
params = load_params()
decoding_figures(encode_test_set(DEFAULT.weights, params, choose_device()), params, [], Path("."))
assert "errors" in CAPTIONS
"""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs/design" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_likelihood_optimizer_and_figure_examples_work(workspace: Path) -> None:
    shutil.copytree(ROOT / "pipeline", workspace / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for page in ("add-a-likelihood.md", "add-an-optimizer.md", "add-a-figure.md"):
        (patch,) = blocks(page, "diff")
        apply = ["git", "apply", "--unidiff-zero", "-"]
        done = subprocess.run(apply, cwd=workspace, input=patch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {done.stderr}"
    changes = {"model.likelihood": "laplace", "train.optimizer": "lion", "train.learning_rate": 0.0001}
    set_params(workspace / "params.yaml", changes)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for vae_ext; the working folder's pipeline/ comes first
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace / "errors.png").is_file()
    elbo = pd.read_csv(workspace / "results/train/plots/metrics/train/elbo.tsv", sep="\t")["elbo"]
    assert elbo.iloc[-1] > elbo.iloc[0]


def test_the_recipe_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (recipe,) = blocks("add-a-recipe.md", "yaml")
    (tmp_path / "recipes/mine.yaml").write_text(recipe, encoding="utf-8")
    recipes.main(run_paths("mine"))
    params = load_params(run_paths("mine").params)
    assert (params.beta, params.model.hidden, params.train.epochs) == (4.0, [256], 10)
