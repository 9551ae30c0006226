"""The stages under DVC, in a fresh copy of the repository, on a few hundred images.

The tests of this file share one copy and run in order; each leaves it clean. They run as few stages as possible: each is a
process that imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from tests.pipeline.clone import BIN, Clone
from tests.pipeline.conftest import set_params

UP_TO_DATE = "Data and pipelines are up to date."


def test_git_tracks_results_and_no_data(clone: Clone) -> None:
    assert (clone.folder / "models/default/vae.safetensors").is_file()
    assert len(list((clone.folder / "results/plot").glob("*.png"))) >= 8
    tracked = clone.run_ok("git", "ls-files").splitlines()
    assert "results/evaluate/metrics.json" in tracked
    assert "results/train/plots/metrics/train/elbo.tsv" in tracked
    assert "results/plot/latent.png" in tracked
    assert not [name for name in tracked if name.startswith(("models/", "data/prepared"))]


def test_second_repro_runs_nothing_and_forced_stages_write_the_same_bytes(clone: Clone) -> None:
    log = clone.run_ok("dvc", "repro")
    assert "Running stage" not in log
    assert "benchmarks" not in log
    assert "Running stage 'plot'" in clone.run_ok("dvc", "repro", "--force", "--downstream", "train")
    revert_time_file(clone)


def revert_time_file(clone: Clone) -> None:
    """Reverts what may differ after a repeated training: its duration, which nothing depends on."""
    now, committed = (clone.folder / "dvc.lock").read_text(encoding="utf-8"), clone.run_ok("git", "show", "HEAD:dvc.lock")
    assert without_time_file(now) == without_time_file(committed)
    assert clone.status().split() in (["M", "dvc.lock"], [])
    clone.restore()


def without_time_file(lock: str) -> dict[str, Any]:
    """Parses dvc.lock, without the checksum of the file of training's duration."""
    stages: dict[str, Any] = YAML(typ="safe").load(lock)["stages"]
    outputs = stages["train"]["outs"]
    stages["train"]["outs"] = [output for output in outputs if output["path"] != "results/time.json"]
    assert len(stages["train"]["outs"]) == len(outputs) - 1
    return stages


