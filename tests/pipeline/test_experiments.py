"""Experiments under DVC: queued, compared, verified, drawn; in a fresh copy of the repository, on a few hundred images.

The tests of this file share one copy, and two experiments that the first of them runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from tests.pipeline.clone import Clone

DIGEST = "from vae_ext.source import source_digest; print(source_digest())"


def test_queued_experiments_run_on_the_kernel_of_their_own_snapshot(clone: Clone) -> None:
    # The compiler is tried elsewhere: here what counts is which sources a run takes for its own.
    clone.environment["VAE_EXT_BACKEND"] = "reference"
    committed = clone.python(DIGEST)
    kernel = clone.folder / "csrc/gaussian.h"
    kernel.write_text(kernel.read_text(encoding="utf-8") + "// edited\n", encoding="utf-8")
    edited = clone.python(DIGEST)
    for name, change in (("high-beta", "beta=4.0"), ("other-seed", "seed=2")):
        clone.must("dvc", "exp", "run", "--queue", "--name", name, "-S", change, "evaluate")
    clone.restore()
    assert clone.python(DIGEST) == committed != edited
    clone.start("dvc", "queue", "start", "-j", "2", stdout=subprocess.DEVNULL).wait()
    deadline = time.monotonic() + 300
    while len(re.findall("high-beta|other-seed", clone.must("git", "for-each-ref", "refs/exps"))) < 2:
        assert time.monotonic() < deadline, clone.must("dvc", "queue", "status")
        time.sleep(1)
    for name in ("high-beta", "other-seed"):
        clone.must("dvc", "exp", "apply", name)
        assert edited.strip() in clone.must("python", "-m", "pipeline", "info")
        clone.restore()


def test_metrics_and_params_of_two_commits_compare_in_a_clone_without_a_cache(clone: Clone, tmp_path: Path) -> None:
    clone.must("dvc", "exp", "apply", "high-beta")
    clone.must("git", "checkout", "--quiet", "-b", "higher")
    clone.commit("beta 4")
    clone.must("git", "clone", "--quiet", str(clone.folder), str(tmp_path / "other"))
    other = Clone(tmp_path / "other", clone.cache)
    assert not (other.folder / "models/default/vae.safetensors").exists()
    metrics = other.read("dvc", "metrics", "diff", "HEAD~1", "HEAD")
    assert metrics["results/evaluate/metrics.json"]["rate"]["diff"] < 0
    params = other.read("dvc", "params", "diff", "HEAD~1", "HEAD")
    assert (params["params.yaml"]["beta"]["old"], params["params.yaml"]["beta"]["new"]) == (1.0, 4.0)
    clone.must("git", "checkout", "--quiet", "main")
    clone.restore()


def test_rate_and_distortion_of_experiments_are_drawn(clone: Clone) -> None:
    clone.must(sys.executable, "-m", "pipeline.rate_distortion", PYTHONPATH=str(clone.folder))
    table = pd.read_csv(clone.folder / "results/rate_distortion.csv")
    plain = table[table["else"].isna()].set_index("beta")["rate"]
    assert plain.to_dict()[4.0] < plain.to_dict()[1.0]
    assert (clone.folder / "results/rate_distortion.png").is_file()
    clone.must("git", "clean", "--quiet", "--force", "results")


def test_a_run_is_verified_against_the_band_of_seeds(clone: Clone) -> None:
    path = {"PYTHONPATH": str(clone.folder)}
    few = clone.run(sys.executable, "-m", "pipeline.seeds", **path)
    assert (few.returncode, few.stderr.count("with 5 seeds or more, got 2")) == (2, 1)
    # Five whole runs would take minutes: two, and a band for which that is enough.
    assert "from seeds 1, 2" in clone.python("from pipeline import seeds; seeds.FEWEST = 2; seeds.main()")
    assert clone.must(sys.executable, "-m", "pipeline.verify", **path).count(" inside ") == len(clone.metrics())
    clone.must("git", "clean", "--quiet", "--force", "results")


def test_plots_are_shown_and_compared_without_a_network(clone: Clone) -> None:
    for command in (("show",), ("diff", "main", "higher")):
        clone.must("dvc", "plots", *command)
        page = (clone.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
        assert '"field": "nll"' in page
        assert "reconstructions.png" in page
        assert "recipes" not in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    clone.must("git", "clean", "--quiet", "--force", "-d", "dvc_plots")
