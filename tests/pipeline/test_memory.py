"""Freed memory is kept for the next step."""

from __future__ import annotations

import sys

import pytest

from tests.forked import run_code, run_forked
from vae_ext.source import ROOT

# Ten steps warm up; then the page faults of three are counted.
STEPS = """
import resource
import torch
{}

def step():
    tensors = [torch.ones(2**22) for _ in range(3)]  # of 16 MiB

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):
    step()
before = faults()
for _ in range(3):
    step()
print(faults() - before)
"""
KEEP = "from pipeline.runtime.memory import keep_freed_memory; keep_freed_memory()"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_step_reuses_freed_memory_without_page_faults() -> None:
    by_default, kept = (int(run_forked(run_code, STEPS.format(first), folder=ROOT).stdout) for first in ("", KEEP))
    assert kept < by_default / 4
