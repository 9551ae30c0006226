"""Benchmark runs become reports, tables, metrics and figures, also with failures and interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.errors import UserError
from tests.benchmarks import measure, report
from tests.benchmarks.cases import CASES
from tests.benchmarks.report import lines, metrics_of, read_report, write_results
from tests.forked import run_code, run_forked, run_module
from tests.pipeline.conftest import init_git
from vae_ext.source import ROOT


def write_report(path: Path, seconds: dict[tuple[str, str, str], list[float]], device: str = "cpu", **failures: str) -> Path:
    """Writes a report in pytest-benchmark's format with these medians, one per turn, by mode, case and provider."""
    benchmarks = [
        {
            "params": {"device": device, "case": case, "mode": mode, "provider": provider, "turn": turn},
            "extra_info": {"bytes": CASES[case].bytes_moved(mode)},
            "stats": {"median": median},
        }
        for (mode, case, provider), medians in seconds.items()
        for turn, median in enumerate(medians)
    ]
    machine = {"cpu": "a CPU", "gpu": "a GPU", "threads": 2, "instruction_set": "avx2", "torch": "2.13.0"}
    content = {"machine_info": machine, "benchmarks": benchmarks, "failures": failures}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def times(**changed: float) -> dict[tuple[str, str, str], list[float]]:
    """Returns times of two cases in two turns, the first turn slowed down; times of providers can be changed."""
    seconds = {"fused": 1e-4, "eager": 3e-4, "reference": 2e-3, "copy": 1e-5, **changed}
    return {("forward", case, name): [7 * s, s] for case in ("128x20", "1024x64") for name, s in seconds.items()}


def test_ratios_use_the_best_turns_of_all_runs(tmp_path: Path) -> None:
    slow, fast = write_report(tmp_path / "1.json", times(fused=2e-4)), write_report(tmp_path / "2.json", times())
    found = read_report(slow, fast).times.set_index(["case", "provider"])
    assert found.loc[("128x20", "eager"), "speedup"] == pytest.approx(3)
    assert found.loc[("128x20", "fused"), "seconds"] == pytest.approx(1e-4)
    # In 100 us it moves what a copy moves in 10 us.
    assert found.loc[("128x20", "fused"), "of_copy"] == pytest.approx(0.1)


def test_kernels_are_timed_without_python_overhead(tmp_path: Path) -> None:
    seconds = {
        ("forward", "128x20", "graph"): [2e-6],
        ("both", "128x20", "graph"): [5e-6],
        ("forward", "128x20", "copy"): [1e-6],
    }
    write_results(read_report(write_report(tmp_path / "1.json", seconds, device="cuda")), tmp_path)
    found = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))["128x20"]
    forward, backward = (CASES["128x20"].bytes_moved(mode) for mode in ("forward", "backward"))
    assert (found["forward_us"], found["backward_us"], found["forward_of_copy"]) == (2, 3, 0.5)
    assert found["copy_gb_s"] == pytest.approx(forward / 1e3, rel=1e-3)
    assert found["backward_of_copy"] == pytest.approx(backward / forward / 3, rel=1e-3)


