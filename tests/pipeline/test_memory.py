"""Freed memory is kept by the process, for the next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vae_ext.source import ROOT

BLOCKS, MIB = 3, 16

# Prints how many MiB stay resident after blocks were written and freed.
HELD = f"""
import ctypes, resource
from pathlib import Path
from pipeline.runtime.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

%s
before = resident()
blocks = [libc.malloc({MIB} * 2**20) for _ in range({BLOCKS})]
for block in blocks:
    ctypes.memset(block, 1, {MIB} * 2**20)
for block in blocks:
    libc.free(block)
print((resident() - before) // 2**20)
"""


def held(call: str) -> int:
    """Runs the code in a process of its own, since a freed block raises the thresholds of those that follow."""
    command = [sys.executable, "-c", HELD % call]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_blocks_stay_with_the_process() -> None:
    assert held("") < MIB
    assert held("keep_freed_memory()") >= (BLOCKS - 1) * MIB
