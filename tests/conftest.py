"""Settings of all tests: the number of processes, and which files start first."""

from __future__ import annotations

import os

import pytest

# Files that take a minute or more in one process: started last, they would keep it busy after all others have ended.
LONGEST = ("test_dvc.py", "test_emulated_kernels.py", "test_experiments.py", "test_cuda_source.py", "test_recipes.py")


def pytest_xdist_auto_num_workers() -> int:
    """One more than the number of cores, since some tests wait; each process costs the import of everything tested."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))
