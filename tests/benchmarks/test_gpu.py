"""`make gpu` without a GPU: what it would run, in which order, and what is left when its time is up."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.runtime.errors import UserError
from tests.benchmarks import gpu, gpu_parts
from tests.benchmarks.gpu_parts import BENCHMARKS, PARTS, Part, run_parts
from tests.benchmarks.measure import run_within
from tests.programs import outside_make
from tests.vae_ext import every_kernel
from vae_ext.source import ROOT

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@NO_GPU
def test_make_gpu_says_at_once_that_there_is_no_gpu() -> None:
    """On a Python with the standard library alone: nothing is imported that takes time, and nothing compiled."""
    command = ["make", "--no-print-directory", "gpu", "BUDGET=100", f"PYTHON={sys.executable} -S"]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.strip().endswith("-m tests.benchmarks.gpu --budget 100")
    assert done.stderr.splitlines()[0] == "error: make gpu needs an NVIDIA GPU; there is no driver of one here (libcuda.so.1)"


def test_make_gpu_names_what_is_missing_beside_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.what_is_missing() == f"an NVIDIA GPU; torch {torch.__version__} sees none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.what_is_missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.what_is_missing() == f"torch, built for CUDA; {sys.executable} has none (make gpu PYTHON=...)"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_parts, "SCRATCH", tmp_path / "scratch")
    return tmp_path


def ends_with(verdict: str) -> Callable[[Path, float], str]:
    return lambda folder, seconds: verdict


def test_a_part_gets_what_is_left_and_one_that_does_not_fit_is_named(scratch: Path) -> None:
    given = []

    def takes(_folder: Path, seconds: float) -> str:
        given.append(seconds)
        return "measured"

    def fails(_folder: Path, seconds: float) -> str:
        raise UserError("nothing could be measured")

    parts = (
        Part("build", 0, 600, ends_with("built")),
        Part("first", 5, 20, takes),
        Part("second", 5, 600, takes),
        Part("third", 200, 600, takes),
        Part("fourth", 5, 600, fails),
    )
    verdicts = run_parts(parts, scratch, 100)
    assert given[0] == 20 and 95 < given[1] < 100
    assert verdicts["third"].startswith("not run: it takes 200 s, and ")
    assert verdicts["fourth"] == "failed: nothing could be measured"
    assert json.loads((scratch / "checks.json").read_text(encoding="utf-8")) == verdicts


def test_without_kernels_nothing_is_measured(scratch: Path) -> None:
    parts = (Part("build", 0, 600, ends_with("failed: see above")), Part("first", 5, 20, ends_with("measured")))
    assert run_parts(parts, scratch, 100) == {"build": "failed: see above"}


def test_the_default_budget_is_enough_to_begin_all_but_the_rest() -> None:
    assert [part.name for part in PARTS] == [
        *("build", "tests", "kernels", "operator", "step", "sanitizers", "compile", "example", "rest")
    ]
    assert sum(part.least for part in PARTS if part.name != "rest") < 360
    assert set(BENCHMARKS) < {part.name for part in PARTS}


@pytest.fixture
def as_in_the_background() -> Iterator[None]:
    """As a shell starts a job with &."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_the_background")
def test_what_runs_too_long_is_interrupted_and_may_write_what_it_has(tmp_path: Path) -> None:
    code = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1]).write_text("begun")
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text("interrupted")
"""
    assert run_within([sys.executable, "-c", code, str(tmp_path / "found")], 1.5) is None
    assert (tmp_path / "found").read_text(encoding="utf-8") == "interrupted"
    assert run_within([sys.executable, "-c", "import sys; sys.exit(3)"], 60) == 3


@pytest.mark.long
def test_each_part_chooses_benchmarks_of_a_gpu() -> None:
    """Collected as where there is one."""
    code = """
import contextlib, io, sys
import pytest, torch
torch.cuda.is_available = lambda: True
for files, chosen, options in eval(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-k", chosen, *files]) == 0
    for line in said.getvalue().splitlines():
        if line.endswith("-0]"):
            device, case, mode, *provider = line.partition("[")[2].removesuffix("-0]").split("-")
            print(files, device, provider[-1])
    print("next")
"""
    command = [sys.executable, "-c", code, repr([(files, chosen, []) for files, chosen, _ in BENCHMARKS.values()])]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True)
    parts = dict(zip(BENCHMARKS, done.stdout.split("next\n")[:-1], strict=True))
    providers = {name: {line.split()[-1] for line in said.splitlines()} for name, said in parts.items()}
    assert all("cuda" in line for said in parts.values() for line in said.splitlines())
    assert providers["operator"] == {"fused", "eager", "copy", "graph"}
    assert providers["step"] == {"fused", "graph", "autograd", "products"}  # "no graph" ends in graph
    assert providers["compile"] == {"compile"}
    assert providers["example"] == {"tensors"}
    assert providers["rest"] > {"fused", "eager", "compile", "example", "reference"}


@pytest.mark.long
def test_what_a_benchmark_measures_until_its_time_is_up_is_written(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)  # pytest-benchmark times nothing in a worker of pytest-xdist
    monkeypatch.setitem(BENCHMARKS, "operator", (["tests/benchmarks/bench_operator.py"], "cpu-128x2-forward-fused", []))
    (scratch / "scratch").mkdir()
    assert gpu_parts.benchmark("operator")(scratch, 60) == "measured"
    assert "cpu" in json.loads((scratch / "metrics.json").read_text(encoding="utf-8"))


class Calls(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_compute_sanitizer_sees_every_operator() -> None:
    with Calls() as calls:
        every_kernel.main("cpu")
    registered = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("vae_ext::")}
    assert {name for name in calls.names if name.startswith("vae_ext::")} == registered
