"""The benchmarks' own correctness. Nothing is timed here but the time that it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from tests.benchmarks import (
    against_pythae,
    bench,
    bench_operator,
    bench_step,
    compare,
    kernels,
    measure,
    noise,
    pixels,
    table,
    timing,
)
from tests.benchmarks import summarise as summarise_module
from tests.benchmarks.bench import GPU_ALONE, Bench
from tests.benchmarks.cases import CASES, FULL, PIXELS, QUICK, QUICK_PIXELS, Case, PixelCase
from tests.benchmarks.pixels import PixelBench
from tests.benchmarks.report import Report, read_report
from tests.benchmarks.summarise import METRICS, metrics_of, summarise
from tests.benchmarks.table import lines
from vae_ext.source import ROOT


def each(of: type[Bench]) -> list[tuple[str, str]]:
    """Every mode and provider of the CPU."""
    pairs = [(mode, provider) for mode, providers in of.measured.items() for provider in providers]
    return [(mode, provider) for mode, provider in pairs if provider not in GPU_ALONE]


def compile_in_part(monkeypatch: pytest.MonkeyPatch, of: type[Bench], mode: str) -> None:
    """To machine code for both passes together alone: it takes seconds. Else to the graph, forward or also backward."""
    if mode != "both":
        plain = {name: getattr(call, "_torchdynamo_orig_callable", None) for name, call in of.providers.items()}
        graphs = {name: bench.compiled(call, backend="aot_eager") for name, call in plain.items() if call is not None}
        assert graphs.keys() == {"compile", "compile, kept", "max-autotune"}
        monkeypatch.setattr(of, "providers", {**of.providers, **graphs})


@pytest.mark.parametrize(("mode", "provider"), each(Bench))
def test_every_provider_computes_what_the_reference_does(monkeypatch: pytest.MonkeyPatch, mode: str, provider: str) -> None:
    compile_in_part(monkeypatch, Bench, mode)
    Bench("128x2", "cpu").call(mode, provider)()


@pytest.mark.parametrize("case", ["1x20", "20x50-K50", "1024x64-bfloat16"])
@pytest.mark.parametrize("provider", ["fused", "reference", "eager"])
def test_every_kind_of_case_is_computed_as_by_the_reference(case: str, provider: str) -> None:
    Bench(case, "cpu").call("both", provider)()


@pytest.mark.parametrize(("mode", "provider"), each(PixelBench))
def test_every_provider_of_log_prob_computes_what_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, mode: str, provider: str
) -> None:
    compile_in_part(monkeypatch, PixelBench, mode)
    PixelBench("128x784-pixels", "cpu").call(mode, provider)()


@pytest.mark.parametrize("provider", ["fused", "reference", "eager"])
def test_log_prob_of_many_samples_is_computed_as_by_the_reference(provider: str) -> None:
    PixelBench("20x784-K50-pixels", "cpu").call("both", provider)()


@pytest.mark.parametrize("provider", bench_operator.MEMORY)
def test_peak_memory_is_counted_of_every_provider(provider: str) -> None:
    assert bench.peak_bytes(Bench("128x2", "cpu"), provider) >= 0


@pytest.mark.parametrize("provider", [name for name in bench_step.PROVIDERS if name not in bench_step.GPU_ALONE])
def test_every_provider_of_a_step_goes_through_its_images(provider: str) -> None:
    images = bench_step.images_of("cpu")[: 2 * bench_step.BATCH]
    bench_step.PROVIDERS[provider](images, "cpu")()


def test_the_products_are_all_on_the_device_that_is_measured() -> None:
    bench_step.products(bench_step.images_of("cpu")[: bench_step.BATCH], "meta")()


@pytest.mark.parametrize(("of", "case"), [(Bench, "128x20"), (PixelBench, "128x784-pixels")])
def test_a_graph_is_captured_on_leaves_that_no_other_graph_holds(of: type[Bench], case: str) -> None:
    bench = of(case, "cpu")
    own = bench.on_leaves_of_its_own()
    assert not {*map(id, own.leaves)} & {*map(id, bench.leaves)}
    assert {*map(id, own.leaves)} <= {*map(id, own.inputs)}
    bench.check("graph", *own.both("fused"))


def test_a_run_that_is_interrupted_reports_what_it_has_timed(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(ROOT / "tests/benchmarks/conftest.py", folder)
    timed = "def test_timed(benchmark): benchmark.pedantic(int)\n"
    cut_off = "def interrupted(): raise KeyboardInterrupt\ndef test_cut_off(benchmark): benchmark.pedantic(interrupted)\n"
    (folder / "test_both.py").write_text(timed + cut_off, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-json=report.json", "benchmarks"]
    # pytest-benchmark times nothing in a worker of pytest-xdist.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, check=False)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [benchmark["name"] for benchmark in report["benchmarks"]] == ["test_timed"]


def test_kernels_are_timed_apart_from_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    # A forward pass gives two tensors, both passes four, a copy one: let each take a microsecond a tensor and a call.
    now = [0.0]

    def capture(run: Any) -> Any:
        results = run()
        return lambda: now.append(now[-1] + 1e-6 * kernels.CALLS * len(results[0])), results

    monkeypatch.setitem(timing.CLOCKS, "cuda", lambda: now[-1])
    monkeypatch.setattr(kernels, "capture", capture)
    found = kernels.time_of("128x20", "cpu")
    assert found["forward_us"] == 2 and found["backward_us"] == 2
    assert found["copy_gb_s"] == pytest.approx(CASES["128x20"].bytes_moved("forward") / 1e3, rel=1e-3)
    assert {*kernels.SHOWN} <= CASES.keys()


def test_a_kernels_share_of_a_copy_is_of_the_bytes_that_it_must_move() -> None:
    case = CASES["1048576x64"]
    copy = case.bytes_moved("forward") / 1e-3
    found = kernels.times_of(case.name, forward=2e-3, backward=1e-3, copy=copy)
    assert found["forward_us"] == 2000 and found["forward_of_copy"] == 0.5
    assert found["backward_of_copy"] == pytest.approx(case.bytes_moved("backward") / case.bytes_moved("forward"), rel=1e-3)


def test_the_readme_says_of_a_gpu_what_was_measured_on_it() -> None:
    folder = ROOT / "results/benchmarks/nvidia-h100-80gb-hbm3"
    times = pd.read_csv(folder / "times.csv").set_index(["case", "mode"])
    found: list[Any] = [
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("kernels", "metrics", "checks")
    ]
    alone, metrics, checks = found

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
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for row in rows:
        assert f"| {' | '.join(row)} |" in text
    assert f"bandwidth ({alone['1048576x64']['copy_gb_s'] / 1000:.1f} TB/s)" in text
    called: Any = times.xs("both", level="mode")
    python = called[called["graph_us"] < 100]["fused_us"].filter(regex="^[^-]*(-K[0-9]+)?$")
    assert (round(python.min() / 1000, 2), round(python.max() / 1000, 2)) == (0.15, 0.27)
    images = metrics["cuda"]["images_per_second"]
    assert f"{images['fused'] / 1000:.0f},000 images/s, {60_000_000 / images['fused']:.0f} ms an epoch" in text
    assert f"it is {images['no graph'] / 1000:.0f},000" in text
    assert f"already {round(images['example, tensors'], -2):,.0f}" in text
    assert checks.pop("tests") == "passed" and checks.pop("benchmarks") == "measured"
    assert checks == dict.fromkeys(("memcheck", "racecheck", "initcheck", "synccheck"), "clean")
    pixels: Any = times[times.index.get_level_values("case").str.endswith("-pixels")]["speedup_eager"]
    both_passes, forward = pixels.xs("both", level="mode"), pixels.xs("forward", level="mode")
    assert (round(both_passes.min(), 2), round(both_passes.max(), 1)) == (0.95, 1.3)
    assert (round(forward.min(), 1), round(forward.max(), 1)) == (2.1, 3.6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there they are measured")
def test_what_is_measured_on_a_gpu_alone_is_named_and_measured_somewhere() -> None:
    measured = {provider for of in (Bench, PixelBench) for providers in of.measured.values() for provider in providers}
    assert set(GPU_ALONE) == {"max-autotune", "graph"} and set(GPU_ALONE) <= measured
    assert set(bench_step.GPU_ALONE) == {"no graph"} and set(bench_step.GPU_ALONE) <= bench_step.PROVIDERS.keys()


@pytest.mark.parametrize(("provider", "calls"), [("fused", True), ("reference", False)])
def test_a_step_calls_the_kernels_but_for_the_one_on_the_reference(provider: str, calls: bool) -> None:
    epoch = bench_step.PROVIDERS[provider](bench_step.images_of("cpu")[: bench_step.BATCH], "cpu")
    with torch.profiler.profile() as profile:
        epoch()
    assert any(event.key.startswith("vae_ext::") for event in profile.key_averages()) == calls


def variance_for_sigma(mu: Tensor, logvar: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return mu + torch.exp(logvar) * torch.randn_like(mu), bench.textbook(mu, logvar)[1]


def noise_that_comes_again(mu: Tensor, logvar: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    eps = torch.randn(1, mu.shape[1])
    eps = (eps - eps.mean()) / eps.std(correction=0)  # as normal as its moments can tell
    return mu + torch.exp(0.5 * logvar) * eps, bench.textbook(mu, logvar)[1]


def kl_that_forgets_a_term(mu: Tensor, logvar: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return bench.textbook(mu, logvar)[0], -0.5 * (logvar - mu.pow(2) - logvar.exp()).sum(-1)


def gradient_that_stops_at_sigma(mu: Tensor, logvar: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    z, kl = bench.textbook(mu, logvar.detach())
    return z, kl + 0.5 * (logvar.exp() - logvar - (logvar.exp() - logvar).detach()).sum(-1)


WRONG = [
    (variance_for_sigma, "expected noise of variance 1"),
    (noise_that_comes_again, "expected independent noise along axis 0"),
    (kl_that_forgets_a_term, "eager, kl:"),
    (gradient_that_stops_at_sigma, "eager, gradient of logvar:"),
]


@pytest.mark.parametrize(("wrong", "fault"), WRONG)
def test_a_provider_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch, wrong: Any, fault: str) -> None:
    monkeypatch.setitem(bench.PROVIDERS, "eager", wrong)
    with pytest.raises(AssertionError, match=fault):
        Bench("1024x64", "cpu").call("both", "eager")


def cross_entropy_that_forgets_black(logits: Tensor, _pixels: Tensor, x: Tensor) -> tuple[Tensor]:
    return (-(x * torch.nn.functional.logsigmoid(logits)).sum(-1),)


def gradient_that_is_the_sigmoids(logits: Tensor, _pixels: Tensor, x: Tensor) -> tuple[Tensor]:
    right = pixels.cross_entropy(logits, _pixels, x)[0].detach()
    off = torch.sigmoid(logits).sum(-1)
    return (right + off - off.detach(),)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [(cross_entropy_that_forgets_black, "eager, log_prob:"), (gradient_that_is_the_sigmoids, "eager, gradient of logits:")],
)
def test_a_provider_of_log_prob_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch, wrong: Any, fault: str) -> None:
    monkeypatch.setattr(PixelBench, "providers", {**PixelBench.providers, "eager": wrong})
    with pytest.raises(AssertionError, match=fault):
        PixelBench("128x784-pixels", "cpu").call("both", "eager")


def test_other_noise_than_the_keys_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.PROVIDERS, "fused", bench.textbook)
    with pytest.raises(AssertionError, match="fused, z"):
        Bench("128x20", "cpu").call("forward", "fused")


def test_the_bytes_of_a_case_are_those_of_its_tensors() -> None:
    case = Case(10, 4, samples=3)
    mu = logvar = 4 * 10 * 4
    z, kl = 3 * mu, 4 * 10
    assert case.bytes_moved("forward") == mu + logvar + z + kl
    assert case.bytes_moved("backward") == mu + logvar + z + kl + mu + logvar
    assert case.bytes_moved("both") == case.bytes_moved("forward") + case.bytes_moved("backward")


def test_the_bytes_of_a_case_of_pixels_are_those_of_its_tensors() -> None:
    case = PixelCase(10, 4, samples=3)
    logits, pixels, log_prob = 4 * 3 * 10 * 4, 10 * 4, 4 * 3 * 10
    assert case.bytes_moved("forward") == logits + pixels + log_prob
    assert case.bytes_moved("backward") == logits + pixels + log_prob + logits
    assert case.bytes_moved("both") == case.bytes_moved("forward") + case.bytes_moved("backward")


class FakeEvent:
    """As torch.cuda.Event, on a device that is at 0, 2, 5 and 9 seconds when it is asked."""

    seconds = iter((0, 2, 5, 9))

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = next(self.seconds)

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: FakeEvent) -> float:
        return 1000.0 * (later.at - self.at)


def test_the_devices_clock_gives_seconds_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = timing.DeviceClock()
    assert [clock() for _ in range(4)] == [0, 2, 5, 9]


def test_case_names_are_unique_and_the_quick_cases_are_among_all() -> None:
    assert len(CASES) == len({case.name for case in CASES.values()})
    assert set(QUICK) <= set(FULL)
    assert set(QUICK_PIXELS) <= set(PIXELS)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real run, of one case's forward pass and its memory, for each operator."""
    path = tmp_path_factory.mktemp("measured") / "report.json"
    chosen = "(cpu-128x2- or cpu-128x784-) and (forward or memory) and not compile and not reference or step-products"
    with pytest.MonkeyPatch.context() as patch:
        # Where these tests are shared among processes, this one's pytest is not another of them: those leave no report.
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
            patch.delenv(name)
        # As if a call had changed that the providers do not know.
        (path.parent / "broken.py").write_text(
            "from tests.benchmarks import pixels\n"
            "def broken(logits, images, x): raise TypeError('unexpected keyword argument')\n"
            "pixels.PixelBench.providers['eager'] = broken\n",
            encoding="utf-8",
        )
        patch.setenv("PYTHONPATH", str(path.parent))
        (path.parent / "old").mkdir()
        (path.parent / "old/test_old.py").write_text("from vae_ext import what_is_gone\n", encoding="utf-8")
        benchmarks = (measure.OPERATOR, measure.STEP, f"{path.parent}/old")
        measure.measure(path, "-p", "broken", "-k", chosen, "--full", "--seconds", "0", benchmarks=benchmarks)
    return path


