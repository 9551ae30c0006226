"""What all tests share: how many run at a time."""

from __future__ import annotations

import os


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for tests that wait; each costs the import of all that is tested."""
    return (os.cpu_count() or 1) + 1
