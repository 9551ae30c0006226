"""The stages under DVC, in a fresh copy of the repository, on a few hundred images.

The tests of this file share one copy and run in order; each leaves it clean. They run as few stages as can show it: each is a
process that imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipeline.clone import BIN, Clone
from tests.pipeline.conftest import set_params

UP_TO_DATE = "Data and pipelines are up to date."


def test_results_and_no_data_are_in_git(clone: Clone) -> None:
    assert (clone.folder / "models/default/vae.safetensors").is_file()
    assert len(list((clone.folder / "results/plot").glob("*.png"))) >= 8
    tracked = clone.must("git", "ls-files").splitlines()
    assert "results/evaluate/metrics.json" in tracked
    assert "results/train/plots/metrics/train/elbo.tsv" in tracked
    assert "results/plot/latent.png" in tracked
    assert not [name for name in tracked if name.startswith(("models/", "data/prepared"))]


def test_second_repro_runs_nothing_and_what_is_run_again_leaves_the_same_bytes(clone: Clone) -> None:
    log = clone.must("dvc", "repro")
    assert "Running stage" not in log
    assert "benchmarks" not in log
    assert "Running stage 'plot'" in clone.must("dvc", "repro", "--force", "--downstream", "train")
    restore_the_time(clone)


def restore_the_time(clone: Clone) -> None:
    """Takes back all that may differ after a training that is run again: how long it took, on which nothing depends."""
    changed = clone.must("git", "diff", "HEAD", "--unified=1", "--", "dvc.lock")
    assert set(re.findall(r"^[-+]( +\w+)", changed, re.MULTILINE)) <= {"      md5", "      size"}
    assert set(re.findall(r"path: (\S+)", changed)) <= {"results/time.json"}
    assert clone.status().split() in (["M", "dvc.lock"], [])
    clone.restore()


@pytest.mark.long
def test_a_fresh_clone_pulls_the_model_and_samples_without_training_or_a_compiler(clone: Clone, tmp_path: Path) -> None:
    clone.must("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    assert "recipes" not in clone.must("dvc", "push")
    clone.must("git", "clone", "--quiet", str(clone.folder), str(tmp_path / "other"))
    shutil.copy(clone.folder / ".dvc/config", tmp_path / "other/.dvc/config")
    clone.must("git", "restore", ".")
    other = Clone(tmp_path / "other", tmp_path / "no cache")
    other.must("dvc", "pull", "models/default/vae.safetensors", "models/default/MODEL_CARD.md")
    warned = other.must("python", "-m", "pipeline", "sample", "-n", "4", "-o", "out/grid.png", CXX="/no/compiler")
    assert "vae_ext uses its pure-PyTorch reference" in warned
    assert (other.folder / "out/grid.png").is_file()
    assert "elbo" in other.must("python", "-m", "pipeline", "info")
    assert not (other.folder / "data/prepared").exists()
    assert "recipes" not in other.must("dvc", "pull")  # everything
    assert (other.folder / "results/report/index.html").is_file()
    assert other.status().split() == ["M", ".dvc/config"]


def test_another_beta_skips_prepare_and_trades_rate_for_distortion_and_one_command_leads_back(
    clone: Clone, tmp_path: Path
) -> None:
    before, weights = clone.metrics(), clone.folder / "models/default/vae.safetensors"
    md5 = hashlib.md5(weights.read_bytes()).hexdigest()
    log = clone.must("dvc", "exp", "run", "--name", "low-beta", "-S", "beta=0.01")
    assert re.findall(r"Running stage '(.+)'", log) == ["check", "train", "evaluate", "plot"]
    assert "Stage 'prepare' didn't change, skipping" in log
    after = clone.metrics()
    assert after["distortion"] < before["distortion"]
    assert after["rate"] > before["rate"]
    # As in a clone that has not trained what is committed: the cache has the experiment's weights alone.
    cached = clone.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    aside = cached.rename(tmp_path / "aside")
    assert "dvc exp apply" in way_back(clone)
    assert (clone.metrics(), weights.exists()) == (before, False)
    aside.rename(cached)
    for command in (["exp", "apply", "low-beta"], ["checkout"]):
        assert "recipes" not in clone.must("dvc", *command)
        assert (clone.metrics(), weights.is_file()) == (after, True)
    way_back(clone)
    assert hashlib.md5(weights.read_bytes()).hexdigest() == md5
    shown = clone.must("dvc", "exp", "show").splitlines()
    head = "\n".join(line[:100] for line in shown)
    assert all(word in head for word in ("low-beta", " elbo ", " rate ", " distortion ", " nll ", " beta "))
    assert "recipes" not in "".join(shown)
    compared = clone.must("python", "-m", "pipeline", "compare")
    assert re.search(r"^low-beta +0\.01 ", compared, re.MULTILINE)
    assert re.search(r"^NLL: best is (main|low-beta) \(beta (1|0.01)\), ", compared, re.MULTILINE)
    assert clone.must("python", "-m", "pipeline", "compare", "main", "low-beta") == compared
    assert clone.must("dvc", "status").strip() == UP_TO_DATE  # no word of recipes, nor of the benchmarks


def way_back(clone: Clone) -> str:
    """What `make restore` does, and says."""
    text = (clone.folder / "Makefile").read_text(encoding="utf-8")
    recipe = text.split("\nrestore: $(READY)\n")[1].split("\n\n")[0].replace("$(ACTIVE)", "")
    said = clone.must("sh", "-ec", recipe)
    assert clone.status() == ""
    return said


def test_mistakes_in_params_are_a_line_each_and_nothing_runs(clone: Clone) -> None:
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
    way_back(clone)
    assert "Running stage" not in clone.must("dvc", "repro")


def test_a_key_after_s_that_is_none_is_refused_and_taken_back_in_one_command(clone: Clone) -> None:
    refused = clone.run("dvc", "exp", "run", "-S", "betta=0.5")
    assert (refused.returncode != 0, clone.must("git", "status", "--porcelain")) == (True, "")
    refused = clone.run("dvc", "exp", "run", "-S", "+betta=0.5")
    assert "error: params.yaml: betta: unknown key; did you mean beta?" in refused.stderr
    assert re.findall(r"Running stage '(\w+)'", refused.stdout) == ["check"]
    clone.must("git", "restore", "params.yaml", "dvc.lock")
    assert clone.must("git", "status", "--porcelain") == ""


@pytest.mark.long
def test_other_data_are_an_experiment_like_any(clone: Clone) -> None:
    images = np.random.RandomState(0).randint(0, 256, (200, 9, 11, 3)).astype(np.uint8)
    np.savez(clone.folder / "data/raw/mine.npz", images=images, labels=np.arange(200) % 2)
    clone.must("dvc", "add", "data/raw/mine.npz")
    own = {"path": "data/raw/mine.npz", "validation": 0.1, "test": 20, "split_seed": 1}
    changes = [word for name, value in own.items() for word in ("-S", f"data.{name}={value}")]
    clone.must("git", "add", "--all")
    # In a copy of the repository, which has them from DVC.
    clone.must("dvc", "exp", "run", "--temp", "--name", "mine", "prepare", *changes)
    clone.must("dvc", "exp", "apply", "mine")
    manifest = json.loads((clone.folder / "data/prepared/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["image_shape"], manifest["counts"]) == ([3, 9, 11], {"train": 160, "validation": 20, "test": 20})
    clone.must("git", "reset", "--quiet", "--hard")
    clone.must("git", "clean", "--quiet", "--force", "-x", "data/raw")
    clone.restore()


def training(clone: Clone) -> dict[str, float]:
    """What training says of the validation images."""
    curves = (clone.folder / "results/train/plots/metrics/validation").glob("*.tsv")
    return {path.stem: float(path.read_text(encoding="utf-8").split()[-1]) for path in curves}


@pytest.mark.long
def test_an_edited_kernel_trains_again_on_the_same_noise_without_a_compiler_and_reverting_restores(clone: Clone) -> None:
    before, metrics = clone.status(), training(clone)
    kernel = clone.folder / "csrc/gaussian.h"
    text = kernel.read_text(encoding="utf-8")
    kernel.write_text(text + "// edited\n", encoding="utf-8")
    log = clone.must("dvc", "repro", "train", VAE_EXT_BACKEND="reference", PATH=f"{BIN}:/bin:/nowhere")
    assert "backend reference" in log
    assert re.findall(r"Running stage '(\w+)'", log) == ["train"]
    assert training(clone) == pytest.approx(metrics, rel=1e-3)
    kernel.write_text(text, encoding="utf-8")
    log = clone.must("dvc", "repro")
    assert "Running stage" not in log
    assert "Stage 'train' is cached - skipping run, checking out outputs" in log
    assert training(clone) == metrics
    assert before == ""
    restore_the_time(clone)


@pytest.mark.parametrize("command", [["exp", "run"], pytest.param(["exp", "run", "--temp"], marks=pytest.mark.long)])
def test_a_killed_training_goes_on_when_it_is_run_again(clone: Clone, command: list[str]) -> None:
    # The second runs in a copy of the repository, which the third run of it is not in.
    set_params(clone.folder / "params.yaml", {"train.epochs": 40, "train.batch_size": 16, "seed": len(command)})
    with clone.start("dvc", *command, "train") as running:
        assert running.stdout is not None
        assert any("ELBO train" in line for line in running.stdout)
        (training,) = [
            p for p in psutil.Process(running.pid).children(recursive=True) if p.cmdline()[1:] == ["-m", "pipeline.train"]
        ]
        if "--temp" not in command:
            running.terminate()  # of DVC alone: the stage notices, and saves
            assert "interrupted after" in running.stdout.read()  # to the end of what both write
        else:
            training.kill()
    assert running.returncode != 0
    if "--temp" not in command:
        assert clone.run("git", "symbolic-ref", "HEAD").returncode != 0  # DVC leaves it detached where it is ended by SIGTERM
        clone.must("git", "switch", "-")
    assert clone.must("git", "symbolic-ref", "HEAD").strip() == "refs/heads/main"
    log = clone.must("dvc", *command, "train")
    assert re.search(r"checkpoints/\w+/step-\d+: going on after \d+ of 40 epochs", log)
    assert log.count("ELBO train") < 40
    if "--temp" not in command:
        curve = clone.folder / "results/train/plots/metrics/train/elbo.tsv"
        assert len(curve.read_text(encoding="utf-8").splitlines()) == 41
    clone.restore()
    assert clone.status() == ""


def test_a_backend_that_cannot_be_had_is_one_line(clone: Clone) -> None:
    done = clone.run("python", "-m", "pipeline.evaluate", VAE_EXT_BACKEND="gpu")
    assert done.returncode == 2
    assert done.stderr == "error: VAE_EXT_BACKEND: expected one of reference, cpu, cuda, got 'gpu'\n"


@pytest.mark.long
def test_recipes_are_a_project_of_their_own_and_their_parameters_vary_like_any(clone: Clone) -> None:
    folder, recipe = clone.folder / "recipes/results/mine", clone.folder / "recipes/mine.yaml"
    text = "about: {system: mine, look: at it}\nmodel: {latent_dim: 2}\ntrain: {epochs: 1, optimizer: rmsprop}\n"
    recipe.write_text(text, encoding="utf-8")
    clone.must("python", "-m", "pipeline.config.recipes")
    recipes = Clone(clone.folder / "recipes", clone.cache)
    stages = r"Running stage '(\w+@\w+)'"
    log = recipes.must("dvc", "repro", "evaluate@mine")
    assert "Stage 'prepare' didn't change, skipping" in log  # the root's
    assert re.findall(stages, log) == ["resolve@mine", "train@mine", "evaluate@mine"]
    card = (clone.folder / "recipes/models/mine/MODEL_CARD.md").read_text(encoding="utf-8")
    assert 'pipeline.load("recipes/models/mine")' in card
    # What the training does not read does not train again.
    recipe.write_text(text + "evaluate: {importance_samples: 2}\n", encoding="utf-8")
    assert re.findall(stages, recipes.must("dvc", "repro", "resolve@mine")) == ["resolve@mine"]
    assert recipes.read("dvc", "status", "train@mine", "evaluate@mine").keys() == {"evaluate@mine"}
    # The root's DVC has nothing to say of all this.
    assert clone.must("dvc", "status").strip() == UP_TO_DATE
    clone.commit("A recipe")
    curve = folder / "train/plots/metrics/validation/elbo.tsv"
    before = curve.read_text(encoding="utf-8")
    # In a copy of the repository, which has no data yet.
    change = ("-S", "mine.yaml:+train.learning_rate=0.01")
    recipes.must("dvc", "exp", "run", "--temp", "--name", "faster", "train@mine", *change)
    recipes.run("dvc", "exp", "apply", "faster")  # ends with a list of the weights of recipes that were never run
    assert curve.read_text(encoding="utf-8") != before
    assert "learning_rate: 0.01" in (folder / "params.yaml").read_text(encoding="utf-8")
    metrics = recipes.read("dvc", "metrics", "diff")
    assert "results/mine/time.json" in metrics
    recipes.must("git", "restore", "-SW", ".")
    recipes.must("dvc", "checkout", "--allow-missing")
    assert clone.status() == ""
