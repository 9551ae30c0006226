"""Experiments under DVC: queued, compared, verified, plotted; in a fresh copy of the repository, on a few hundred images."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from pipeline.evaluation.metrics import METRICS
from tests.pipeline.browser import CHROMIUM, launched, opened
from tests.pipeline.clone import Clone
from tests.programs import quick_compiler
from vae_ext.backend import compiled_module
from vae_ext.source import source_digest

pytestmark = pytest.mark.long
EDIT = "// edited\n"
# Vega draws on canvases.
RECORD_TEXTS = """
    window.texts = new Set();
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
        texts.add(text);
        fillText.call(this, text, ...place);
    };
"""


def digest_of(folder: Path) -> str:
    """Returns the digest of the sources in a folder, computed by its own vae_ext without importing torch."""
    digest: str = runpy.run_path(str(folder / "vae_ext/source.py"))["source_digest"]()
    return digest


def edit_kernel(clone: Clone) -> str:
    """Edits the sources; returns their new digest."""
    kernel = clone.folder / "csrc/gaussian.h"
    kernel.write_text(kernel.read_text(encoding="utf-8") + EDIT, encoding="utf-8")
    return digest_of(clone.folder)


@pytest.fixture(scope="module")
def edited(clone: Clone) -> str:
    """Queues two experiments with another seed as a grid while the sources are edited; returns the sources' digest.

    They run on the reference: compilation is tested elsewhere, and here only the sources of a run matter.
    """
    clone.environment["VAE_EXT_BACKEND"] = "reference"
    digest = edit_kernel(clone)
    clone.run_ok("dvc", "exp", "run", "--queue", "--name", "grid", "-S", "beta=1.0,4.0", "-S", "seed=2", "evaluate")
    clone.restore()
    assert digest_of(clone.folder) != digest
    clone.start("dvc", "queue", "start", "-j", "2", stdout=subprocess.DEVNULL).wait()
    # Joins the running ones and waits: polling the status would take the core of one.
    clone.run_ok("dvc", "exp", "run", "--run-all", "--jobs", "2")
    assert clone.run_ok("dvc", "queue", "status").count("Success") == 2
    assert "ELBO train" in clone.run_ok("dvc", "queue", "logs", "grid-2")
    return digest


def test_queued_experiments_run_the_sources_of_their_own_snapshot(clone: Clone, edited: str) -> None:
    for name in ("grid-1", "grid-2"):
        clone.run_ok("dvc", "exp", "apply", name)
        assert edited in clone.run_ok("python", "-m", "pipeline", "info")
        clone.restore()


def test_an_experiment_in_a_temporary_copy_compiles_the_kernel_of_its_snapshot(clone: Clone, tmp_path: Path) -> None:
    digest = edit_kernel(clone)
    # The edit changes only the digest: what is compiled is this tree's module with another digest.
    module = compiled_module()
    assert module is not None and module.__file__ is not None
    compiler = quick_compiler(tmp_path, Path(module.__file__), instead={source_digest(): digest})
    compiled = {"VAE_EXT_BACKEND": "cpu", "VAE_EXT_CACHE_DIR": str(tmp_path), "CXX": compiler}
    iwae = ("-S", "objective.bound=iwae", "-S", "objective.samples=5")
    log = clone.run_ok("dvc", "exp", "run", "--temp", "--name", "iwae", *iwae, "train", **compiled)
    assert "built just now, into the cache" in log
    assert f"digest: {digest}" in log
    assert "backend cpu" in log
    clone.restore()
    changed = clone.read("dvc", "params", "diff", "main", "iwae")["params.yaml"]
    assert {name: value["new"] for name, value in changed.items()} == {"objective.bound": "iwae", "objective.samples": 5}


@pytest.fixture(scope="module")
def higher(clone: Clone, edited: str) -> str:
    """A branch with a commit of the experiment with the higher beta."""
    clone.run_ok("dvc", "exp", "apply", "grid-2")
    clone.run_ok("git", "checkout", "--quiet", "-b", "higher")
    clone.run_ok("git", "add", "results")
    clone.commit("beta 4")
    clone.run_ok("git", "checkout", "--quiet", "main")
    clone.restore()
    return "higher"


def test_two_commits_can_be_compared_in_a_clone_without_a_cache(clone: Clone, higher: str, tmp_path: Path) -> None:
    clone.run_ok("git", "clone", "--quiet", "--branch", higher, str(clone.folder), str(tmp_path / "other"))
    other = Clone(tmp_path / "other", clone.cache)
    assert not (other.folder / "models/default/vae.safetensors").exists()
    metrics = other.read("dvc", "metrics", "diff", "HEAD~1", "HEAD")
    assert metrics["results/evaluate/metrics.json"]["rate"]["diff"] < 0
    params = other.read("dvc", "params", "diff", "HEAD~1", "HEAD")
    assert (params["params.yaml"]["beta"]["old"], params["params.yaml"]["beta"]["new"]) == (1.0, 4.0)
    assert "results/evaluate/metrics.json" in other.run_ok("dvc", "metrics", "show")
    compared = other.run_ok("python", "-m", "pipeline", "compare", "HEAD~1", "HEAD")
    assert re.search(r"^HEAD +2 +4 ", compared, re.MULTILINE)


def test_rate_and_distortion_of_experiments_are_plotted(clone: Clone, edited: str) -> None:
    clone.run_ok("python", "-m", "pipeline.studies.rate_distortion", "out")
    table = pd.read_csv(clone.folder / "out/rate_distortion.csv")
    rates = table[table["else"] == "seed=2"].set_index("beta")["rate"].to_dict()
    assert rates[4.0] < rates[1.0]
    assert (clone.folder / "out/rate_distortion.png").is_file()
    clone.run_ok("git", "clean", "--quiet", "--force", "results")


def test_a_run_is_verified_against_the_band_of_seeds(clone: Clone, edited: str) -> None:
    # Five whole runs would take minutes: two, and a band that allows two.
    two_are_enough = "from pipeline.studies import seeds; seeds.FEWEST = 2; seeds.main()"
    assert "from seeds 1, 2" in clone.run_ok("python", "-c", two_are_enough)
    verified = clone.run_ok("python", "-m", "pipeline.studies.verify")
    assert f"all {len(METRICS)} quantities are inside" in verified
    clone.run_ok("git", "clean", "--quiet", "--force", "results")


def test_plots_are_shown_and_compared_without_a_network(clone: Clone, higher: str) -> None:
    for command in (("show",), ("diff", "main", higher)):
        clone.run_ok("dvc", "plots", *command)
        page = (clone.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
        assert '"field": "nll"' in page
        assert "reconstructions.png" in page
        assert "recipes" not in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    if CHROMIUM is not None:
        with launched() as browser:
            shown = opened(browser, clone.folder / "dvc_plots/index.html")
            shown.add_init_script(RECORD_TEXTS)
            shown.reload()
            for title in ("ELBO, train", "rate, validation", "KL per latent dimension", "NLL by samples of z", "Test set"):
                shown.wait_for_function(f"texts.has('{title}')")
            assert shown.troubles == []
    clone.run_ok("git", "clean", "--quiet", "--force", "-d", "dvc_plots")


def test_two_clones_share_experiments_and_models_through_remotes(clone: Clone, edited: str, tmp_path: Path) -> None:
    clone.run_ok("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(tmp_path / "git"))
    clone.run_ok("git", "remote", "add", "origin", str(tmp_path / "git"))
    clone.run_ok("git", "push", "--quiet", "origin", "main")
    clone.run_ok("git", "clone", "--quiet", str(tmp_path / "git"), str(tmp_path / "other"))
    other = Clone(tmp_path / "other", clone.cache)
    for name, value in (("name", "Another"), ("email", "another@example.org")):
        other.run_ok("git", "config", f"user.{name}", value)
    storage = f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path}/storage\n"
    for each in (clone, other):
        (each.folder / ".dvc/config.local").write_text(storage, encoding="utf-8")
    clone.run_ok("dvc", "push")
    other.run_ok("dvc", "pull")

    log = other.run_ok("dvc", "exp", "run", "--name", "elsewhere", "-S", "evaluate.importance_samples=2", "evaluate")
    assert re.findall(r"Running stage '(\w+)'", log) == ["check", "evaluate"]
    other.run_ok("dvc", "exp", "push", "origin", "elsewhere")
    clone.run_ok("dvc", "exp", "push", "origin", "grid-2")

    assert {"elsewhere", "grid-2"} <= set(clone.run_ok("dvc", "exp", "list", "origin").split())
    clone.run_ok("dvc", "exp", "pull", "origin", "elsewhere")
    compared = clone.run_ok("python", "-m", "pipeline", "compare")  # runs that dvc exp show lists
    assert {"elsewhere", "grid-2"} <= {line.split()[0] for line in compared.splitlines() if line}
    # The other clone gets the model trained here.
    other.restore()
    other.run_ok("dvc", "exp", "pull", "origin", "grid-2")
    other.run_ok("dvc", "exp", "apply", "grid-2")
    assert edited in other.run_ok("python", "-m", "pipeline", "info")
