"""Describes the machine of a run: timings can only be compared on the same one."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch


def machine() -> str:
    """Returns the system, the processor's name where the system gives it, its number of cores, and the GPU."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        cpuinfo = ""
    model = re.search(r"^model name\s*:\s*(.*\S)", cpuinfo, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()}, {name}, {os.cpu_count()} cores{gpu}"
