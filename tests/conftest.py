"""What all tests share: how many run at a time."""

from __future__ import annotations

import os


def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores, since tests wait for programs that they start."""
    return (os.cpu_count() or 1) + 2
