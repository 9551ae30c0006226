"""What all tests share: how many run at a time."""

from __future__ import annotations

import os


def pytest_xdist_auto_num_workers() -> int:
    """A process more than there are cores, since some wait for programs that they start."""
    return (os.cpu_count() or 1) + 1