@pytest.mark.long
def test_a_provider_that_fails_is_named_with_the_reason_and_the_others_are_measured(measured: Path) -> None:
    report = read_report(measured)
    eager = {f"cpu 128x784-pixels {mode} eager": "TypeError: unexpected keyword argument" for mode in ("forward", "memory")}
    old = report.failures.pop("test_old.py")
    assert old.startswith("ImportError: cannot import name 'what_is_gone' from 'vae_ext'")
    assert report.failures == eager
    text = "\n".join(lines(report))
    assert "failed, and so not above: cpu 128x784-pixels forward eager: TypeError: unexpected keyword argument" in text
    assert "Turns: 1 of an operator, 1 of training" in text
    assert "nan" not in text


def test_a_provider_that_fails_in_a_later_turn_is_not_in_the_table(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.json", times())
    failures = {"cpu 128x20 forward eager": "it broke", "cpu 1024x64 memory eager": "it broke"}
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"failures": failures})
    found = read_report(path).times
    assert found[found["provider"] == "eager"]["case"].tolist() == ["1024x64"]
    assert (found["provider"] == "fused").sum() == 2


def test_a_table_in_which_all_failed_says_why(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.json", times())
    failures = {f"cpu {case} {mode} {provider}": "it broke" for mode, case, provider in times()}
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"failures": failures})
    text = "\n".join(lines(read_report(path)))
    assert text.count("failed, and so not above") == len(times())


