"""The README's blocks of Python and of output, in a folder with a small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import prepare, train
from tests.pipeline.conftest import ROOT, set_params
from vae_ext import backend_report

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def model(workspace: Path) -> Path:
    set_params(workspace / "params.yaml", {"train.epochs": 1})
    prepare.main()
    train.main()
    return workspace


@pytest.mark.usefixtures("model")
def test_the_python_that_is_shown_runs() -> None:
    assert len(BLOCKS) >= 2
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), {})


def test_the_backends_report_is_as_it_is_shown() -> None:
    report = backend_report()
    labels = [line.split(" on " if " on " in line else ":")[0] for line in report.splitlines()]
    assert len(labels) >= 5
    shown = TEXT[TEXT.index("    vae_ext on torch ") :].split("\n\n")[0].splitlines()
    assert [line.strip().split(" on " if " on " in line else ":")[0] for line in shown] == labels
