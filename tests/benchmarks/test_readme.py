"""The speeds in README.md and docs/speed.md match the results in git."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmarks import report
from vae_ext.source import ROOT


def text_of(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def found_in(folder: Path, name: str) -> Any:
    return json.loads((ROOT / folder / f"{name}.json").read_text(encoding="utf-8"))


def test_cpu_numbers_match_the_results() -> None:
    results, speed = found_in(report.RESULTS, "metrics")["cpu"], text_of("docs/speed.md")
    times: Any = pd.read_csv(ROOT / report.RESULTS / "times.csv").set_index(["case", "mode"])
    cases = ("128x20", "1024x64", "8192x128", "20x50-K50")
    for mode, name in (("both", "both passes"), ("forward", "forward"), ("backward", "backward")):
        for provider, theirs in (("eager", "eager PyTorch"), ("compile", "`torch.compile`"), ("randn", "`torch.randn` alone")):
            ratios = [results[mode][case]["speedup"].get(provider) for case in cases]
            if None not in ratios:
                row = f"| {name}, over {theirs} | {' | '.join(f'{ratio:.2g}' for ratio in ratios)} |"
                assert row in speed
                assert mode != "both" or row in text_of("README.md")
    for mode, name in (("both", "both passes"), ("backward", "backward")):
        for provider, theirs in (
            ("eager", "eager PyTorch"),
            ("distributions", "`torch.distributions`"),
            ("compile", "`torch.compile`"),
        ):
            ratios = [results[mode][f"{case}-prior"]["speedup"][provider] for case in cases[:3]]
            assert f"| {name}, over {theirs} | {' | '.join(f'{ratio:.2g}' for ratio in ratios)} |" in speed
    extra = {name: results["extra_bytes"]["8192x128-prior"][name] for name in ("fused", "compile")}
    assert extra == {"fused": 0, "compile": 4 * 8192 * 128}  # "4 bytes per element"
    for provider, whose in (("fused", "ours"), ("eager", "eager's"), ("compile", "`torch.compile`'s")):
        peaks = [results["extra_bytes"][case][provider] for case in cases]
        assert f"{whose} | {' | '.join(f'{peak:,}' for peak in peaks)} |" in speed
    assert f"at [1, 20], both passes take {times.loc[('1x20', 'both'), 'fused_us']:.0f} us" in speed
    operator = times[~times.index.get_level_values("case").str.endswith("-pixels")]
    assert f"at most {operator['of_copy'].max():.0%} of the bytes per second" in speed
    forward, backward = (results[mode]["128x784-pixels"]["speedup"]["eager"] for mode in ("forward", "backward"))
    assert f"{forward:.2g} times as fast as eager PyTorch forward and {backward:.2g} times backward" in speed
    images = results["images_per_second"]
    for provider, whose in (
        ("fused", "this pipeline"),
        ("autograd", "this pipeline, gradient by autograd"),
        ("reference", "this pipeline on the reference implementation"),
        ("example, tensors", "the loop of pytorch/examples, images already tensors"),
        ("example", "the loop of pytorch/examples, torchvision's MNIST"),
        ("products", "the matrix products of a step alone"),
    ):
        assert f"| {whose} | {round(images[provider], -2):,.0f} |" in speed
    example, tensors, products = (images["fused"] / images[name] for name in ("example", "example, tensors", "products"))
    assert f"{example:.1f} times as fast as the example, {tensors:.1f} times as fast where" in speed
    assert f"reaches {products:.2f} of the speed of the matrix products" in speed


def test_gpu_numbers_match_the_results() -> None:
    folder = ROOT / "results/benchmarks/nvidia-h100-80gb-hbm3"
    times = pd.read_csv(folder / "times.csv").set_index(["case", "mode"])
    alone, metrics, checks = (found_in(folder, name) for name in ("kernels", "metrics", "checks"))

    def short(value: float, unit: str) -> str:
        return f"{value:.{0 if value >= 10 else 1}f}{unit}"

    rows = []
    most = ("1048576x64", "262144x256", "1048576x64-bfloat16", "262144x256-bfloat16")
    for mode in ("forward", "backward"):
        large = [f"{alone[case][f'{mode}_us']:.0f} us, {alone[case][f'{mode}_of_copy']:.0%}" for case in most]
        small = [short(alone[case][f"{mode}_us"], " us") for case in ("8192x128", "128x20", "20x50-K50")]
        rows.append([mode, *large, *small])
    both: list[Any] = [times.loc[(case, "both")] for case in ("128x20", "1024x64", "8192x128", "4096x512", "1048576x64")]
    rows.append(["speed over eager PyTorch", *(short(line["speedup_eager"], "") for line in both)])
    rows.append(["speed over `torch.compile`", *(short(line["speedup_compile"], "") for line in both)])
    rows.append(["ours, replayed in a CUDA graph", *(short(line["graph_us"], " us") for line in both)])
    text = text_of("docs/speed.md")
    for row in rows:
        assert f"| {' | '.join(row)} |" in text
    assert f"bandwidth ({alone['1048576x64']['copy_gb_s'] / 1000:.1f} TB/s)" in text
    called: Any = times.xs("both", level="mode")
    python = called[called["graph_us"] < 100]["fused_us"].filter(regex="^[^-]*(-K[0-9]+)?$")
    assert (round(python.min() / 1000, 2), round(python.max() / 1000, 2)) == (0.15, 0.27)
    images = metrics["cuda"]["images_per_second"]
    assert f"{images['fused'] / 1000:.0f},000 ({60_000_000 / images['fused']:.0f} ms for an epoch" in text
    assert f"without the CUDA graph | {images['no graph'] / 1000:.0f},000 |" in text
    assert f"already tensors (one epoch) | {round(images['example, tensors'], -2):,.0f} |" in text
    machine = metrics["machine"]
    assert f"driver {machine['driver']}, torch {machine['torch']}, CUDA {machine['cuda']}" in text
    assert checks.pop("tests") == "passed" and checks.pop("benchmarks") == "measured"
    assert checks == dict.fromkeys(("memcheck", "racecheck", "initcheck", "synccheck"), "clean")
    pixels: Any = times[times.index.get_level_values("case").str.endswith("-pixels")]["speedup_eager"]
    both_passes, forward = pixels.xs("both", level="mode"), pixels.xs("forward", level="mode")
    assert (round(both_passes.min(), 2), round(both_passes.max(), 1)) == (0.95, 1.3)
    assert (round(forward.min(), 1), round(forward.max(), 1)) == (2.1, 3.6)
