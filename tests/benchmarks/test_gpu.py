"""`make gpu` without a GPU: what it would run, in which order, and what is kept when its time is up."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks import gpu, measure, report
from tests.benchmarks.cases import CASES
from tests.benchmarks.gpu import Part, parts, python, run_parts
from tests.benchmarks.test_report import write_report
from tests.forked import run_code, run_forked
from tests.programs import outside_make
from tests.vae_ext import every_kernel
from vae_ext.source import ROOT

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@NO_GPU
def test_make_gpu_reports_a_missing_gpu_at_once() -> None:
    """With only the standard library: no slow import, and no compilation."""
    command = ["make", "--no-print-directory", "gpu", "BUDGET=100", f"PYTHON={sys.executable} -S"]
    done = subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.strip().endswith("-m tests.benchmarks.gpu --budget 100")
    assert done.stderr.splitlines()[0] == "error: make gpu needs an NVIDIA GPU; there is no driver of one here (libcuda.so.1)"


def test_make_gpu_with_a_driver_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.what_is_missing() == f"an NVIDIA GPU; torch {torch.__version__} sees none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.what_is_missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.what_is_missing() == f"torch, built for CUDA; {sys.executable} has none (make gpu PYTHON=...)"


# A program that writes its result, a copy of a report, when it is interrupted.
INTERRUPTED = """
import shutil, time
try: time.sleep(60)
except KeyboardInterrupt: shutil.copy({!r}, {!r})
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu, "SCRATCH", tmp_path / "scratch")
    return tmp_path


def program(name: str, code: str) -> dict[str, list[str]]:
    return {name: python("-S", "-c", code)}


def test_failed_and_interrupted_parts_are_named_and_their_measurements_are_kept(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [
        Part(0, 60, "built", program("build", "")),
        Part(0, 60, "clean", program("first", "") | program("second", "raise SystemExit(3)") | {"third": ["no-such"]}),
        Part(0, 4, "measured", program("slow", INTERRUPTED.format(str(scratch / "report.json"), str(gpu.SCRATCH)))),
        Part(0, 1, "passed", program("tests", "import time; time.sleep(60)")),
        Part(200, 600, "passed", program("rest", "")),
    ]
    write_report(scratch / "report.json", {("forward", "128x20", "fused"): [1e-4]})

    def report_here(command: list[str], **_: object) -> None:
        assert command[:3] == python("-m", "tests.benchmarks.report")
        monkeypatch.setattr(sys, "argv", command[2:])
        report.main()

    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(Popen=subprocess.Popen, run=report_here, DEVNULL=None))
    found = run_parts(some, scratch, 100)
    assert found.pop("rest").startswith("not run: it takes 200 s, and ")
    assert found == {
        **{"build": "built", "first": "clean", "second": "failed: exit status 3"},
        **{"third": "not run: there is no such program here", "slow": "measured", "tests": "failed: not finished"},
    }
    assert json.loads((scratch / "checks.json").read_text(encoding="utf-8")).keys() == {*found, "rest"}
    assert "fused_us" in (scratch / "metrics.json").read_text(encoding="utf-8")


def test_without_kernels_nothing_is_measured(scratch: Path) -> None:
    refused = Part(0, 60, "built", program("build", "raise SystemExit(1)"))
    assert run_parts([refused, Part(0, 60, "passed", program("tests", ""))], scratch, 100) == {"build": "failed: exit status 1"}


def test_the_default_budget_is_enough_to_start_all_parts_but_the_last() -> None:
    *others, rest = parts()
    assert [name for part in others for name in part.commands] == [
        *("build", "tests", "kernels", "operator", "step", *gpu.SANITIZERS, "compile", "example")
    ]
    assert sum(part.least for part in others) < gpu.BUDGET and rest.commands.keys() == {"rest"}
    assert all(any(name in case for case in CASES) for name in gpu.FIRST)


@pytest.mark.long
def test_each_part_selects_gpu_benchmarks() -> None:
    """They are collected as on a machine with a GPU."""
    code = """
import sys, pytest, torch
torch.cuda.is_available = lambda: True
for expression in {expressions}:
    assert pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-k", expression, *{files}]) == 0
    print("next")
"""
    commands = {name: command for part in parts() for name, command in part.commands.items() if "-k" in command}
    del commands["tests"]
    code = code.format(expressions=[command[-1] for command in commands.values()], files=measure.BENCHMARKS)
    done = run_forked(run_code, code, folder=ROOT)
    providers = {}
    for name, output in zip(commands, done.stdout.split("next\n")[:-1], strict=True):
        found = re.findall(r"\[0-(\w+)-.*-(?:forward|backward|both|step)-(.*)\]", output)
        assert {device for device, _ in found} == {"cuda"}
        providers[name] = {provider for _, provider in found}
    assert providers.pop("rest") > {"fused", "eager", "compile", "example", "reference"}
    assert providers == {
        "kernels": {"copy", "graph"},
        "operator": {"fused", "eager", "copy", "graph"},
        "step": {"fused", "no graph", "autograd", "products"},
        "compile": {"compile"},
        "example": {"example, tensors"},
    }


def test_compute_sanitizer_runs_every_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_kernel, "DTYPES", (torch.float32,))  # other types take the same paths
    with torch.profiler.profile() as profile:
        every_kernel.main("cpu")
    registered = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("vae_ext::")}
    assert {event.key for event in profile.key_averages() if event.key.startswith("vae_ext::")} == registered
