"""What `make gpu` does, a part at a time, in order of value; each is written as it ends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from tests.benchmarks.measure import OPERATOR, STEP, measure, run_within
from tests.benchmarks.report import lines, read_report, write_results
from vae_ext import backend, backend_report
from vae_ext.backend import compiled_module

SCRATCH = Path(".benchmarks/gpu")
FOUND = 86  # exit status by which compute-sanitizer says that it found something
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
ENDING = 35.0  # seconds in which benchmarks end by themselves when their own limit is reached

# Files, what pytest's -k chooses of them, and options.
BENCHMARKS: dict[str, tuple[list[str], str, list[str]]] = {
    "operator": ([OPERATOR], "cuda and (fused or copy or eager or graph)", ["--full"]),
    "step": ([STEP], "cuda and not example and not reference", []),
    "compile": ([OPERATOR], "cuda and compile and both", ["--full"]),
    "example": ([STEP], "cuda and tensors", []),
    "rest": ([OPERATOR, STEP], "cuda", ["--full"]),
}


class Part(NamedTuple):
    """What is begun if the least is left, in seconds, and is interrupted after the most."""

    name: str
    least: float
    most: float
    run: Callable[[Path, float], str]  # the folder of results, the seconds that it has -> what came of it


def build(_folder: Path, _seconds: float) -> str:
    """For this GPU alone."""
    print(backend_report(), flush=True)
    if backend("cuda") == "cuda":
        return "built"
    module = compiled_module()
    log = Path(module.__file__ or "").with_name("build-cuda.log") if module else None
    if log and log.is_file():  # the file may be out of reach afterwards
        print("\n".join(log.read_text(encoding="utf-8").splitlines()[-40:]), file=sys.stderr)
    return "failed: see above"


def tests(_folder: Path, seconds: float) -> str:
    """All that name the GPU; what is compiled without one is tested without one."""
    report = SCRATCH / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-k", "(cuda or gpu) and not cuda_source and not backend"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(10, os.cpu_count() or 1))]
    code = run_within([*command, f"--junitxml={report}", "tests/vae_ext", "tests/pipeline/test_step.py"], seconds)
    if code is None or not report.is_file():
        return f"failed: {'not finished' if code is None else 'could not run'}"
    suite = ElementTree.parse(report).getroot()[0]
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    ran = int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
    return f"failed: {failed} of {ran}" if code else f"passed: {ran}"


def kernels(folder: Path, seconds: float) -> str:
    """Their time alone, without Python's, beside a copy's."""
    code = run_within([sys.executable, "-m", "tests.benchmarks.kernels", str(folder / "kernels.json")], seconds)
    return "measured" if code == 0 else "interrupted" if code is None else "failed"


def benchmark(name: str) -> Callable[[Path, float], str]:
    def run(folder: Path, seconds: float) -> str:
        files, chosen, options = BENCHMARKS[name]
        limit = f"--seconds={max(1.0, seconds - ENDING):.0f}"
        report = measure(SCRATCH / f"{name}.json", "-k", chosen, *options, limit, benchmarks=files, within=seconds)
        measured = [path for path in (SCRATCH / f"{part}.json" for part in BENCHMARKS) if path.is_file()]
        write_results(read_report(*measured), folder)
        print("\n".join(lines(report)), flush=True)
        return f"failed: {', '.join(report.failures)}" if report.failures else "measured"

    return run


def sanitizers(_folder: Path, seconds: float) -> str:
    """Side by side: what each of compute-sanitizer's tools says of a program that calls every kernel."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return "not run: compute-sanitizer is not on PATH"
    # Each tensor in an allocation of its own: within torch's pool no access is out of bounds.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running = {}
    for check in SANITIZERS:
        options = [f"--tool={check}", f"--error-exitcode={FOUND}"]
        options += ["--report-api-errors=no"] if check == "memcheck" else []
        command = [tool, *options, sys.executable, "-m", "tests.vae_ext.every_kernel", "cuda"]
        with (SCRATCH / f"{check}.log").open("w", encoding="utf-8") as log:
            running[check] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    verdicts, deadline = [], time.monotonic() + seconds
    for check, process in running.items():
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            verdicts.append(f"{check} not finished")
            continue
        verdicts.append(f"{check} {'clean' if code == 0 else 'found' if code == FOUND else 'could not run'}")
        if code:
            print((SCRATCH / f"{check}.log").read_text(encoding="utf-8")[-2000:], flush=True)
    return ("passed: " if all(v.endswith("clean") for v in verdicts) else "failed: ") + ", ".join(verdicts)


PARTS = (
    Part("build", 0, 600, build),
    Part("tests", 30, 150, tests),
    Part("kernels", 10, 60, kernels),
    Part("operator", 50, 110, benchmark("operator")),
    Part("step", 40, 70, benchmark("step")),
    Part("sanitizers", 40, 120, sanitizers),
    Part("compile", 50, 120, benchmark("compile")),
    Part("example", 40, 70, benchmark("example")),
    Part("rest", 120, 1200, benchmark("rest")),
)


def run_parts(parts: Iterable[Part], folder: Path, budget: float) -> dict[str, str]:
    """What came of each part, in order, and in checks.json after each."""
    shutil.rmtree(SCRATCH, ignore_errors=True)  # an earlier run's reports would be taken for this one's
    SCRATCH.mkdir(parents=True)
    began, verdicts = time.monotonic(), {}
    for part in parts:
        left = budget - (time.monotonic() - began)
        if left < part.least:
            verdicts[part.name] = (
                f"not run: it takes {part.least:.0f} s, and {max(0.0, left):.0f} s of {budget:.0f} s were left"
            )
        else:
            try:
                verdicts[part.name] = part.run(folder, min(left, part.most))
            except UserError as error:
                verdicts[part.name] = f"failed: {error}"
        print(f"{time.monotonic() - began:4.0f} s  {part.name}: {verdicts[part.name]}", flush=True)
        write_json(folder / "checks.json", verdicts)
        if part.name == "build" and verdicts["build"] != "built":
            break
    return verdicts
