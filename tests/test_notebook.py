"""The tutorial's notebook runs on few images, and matches the script beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorial"
SMALLER = {
    "IMAGES, EPOCHS = 10_000, 10 ": "IMAGES, EPOCHS = 200, 1 ",
    "TEST_IMAGES, SAMPLES = 500, 50 ": "TEST_IMAGES, SAMPLES = 50, 5 ",
}


def notebook() -> Any:
    return nbformat.read(FOLDER / "tutorial.ipynb", as_version=4)


def test_the_notebook_matches_the_script_and_has_no_outputs() -> None:
    cells = [
        [(cell.cell_type, cell.source) for cell in one.cells] for one in (notebook(), jupytext.read(FOLDER / "tutorial.py"))
    ]
    assert cells[0] == cells[1], "after an edit of the script: jupytext --update --to ipynb docs/tutorial/tutorial.py"
    for cell in notebook().cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_notebook_runs_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's sockets are files: no port, no network."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    small = notebook()
    text = "\n".join(cell.source for cell in small.cells)
    assert all(sizes in text for sizes in SMALLER)
    for cell in small.cells:
        for sizes, fewer in SMALLER.items():
            cell.source = cell.source.replace(sizes, fewer)
    config = Config({"AsyncKernelManager": {"transport": "ipc", "ip": str(tmp_path / "kernel")}})
    NotebookClient(small, config=config, timeout=100, resources={"metadata": {"path": str(FOLDER)}}).execute()
    shown = [output for cell in small.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in shown if output.output_type == "stream"]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 4
    tables = [output.data["text/plain"] for output in shown if "text/html" in output.get("data", {})]
    assert len(tables) == 6 and all("NLL" in table for table in tables)
