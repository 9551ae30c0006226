"""Comparing the operators of two commits, and the training step with pythae's: alternating turns of separate processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.errors import UserError
from tests.benchmarks import against_pythae, compare
from tests.forked import CONTEXT
from tests.programs import script
from vae_ext.source import ROOT


def compare_status(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compare", *options])
    with pytest.raises(SystemExit) as exit_:
        compare.main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("rounds", "failures", "status", "message"),
    [
        ([1.0], {}, 0, "none of 24 cases became slower than at HEAD by more than 8%"),
        ([1.2] * 5, {}, 1, "slower: cpu 128x2 both: at least 1.20 times the time of HEAD, in each of 5 measurements"),
        ([1.3, 1.2, 1.2, 1.2, 1.0], {}, 0, "none of 24 cases"),  # a case that looks slower only at first is not slower
        ([1.0], {"cpu 128x2 both": "it broke"}, 1, "failed: cpu 128x2 both: it broke"),
    ],
)
def test_a_case_is_slower_only_if_every_measurement_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rounds: Any, failures: Any, status: int, message: str
) -> None:
    found = iter(rounds)
    slow = "cpu 128x2 both"
    monkeypatch.setattr(compare, "DEVICES", ["cpu"])
    monkeypatch.setattr(compare, "ratios_of", lambda lines, _: (dict.fromkeys(lines, 1.0) | {slow: next(found)}, failures))
    assert compare_status(monkeypatch) == status
    assert message in capsys.readouterr().out
    assert next(found, None) is None


SLOWER = """
def twice(call):
    return lambda *args, **options: (call(*args, **options), call(*args, **options))[1]
reparam_kl = twice(reparam_kl)
"""
BROKEN = "\ndef reparam_kl(*args, **options): raise TypeError('it broke')\n"


def test_the_operator_is_compared_with_that_of_a_commit_in_alternating_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uses a project with the same kernels, whose first commit is broken and whose second is not."""
    for name in ("csrc", "vae_ext"):
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
    # Forked, so that torch is not imported in eight processes.
    for name, value in {"ROOT": tmp_path, "PAIRS": 9, "AGAIN": 0, "get_context": lambda method: CONTEXT}.items():
        monkeypatch.setattr(compare, name, value)

    with pytest.raises(UserError, match="nothing to compare"):
        compare_status(monkeypatch, "--only", "cpu 1024x64 forward", "--base", "HEAD~1")
    assert "not compared, because it fails there: TypeError('it broke')" in capsys.readouterr().out
    operator.write_text(as_it_is + SLOWER, encoding="utf-8")
    assert compare_status(monkeypatch, "--only", "cpu 1024x64 forward") == 1
    assert "slower: cpu 1024x64 forward" in capsys.readouterr().out
    operator.write_text(as_it_is + "\ndef reparam_kl(*args, **options): __import__('os')._exit(1)\n", encoding="utf-8")
    with pytest.raises(UserError, match="terminated abruptly"):
        compare_status(monkeypatch, "--only", "cpu 1024x64 ")
    with pytest.raises(UserError, match="nonsense: expected a commit with vae_ext"):
        compare_status(monkeypatch, "--base", "nonsense")


def test_make_bench_pythae_alternates_with_pythaes_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uses a substitute for pythae's trainer: only the make target installs pythae."""
    python = script(tmp_path / "python", "while read -r line; do echo 2.0; done")
    for name, value in {"TURNS": 2, "NLL_TURNS": 2, "SAMPLES": 4, "OUR_IMAGES": 8, "IMAGES": 256}.items():
        monkeypatch.setattr(against_pythae, name, value)
    monkeypatch.setattr(sys, "argv", ["against_pythae", "--python", python])
    against_pythae.main()
    output = capsys.readouterr().out
    assert "pythae       128.0 images/s" in output and "pythae        25.0 images/s" in output
    script(tmp_path / "python", "exit 1")
    with pytest.raises(UserError, match="ended, as said above"):
        against_pythae.main()