def test_failed_or_missing_measurements_do_not_remove_the_others(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmarks": []}', NOTHING_TIMED])
def test_an_invalid_report_is_one_error_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.json: expected the report of `make bench`, got [^\n]+$"):
        read_report(tmp_path / "bad.json")


# `make bench` with one case per operator, and a provider that fails.
RUN = """
import sys
from tests.benchmarks import measure, providers
def broken(logits, images, x): raise TypeError("unexpected keyword argument")
providers.PixelBench.eager = staticmethod(broken)
sys.argv[1:] = {options}
measure.main()
"""
CHOSEN = "(cpu-128x2- or cpu-128x784-) and (forward or both and (fused or eager)) and not compile and not reference"


def alone() -> dict[str, str]:
    """Returns the environment without pytest-xdist's variables, with which pytest-benchmark would time nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT)}


@pytest.mark.long
def test_a_real_run_gives_a_table_metrics_and_figures_and_names_failures(tmp_path: Path) -> None:
    options = ["--report", str(tmp_path / "report.json"), "--full", "--seconds=0", "-k", f"{CHOSEN} or step-products"]
    done = run_forked(run_code, RUN.format(options=options), folder=ROOT, environment=alone())
    assert done.returncode == 1, done.stderr
    failed = [f"cpu 128x784-pixels {mode} eager: TypeError: unexpected keyword argument" for mode in ("forward", "both")]
    assert done.stdout.splitlines()[-2:] == [f"failed, and so not above: {line}" for line in failed]
    assert "128x784-pixels forward" in done.stdout and "Turns: 1 of an operator, 1 of training" in done.stdout
    assert "nan" not in done.stdout.lower()
    write_results(read_report(tmp_path / "report.json"), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    recorded = json.loads((ROOT / report.RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["machine"].keys() == recorded["machine"].keys()  # without the host name
    operator = metrics["cpu"]["forward"]
    assert operator["128x2"]["fused_us"] > 0 and operator["128x2"]["speedup"].keys() == {"eager", "randn"}
    assert operator["128x784-pixels"]["speedup"] == {}
    assert metrics["cpu"]["images_per_second"].keys() == {"products"}
    extra = metrics["cpu"]["extra_bytes"]
    assert extra["128x2"].keys() == {"fused", "eager"} and extra["128x2"]["fused"] == extra["128x784-pixels"]["fused"] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"speedup-cpu.png", "bandwidth-cpu.png"}


def test_an_interrupted_run_reports_its_timings_and_failures(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(ROOT / "tests/benchmarks/conftest.py", folder)
    timed = "def test_timed(benchmark): benchmark.pedantic(int)\n"
    cut_off = "def interrupted(): raise KeyboardInterrupt\ndef test_cut_off(benchmark): benchmark.pedantic(interrupted)\n"
    (folder / "test_both.py").write_text(timed + cut_off, encoding="utf-8")
    (folder / "test_old.py").write_text("from vae_ext import what_is_gone\n", encoding="utf-8")
    options = (*measure.OPTIONS, "--benchmark-json=report.json", "benchmarks")
    run_forked(run_module, "pytest", *options, folder=tmp_path, environment=alone())
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (benchmark,) = content["benchmarks"]
    assert benchmark["name"] == "test_timed" and "data" not in benchmark["stats"]
    (reason,) = content["failures"].values()
    assert reason.startswith("ImportError: cannot import name 'what_is_gone' from 'vae_ext'")


def test_a_run_without_timings_keeps_the_previous_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest, "main", lambda arguments: pytest.ExitCode.NO_TESTS_COLLECTED)
    (tmp_path / "report.json").write_text("the last one", encoding="utf-8")
    with pytest.raises(UserError, match="nothing could be measured"):
        measure.measure(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == "the last one"


def test_the_reference_is_not_measured_in_place_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "backend", lambda device: "reference")
    with pytest.raises(UserError, match="cpu: expected vae_ext's kernels, got its reference"):
        measure.measure(tmp_path / "report.json")


def test_make_bench_prints_a_table_and_fails_if_a_provider_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_pytest(arguments: list[str]) -> None:
        assert arguments[-3:] == ["--full", "--seconds", "60"]
        (option,) = (argument for argument in arguments if argument.startswith("--benchmark-json="))
        write_report(Path(option.partition("=")[2]), times(), **failures)

    monkeypatch.setattr(pytest, "main", run_pytest)
    monkeypatch.setattr(sys, "argv", ["measure", "--report", str(tmp_path / "report.json"), "--full", "--seconds", "60"])
    for failures in ({}, {"cpu 128x20 both eager": "it broke"}):
        with pytest.raises(SystemExit) as exit_:
            measure.main()
        assert exit_.value.code == bool(failures)
        assert "1024x64 forward" in capsys.readouterr().out


def test_make_bench_record_writes_the_results_of_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [str(write_report(tmp_path / f"{i}.json", times())) for i in range(2)]
    monkeypatch.setattr(sys, "argv", ["report", *reports])
    report.main()
    metrics = json.loads((report.RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cpu"]["forward"].keys() == {"128x20", "1024x64"}
    assert "Turns: 4 of an operator" in capsys.readouterr().out


def test_kernel_timings_of_two_commits_can_be_compared(tmp_path: Path) -> None:
    """Uses DVC in a repository with the output of `make bench-record`; figures are shown side by side."""
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    report = tmp_path / "1.json"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run_ok(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    write_results(read_report(write_report(report, times(fused=2e-4))), tmp_path / "results/benchmarks")
    init_git(tmp_path)
    write_results(read_report(write_report(report, times(fused=1e-4))), tmp_path / "results/benchmarks")
    run_ok("git", "commit", "--quiet", "--all", "--message", "Faster")
    commits = ("diff", "HEAD~1", "HEAD", "--targets")
    shown = run_ok("dvc", "metrics", *commits, "results/benchmarks/metrics.json")
    assert re.search(r"cpu\.forward\.128x20\.fused_us +200.0 +100.0 +-100.0", shown)
    run_ok("dvc", "plots", *commits, "results/benchmarks/figures")
    assert "speedup-cpu.png" in (tmp_path / "dvc_plots/index.html").read_text(encoding="utf-8")
