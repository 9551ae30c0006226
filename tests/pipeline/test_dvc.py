"""The whole pipeline under DVC, in a fresh copy of the repository, on a few hundred images.

The tests of this file share one copy and run in order; each leaves it clean.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipeline.conftest import ROOT, SMALL, set_params, small_mnist, start_history
from vae_ext.backend import compiled_module
from vae_ext.source import source_digest

BIN = Path(sys.executable).parent


class Clone:
    """A copy of the repository, and commands run in it as a user would."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        # On the CPU everywhere, with a build cache of its own: another run must not have built what is built here.
        path = f"{BIN}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "VAE_EXT_CACHE_DIR": str(self.cache)}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.environment, **environment}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def start(self, *command: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        env = {**os.environ, **self.environment}
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=stdout, stderr=subprocess.STDOUT, text=True)

    def must(self, *command: str, **environment: str) -> str:
        done = self.run(*command, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def read(self, *command: str) -> dict[str, Any]:
        """What a command prints as JSON; DVC's warnings go elsewhere."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

    def metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = json.loads((self.folder / "results/evaluate/metrics.json").read_text())
        return metrics

    def restore(self) -> None:
        """Back to the last commit, without running a stage."""
        self.must("git", "restore", "--staged", "--worktree", ".")
        self.must("dvc", "checkout", "--quiet", "dvc.yaml")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Every file that git tracks or would track, with small data in place of MNIST, after its first `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        dropped = name.startswith(("data/raw", "results/")) and not name.startswith("results/benchmarks/")
        if not dropped and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    small_mnist(folder / "data/raw/small")
    set_params(folder / "params.yaml", SMALL)
    (folder / "dvc.lock").unlink(missing_ok=True)
    start_history(folder)
    clone = Clone(folder, tmp_path_factory.mktemp("cache"))
    # The kernels of the tree need not be compiled again: only edited ones.
    module = compiled_module()
    built = Path(module.__file__ or "").parent if module is not None else Path()
    if built.name.startswith(source_digest()[:16]):
        shutil.copytree(built, clone.cache / "vae_ext" / built.name)
    clone.must("dvc", "repro")
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "First results")
    yield clone
    # Not by DVC: a worker that was busy when its queue ran empty misses that, and what it is told afterwards.
    for pid in (folder / ".dvc/tmp/exps/celery").glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(int(pid.read_text()))
            if "queue-worker" in worker.cmdline():
                worker.kill()


def test_after_repro_everything_is_there_and_status_is_clean(clone: Clone) -> None:
    assert "up to date" in clone.must("dvc", "status", "dvc.yaml")  # the benchmarks' pipeline has its own time
    assert clone.must("git", "status", "--porcelain") == ""
    assert (clone.folder / "models/default/vae.safetensors").is_file()
    assert len(list((clone.folder / "results/plot").glob("*.png"))) >= 8


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
    before = kernel.read_text()
    kernel.write_text(before + "// edited\n")
    log = clone.must("dvc", "repro")
    assert "built just now, into the cache" in log
    assert "backend cpu" in log
    kernel.write_text(before)
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
        training.kill()
    assert running.returncode != 0
    log = clone.must("dvc", *command)
    assert re.search(r"checkpoints/\w+/step-\d+: going on after \d+ of 60 epochs", log)
    assert log.count("ELBO train") < 60
    if command == ["repro"]:
        rows = (clone.folder / "results/train/plots/metrics/train/elbo.tsv").read_text().splitlines()
        assert len(rows) == 61
    clone.restore()
    assert clone.must("git", "status", "--porcelain") == ""


def test_metrics_and_params_of_two_commits_compare_in_a_clone_without_a_cache(clone: Clone, tmp_path: Path) -> None:
    clone.must("dvc", "exp", "run", "-S", "beta=4.0")
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "beta 4")
    clone.must("git", "clone", "--quiet", str(clone.folder), str(tmp_path / "other"))
    other = Clone(tmp_path / "other", clone.cache)
    assert not (other.folder / "models/default/vae.safetensors").exists()
    metrics = other.read("dvc", "metrics", "diff", "HEAD~1", "HEAD")
    assert metrics["results/evaluate/metrics.json"]["rate"]["diff"] < 0
    params = other.read("dvc", "params", "diff", "HEAD~1", "HEAD")
    assert (params["params.yaml"]["beta"]["old"], params["params.yaml"]["beta"]["new"]) == (1.0, 4.0)
    clone.must("git", "reset", "--quiet", "--hard", "HEAD~1")
    clone.restore()


def test_queued_experiments_run_on_the_kernel_of_their_own_snapshot(clone: Clone) -> None:
    committed = digest_of(clone)
    kernel = clone.folder / "csrc/gaussian.h"
    kernel.write_text(kernel.read_text() + "// edited\n")
    edited = digest_of(clone)
    clone.must("dvc", "exp", "run", "--queue", "-S", "beta=0.5,2", "-S", "train.epochs=1")
    clone.restore()
    assert digest_of(clone) == committed != edited
    clone.start("dvc", "queue", "start", "-j", "2", stdout=subprocess.DEVNULL).wait()
    deadline = time.monotonic() + 300
    while (status := clone.must("dvc", "queue", "status")).count("Success") < 2:
        assert "Failed" not in status, status
        assert time.monotonic() < deadline, status
        time.sleep(2)
    names = re.findall(r"^\w{7}\s+([\w-]+)", status, re.MULTILINE)
    assert len(names) == 2
    for name in names:
        log = clone.must("dvc", "queue", "logs", name)
        assert "backend cpu" in log
        assert f"digest: {edited}" in log


def digest_of(clone: Clone) -> str:
    """The digest of the kernels in the copy's tree."""
    code = "from vae_ext.source import source_digest; print(source_digest())"
    return clone.must(sys.executable, "-c", code, VAE_EXT_BACKEND="reference", PYTHONPATH=str(clone.folder)).strip()


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
    recipe.write_text("about: {system: mine, look: at it}\nmodel: {latent_dim: 2}\ntrain: {epochs: 1, optimizer: rmsprop}\n")
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
    recipe.write_text(recipe.read_text() + "plot: {manifold: 3}\n")
    log = clone.must("dvc", "repro", "recipes/dvc.yaml:plot@mine")
    assert re.findall(r"Running stage 'recipes/dvc.yaml:(\w+@\w+)'", log) == ["resolve@mine", "plot@mine"]
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "A recipe")
    before = json.loads((folder / "evaluate/metrics.json").read_text())
    clone.must("dvc", "exp", "run", "recipes/dvc.yaml:plot@mine", "-S", "recipes/mine.yaml:+train.learning_rate=0.01")
    assert json.loads((folder / "evaluate/metrics.json").read_text())["elbo"] != before["elbo"]
    assert "learning_rate: 0.01" in (folder / "params.yaml").read_text()
    clone.must("git", "reset", "--quiet", "--hard", "HEAD~1")
    clone.restore()


