"""The stages under DVC, in a fresh copy of the repository, on a few hundred images.

The tests of this file share one copy and run in order; each leaves it clean.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipeline.clone import BIN, Clone
from tests.pipeline.conftest import set_params


def test_after_repro_everything_is_there_and_status_is_clean(clone: Clone) -> None:
    assert "up to date" in clone.must("dvc", "status", "dvc.yaml")  # the benchmarks' pipeline has its own time
    assert clone.must("git", "status", "--porcelain") == ""
    assert (clone.folder / "models/default/vae.safetensors").is_file()
    assert len(list((clone.folder / "results/plot").glob("*.png"))) >= 8


def test_a_fresh_clone_pulls_the_model_and_samples_without_training_or_a_compiler(clone: Clone, tmp_path: Path) -> None:
    clone.must("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    clone.must("dvc", "push", "dvc.yaml")
    clone.must("git", "clone", "--quiet", str(clone.folder), str(tmp_path / "other"))
    shutil.copy(clone.folder / ".dvc/config", tmp_path / "other/.dvc/config")
    clone.restore()
    other = Clone(tmp_path / "other", tmp_path / "no cache")
    other.must("dvc", "pull", "models/default/vae.safetensors", "models/default/MODEL_CARD.md")
    warned = other.must("python", "-m", "pipeline", "sample", "-n", "4", "-o", "grid.png", CXX="/no/compiler")
    assert "vae_ext uses its pure-PyTorch reference" in warned
    assert (other.folder / "grid.png").is_file()
    assert "elbo" in other.must("python", "-m", "pipeline", "info")
    assert not (other.folder / "data/prepared").exists()


def test_second_repro_runs_nothing(clone: Clone) -> None:
    assert "Running stage" not in clone.must("dvc", "repro")


def test_nothing_is_timed_unless_the_benchmarks_are_asked_for(clone: Clone) -> None:
    assert "benchmarks" not in clone.must("dvc", "repro", "--force", "--dry")
    assert "tests.benchmarks.measure" in clone.must("dvc", "repro", "--force", "--dry", "tests/benchmarks/dvc.yaml")


def test_results_and_no_data_are_in_git(clone: Clone) -> None:
    tracked = clone.must("git", "ls-files").splitlines()
    assert "results/evaluate/metrics.json" in tracked
    assert "results/train/plots/metrics/train/elbo.tsv" in tracked
    assert "results/plot/latent.png" in tracked
    assert not [name for name in tracked if name.startswith(("models/", "data/prepared"))]


def test_another_beta_skips_prepare_and_trades_rate_for_distortion(clone: Clone) -> None:
    before = clone.metrics()
    log = clone.must("dvc", "exp", "run", "--name", "low-beta", "-S", "beta=0.01")
    assert "Stage 'prepare' didn't change, skipping" in log
    assert "Running stage 'train'" in log
    assert "benchmarks" not in log
    after = clone.metrics()
    assert after["distortion"] < before["distortion"]
    assert after["rate"] > before["rate"]
    shown = clone.must("dvc", "exp", "show", "--csv", "--drop", ".*(train|plots).*")
    assert "low-beta" in shown
    clone.restore()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1}, "error: params.yaml: beta: expected greater than or equal to 0, got -1"),
        ({"beta": "high"}, "error: params.yaml: beta: expected a valid number, got 'high'"),
        ({"trian": {}}, "error: params.yaml: trian: unknown key; did you mean train?"),
        ({"model.latent_dim": 0}, "error: params.yaml: model.latent_dim: expected greater than or equal to 1, got 0"),
    ],
)
def test_a_mistake_in_params_is_one_line_and_nothing_runs(clone: Clone, changes: dict[str, object], message: str) -> None:
    set_params(clone.folder / "params.yaml", changes)
    done = clone.run("dvc", "repro")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [message]
    assert "Traceback" not in done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["check"]
    clone.must("git", "checkout", "--quiet", "params.yaml")
    assert clone.must("git", "status", "--porcelain") == ""
    assert "Running stage 'train'" not in clone.must("dvc", "repro")


def test_a_key_after_s_that_is_none_is_refused_and_taken_back_in_one_command(clone: Clone) -> None:
    refused = clone.run("dvc", "exp", "run", "-S", "betta=0.5")
    assert (refused.returncode != 0, clone.must("git", "status", "--porcelain")) == (True, "")
    refused = clone.run("dvc", "exp", "run", "-S", "+betta=0.5")
    assert "error: params.yaml: betta: unknown key; did you mean beta?" in refused.stderr
    assert re.findall(r"Running stage '(\w+)'", refused.stdout) == ["check"]
    clone.must("git", "restore", "params.yaml", "dvc.lock")
    assert clone.must("git", "status", "--porcelain") == ""


def test_other_data_are_an_experiment_like_any(clone: Clone) -> None:
    images = np.random.RandomState(0).randint(0, 256, (200, 9, 11, 3)).astype(np.uint8)
    np.savez(clone.folder / "data/raw/mine.npz", images=images, labels=np.arange(200) % 2)
    clone.must("dvc", "add", "data/raw/mine.npz")
    set_params(clone.folder / "params.yaml", {"data.validation": None})
    clone.must("git", "add", "--all")
    # In a copy of the repository, which has them from DVC.
    clone.must("dvc", "exp", "run", "--temp", "--name", "mine", "-S", "data.path=data/raw/mine.npz")
    clone.run("dvc", "exp", "apply", "mine")  # ends with a list of recipes' weights, which this copy never made
    manifest = json.loads((clone.folder / "data/prepared/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["image_shape"], manifest["counts"]) == ([3, 9, 11], {"train": 160, "validation": 20, "test": 20})
    clone.must("git", "reset", "--quiet", "--hard")
    clone.must("git", "clean", "--quiet", "--force", "-x", "data/raw")
    clone.restore()


def test_a_damaged_raw_file_is_one_line(clone: Clone) -> None:
    raw = clone.folder / "data/raw/small/t10k-images-idx3-ubyte.gz"
    raw.write_bytes(raw.read_bytes()[:-50])
    done = clone.run("dvc", "repro")
    assert done.returncode != 0
    assert "error: data/raw/small/t10k-images-idx3-ubyte.gz: damaged, expected a whole gzip file" in done.stderr
    assert "Traceback" not in done.stderr
    clone.restore()
    assert "Running stage" not in clone.must("dvc", "repro")


def test_an_edited_kernel_is_built_and_trains_again_and_reverting_restores(clone: Clone) -> None:
    kernel = clone.folder / "csrc/gaussian.h"
    before = kernel.read_text(encoding="utf-8")
    kernel.write_text(before + "// edited\n", encoding="utf-8")
    log = clone.must("dvc", "repro")
    assert "built just now, into the cache" in log
    assert "backend cpu" in log
    kernel.write_text(before, encoding="utf-8")
    log = clone.must("dvc", "repro")
    assert "Running stage" not in log
    assert "Stage 'train' is cached - skipping run, checking out outputs" in log
    assert clone.must("git", "status", "--porcelain") == ""


def test_without_a_kernel_the_pipeline_runs_on_the_same_noise(clone: Clone) -> None:
    before = clone.metrics()
    log = clone.must("dvc", "repro", "--force", "train", VAE_EXT_BACKEND="reference", PATH=f"{BIN}:/nowhere")
    assert "backend reference" in log
    clone.must("dvc", "repro", "--force", "--single-item", "evaluate", VAE_EXT_BACKEND="reference")
    for name, value in clone.metrics().items():
        assert value == pytest.approx(before[name], rel=1e-3), name
    clone.restore()


@pytest.mark.parametrize("command", [["repro"], ["exp", "run", "--temp"]])
def test_a_killed_training_goes_on_when_it_is_run_again(clone: Clone, command: list[str]) -> None:
    # The second runs in a copy of the repository, which the third run of it is not in.
    set_params(clone.folder / "params.yaml", {"train.epochs": 60, "train.batch_size": 16, "seed": len(command)})
    with clone.start("dvc", *command) as running:
        assert running.stdout is not None
        assert any("ELBO train" in line for line in running.stdout)
        (training,) = [
            p for p in psutil.Process(running.pid).children(recursive=True) if p.cmdline()[1:] == ["-m", "pipeline.train"]
        ]
        if command == ["repro"]:
            running.terminate()  # of DVC alone: the stage notices, and saves
            assert "interrupted after" in running.stdout.read()  # to the end of what both write
        else:
            training.kill()
    assert running.returncode != 0
    log = clone.must("dvc", *command)
    assert re.search(r"checkpoints/\w+/step-\d+: going on after \d+ of 60 epochs", log)
    assert log.count("ELBO train") < 60
    if command == ["repro"]:
        rows = (clone.folder / "results/train/plots/metrics/train/elbo.tsv").read_text(encoding="utf-8").splitlines()
        assert len(rows) == 61
    clone.restore()
    assert clone.must("git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VAE_EXT_BACKEND": "gpu"}, "error: VAE_EXT_BACKEND: expected one of reference, cpu, cuda, got 'gpu'"),
        ({"VAE_EXT_CPU_CAPABILITY": "mmx"}, "error: VAE_EXT_CPU_CAPABILITY: expected one that this machine runs"),
    ],
)
def test_a_backend_that_cannot_be_had_is_one_line(clone: Clone, environment: dict[str, str], message: str) -> None:
    done = clone.run("python", "-m", "pipeline.evaluate", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_one_command_runs_one_recipe_and_its_parameters_vary_like_any(clone: Clone) -> None:
    recipe = clone.folder / "recipes/mine.yaml"
    recipe.write_text(
        "about: {system: mine, look: at it}\nmodel: {latent_dim: 2}\ntrain: {epochs: 1, optimizer: rmsprop}\n", encoding="utf-8"
    )
    clone.must(sys.executable, "-m", "pipeline.recipe", PYTHONPATH=str(clone.folder))
    log = clone.must("dvc", "repro", "recipes/dvc.yaml:plot@mine")
    assert "Stage 'prepare' didn't change, skipping" in log
    assert re.findall(r"Running stage 'recipes/dvc.yaml:(\w+@\w+)'", log) == [
        "resolve@mine",
        "train@mine",
        "evaluate@mine",
        "plot@mine",
    ]
    folder = clone.folder / "results/recipes/mine"
    assert (folder / "plot/manifold.png").is_file()
    # What the training does not read does not train again.
    recipe.write_text(recipe.read_text(encoding="utf-8") + "plot: {manifold: 3}\n", encoding="utf-8")
    log = clone.must("dvc", "repro", "recipes/dvc.yaml:plot@mine")
    assert re.findall(r"Running stage 'recipes/dvc.yaml:(\w+@\w+)'", log) == ["resolve@mine", "plot@mine"]
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "A recipe")
    before = json.loads((folder / "evaluate/metrics.json").read_text(encoding="utf-8"))
    clone.must("dvc", "exp", "run", "recipes/dvc.yaml:plot@mine", "-S", "recipes/mine.yaml:+train.learning_rate=0.01")
    assert json.loads((folder / "evaluate/metrics.json").read_text(encoding="utf-8"))["elbo"] != before["elbo"]
    assert "learning_rate: 0.01" in (folder / "params.yaml").read_text(encoding="utf-8")
    clone.must("git", "reset", "--quiet", "--hard", "HEAD~1")
    clone.restore()


def test_a_recipe_that_is_not_there_is_one_line(clone: Clone) -> None:
    done = clone.run(sys.executable, "-m", "pipeline.train", "nobodys", PYTHONPATH=str(clone.folder))
    assert (done.returncode, done.stderr) == (2, "error: recipes/nobodys.yaml: missing; expected a recipe of that name\n")
