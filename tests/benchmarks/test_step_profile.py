"""The profile of a training step accounts for all of its time. Nothing is compared with a clock here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks import step_profile
from vae_ext.source import ROOT


def test_profile_accounts_for_the_whole_step_and_knows_every_operator_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_profile, "IMAGES", 512)
    monkeypatch.setattr(step_profile, "EPOCHS", 2)
    step, profile = step_profile.step_profile()
    assert list(profile.index) == [*step_profile.KINDS, step_profile.REST]
    # A name that PyTorch changes would leave its kind without time.
    assert (profile.drop(index=step_profile.REST) > 0).all()
    assert profile[step_profile.REST] > 0  # operators do not take longer than the step that they are part of
    monkeypatch.setattr(step_profile, "step_profile", lambda: (step, profile))
    step_profile.main()
    output = capsys.readouterr().out
    assert output.startswith(f"{step:,.0f} us a step on ") and f"; with the profiler {profile.sum():,.0f}:\n" in output
    assert output.count(" us ") == len(profile) + 1


@pytest.mark.parametrize("program", ["step_profile", "convolutions"])
def test_a_benchmark_without_arguments_refuses_one(program: str) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{program}", "--precision", "bfloat16"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.endswith(f"{program}.py: error: unrecognized arguments: --precision bfloat16\n")