def test_a_recipe_that_is_not_there_is_one_line(clone: Clone) -> None:
    done = clone.run(sys.executable, "-m", "pipeline.train", "nobodys", PYTHONPATH=str(clone.folder))
    assert (done.returncode, done.stderr) == (2, "error: recipes/nobodys.yaml: missing; expected a recipe of that name\n")


def test_rate_and_distortion_of_experiments_are_drawn(clone: Clone) -> None:
    if "low-beta" not in clone.must("dvc", "exp", "list", "--name-only"):
        clone.must("dvc", "exp", "run", "--name", "low-beta", "-S", "beta=0.01")
        clone.restore()
    clone.must(sys.executable, "-m", "pipeline.rate_distortion", PYTHONPATH=str(clone.folder))
    table = pd.read_csv(clone.folder / "results/rate_distortion.csv")
    plain = table[table["else"].isna()].set_index("beta")["rate"]
    assert {0.01, 1.0} <= set(plain.index)
    assert plain.to_dict()[0.01] > plain.to_dict()[1.0]
    assert (clone.folder / "results/rate_distortion.png").is_file()
    clone.must("git", "clean", "--quiet", "--force", "results")


def test_a_run_is_verified_against_the_band_of_seeds(clone: Clone) -> None:
    clone.must("dvc", "exp", "run", "-S", "seed=2")
    clone.restore()
    path = {"PYTHONPATH": str(clone.folder)}
    few = clone.run(sys.executable, "-m", "pipeline.seeds", **path)
    assert (few.returncode, few.stderr.count("with 5 seeds or more, got 2")) == (2, 1)
    # Five whole runs would take minutes: two, and a band for which that is enough.
    patched = "from pipeline import seeds; seeds.FEWEST = 2; seeds.main()"
    assert "from seeds 1, 2" in clone.must(sys.executable, "-c", patched, **path)
    assert clone.must(sys.executable, "-m", "pipeline.verify", **path).count(" inside ") == len(clone.metrics())
    clone.must("git", "clean", "--quiet", "--force", "results")


def test_plots_are_shown_and_compared_without_a_network(clone: Clone) -> None:
    for command in (("show",), ("diff", "HEAD~1", "HEAD")):
        clone.must("dvc", "plots", *command)
        page = (clone.folder / "dvc_plots/index.html").read_text()
        assert '"field": "nll"' in page
        assert "reconstructions.png" in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    clone.must("git", "clean", "--quiet", "--force", "-d", "dvc_plots")