@pytest.mark.long
def test_a_report_names_the_machine_but_not_its_host(measured: Path) -> None:
    machine = {"cpu", "cores", "threads", "instruction_set", "gpu", "driver", "torch", "cuda", "python", "compiler"}
    assert read_report(measured).machine.keys() == machine | {"digest", "commit"}
    assert "data" not in json.loads(measured.read_text(encoding="utf-8"))["benchmarks"][0]["stats"]


@pytest.mark.long
def test_a_measured_report_becomes_a_table_metrics_and_figures(measured: Path, tmp_path: Path) -> None:
    report = read_report(measured)
    text = "\n".join(lines(report))
    samples, of_pixels = text.split("cpu, log p(x|logits) of bytes")
    assert "128x2            forward" in samples
    assert "128x784          forward" in of_pixels
    assert "fused 0" in text  # bytes
    summarise(report, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cpu"]["forward"]["128x2"]["fused_us"] > 0
    assert metrics["cpu"]["forward"]["128x2"]["speedup"].keys() == {"eager", "randn"}
    assert metrics["cpu"]["forward"]["128x784-pixels"]["speedup"].keys() == set()  # eager failed
    assert metrics["cpu"]["images_per_second"].keys() == {"products"}
    assert metrics["cpu"]["extra_bytes"]["128x2"]["fused"] == metrics["cpu"]["extra_bytes"]["128x784-pixels"]["fused"] == 0
    assert pd.read_csv(tmp_path / "times.csv")["line"].tolist() == ["128x2 forward", "128x784-pixels forward"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"speedup-cpu.png", "bandwidth-cpu.png"}


@pytest.mark.parametrize("status", [pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED])
@pytest.mark.parametrize("written", [None, "", "{}"])
def test_a_run_of_nothing_leaves_the_last_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, written: str | None
) -> None:
    def ended(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        (path,) = [option.removeprefix("--benchmark-json=") for option in command if option.startswith("--benchmark-json=")]
        if written is not None:
            Path(path).write_text(written, encoding="utf-8")
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", ended)
    (tmp_path / "report.json").write_text("the last one", encoding="utf-8")
    with pytest.raises(UserError, match="nothing could be measured"):
        measure.measure(tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == "the last one"


def test_the_reference_is_not_measured_in_the_operators_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "backend", lambda device: "reference")
    with pytest.raises(UserError, match="cpu: expected vae_ext's kernels, got its reference"):
        measure.measure(tmp_path / "report.json")


def write_report(path: Path, seconds: dict[tuple[str, str, str], list[float]]) -> Path:
    """A report as pytest-benchmark writes it, of these medians, a turn each, by mode, case and provider."""
    benchmarks = [
        {
            "params": {"device": "cpu", "case": case, "mode": mode, "provider": provider, "turn": turn},
            "extra_info": {"bytes": CASES[case].bytes_moved(mode)},
            "stats": {"median": median},
        }
        for (mode, case, provider), medians in seconds.items()
        for turn, median in enumerate(medians)
    ]
    machine = {"cpu": "a CPU", "threads": 2, "instruction_set": "avx2", "torch": "2.13.0"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}), encoding="utf-8")
    return path


