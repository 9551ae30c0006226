"""One style for all figures, and how they are saved."""

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
    "savefig.bbox": "tight",  # as large as its texts need: none is cut
}


@contextmanager
def figure(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure, of about so many inches, that is saved as a PNG at the end of the block."""
    with plt.rc_context(STYLE):
        fig = plt.figure(figsize=(width, height), layout="constrained")
        yield fig
        with whole_file(path) as temporary:
            # No software or date in the file: the same figure is the same bytes.
            fig.savefig(temporary, metadata={"Software": None})
        plt.close(fig)
