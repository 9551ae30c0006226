"""The benchmarks' own correctness. Nothing is timed here but the time that it takes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.runtime.errors import UserError
from tests.benchmarks import against_pythae, bench_step, compare, kernels, measure, report, timing
from tests.benchmarks.cases import CASES, FULL, PIXELS, QUICK, QUICK_PIXELS, Case, PixelCase
from tests.benchmarks.providers import (
    GPU_ALONE,
    MEASURED,
    Bench,
    PixelBench,
    bench_of,
    cross_entropy,
    measured,
    peak_bytes,
    textbook,
)
from tests.benchmarks.report import Report, lines, metrics_of, read_report, write_results
from vae_ext.source import ROOT

ON_CPU = [(case, *line) for case in ("128x2", "128x784-pixels") for line in measured(case, "cpu")]
OTHER_KINDS = [
    (case, "both", provider)
    for case in ("1x20", "20x50-K50", "1024x64-bfloat16", "20x784-K50-pixels")
    for provider in ("fused", "reference", "eager")
]


@pytest.mark.parametrize(("case", "mode", "provider"), [*ON_CPU, *OTHER_KINDS])
def test_every_provider_computes_what_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, case: str, mode: str, provider: str
) -> None:
    if mode != "both":  # to machine code for both passes together alone: it takes seconds
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    call = bench_of.__wrapped__(case, "cpu").call(mode, provider)
    call()
    assert mode != "both" or peak_bytes(call, "cpu") >= 0


def variance_for_sigma(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    return mu + torch.exp(logvar) * torch.randn_like(mu), textbook(mu, logvar)[1]


def noise_that_comes_again(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    eps = torch.randn(1, mu.shape[1])
    eps = (eps - eps.mean()) / eps.std(correction=0)  # as normal as its moments can tell
    return mu + torch.exp(0.5 * logvar) * eps, textbook(mu, logvar)[1]


def kl_that_forgets_a_term(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    return textbook(mu, logvar)[0], -0.5 * (logvar - mu.pow(2) - logvar.exp()).sum(-1)


def gradient_that_stops_at_sigma(mu: Tensor, logvar: Tensor, *_: Any) -> Any:
    z, kl = textbook(mu, logvar.detach())
    return z, kl + 0.5 * (logvar.exp() - logvar - (logvar.exp() - logvar).detach()).sum(-1)


def cross_entropy_that_forgets_black(logits: Tensor, _pixels: Tensor, x: Tensor) -> Any:
    return (-(x * torch.nn.functional.logsigmoid(logits)).sum(-1),)


def gradient_that_is_the_sigmoids(logits: Tensor, pixels: Tensor, x: Tensor) -> Any:
    off = torch.sigmoid(logits).sum(-1)
    return (cross_entropy(logits, pixels, x)[0].detach() + off - off.detach(),)


@pytest.mark.parametrize(
    ("of", "provider", "wrong", "fault"),
    [
        (Bench, "eager", variance_for_sigma, "expected noise of variance 1"),
        (Bench, "eager", noise_that_comes_again, "expected independent noise along axis 0"),
        (Bench, "eager", kl_that_forgets_a_term, "kl:"),
        (Bench, "eager", gradient_that_stops_at_sigma, "gradient of logvar:"),
        (Bench, "fused", textbook, "z:"),  # other noise than the key's
        (PixelBench, "eager", cross_entropy_that_forgets_black, "log_prob:"),
        (PixelBench, "eager", gradient_that_is_the_sigmoids, "gradient of logits:"),
    ],
)
def test_a_provider_that_is_wrong_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, of: type[Bench], provider: str, wrong: Any, fault: str
) -> None:
    monkeypatch.setattr(of, provider, staticmethod(wrong))
    with pytest.raises(AssertionError, match=fault):
        of("128x784-pixels" if of is PixelBench else "1024x64", "cpu").call("both", provider)


@pytest.mark.parametrize("provider", [name for name in bench_step.PROVIDERS if name not in bench_step.GPU_ALONE])
def test_a_step_calls_the_kernels_unless_it_is_on_the_reference_or_somebody_elses(provider: str) -> None:
    epoch = bench_step.PROVIDERS[provider](bench_step.images_of("cpu")[: 2 * bench_step.BATCH], "cpu")
    with torch.profiler.profile() as profile:
        epoch()
    calls = any(event.key.startswith("vae_ext::") for event in profile.key_averages())
    assert calls == (provider in ("fused", "autograd"))


def test_what_is_measured_on_a_gpu_alone_is_named() -> None:
    bench_step.products(bench_step.images_of("cpu")[: bench_step.BATCH], "meta")()  # nothing of it stays on the CPU
    assert {"max-autotune", "graph"} == {*GPU_ALONE} <= {name for names in MEASURED.values() for name in names}
    assert {"no graph"} == {*bench_step.GPU_ALONE} <= bench_step.PROVIDERS.keys()


@pytest.mark.parametrize("case", ["128x20", "128x784-pixels"])
def test_a_graph_is_captured_on_leaves_that_no_other_graph_holds(case: str) -> None:
    bench = bench_of(case, "cpu")
    own = bench.on_leaves_of_its_own()
    assert not {*map(id, own.leaves)} & {*map(id, bench.leaves)}
    assert {*map(id, own.leaves)} <= {*map(id, own.inputs)}
    bench.check(*own.both(own.fused), ours=True)


def test_the_bytes_of_a_case_are_those_of_its_tensors() -> None:
    mu, z, kl = 4 * 10 * 4, 3 * 4 * 10 * 4, 4 * 10
    pixels, log_prob = 10 * 4, 4 * 3 * 10
    for case, forward, backward in (
        (Case(10, 4, samples=3), 2 * mu + z + kl, 4 * mu + z + kl),
        (PixelCase(10, 4, samples=3), z + pixels + log_prob, 2 * z + pixels + log_prob),
    ):
        moved = [case.bytes_moved(mode) for mode in ("forward", "backward", "both")]
        assert moved == [forward, backward, forward + backward]
    assert {*QUICK, *QUICK_PIXELS} <= {*FULL, *PIXELS}


def test_the_devices_clock_gives_seconds_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = timing.DeviceClock()
    assert [clock() for _ in range(4)] == [0, 2, 5, 9]


def test_kernels_are_timed_apart_from_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    # A forward pass gives two tensors, both passes four, a copy one: let each take a microsecond a tensor and a call.
    now = [0.0]

    def capture(run: Any) -> Any:
        results = run()
        return lambda: now.append(now[-1] + 1e-6 * kernels.CALLS * len(results[0])), results

    monkeypatch.setitem(timing.CLOCKS, "cuda", lambda: now[-1])
    monkeypatch.setattr(kernels, "capture", capture)
    found, forward, backward = kernels.time_of("128x20", "cpu"), *map(CASES["128x20"].bytes_moved, ("forward", "backward"))
    assert found["forward_us"] == 2 and found["backward_us"] == 2
    assert found["copy_gb_s"] == pytest.approx(forward / 1e3, rel=1e-3)
    assert found["forward_of_copy"] == 0.5 and found["backward_of_copy"] == pytest.approx(backward / forward / 2, rel=1e-3)
    assert {*kernels.SHOWN} <= CASES.keys()


def write_report(path: Path, seconds: dict[tuple[str, str, str], list[float]], **failures: str) -> Path:
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
    content = {"machine_info": machine, "benchmarks": benchmarks, "failures": failures}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def times(**changed: float) -> dict[tuple[str, str, str], list[float]]:
    """Two cases' times in two turns, the first of them disturbed; a provider's time can be changed."""
    seconds = {"fused": 1e-4, "eager": 3e-4, "reference": 2e-3, "copy": 1e-5, **changed}
    return {("forward", case, name): [7 * s, s] for case in ("128x20", "1024x64") for name, s in seconds.items()}


def test_ratios_are_of_the_best_turns_of_all_runs(tmp_path: Path) -> None:
    slow, fast = write_report(tmp_path / "1.json", times(fused=2e-4)), write_report(tmp_path / "2.json", times())
    found = read_report(slow, fast).times.set_index(["case", "provider"])
    assert found.loc[("128x20", "eager"), "speedup"] == pytest.approx(3)
    assert found.loc[("128x20", "fused"), "seconds"] == pytest.approx(1e-4)
    # In 100 us what a copy moves in 10 us.
    assert found.loc[("128x20", "fused"), "of_copy"] == pytest.approx(0.1)


def test_what_failed_or_was_not_measured_leaves_the_others_in_the_table(tmp_path: Path) -> None:
    seconds = {line: medians for line, medians in times().items() if line[1:] not in (("128x20", "fused"), ("1024x64", "copy"))}
    found = read_report(write_report(tmp_path / "1.json", seconds, **{"cpu 1024x64 forward reference": "it broke"}))
    text = "\n".join(lines(found))
    first, second = (line.split() for line in text.splitlines() if line.lstrip().startswith(("128x20 ", "1024x64 ")))
    assert first[:2] == ["128x20", "forward"] and second[:4] == ["1024x64", "forward", "100.0", "3.0"]
    assert text.endswith("\nfailed, and so not above: cpu 1024x64 forward reference: it broke")
    write_results(found, tmp_path / "results")
    assert metrics_of(found)["cpu"]["forward"] == {"1024x64": {"fused_us": 100.0, "speedup": {"eager": 3.0}}}
    all_failed = {f"cpu {case} {mode} {provider}": "it broke" for mode, case, provider in times()}
    text = "\n".join(lines(read_report(write_report(tmp_path / "2.json", times(), **all_failed))))
    assert text.count("failed, and so not above") == len(times())


NOTHING_TIMED = '{"machine_info": {}, "benchmarks": [], "failures": {}}'


@pytest.mark.parametrize("content", [None, "{", "[]", '{"benchmarks": []}', NOTHING_TIMED])
def test_a_report_that_is_none_is_named_in_one_line(tmp_path: Path, content: str | None) -> None:
    expected = "missing; run `make bench`"
    if content is not None:
        (tmp_path / "bad.json").write_text(content, encoding="utf-8")
        expected = r"expected the report of `make bench`, got [^\n]+$"
    with pytest.raises(UserError, match=rf"bad\.json: {expected}"):
        read_report(tmp_path / "bad.json")


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real run of one case of each operator, in which a provider fails."""
    folder = tmp_path_factory.mktemp("measured")
    chosen = "(cpu-128x2- or cpu-128x784-) and (forward or both and (fused or eager)) and not compile and not reference"
    (folder / "broken.py").write_text(
        "from tests.benchmarks.providers import PixelBench\n"
        "def broken(logits, images, x): raise TypeError('unexpected keyword argument')\n"
        "PixelBench.eager = staticmethod(broken)\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        # Where these tests are shared among processes, this one's pytest is not another of them: those leave no report.
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            patch.delenv(name)
        patch.setenv("PYTHONPATH", str(folder))
        options = ("-p", "broken", "-k", f"{chosen} or step-products", "--full", "--seconds", "0")
        measure.measure(folder / "report.json", *options)
    return folder / "report.json"


@pytest.mark.long
def test_a_real_run_becomes_a_table_metrics_and_figures_and_names_what_failed(real_run: Path, tmp_path: Path) -> None:
    found = read_report(real_run)
    machine = {"cpu", "cores", "threads", "instruction_set", "gpu", "driver", "torch", "cuda", "python", "compiler"}
    assert found.machine.keys() == machine | {"digest", "commit"}  # and no host
    eager = [f"cpu 128x784-pixels {mode} eager" for mode in ("forward", "both")]
    assert found.failures == dict.fromkeys(eager, "TypeError: unexpected keyword argument")
    text = "\n".join(lines(found))
    assert "128x784-pixels forward" in text and "Turns: 1 of an operator, 1 of training" in text and "nan" not in text.lower()
    write_results(found, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["cpu"]
    assert metrics["forward"]["128x2"]["fused_us"] > 0 and metrics["forward"]["128x2"]["speedup"].keys() == {"eager", "randn"}
    assert metrics["forward"]["128x784-pixels"]["speedup"] == {}
    assert metrics["images_per_second"].keys() == {"products"}
    assert metrics["extra_bytes"]["128x2"].keys() == {"fused", "eager"}
    assert metrics["extra_bytes"]["128x2"]["fused"] == metrics["extra_bytes"]["128x784-pixels"]["fused"] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"speedup-cpu.png", "bandwidth-cpu.png"}


def test_a_run_that_is_interrupted_reports_what_it_has_timed_and_what_failed(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(ROOT / "tests/benchmarks/conftest.py", folder)
    timed = "def test_timed(benchmark): benchmark.pedantic(int)\n"
    cut_off = "def interrupted(): raise KeyboardInterrupt\ndef test_cut_off(benchmark): benchmark.pedantic(interrupted)\n"
    (folder / "test_both.py").write_text(timed + cut_off, encoding="utf-8")
    (folder / "test_old.py").write_text("from vae_ext import what_is_gone\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-json=report.json", "benchmarks"]
    command.append("--continue-on-collection-errors")
    # pytest-benchmark times nothing in a worker of pytest-xdist.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, check=False)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (benchmark,) = content["benchmarks"]
    assert benchmark["name"] == "test_timed" and "data" not in benchmark["stats"]
    (reason,) = content["failures"].values()
    assert reason.startswith("ImportError: cannot import name 'what_is_gone' from 'vae_ext'")


@pytest.mark.parametrize("status", [pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED])
def test_a_run_of_nothing_leaves_the_last_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    def ended(command: list[str], _seconds: float | None) -> int:
        (path,) = [option.removeprefix("--benchmark-json=") for option in command if option.startswith("--benchmark-json=")]
        Path(path).write_text("{}", encoding="utf-8")
        return status

    monkeypatch.setattr(measure, "run_within", ended)
    (tmp_path / "report.json").write_text("the last one", encoding="utf-8")
    with pytest.raises(UserError, match="nothing could be measured"):
        measure.measure(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == "the last one"


def test_the_reference_is_not_measured_in_the_operators_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "backend", lambda device: "reference")
    with pytest.raises(UserError, match="cpu: expected vae_ext's kernels, got its reference"):
        measure.measure(tmp_path / "report.json")


@pytest.mark.parametrize(("failures", "status"), [({}, 0), ({"cpu 128x20 both eager": "it broke"}, 1)])
def test_make_bench_prints_a_table_and_fails_where_a_provider_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: dict[str, str], status: int
) -> None:
    asked: list[tuple[str, ...]] = []

    def measured(path: Path, *options: str) -> Report:
        asked.append(options)
        return read_report(write_report(path, times(), **failures))

    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["measure", "--report", str(tmp_path / "report.json"), "--full", "--seconds", "60"])
    with pytest.raises(SystemExit) as exit_:
        measure.main()
    assert int(exit_.value.code or 0) == status
    assert asked == [("--full", "--seconds=60.0")]
    assert "1024x64 forward" in capsys.readouterr().out


