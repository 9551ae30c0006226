"""What all tests share: how many run at a time, and which begin."""

from __future__ import annotations

import os

import pytest

# Files that take a minute or more, which one process runs: begun last, one would keep it when all others have ended.
LONGEST = ("test_dvc.py", "test_emulated_kernels.py", "test_experiments.py", "test_cuda_source.py", "test_recipes.py")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for tests that wait; each costs the import of all that is tested."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))
