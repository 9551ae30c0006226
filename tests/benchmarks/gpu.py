"""The proof on a machine with an NVIDIA GPU: `make gpu` builds the kernels, tests them, and measures them.

It runs on the machine's own Python and torch (2.10 or later, built for CUDA) with pytest, hypothesis, numpy, filelock, ninja,
and an nvcc; nothing is fetched. What it measures goes to results/benchmarks/<gpu>.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import vae_ext
from pipeline.files import write_json
from tests.benchmarks.operator_table import forward_and_backward, textbook
from vae_ext.backend import compiled_module
from vae_ext.source import ROOT

GIANT = 2**26  # elements: five times what the largest cache holds of one tensor
SIZES = [(rows, dim) for dim in (20, 64, 512) for rows in (128, 4096, 2**18)]
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
torch.cuda.synchronize()
"""
FOUND = 86  # exit status by which compute-sanitizer says that it found something


def seconds(run: Callable[[], object], burst: int = 10, repeats: int = 30) -> float:
    """Median time of a call, by the device's clock, over bursts of calls after a warm-up."""
    for _ in range(10):
        run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(burst):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / burst)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes a second, read plus written, of a copy from device memory to device memory."""
    source = torch.randn(GIANT, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source))


def bandwidth(copy: float) -> Iterator[dict[str, Any]]:
    """Bytes that each pass must move, a second, and over those of the copy."""
    forward, backward = torch.ops.vae_ext.reparam_kl.default, torch.ops.vae_ext.reparam_kl_backward.default
    options = (vae_ext.noise_key(1, device="cuda"), None, 0, 0, 0)
    for dtype in (torch.float32, torch.bfloat16):
        for dim in (64, 256):
            rows = GIANT // dim
            mu, logvar, grad_z = (torch.randn(rows, dim, device="cuda", dtype=dtype) for _ in range(3))
            grad_kl = torch.randn(rows, device="cuda")
            tensor, of_rows = mu.numel() * mu.element_size(), 4 * rows
            for name, moved, run in (
                ("forward", 3 * tensor + of_rows, lambda i=(mu, logvar): forward(*i, *options)),
                ("backward", 5 * tensor + of_rows, lambda i=(grad_z, grad_kl, mu, logvar): backward(*i, *options)),
            ):
                with torch._C._AutoDispatchBelowAutograd():
                    rate = moved / seconds(run)
                yield {
                    "case": f"{name} {str(dtype).removeprefix('torch.')} [{rows}, {dim}]",
                    "bytes_per_second": rate,
                    "over_copy": rate / copy,
                }


def against_pytorch() -> Iterator[dict[str, Any]]:
    """Forward and backward of the operator, of eager PyTorch and of torch.compile, in microseconds.

    Small sizes measure the calls, not the device. torch.compile runs without CUDA graphs, which copy their inputs.
    """
    yield graph_replay()
    key = vae_ext.noise_key(1, device="cuda")
    for rows, dim in SIZES:
        mu, logvar = (torch.randn(rows, dim, device="cuda", requires_grad=True) for _ in range(2))
        case: dict[str, Any] = {"case": f"forward + backward float32 [{rows}, {dim}]"}
        ours = forward_and_backward(lambda mu, logvar: vae_ext.reparam_kl(mu, logvar, key), mu, logvar)
        case["ours_us"] = 1e6 * seconds(ours)
        case["eager_us"] = 1e6 * seconds(forward_and_backward(textbook, mu, logvar))
        for mode in ("default", "max-autotune-no-cudagraphs"):
            torch._dynamo.reset()
            compiled = forward_and_backward(torch.compile(textbook, dynamic=False, mode=mode), mu, logvar)
            case[f"compile {mode}_us"] = 1e6 * seconds(compiled)
        yield case


def graph_replay() -> dict[str, Any]:
    """[128, 20], forward and backward, replayed from a CUDA graph."""
    mu, logvar = (torch.randn(128, 20, device="cuda", requires_grad=True) for _ in range(2))
    key = vae_ext.noise_key(1, device="cuda")
    run = forward_and_backward(lambda mu, logvar: vae_ext.reparam_kl(mu, logvar, key), mu, logvar)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return {"case": "forward + backward float32 [128, 20], graph replay", "ours_us": 1e6 * seconds(graph.replay, burst=100)}


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
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
        except subprocess.TimeoutExpired:
            yield check, "not finished in 100 s"
            continue
        said = (run.stdout + run.stderr)[-2000:]
        yield check, {0: "clean", FOUND: f"found: {said}"}.get(run.returncode, f"could not run: {said}")


def machine() -> dict[str, str]:
    query = [shutil.which("nvidia-smi") or "true", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0]
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "digest": vae_ext.backend_report().split("digest: ")[1].split()[0],
    }


def show_failed_build() -> None:
    """The end of the log: on a lent machine nobody can read the file afterwards."""
    module = compiled_module()
    log = Path(module.__file__ or "").with_name("build-cuda.log") if module else None
    if log and log.is_file():
        print("\n".join(log.read_text().splitlines()[-40:]), file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"error: make gpu needs an NVIDIA GPU; torch {torch.__version__} sees none", file=sys.stderr)
        return 1
    print(vae_ext.backend_report(), flush=True)
    if vae_ext.backend("cuda") != "cuda":
        show_failed_build()
        print("error: make gpu needs the CUDA kernels, and they could not be built (see above)", file=sys.stderr)
        return 1

    path = ROOT / "results" / "benchmarks" / (re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower() + ".json")
    copy = copy_bandwidth()
    result: dict[str, Any] = {**machine(), "copy_bytes_per_second": copy, "bandwidth": [], "times": [], "sanitizer": {}}
    print(f"copy: {copy / 1e12:.2f} TB/s")
    for case in bandwidth(copy):
        print(f"{case['case']:<42} {case['bytes_per_second'] / 1e12:.2f} TB/s, {case['over_copy']:.2f} of the copy", flush=True)
        result["bandwidth"].append(case)
    write_json(path, result)  # after each part: whatever comes next may be cut off
    failed = False
    if not arguments.no_tests:
        # What is compiled without a GPU is tested without one.
        chosen = "(cuda or gpu) and not cuda_source and not backend"
        tests = [sys.executable, "-m", "pytest", "-q", "-k", chosen, "tests/vae_ext"]
        failed = subprocess.run(tests, cwd=ROOT, check=False).returncode != 0
    for case in against_pytorch():
        ours = case["ours_us"]
        ratios = ", ".join(f"{name[:-3]} {us / ours:.2f}x" for name, us in case.items() if name not in ("case", "ours_us"))
        print(f"{case['case']:<52} {ours:.1f} us; {ratios}", flush=True)
        result["times"].append(case)
        write_json(path, result)
    for check, verdict in () if arguments.no_tests else sanitize():
        print(f"{check}: {verdict}", flush=True)
        failed = failed or verdict.startswith("found")
        result["sanitizer"][check] = verdict
        write_json(path, result)
    print(f"written: {path.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
