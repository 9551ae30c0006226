"""The proof on a machine with an NVIDIA GPU: `make gpu` builds the kernels, tests them, and measures them.

It runs on the machine's own Python and torch (2.10 or later, built for CUDA) with pytest, pytest-benchmark, hypothesis, numpy,
pandas, matplotlib, pillow, filelock, ninja, an nvcc and, by count, 40 GiB of the GPU's memory; nothing is fetched. What it
finds goes to results/benchmarks/<gpu>/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import vae_ext
from pipeline.cli import UserError, run
from pipeline.files import write_json
from tests.benchmarks.kernels import kernel_times
from tests.benchmarks.measure import OPERATOR, REPORT, STEP, measure
from tests.benchmarks.summarise import RESULTS, summarise
from tests.benchmarks.table import lines
from vae_ext.backend import compiled_module
from vae_ext.source import ROOT

SANITIZED = """
import itertools, torch, vae_ext
key = vae_ext.noise_key(1, device="cuda")
forms = (
    lambda m, l, k: vae_ext.reparam_kl(m, l, key, num_samples=k),
    lambda m, l, k: vae_ext.reparam_kl(m, l, key, num_samples=k, kl_reduction="none", scale="softplus"),
    lambda m, l, k: vae_ext.reparam_log_ratio(m, l, key, num_samples=k),
    lambda m, l, k: vae_ext.reparam_kl_packed(torch.cat([m, l], -1), key, num_samples=k),
)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for (rows, dim), form, k in itertools.product(((1, 1), (7, 20), (3, 33), (130, 64), (5, 1271)), forms, (None, 2)):
        mu, logvar = torch.randn(2, rows, dim, device="cuda").to(dtype).requires_grad_()
        z, out = form(mu, logvar, k)
        (z.float().sum() + out.sum()).backward(retain_graph=True)
        z.float().sum().backward(retain_graph=True)
        out.sum().backward()
    for (rows, dim), k in itertools.product(((1, 1), (7, 20), (3, 33), (130, 64), (5, 1271)), (1, 2)):
        logits = torch.randn(k, rows, dim, device="cuda").to(dtype).requires_grad_()
        pixels = torch.randint(256, (rows, dim), device="cuda").to(torch.uint8)
        vae_ext.bernoulli_log_prob(logits, vae_ext.binarize(pixels, key)).sum().backward()
        torch.ops.vae_ext.bernoulli_log_prob_and_gradient(logits.detach().flatten(0, 1), pixels, 0.5)
        taken = torch.randint(rows, (2 * rows + 1,), device="cuda")
        for chosen in (None, key):
            vae_ext.take_pixels(pixels, taken, chosen)
torch.cuda.synchronize()
"""
FOUND = 86  # exit status by which compute-sanitizer says that it found something


def sanitize() -> Iterator[tuple[str, str]]:
    """What compute-sanitizer's tools say of a small program: clean, or what they printed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        yield "compute-sanitizer", "not on PATH"
        return
    # Each tensor in an allocation of its own: within torch's pool no access is out of bounds.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for check in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [tool, f"--tool={check}", f"--error-exitcode={FOUND}", sys.executable, "-c", SANITIZED]
        if check == "memcheck":
            command.insert(2, "--report-api-errors=no")
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
        except subprocess.TimeoutExpired:
            yield check, "not finished in 100 s"
            continue
        said = (done.stdout + done.stderr)[-2000:]
        yield check, {0: "clean", FOUND: f"found: {said}"}.get(done.returncode, f"could not run: {said}")


def show_failed_build() -> None:
    """The end of the log: the file may be out of reach afterwards."""
    module = compiled_module()
    log = Path(module.__file__ or "").with_name("build-cuda.log") if module else None
    if log and log.is_file():
        print("\n".join(log.read_text(encoding="utf-8").splitlines()[-40:]), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--no-benchmarks", action="store_true", help="test only")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError(f"make gpu needs an NVIDIA GPU; torch {torch.__version__} sees none")
    print(vae_ext.backend_report(), flush=True)
    if vae_ext.backend("cuda") != "cuda":
        show_failed_build()
        raise UserError("make gpu needs the CUDA kernels, and they could not be built (see above)")

    folder = RESULTS / re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    verdicts: dict[str, str] = {}
    if not arguments.no_tests:
        # What is compiled without a GPU is tested without one.
        chosen = "(cuda or gpu) and not cuda_source and not backend"
        tests = [sys.executable, "-m", "pytest", "-q", "-k", chosen, "tests/vae_ext", "tests/pipeline/test_step.py"]
        verdicts["tests"] = "passed" if subprocess.run(tests, check=False).returncode == 0 else "failed"
        write_json(folder / "checks.json", verdicts)
    if not arguments.no_benchmarks:
        write_json(folder / "kernels.json", kernel_times())
        for options in ([], ["--full"]):  # the short run first: the long one may be cut off
            report = measure(REPORT, "-k", "cuda", *options, benchmarks=[OPERATOR, STEP])
            print("\n".join(lines(report)), flush=True)
            summarise(report, folder)
            verdicts["benchmarks"] = f"failed: {', '.join(report.failures)}" if report.failures else "measured"
    for check, verdict in () if arguments.no_tests else sanitize():
        print(f"{check}: {verdict}", flush=True)
        verdicts[check] = verdict
        write_json(folder / "checks.json", verdicts)
    print(f"written: {folder}")
    sys.exit(any(verdict.startswith(("failed", "found")) for verdict in verdicts.values()))


if __name__ == "__main__":
    run(main)
