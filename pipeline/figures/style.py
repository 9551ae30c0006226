"""The style of all figures, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pipeline.runtime.files import whole_file

TRAIN_COLOR, VALIDATION_COLOR = "0.6", "C0"
STYLE: Any = {
    "figure.dpi": 130,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "savefig.bbox": "tight",  # enlarged if texts exceed the figure
}


@contextmanager
def figure(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """Yields a figure of about this size in inches, and saves it as a PNG at the end of the block."""
    with plt.rc_context(STYLE):
        fig = plt.figure(figsize=(width, height), layout="constrained")
        yield fig
        with whole_file(path) as temporary:
            # Without software or date in the file, equal figures have equal bytes.
            fig.savefig(temporary, metadata={"Software": None})
        plt.close(fig)