def test_make_bench_record_writes_what_two_runs_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [str(write_report(tmp_path / f"{i}.json", times())) for i in range(2)]
    monkeypatch.setattr(sys, "argv", ["report", *reports])
    report.main()
    metrics = json.loads((report.RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cpu"]["forward"].keys() == {"128x20", "1024x64"}
    assert "Turns: 4 of an operator" in capsys.readouterr().out


def compare_status(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compare", *options])
    with pytest.raises(SystemExit) as exit_:
        compare.main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("rounds", "failures", "status", "said"),
    [
        ([1.0], {}, 0, "none of 24 cases became slower than at HEAD by more than 8%"),
        ([1.2] * 5, {}, 1, "slower: cpu 128x2 both: at least 1.20 times the time of HEAD, in each of 5 measurements"),
        ([1.3, 1.2, 1.2, 1.2, 1.0], {}, 0, "none of 24 cases"),  # what looks so no more is not slower
        ([1.0], {"cpu 128x2 both": "it broke"}, 1, "failed: cpu 128x2 both: it broke"),
    ],
)
def test_a_case_became_slower_if_it_looks_so_each_time(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rounds: list[float],
    failures: dict[str, str],
    status: int,
    said: str,
) -> None:
    found = iter(rounds)
    monkeypatch.setattr(compare, "DEVICES", ["cpu"])
    monkeypatch.setattr(
        compare, "ratios_of", lambda lines, _: (dict.fromkeys(lines, 1.0) | {"cpu 128x2 both": next(found)}, failures)
    )
    assert compare_status(monkeypatch) == status
    assert said in capsys.readouterr().out
    assert next(found, None) is None


SLOWER = """
def twice(call):
    return lambda *args, **options: (call(*args, **options), call(*args, **options))[1]
reparam_kl = twice(reparam_kl)
"""
BROKEN = "\ndef reparam_kl(*args, **options): raise TypeError('it broke')\n"


def test_an_operator_is_compared_with_that_of_a_commit_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A project of the same kernels, whose first commit is broken and whose second is not."""
    for name in ("csrc", "vae_ext", "tests/benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "_C*"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    operator = tmp_path / "vae_ext/__init__.py"
    as_it_is = operator.read_text(encoding="utf-8")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for content in (as_it_is + BROKEN, as_it_is):
        operator.write_text(content, encoding="utf-8")
        subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
        subprocess.run([*git, "commit", "-q", "-m", "Measured"], cwd=tmp_path, check=True)
    for name, value in {"ROOT": tmp_path, "PAIRS": 9, "AGAIN": 0}.items():
        monkeypatch.setattr(compare, name, value)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a file that changes within a second keeps its time

    with pytest.raises(UserError, match="nothing to compare"):
        compare_status(monkeypatch, "--only", "cpu 1024x64 forward", "--base", "HEAD~1")
    assert "not compared, because it fails there: TypeError: it broke" in capsys.readouterr().out
    operator.write_text(as_it_is + SLOWER, encoding="utf-8")
    assert compare_status(monkeypatch, "--only", "cpu 1024x64 forward") == 1
    assert "slower: cpu 1024x64 forward" in capsys.readouterr().out
    with pytest.raises(UserError, match="nonsense: expected a commit with vae_ext"):
        compare_status(monkeypatch, "--base", "nonsense")


PYTHAE = """
import json, sys
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
    (tmp_path / "trainer.py").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="ended, as said above"):
        against_pythae.main()


def readme() -> str:
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def found_in(folder: Path, name: str) -> Any:
    return json.loads((ROOT / folder / f"{name}.json").read_text(encoding="utf-8"))


def test_readmes_table_is_that_of_the_results() -> None:
    results = found_in(report.RESULTS, "metrics")["cpu"]
    cases = ("128x20", "1024x64", "8192x128", "20x50-K50")
    for mode, name in (("both", "both passes"), ("forward", "forward"), ("backward", "backward")):
        for provider, theirs in (("eager", "eager PyTorch"), ("compile", "`torch.compile`"), ("randn", "`torch.randn` alone")):
            ratios = [results[mode][case]["speedup"].get(provider) for case in cases]
            if None not in ratios:
                assert f"| {name}, over {theirs} | {' | '.join(f'{ratio:.2g}' for ratio in ratios)} |" in readme()
    for provider, whose in (("fused", "ours"), ("eager", "eager's"), ("compile", "`torch.compile`'s")):
        peaks = [results["extra_bytes"][case][provider] for case in cases]
        assert f"{whose} | {' | '.join(f'{peak:,}' for peak in peaks)} |" in readme()
    speeds = {name: round(speed, -2) for name, speed in results["images_per_second"].items()}
    assert f"{speeds['fused']:,.0f} images/s, on the reference {speeds['reference']:,.0f}" in readme()


def test_the_readme_says_of_a_gpu_what_was_measured_on_it() -> None:
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
    text = readme()
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