def times(**changed: float) -> dict[tuple[str, str, str], list[float]]:
    """Two cases' times in two turns, the first of them disturbed; a provider's time can be changed."""
    seconds = {"fused": 1e-4, "eager": 3e-4, "reference": 2e-3, "copy": 1e-5, **changed}
    return {("forward", case, name): [7 * s, s] for case in ("128x20", "1024x64") for name, s in seconds.items()}


def test_ratios_are_of_the_best_turns(tmp_path: Path) -> None:
    found = read_report(write_report(tmp_path / "report.json", times())).times.set_index(["case", "provider"])
    assert found.loc[("128x20", "eager"), "speedup"] == pytest.approx(3)
    assert found.loc[("128x20", "fused"), "seconds"] == pytest.approx(1e-4)
    # In 100 us what a copy moves in 10 us.
    assert found.loc[("128x20", "fused"), "of_copy"] == pytest.approx(0.1)


def test_two_reports_are_one_with_more_turns(tmp_path: Path) -> None:
    slow, fast = write_report(tmp_path / "1.json", times(fused=2e-4)), write_report(tmp_path / "2.json", times())
    assert metrics_of(read_report(slow, fast))["cpu"] == metrics_of(read_report(fast))["cpu"]


def test_a_report_that_is_none_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.json: missing; run `make bench`"):
        read_report(tmp_path / "missing.json")
    for content in (
        "{",
        "[]",
        '{"benchmarks": []}',
        '{"machine_info": {}, "benchmarks": []}',
    ):
        (tmp_path / "bad.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"bad\.json: expected the report of `make bench`, got [^\n]+$"):
            read_report(tmp_path / "bad.json")


BANDS = pd.Series({"cpu forward 128x20": 0.1, "cpu forward 1024x64": 0.2})


@pytest.mark.parametrize(
    ("changed", "slower"),
    [
        ({}, []),
        ({"fused": 1.08e-4}, []),  # within both bands
        ({"fused": 1.15e-4}, ["cpu forward 128x20"]),
        ({"fused": 1.3e-4}, ["cpu forward 128x20", "cpu forward 1024x64"]),
        ({"eager": 1e-4}, []),  # a provider that became faster is not an operator that became slower
        ({"fused": 0.5e-4}, []),
    ],
)
def test_a_case_is_slower_if_it_lost_against_every_provider(
    tmp_path: Path, changed: dict[str, float], slower: list[str]
) -> None:
    old, new = (
        metrics_of(read_report(write_report(tmp_path / f"{i}.json", seconds)))
        for i, seconds in enumerate((times(), times(**changed)))
    )
    verdict = compare.verdict(old, new, BANDS)
    assert verdict.index[verdict["slower"]].tolist() == slower


def test_a_replay_of_the_operator_does_not_hide_that_it_became_slower(tmp_path: Path) -> None:
    old, new = (
        metrics_of(read_report(write_report(tmp_path / f"{i}.json", times(fused=seconds, graph=seconds))))
        for i, seconds in enumerate((1e-4, 2e-4))
    )
    assert compare.verdict(old, new, BANDS)["slower"].all()


def test_a_case_whose_noise_was_not_measured_gets_the_widest_band(tmp_path: Path) -> None:
    metrics = metrics_of(read_report(write_report(tmp_path / "report.json", times())))
    bands = compare.verdict(metrics, metrics, BANDS.drop("cpu forward 128x20"))["band"]
    assert bands["cpu forward 128x20"] == 0.2


def test_a_case_that_the_base_never_measured_is_left_out(tmp_path: Path) -> None:
    old = metrics_of(read_report(write_report(tmp_path / "old.json", times())))
    added = {("forward", "128x784-pixels", name): [1e-4] for name in ("fused", "eager", "copy")}
    new = metrics_of(read_report(write_report(tmp_path / "new.json", {**times(), **added})))
    assert "128x784-pixels" in new["cpu"]["forward"]
    assert compare.verdict(old, new, BANDS).index.tolist() == list(BANDS.index)


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    metrics = metrics_of(read_report(write_report(tmp_path / "report.json", times())))
    with pytest.raises(UserError, match="nothing to compare"):
        compare.verdict(metrics, {"machine": {}}, BANDS)


def test_bands_are_the_largest_loss_between_two_runs_with_a_margin(tmp_path: Path) -> None:
    runs = []
    for i, seconds in enumerate((1e-4, 1.1e-4, 1.25e-4)):
        quiet = {line: times()[line] for line in times() if line[1] == "1024x64"}
        runs.append(metrics_of(read_report(write_report(tmp_path / f"{i}.json", {**times(fused=seconds), **quiet}))))
    bands = noise.bands_of(runs)
    # From 1 to 1 / 1.25: a fifth.
    assert bands["cpu forward 128x20"] == pytest.approx(noise.MARGIN * 0.2)
    # Nothing was lost in these three runs; three quarters of the way from there to a fifth are allowed for.
    assert bands["cpu forward 1024x64"] == pytest.approx(noise.MARGIN * 0.15)


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose only commit has metrics and bands, as the working directory."""
    monkeypatch.chdir(tmp_path)
    write_json(METRICS, metrics_of(read_report(write_report(tmp_path / "first.json", times()))))
    write_json(noise.NOISE, {"band": dict(BANDS)})
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "results"], ["commit", "-q", "-m", "Measured"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


Times = dict[tuple[str, str, str], list[float]]


def busy(seconds: Times) -> Times:
    """The same best turn, from which three more are far away."""
    return {line: [*medians, *(3 * min(medians) for _ in range(3))] for line, medians in seconds.items()}


def quiet(seconds: Times) -> Times:
    return {line: [min(medians)] * 4 for line, medians in seconds.items()}


def run_compare(monkeypatch: pytest.MonkeyPatch, *runs: Times) -> int:
    """The exit status, where each measurement finds the next of these times."""
    waiting = list(runs)

    def measured(path: Path, *_options: str, benchmarks: list[str]) -> Report:
        assert benchmarks == [measure.OPERATOR]
        return read_report(write_report(path, waiting.pop(0)))

    monkeypatch.setattr(compare, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["compare", "--base", "HEAD"])
    with pytest.raises(SystemExit) as exit_:
        compare.main()
    assert not waiting
    return int(exit_.value.code or 0)


SLOW = times(fused=2e-4)


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("runs", "status", "said"),
    [
        ([times()], 0, ["none of 2 cases became slower than HEAD says"]),
        (
            [quiet(SLOW)] * 5,
            1,
            [
                "slower: cpu forward 1024x64: lost at least 50% against every provider; the band is 20%",
                "2 of 2 cases became slower than HEAD says",
            ],
        ),
        # What is looked at again and looks so no more is not slower, however often it did before.
        ([quiet(SLOW), times()], 0, ["none of 2 cases"]),
        ([quiet(SLOW)] * 4 + [times()], 0, ["none of 2 cases"]),
        ([quiet(SLOW), {**times(), **{line: SLOW[line] for line in SLOW if line[1] == "128x20"}}, times()], 0, ["none of 2"]),
        # One measurement on a quiet machine is enough to tell, and none is not.
        ([*[busy(SLOW)] * 4, quiet(SLOW)], 1, ["2 of 2 cases became slower"]),
        (
            [busy(SLOW)] * 5,
            3,
            [
                "inconclusive: cpu forward 128x20: looks slower, but its turns were never within the band: the machine is too",
                "none of 2 cases became slower than HEAD says, 2 inconclusive",
            ],
        ),
    ],
)
def test_compare_says_how_many_cases_became_slower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runs: list[Times], status: int, said: list[str]
) -> None:
    assert run_compare(monkeypatch, *runs) == status
    printed = capsys.readouterr().out
    assert all(line in printed for line in said)
    assert "FAILED" not in printed


def test_what_looks_slower_is_measured_again_by_itself() -> None:
    assert compare.tests_of(["cpu both 128x2", "cpu forward 20x50-K50"]) == "cpu-128x2-both- or cpu-20x50-K50-forward-"


def test_compare_says_in_its_help_what_its_exit_status_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--help"])
    with pytest.raises(SystemExit):
        compare.main()
    printed = capsys.readouterr().out
    assert "0 if no case became slower; 1 if one did, or a provider failed; 3" in printed
    assert "measured again, up to four times" in printed


def test_make_bench_prints_the_table_of_the_others_and_fails_where_a_provider_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def measured(path: Path, *options: str) -> Report:
        asked.append(options)
        return replace(
            read_report(write_report(path, times())), failures={"cpu 128x20 both eager": "it broke"} if options else {}
        )

    monkeypatch.setattr(measure, "measure", measured)
    for options, status in ((["--full", "--seconds", "60"], 1), ([], 0)):
        monkeypatch.setattr(sys, "argv", ["measure", "--report", str(tmp_path / "report.json"), *options])
        with pytest.raises(SystemExit) as exit_:
            measure.main()
        assert int(exit_.value.code or 0) == status
    assert asked == [("--full", "--seconds=60.0"), ()]
    printed = capsys.readouterr().out
    assert printed.count("1024x64          forward") == 2
    assert printed.count("failed, and so not above: cpu 128x20 both eager: it broke") == 1


def test_a_table_without_the_operator_or_a_copy_still_has_the_others(tmp_path: Path) -> None:
    seconds = {line: medians for line, medians in times().items() if line[1:] not in (("128x20", "fused"), ("1024x64", "copy"))}
    report = read_report(write_report(tmp_path / "report.json", seconds))
    (first, second) = [line for line in lines(report) if line.startswith(("128x20", "1024x64"))]
    assert "300 us" in first and "x" not in first.removeprefix("128x20")
    assert "3.00x" in second and "nan" not in second
    summarise(report, tmp_path / "results")
    assert metrics_of(report)["cpu"]["forward"].keys() == {"1024x64"}


def test_make_bench_record_writes_what_two_runs_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [str(write_report(tmp_path / f"{i}.json", times())) for i in range(2)]
    for module in (summarise_module, table):
        monkeypatch.setattr(sys, "argv", [module.__name__, *reports])
        module.main()
    assert json.loads(METRICS.read_text(encoding="utf-8"))["cpu"]["forward"].keys() == {"128x20", "1024x64"}
    assert "Turns: 4 of an operator" in capsys.readouterr().out


def test_make_bench_noise_writes_a_band_for_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = iter((1e-4, 1.1e-4))
    monkeypatch.setattr(noise, "RUNS", 2)
    monkeypatch.setattr(noise, "measure", lambda path, **_: read_report(write_report(path, times(fused=next(found)))))
    monkeypatch.setattr(sys, "argv", ["noise"])
    noise.main()
    assert noise.read_bands(noise.NOISE).index.tolist() == list(BANDS.index)


PYTHAE = """
import json, sys
print(json.dumps({"ready": True, "versions": {"pythae": "none"}}), flush=True)
for line in sys.stdin:
    print(json.dumps({"images": 100, "seconds": 2.0}), flush=True)
"""


def test_make_bench_pythae_takes_turns_with_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a trainer in pythae's place: pythae itself is installed by the target alone."""
    (tmp_path / "trainer.py").write_text(PYTHAE, encoding="utf-8")
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/trainer.py\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    for name, value in {"TURNS": 2, "NLL_TURNS": 2, "SAMPLES": 4, "OUR_IMAGES": 8, "IMAGES": 256}.items():
        monkeypatch.setattr(against_pythae, name, value)
    monkeypatch.setattr(sys, "argv", ["against_pythae", "--python", str(tmp_path / "python")])
    against_pythae.main()
    assert capsys.readouterr().out.count("pythae        50.0 images/s") == 2


@pytest.mark.usefixtures("history")
def test_compare_says_which_commit_has_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"HEAD~1: expected a commit with results/benchmarks/metrics\.json"):
        compare.metrics_at("HEAD~1")


def test_readmes_table_is_that_of_the_results() -> None:
    results = json.loads((ROOT / METRICS).read_text(encoding="utf-8"))["cpu"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cases = ("128x20", "1024x64", "8192x128", "20x50-K50")
    for mode, name in (("both", "both passes"), ("forward", "forward"), ("backward", "backward")):
        for provider, theirs in (("eager", "eager PyTorch"), ("compile", "`torch.compile`"), ("randn", "`torch.randn` alone")):
            ratios = [results[mode][case]["speedup"].get(provider) for case in cases]
            if None not in ratios:
                assert f"| {name}, over {theirs} | {' | '.join(f'{ratio:.2g}' for ratio in ratios)} |" in text
    for provider, whose in (("fused", "ours"), ("eager", "eager's"), ("compile", "`torch.compile`'s")):
        peaks = [results["extra_bytes"][case][provider] for case in cases]
        assert f"{whose} | {' | '.join(f'{peak:,}' for peak in peaks)} |" in text
    speeds = {name: round(speed, -2) for name, speed in results["images_per_second"].items()}
    assert f"{speeds['fused']:,.0f} images/s, on the reference {speeds['reference']:,.0f}" in " ".join(text.split())