@pytest.mark.long
def test_a_fresh_clone_pulls_the_model_and_samples_without_training_or_a_compiler(clone: Clone, tmp_path: Path) -> None:
    clone.run_ok("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    assert "recipes" not in clone.run_ok("dvc", "push")
    clone.run_ok("git", "clone", "--quiet", str(clone.folder), str(tmp_path / "other"))
    shutil.copy(clone.folder / ".dvc/config", tmp_path / "other/.dvc/config")
    clone.run_ok("git", "restore", ".")
    other = Clone(tmp_path / "other", tmp_path / "no cache")
    other.run_ok("dvc", "pull", "models/default/vae.safetensors", "models/default/MODEL_CARD.md")
    warned = other.run_ok("python", "-m", "pipeline", "sample", "-n", "4", "-o", "out/grid.png", CXX="/no/compiler")
    assert "vae_ext uses its pure-PyTorch reference" in warned
    assert (other.folder / "out/grid.png").is_file()
    assert "elbo" in other.run_ok("python", "-m", "pipeline", "info")
    assert not (other.folder / "data/prepared").exists()
    assert "recipes" not in other.run_ok("dvc", "pull")  # everything
    assert (other.folder / "results/report/index.html").is_file()
    assert other.status().split() == ["M", ".dvc/config"]


def test_another_beta_skips_prepare_trades_rate_for_distortion_and_can_be_restored(clone: Clone, tmp_path: Path) -> None:
    before, weights = clone.metrics(), clone.folder / "models/default/vae.safetensors"
    md5 = hashlib.md5(weights.read_bytes()).hexdigest()
    log = clone.run_ok("dvc", "exp", "run", "--name", "low-beta", "-S", "beta=0.01")
    assert re.findall(r"Running stage '(.+)'", log) == ["check", "train", "evaluate", "plot"]
    assert "Stage 'prepare' didn't change, skipping" in log
    after = clone.metrics()
    assert after["distortion"] < before["distortion"]
    assert after["rate"] > before["rate"]
    # As in a clone that has not trained the committed model: the cache has only the experiment's weights.
    cached = clone.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    aside = cached.rename(tmp_path / "aside")
    assert "dvc exp apply" in make_restore(clone)
    assert (clone.metrics(), weights.exists()) == (before, False)
    aside.rename(cached)
    for command in (["exp", "apply", "low-beta"], ["checkout"]):
        assert "recipes" not in clone.run_ok("dvc", *command)
        assert (clone.metrics(), weights.is_file()) == (after, True)
    make_restore(clone)
    assert hashlib.md5(weights.read_bytes()).hexdigest() == md5
    shown = clone.run_ok("dvc", "exp", "show").splitlines()
    head = "\n".join(line[:100] for line in shown)
    assert all(word in head for word in ("low-beta", " elbo ", " rate ", " distortion ", " nll ", " beta "))
    assert "recipes" not in "".join(shown)
    compared = clone.run_ok("python", "-m", "pipeline", "compare")
    assert re.search(r"^low-beta +0\.01 ", compared, re.MULTILINE)
    assert re.search(r"^NLL: best is (main|low-beta) \(beta (1|0.01)\), ", compared, re.MULTILINE)
    assert clone.run_ok("python", "-m", "pipeline", "compare", "main", "low-beta") == compared
    assert clone.run_ok("dvc", "status").strip() == UP_TO_DATE  # recipes and benchmarks are not mentioned


def make_restore(clone: Clone) -> str:
    """Runs what `make restore` runs; returns its output."""
    text = (clone.folder / "Makefile").read_text(encoding="utf-8")
    recipe = text.split("\nrestore: $(READY)\n")[1].split("\n\n")[0].replace("$(ACTIVE)", "")
    output = clone.run_ok("sh", "-ec", recipe)
    assert clone.status() == ""
    return output


def test_each_error_in_params_is_one_line_and_no_stage_runs(clone: Clone) -> None:
    set_params(clone.folder / "params.yaml", {"beta": "high", "trian": {}, "model.latent_dim": 0})
    done = clone.run("dvc", "repro")
    assert done.returncode != 0
    assert sorted(line for line in done.stderr.splitlines() if line.startswith("error:")) == [
        "error: params.yaml: beta: expected a valid number, got 'high'",
        "error: params.yaml: model.latent_dim: expected greater than or equal to 1, got 0",
        "error: params.yaml: trian: unknown key; did you mean train?",
    ]
    assert "Traceback" not in done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["check"]
    (clone.folder / "results/plot/class_samples.png").touch()  # of another model
    make_restore(clone)
    assert "Running stage" not in clone.run_ok("dvc", "repro")


def test_an_unknown_key_in_dvc_exp_run_is_rejected_and_restored_by_one_command(clone: Clone) -> None:
    refused = clone.run("dvc", "exp", "run", "-S", "betta=0.5")
    assert (refused.returncode != 0, clone.run_ok("git", "status", "--porcelain")) == (True, "")
    refused = clone.run("dvc", "exp", "run", "-S", "+betta=0.5")
    assert "error: params.yaml: betta: unknown key; did you mean beta?" in refused.stderr
    assert re.findall(r"Running stage '(\w+)'", refused.stdout) == ["check"]
    clone.run_ok("git", "restore", "params.yaml", "dvc.lock")
    assert clone.run_ok("git", "status", "--porcelain") == ""


@pytest.mark.long
def test_other_data_can_be_used_in_an_experiment(clone: Clone) -> None:
    images = np.random.RandomState(0).randint(0, 256, (200, 9, 11, 3)).astype(np.uint8)
    np.savez(clone.folder / "data/raw/mine.npz", images=images, labels=np.arange(200) % 2)
    clone.run_ok("dvc", "add", "data/raw/mine.npz")
    own = {"path": "data/raw/mine.npz", "validation": 0.1, "test": 20, "split_seed": 1}
    changes = [word for name, value in own.items() for word in ("-S", f"data.{name}={value}")]
    clone.run_ok("git", "add", "--all")
    # In a copy of the repository, which gets the data from DVC.
    clone.run_ok("dvc", "exp", "run", "--temp", "--name", "mine", "prepare", *changes)
    clone.run_ok("dvc", "exp", "apply", "mine")
    manifest = json.loads((clone.folder / "data/prepared/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["image_shape"], manifest["counts"]) == ([3, 9, 11], {"train": 160, "validation": 20, "test": 20})
    clone.run_ok("git", "reset", "--quiet", "--hard")
    clone.run_ok("git", "clean", "--quiet", "--force", "-x", "data/raw")
    clone.restore()


def training(clone: Clone) -> dict[str, float]:
    """Returns the validation metrics of training."""
    curves = (clone.folder / "results/train/plots/metrics/validation").glob("*.tsv")
    return {path.stem: float(path.read_text(encoding="utf-8").split()[-1]) for path in curves}


@pytest.mark.long
def test_an_edited_kernel_retrains_with_the_same_noise_and_reverting_restores_the_results(clone: Clone) -> None:
    before, metrics = clone.status(), training(clone)
    kernel = clone.folder / "csrc/gaussian.h"
    text = kernel.read_text(encoding="utf-8")
    kernel.write_text(text + "// edited\n", encoding="utf-8")
    log = clone.run_ok("dvc", "repro", "train", VAE_EXT_BACKEND="reference", PATH=f"{BIN}:/bin:/nowhere")
    assert "backend reference" in log
    assert re.findall(r"Running stage '(\w+)'", log) == ["train"]
    assert training(clone) == pytest.approx(metrics, rel=1e-3)
    kernel.write_text(text, encoding="utf-8")
    log = clone.run_ok("dvc", "repro")
    assert "Running stage" not in log
    assert "Stage 'train' is cached - skipping run, checking out outputs" in log
    assert training(clone) == metrics
    assert before == ""
    revert_time_file(clone)


@pytest.mark.parametrize(
    "command",
    [["exp", "run", "-S", "model.latent_dim=2"], pytest.param(["exp", "run", "--temp"], marks=pytest.mark.long)],
)
def test_a_killed_training_resumes_when_run_again(clone: Clone, command: list[str]) -> None:
    # The second case runs in a copy of the repository, and its resumed run in another one.
    set_params(clone.folder / "params.yaml", {"train.epochs": 40, "train.batch_size": 16, "seed": len(command)})
    with clone.start("dvc", *command, "train") as running:
        assert running.stdout is not None
        assert any("ELBO train" in line for line in running.stdout)
        (training,) = [
            p for p in psutil.Process(running.pid).children(recursive=True) if p.cmdline()[1:] == ["-m", "pipeline.train"]
        ]
        if "--temp" not in command:
            running.terminate()  # DVC alone: the stage notices its end, and saves
            assert "interrupted after" in running.stdout.read()  # to the end of both outputs
        else:
            training.kill()
    assert running.returncode != 0
    if "--temp" not in command:
        assert clone.run("git", "symbolic-ref", "HEAD").returncode != 0  # DVC leaves a detached HEAD if SIGTERM ends it
        clone.run_ok("git", "switch", "-")
    assert clone.run_ok("git", "symbolic-ref", "HEAD").strip() == "refs/heads/main"
    log = clone.run_ok("dvc", *command, "train")
    assert re.search(r"checkpoints/\w+/step-\d+: going on after \d+ of 40 epochs", log)
    assert log.count("ELBO train") < 40
    if "--temp" not in command:
        curve = clone.folder / "results/train/plots/metrics/train/elbo.tsv"
        assert len(curve.read_text(encoding="utf-8").splitlines()) == 41
    clone.restore()
    assert clone.status() == ""


def test_an_unavailable_backend_is_one_error_line(clone: Clone) -> None:
    done = clone.run("python", "-m", "pipeline.evaluate", VAE_EXT_BACKEND="gpu")
    assert done.returncode == 2
    assert done.stderr == "error: VAE_EXT_BACKEND: expected one of reference, cpu, cuda, got 'gpu'\n"


@pytest.mark.long
def test_recipes_are_a_separate_dvc_project_with_experiments_of_their_own(clone: Clone) -> None:
    folder, recipe = clone.folder / "recipes/results/mine", clone.folder / "recipes/mine.yaml"
    text = "about: {system: mine, look: at it}\nmodel: {latent_dim: 2}\ntrain: {epochs: 1, optimizer: rmsprop}\n"
    recipe.write_text(text, encoding="utf-8")
    clone.run_ok("python", "-m", "pipeline.config.recipes")
    recipes = Clone(clone.folder / "recipes", clone.cache)
    stages = r"Running stage '(\w+@\w+)'"
    log = recipes.run_ok("dvc", "repro", "evaluate@mine")
    assert "Stage 'prepare' didn't change, skipping" in log  # the root project's stage
    assert re.findall(stages, log) == ["resolve@mine", "train@mine", "evaluate@mine"]
    card = (clone.folder / "recipes/models/mine/MODEL_CARD.md").read_text(encoding="utf-8")
    assert 'pipeline.load("recipes/models/mine")' in card
    # A change that training does not read does not retrain.
    recipe.write_text(text + "evaluate: {importance_samples: 2}\n", encoding="utf-8")
    assert re.findall(stages, recipes.run_ok("dvc", "repro", "resolve@mine")) == ["resolve@mine"]
    assert recipes.read("dvc", "status", "train@mine", "evaluate@mine").keys() == {"evaluate@mine"}
    # The root project's DVC is unaffected.
    assert clone.run_ok("dvc", "status").strip() == UP_TO_DATE
    clone.commit("A recipe")
    curve = folder / "train/plots/metrics/validation/elbo.tsv"
    before = curve.read_text(encoding="utf-8")
    # In a copy of the repository, which has no data yet.
    change = ("-S", "mine.yaml:+train.learning_rate=0.01")
    recipes.run_ok("dvc", "exp", "run", "--temp", "--name", "faster", "train@mine", *change)
    recipes.run("dvc", "exp", "apply", "faster")  # ends with a list of the missing weights of recipes that were not run
    assert curve.read_text(encoding="utf-8") != before
    assert "learning_rate: 0.01" in (folder / "params.yaml").read_text(encoding="utf-8")
    metrics = recipes.read("dvc", "metrics", "diff")
    assert "results/mine/time.json" in metrics
    recipes.run_ok("git", "restore", "-SW", ".")
    recipes.run_ok("dvc", "checkout", "--allow-missing")
    assert clone.status() == ""
