"""Freed memory is kept for the next step: glibc accepts both thresholds."""

from __future__ import annotations

import sys

import pytest

from tests.forked import run_code, run_forked
from vae_ext.source import ROOT

SET = """
import ctypes
from pipeline.runtime.memory import KEPT, LARGEST, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory
keep_freed_memory()
mallopt = ctypes.CDLL(None).mallopt
print(mallopt(M_TRIM_THRESHOLD, KEPT), mallopt(M_MMAP_THRESHOLD, LARGEST))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_glibc_accepts_both_thresholds() -> None:
    assert run_forked(run_code, SET, folder=ROOT).stdout.split() == ["1", "1"]
